use std::time::Duration;

use super::*;
use crate::identity::{
    ChainHash, Incarnation, Mark, NamespaceNumber, ParentPoint, PathName, ShardNumber,
};

const ORIGIN: u32 = 9;
const SIBLING: u32 = 1;
const ME: u32 = 2;
const FAR: u32 = 5;
const FARTHER: u32 = 6;

fn at(milliseconds: u64) -> Moment {
    Moment::new(Duration::from_millis(milliseconds))
}

fn node(number: u32) -> NodeNumber {
    NodeNumber::new(number)
}

fn region(name: &str) -> RegionName {
    RegionName::parse(name).expect("a good name")
}

fn log() -> LogName {
    PathName {
        namespace: NamespaceNumber::new(1),
        shard: ShardNumber::new(0),
        origin: node(ORIGIN),
    }
    .log(Incarnation::new(7).expect("not zero"))
}

/// A log as a peer offers it that has all of it.
fn offered(log: LogName, tip: u64) -> LogOffer {
    LogOffer {
        log,
        parents: Vec::new(),
        tip: Mark { m_id: MessageNumber::new(tip), hash: ChainHash::EMPTY },
        floor: MessageNumber::ZERO,
    }
}

/// The node under test, with what its receivers would be told kept as a set of
/// servers, so that two at once are noticed.
struct Node {
    sources: LogSources,
    wanted: Option<(u32, u64)>,
}

impl Node {
    fn new() -> Self {
        let me = MemberOpening {
            node: node(ME),
            incarnation: Incarnation::new(3).expect("not zero"),
            opened_from: None,
        };
        Self { sources: LogSources::new(me, region("here")), wanted: None }
    }

    fn connect(&mut self, now: u64, peer: u32) {
        let place = if peer == SIBLING { "here" } else { "far" };
        self.sources.peer_connected(at(now), node(peer), region(place));
        self.drain();
    }

    fn offer(&mut self, now: u64, peer: u32, tip: u64) {
        assert!(self.sources.peer_offered(at(now), node(peer), &offered(log(), tip)));
        self.drain();
    }

    fn append(&mut self, now: u64, m_id: u64) {
        self.sources.mark_appended(at(now), &log(), MessageNumber::new(m_id));
        self.drain();
    }

    fn disconnect(&mut self, now: u64, peer: u32) {
        // The driver's receiver of that peer is gone, and its wants with it.
        if self.wanted.is_some_and(|(server, _)| server == peer) {
            self.wanted = None;
        }
        self.sources.peer_disconnected(at(now), node(peer));
        self.drain();
    }

    fn timeout(&mut self) -> u64 {
        let due = self.sources.poll_timeout().expect("a timer runs");
        self.sources.handle_timeout(due);
        self.drain();
        due.since_start().as_millis().try_into().expect("a small number")
    }

    fn drain(&mut self) {
        while let Some(change) = self.sources.poll_change() {
            match change {
                WantChange::Want { peer, from, .. } => {
                    assert_eq!(self.wanted, None, "two servers at once");
                    self.wanted = Some((peer.get(), from.get()));
                }
                WantChange::Unwant { peer, .. } => {
                    let server = self.wanted.take().map(|(server, _)| server);
                    assert_eq!(server, Some(peer.get()), "unwanted at another server");
                }
            }
        }
    }

    fn server(&self) -> Option<u32> {
        self.wanted.map(|(server, _)| server)
    }
}

#[test]
fn the_origin_is_chosen_even_when_it_has_no_more() {
    let mut me = Node::new();
    me.append(0, 4);
    for peer in [FAR, SIBLING, ORIGIN] {
        me.connect(0, peer);
        me.offer(0, peer, 4);
    }
    assert_eq!(me.wanted, Some((ORIGIN, 5)));
}

#[test]
fn others_are_chosen_when_they_have_more_and_a_sibling_first() {
    let mut me = Node::new();
    me.connect(0, FAR);
    me.offer(0, FAR, 10);
    assert_eq!(me.wanted, Some((FAR, 1)));
    me.connect(0, FARTHER);
    me.offer(0, FARTHER, 20);
    assert_eq!(me.server(), Some(FAR), "a server that works is kept");
    me.append(10, 8);
    me.connect(10, SIBLING);
    me.offer(10, SIBLING, 8);
    assert_eq!(me.server(), Some(FAR), "the sibling has no more than we have");
    me.offer(20, SIBLING, 9);
    assert_eq!(me.wanted, Some((SIBLING, 9)));
    me.connect(30, ORIGIN);
    me.offer(30, ORIGIN, 20);
    assert_eq!(me.wanted, Some((ORIGIN, 9)));
}

