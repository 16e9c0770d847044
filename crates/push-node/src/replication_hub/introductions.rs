//! Which stream of a peer counts. Usually a peer has one, and a newer one takes
//! over. Two processes of one name would take each other's stream over for ever:
//! the one that another goes before is told so, and drains.
//!
//! A higher fencing token goes before a lower one. Without tokens only what is
//! heard tells a second process from the stream of one that is gone: once both are
//! heard, the higher incarnation goes before the lower one.

use std::fmt;

use interlock_core::clock::Moment;
use interlock_core::identity::{FencingToken, MemberOpening, NodeNumber};
use interlock_core::names::RegionName;
use interlock_core::replication::frames::Member;
use interlock_core::replication::timing::{HEARTBEAT_INTERVAL, SILENCE_LIMIT};
use tokio::sync::{mpsc, watch};

use super::{Inbound, InboundCommand, ReplicationHub, State, StreamNumber};

/// A process that speaks for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    opening: MemberOpening,
    token: FencingToken,
}

impl Speaker {
    fn of(member: &Member) -> Self {
        Self { opening: member.opening, token: member.fencing_token }
    }

    /// How this process, which introduces itself, stands to one that has a stream.
    fn against(&self, held: &Self) -> Precedence {
        let no_token = FencingToken::new(0);
        if self.opening.incarnation == held.opening.incarnation {
            Precedence::Same
        } else if self.token > no_token && held.token > no_token && self.token != held.token {
            if self.token > held.token { Precedence::Before } else { Precedence::After }
        } else if self.opening.opened_from == Some(held.opening.incarnation) {
            // It has the other's database, which one process at a time can open.
            Precedence::Same
        } else {
            Precedence::Unclear
        }
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {} with fencing token {}", self.opening.incarnation, self.token)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precedence {
    /// It takes over, and nobody has to drain.
    Same,
    /// It takes over, and the other one drains.
    Before,
    /// The other one stays, and this one drains.
    After,
    /// Both may be live.
    Unclear,
}

/// A stream that counts, and what its link is told.
pub type Introduced = (StreamNumber, mpsc::UnboundedReceiver<InboundCommand>);

/// What became of one attempt to introduce a stream.
enum Attempt {
    Introduced(Introduced),
    Fenced(Speaker),
    /// The stream that is there, and when it is heard.
    Contested(StreamNumber, watch::Receiver<Moment>),
}

impl ReplicationHub {
    /// A peer introduces itself on a stream of its own. The stream counts from then
    /// on, and an older one of the peer is told nothing more; or the answer names
    /// the process that goes before it.
    pub async fn introduce(&self, member: &Member) -> Result<Introduced, Speaker> {
        let since = self.clock.moment();
        loop {
            let (held, mut heard) = match self.try_introduce(member) {
                Attempt::Introduced(introduced) => return Ok(introduced),
                Attempt::Fenced(other) => return Err(other),
                Attempt::Contested(held, heard) => (held, heard),
            };
            // What was said before this one came may only be read now.
            let is_live = async {
                let live = heard.wait_for(|at| *at >= since + HEARTBEAT_INTERVAL).await;
                live.map(drop)
            };
            match tokio::time::timeout(SILENCE_LIMIT, is_live).await {
                Ok(Ok(())) => {
                    if let Some(settled) = self.settle(member, held) {
                        return settled;
                    }
                }
                // It has ended.
                Ok(Err(_)) => {}
                // It would have ended, but its link waits for something else.
                Err(_) => return Ok(self.take_over(&mut self.lock(), member)),
            }
        }
    }

    /// The process on a live stream of a member that surely goes before this one.
    pub fn goes_before(&self, member: &Member) -> Option<Speaker> {
        let state = self.lock();
        let held = &state.inbound.get(&member.opening.node)?.speaker;
        (Speaker::of(member).against(held) == Precedence::After).then_some(*held)
    }

    /// A stream was heard.
    pub fn heard_inbound(&self, peer: NodeNumber, stream: StreamNumber, now: Moment) {
        if let Some(inbound) = self.lock().inbound.get(&peer).filter(|it| it.stream == stream) {
            inbound.heard.send_replace(now);
        }
    }

    fn try_introduce(&self, member: &Member) -> Attempt {
        let mut state = self.lock();
        let speaker = Speaker::of(member);
        let Some(held) = state.inbound.get(&member.opening.node) else {
            return Attempt::Introduced(self.take_over(&mut state, member));
        };
        match speaker.against(&held.speaker) {
            Precedence::Same => {}
            Precedence::Before => held.fence(speaker),
            Precedence::After => return Attempt::Fenced(held.speaker),
            Precedence::Unclear => {
                return Attempt::Contested(held.stream, held.heard.subscribe());
            }
        }
        Attempt::Introduced(self.take_over(&mut state, member))
    }