#[test]
fn a_server_that_goes_is_replaced_at_once() {
    let mut me = Node::new();
    for (peer, tip) in [(ORIGIN, 10), (FAR, 9), (FARTHER, 8)] {
        me.connect(0, peer);
        me.offer(0, peer, tip);
    }
    assert_eq!(me.server(), Some(ORIGIN));
    me.append(5, 8);
    me.disconnect(10, ORIGIN);
    assert_eq!(me.wanted, Some((FAR, 9)));
    me.disconnect(20, FAR);
    assert_eq!(me.server(), None, "nobody has more");
    assert_eq!(me.sources.best_offer(&log()), Some(MessageNumber::new(8)));
}

/// The two seconds of `STALLED_SERVER_LIMIT`: the chosen server stalls while another offers more.
#[test]
fn a_stalled_server_is_replaced_after_two_seconds() {
    let mut me = Node::new();
    me.connect(0, ORIGIN);
    me.offer(0, ORIGIN, 3);
    me.append(100, 3);
    assert_eq!(me.sources.poll_timeout(), None, "nothing is missing");
    me.connect(200, FAR);
    me.offer(200, FAR, 5);
    assert_eq!(me.server(), Some(ORIGIN));
    me.append(1000, 4);
    assert_eq!(me.server(), Some(ORIGIN), "progress starts the two seconds again");
    assert_eq!(me.timeout(), 3000);
    assert_eq!(me.wanted, Some((FAR, 5)));
}

#[test]
fn a_stalled_server_is_not_taken_back_before_its_penalty_is_over() {
    let mut me = Node::new();
    for peer in [ORIGIN, FAR] {
        me.connect(0, peer);
        me.offer(0, peer, 100);
    }
    assert_eq!(me.timeout(), 2000);
    assert_eq!(me.server(), Some(FAR));
    me.offer(3000, ORIGIN, 200);
    assert_eq!(me.server(), Some(FAR));
    me.append(4000, 50);
    assert_eq!(me.timeout(), 32_000);
    assert_eq!(me.wanted, Some((ORIGIN, 51)));
}

/// The origin stalls; its substitute brings us level with it. The substitute has
/// no more than we have, and is kept all the same.
#[test]
fn a_stalled_origin_is_not_taken_back_once_we_are_level() {
    let mut me = Node::new();
    for peer in [ORIGIN, FAR] {
        me.connect(0, peer);
        me.offer(0, peer, 100);
    }
    assert_eq!(me.timeout(), 2000);
    assert_eq!(me.wanted, Some((FAR, 1)));
    me.append(3000, 100);
    assert_eq!(me.server(), Some(FAR), "the substitute still serves");
    for m_id in 101..110 {
        me.offer(3000 + m_id, ORIGIN, m_id);
        me.offer(3000 + m_id, FAR, m_id);
        me.append(3001 + m_id, m_id);
        assert_eq!(me.server(), Some(FAR), "it was changed at {m_id}");
    }
    assert_eq!(me.timeout(), 32_000);
    assert_eq!(me.wanted, Some((ORIGIN, 110)), "its penalty is over");
}

#[test]
fn logs_beyond_those_kept_of_a_peer_are_told() {
    let mut me = Node::new();
    me.connect(0, FAR);
    let mut offer = offered(log(), 1);
    for opening in 1..=MAX_LOGS_PER_PEER as u64 {
        offer.log.incarnation = Incarnation::new(opening).expect("not zero");
        assert!(me.sources.peer_offered(at(0), node(FAR), &offer));
    }
    assert!(me.sources.peer_offered(at(0), node(FAR), &offer), "it is kept already");
    offer.log.incarnation = Incarnation::new(u64::MAX).expect("not zero");
    assert!(!me.sources.peer_offered(at(0), node(FAR), &offer));
    assert_eq!(me.sources.server_of(&offer.log), None);
}

#[test]
fn a_stalled_server_is_taken_when_nobody_else_is_left() {
    let mut me = Node::new();
    for peer in [ORIGIN, FAR] {
        me.connect(0, peer);
        me.offer(0, peer, 100);
    }
    me.timeout();
    assert_eq!(me.server(), Some(FAR));
    me.disconnect(3000, FAR);
    assert_eq!(me.server(), Some(ORIGIN));
}

#[test]
fn timers_come_to_rest() {
    let mut me = Node::new();
    for peer in [ORIGIN, FAR, FARTHER, SIBLING] {
        me.connect(0, peer);
        me.offer(0, peer, 100);
    }
    let mut last = 0;
    for _ in 0..100 {
        let due = me.timeout();
        assert!(due > last, "a timer that does not move on");
        last = due;
    }
}

#[test]
fn a_server_that_failed_is_left_alone_until_it_comes_back() {
    let mut me = Node::new();
    for peer in [ORIGIN, FAR] {
        me.connect(0, peer);
        me.offer(0, peer, 10);
    }
    me.sources.server_failed(at(1), node(ORIGIN), &log());
    me.drain();
    assert_eq!(me.server(), Some(FAR));
    me.disconnect(2, FAR);
    assert_eq!(me.server(), None);
    me.disconnect(3, ORIGIN);
    me.connect(4, ORIGIN);
    me.offer(4, ORIGIN, 10);
    assert_eq!(me.server(), Some(ORIGIN));
}

#[test]
fn our_own_log_is_wanted_from_nobody_but_our_former_ones_are() {
    let mut me = Node::new();
    me.connect(0, FAR);
    let own = |incarnation| {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: node(ME),
        }
        .log(Incarnation::new(incarnation).expect("not zero"))
    };
    for (incarnation, server) in [(3, None), (2, Some(node(FAR)))] {
        assert!(me.sources.peer_offered(at(0), node(FAR), &offered(own(incarnation), 5)));
        assert_eq!(me.sources.server_of(&own(incarnation)), server);
    }
}

/// A log goes on from its parents' number, so that is where it is wanted from.
#[test]
fn a_log_with_a_parent_is_wanted_from_its_first_number() {
    let mut me = Node::new();
    me.connect(0, ORIGIN);
    let parent = ParentPoint {
        incarnation: Incarnation::new(6).expect("not zero"),
        m_id: MessageNumber::new(40),
        hash: ChainHash::EMPTY,
    };
    let offer = LogOffer { parents: vec![parent], ..offered(log(), 45) };
    assert!(me.sources.peer_offered(at(0), node(ORIGIN), &offer));
    me.drain();
    assert_eq!(me.wanted, Some((ORIGIN, 41)));
}

#[test]
fn a_log_that_is_left_is_unwanted() {
    let mut me = Node::new();
    me.connect(0, ORIGIN);
    me.offer(0, ORIGIN, 10);
    me.sources.forget_log(&log());
    me.drain();
    assert_eq!(me.server(), None);
    assert_eq!(me.sources.poll_timeout(), None);
}

/// What has been trimmed at the origin is taken from whoever still has it; where the
/// log goes on that all have, the origin serves it again.
#[test]
fn who_still_has_it_goes_before_the_origin() {
    let mut me = Node::new();
    for (peer, floor) in [(ORIGIN, 5), (FAR, 0)] {
        me.connect(0, peer);
        let offer = LogOffer { floor: MessageNumber::new(floor), ..offered(log(), 10) };
        assert!(me.sources.peer_offered(at(0), node(peer), &offer));
        me.drain();
    }
    assert_eq!(me.wanted, Some((FAR, 1)));
    me.append(10, 4);
    assert_eq!(me.server(), Some(FAR));
    me.append(20, 5);
    assert_eq!(me.wanted, Some((ORIGIN, 6)));
    me.disconnect(30, ORIGIN);
    me.disconnect(30, FAR);
    // Nobody has what we lack: then from one that has trimmed it.
    let mut other = Node::new();
    other.connect(0, ORIGIN);
    let offer = LogOffer { floor: MessageNumber::new(5), ..offered(log(), 10) };
    assert!(other.sources.peer_offered(at(0), node(ORIGIN), &offer));
    other.drain();
    assert_eq!(other.wanted, Some((ORIGIN, 1)));
}

/// The first log that a node of our region carries.
fn log_carried_by(carrier: u32) -> LogName {
    let other = if carrier == ME { SIBLING } else { ME };
    let logs = (1..).map(|bits| log().path().log(Incarnation::new(bits).expect("not zero")));
    let mut carried = logs.filter(|log| lot(log, node(carrier)) < lot(log, node(other)));
    carried.next().expect("each carries about half")
}