    /// Both were heard: the higher incarnation stays. Nothing is settled when the
    /// other stream is another one by now.
    fn settle(&self, member: &Member, other: StreamNumber) -> Option<Result<Introduced, Speaker>> {
        let mut state = self.lock();
        let held = state.inbound.get(&member.opening.node).filter(|held| held.stream == other)?;
        if member.opening.incarnation < held.speaker.opening.incarnation {
            return Some(Err(held.speaker));
        }
        held.fence(Speaker::of(member));
        Some(Ok(self.take_over(&mut state, member)))
    }

    fn take_over(&self, state: &mut State, member: &Member) -> Introduced {
        let (peer, region): (_, RegionName) = (member.opening.node, member.region.clone());
        let (commands, receiver) = mpsc::unbounded_channel();
        let stream = self.next_stream();
        let speaker = Speaker::of(member);
        let heard = watch::Sender::new(self.clock.moment());
        state.inbound.insert(peer, Inbound { stream, speaker, heard, commands });
        state.sources.peer_connected(self.clock.moment(), peer, region);
        self.dispatch(state);
        self.sources_changed.notify_one();
        (stream, receiver)
    }
}

impl Inbound {
    fn fence(&self, other: Speaker) {
        // A link that has just ended cannot tell it any more.
        let _ = self.commands.send(InboundCommand::Fenced(other));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use interlock_core::identity::Incarnation;
    use interlock_core::names::NodeName;

    use super::*;
    use crate::node_clock::NodeClock;

    fn incarnation(bits: u64) -> Option<Incarnation> {
        Incarnation::new(bits)
    }

    fn member(bits: u64, opened_from: u64, token: u64) -> Member {
        Member {
            opening: MemberOpening {
                node: NodeNumber::new(2),
                incarnation: incarnation(bits).expect("not zero"),
                opened_from: incarnation(opened_from),
            },
            name: NodeName::parse("twin").expect("a name"),
            region: RegionName::parse("north").expect("a name"),
            fencing_token: FencingToken::new(token),
        }
    }

    fn hub() -> ReplicationHub {
        let me = MemberOpening {
            node: NodeNumber::new(1),
            incarnation: incarnation(99).expect("not zero"),
            opened_from: None,
        };
        let region = RegionName::parse("south").expect("a name");
        ReplicationHub::new(me, region, NodeClock::start(), &[], [])
    }

    async fn introduced(hub: &ReplicationHub, member: &Member) -> Introduced {
        hub.introduce(member).await.expect("it counts")
    }

    fn is_fenced(commands: &mut mpsc::UnboundedReceiver<InboundCommand>) -> bool {
        matches!(commands.try_recv(), Ok(InboundCommand::Fenced(_)))
    }

    #[tokio::test]
    async fn a_lower_token_is_refused_and_a_higher_one_takes_over() {
        let hub = hub();
        let (_, mut second) = introduced(&hub, &member(5, 0, 2)).await;
        let before = hub.introduce(&member(9, 0, 1)).await.expect_err("its token is lower");
        assert_eq!(before, Speaker::of(&member(5, 0, 2)));
        assert_eq!(hub.goes_before(&member(9, 0, 1)), Some(before));
        assert_eq!(hub.goes_before(&member(9, 0, 3)), None);
        let (_, mut third) = introduced(&hub, &member(4, 0, 3)).await;
        assert!(is_fenced(&mut second));
        assert!(second.recv().await.is_none(), "its stream counts no more");
        assert!(!is_fenced(&mut third));
    }

    #[tokio::test]
    async fn the_same_process_and_the_next_opening_take_over_at_once() {
        let hub = hub();
        let (_, mut first) = introduced(&hub, &member(5, 0, 0)).await;
        let (_, mut again) = introduced(&hub, &member(5, 0, 0)).await;
        let (_, _next) = introduced(&hub, &member(3, 5, 0)).await;
        assert!(first.recv().await.is_none());
        assert!(again.recv().await.is_none(), "nobody has to drain");
    }

    #[tokio::test]
    async fn of_two_live_processes_the_lower_incarnation_is_fenced() {
        for (other, other_stays) in [(3, false), (9, true)] {
            let hub = hub();
            let (stream, mut held) = introduced(&hub, &member(5, 0, 0)).await;
            let other = member(other, 0, 0);
            let mut waits = pin!(hub.introduce(&other));
            assert!(poll!(&mut waits).is_pending());
            hub.heard_inbound(NodeNumber::new(2), stream, hub.clock.moment());
            assert!(poll!(&mut waits).is_pending(), "that may have been under way");
            let later = hub.clock.moment() + 2 * HEARTBEAT_INTERVAL;
            hub.heard_inbound(NodeNumber::new(2), stream, later);
            assert_eq!(waits.await.is_ok(), other_stays);
            assert_eq!(is_fenced(&mut held), other_stays);
        }
    }

    #[tokio::test]
    async fn the_stream_of_a_process_that_is_gone_fences_nobody() {
        let hub = hub();
        let (stream, _held) = introduced(&hub, &member(5, 0, 0)).await;
        let wiped = member(3, 0, 0);
        let mut waits = pin!(hub.introduce(&wiped));
        assert!(poll!(&mut waits).is_pending());
        hub.inbound_disconnected(NodeNumber::new(2), stream);
        assert!(waits.await.is_ok());
    }
}