/// A node to which the origin, far away, and a node of its own region offer a log.
fn offered_from_near_and_far(log: LogName) -> LogSources {
    let mut sources = Node::new().sources;
    for (peer, place) in [(ORIGIN, "far"), (SIBLING, "here")] {
        sources.peer_connected(at(0), node(peer), region(place));
        assert!(sources.peer_offered(at(0), node(peer), &offered(log, 10)));
    }
    sources
}

/// One of the region's nodes takes a log over the WAN, the others take it from there:
/// also while they are level, for that is where what is new comes from.
#[test]
fn one_copy_of_a_log_comes_into_a_region() {
    for (carrier, expected) in [(SIBLING, SIBLING), (ME, ORIGIN)] {
        let log = log_carried_by(carrier);
        let mut sources = offered_from_near_and_far(log);
        assert_eq!(sources.server_of(&log), Some(node(expected)), "carried by {carrier}");
        sources.mark_appended(at(10), &log, MessageNumber::new(10));
        assert_eq!(sources.server_of(&log), Some(node(expected)), "level");
        // The carrier stalls while the origin has more: then straight from there.
        assert!(sources.peer_offered(at(20), node(ORIGIN), &offered(log, 20)));
        if let Some(due) = sources.poll_timeout() {
            sources.handle_timeout(due);
        }
        assert_eq!(sources.server_of(&log), Some(node(ORIGIN)), "carried by {carrier}");
        // It comes back when its penalty is over, and ends when it is gone.
        while let Some(due) = sources.poll_timeout() {
            sources.handle_timeout(due);
            if sources.server_of(&log) == Some(node(expected)) {
                break;
            }
        }
        assert_eq!(sources.server_of(&log), Some(node(expected)));
        sources.peer_disconnected(at(100_000), node(SIBLING));
        assert_eq!(sources.server_of(&log), Some(node(ORIGIN)));
    }
}

/// A carrier that takes the log from us has lost the origin: it is not waited for, not
/// even now and then, until it takes the log from elsewhere again.
#[test]
fn a_carrier_that_takes_the_log_from_us_carries_nothing() {
    let log = log_carried_by(SIBLING);
    let mut sources = offered_from_near_and_far(log);
    sources.mark_appended(at(10), &log, MessageNumber::new(10));
    assert_eq!(sources.server_of(&log), Some(node(SIBLING)));
    sources.peer_takes(at(20), node(SIBLING), &log, true);
    assert_eq!(sources.server_of(&log), Some(node(ORIGIN)));
    for tip in 11..=20 {
        let now = at(10_000 * tip);
        assert!(sources.peer_offered(now, node(ORIGIN), &offered(log, tip)));
        sources.mark_appended(now, &log, MessageNumber::new(tip));
        assert!(sources.peer_offered(now, node(SIBLING), &offered(log, tip)), "it has it from us");
        assert_eq!(sources.server_of(&log), Some(node(ORIGIN)), "level");
        assert_eq!(sources.poll_timeout(), None);
    }
    let now = at(300_000);
    sources.peer_takes(now, node(SIBLING), &log, false);
    assert_eq!(sources.server_of(&log), Some(node(SIBLING)), "it has the origin again");
    sources.peer_takes(now, node(SIBLING), &log, true);
    sources.peer_takes_nothing(now, node(SIBLING));
    assert_eq!(sources.server_of(&log), Some(node(SIBLING)), "our stream to it is over");
    // What it has more of comes from it all the same.
    sources.peer_takes(now, node(SIBLING), &log, true);
    sources.peer_disconnected(now, node(ORIGIN));
    assert!(sources.peer_offered(now, node(SIBLING), &offered(log, 30)));
    assert_eq!(sources.server_of(&log), Some(node(SIBLING)));
}

/// A log of our own region is taken from its origin by everybody.
#[test]
fn nobody_carries_a_log_of_the_region() {
    let log = log_carried_by(SIBLING);
    let mut sources = Node::new().sources;
    for peer in [ORIGIN, SIBLING] {
        sources.peer_connected(at(0), node(peer), region("here"));
        assert!(sources.peer_offered(at(0), node(peer), &offered(log, 10)));
    }
    assert_eq!(sources.server_of(&log), Some(node(ORIGIN)));
}
