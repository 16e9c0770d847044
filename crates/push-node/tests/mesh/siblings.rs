//! Any member serves any log: a sibling that has it, whoever reaches its origin, and
//! whoever has what a dead origin left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use interlock_rpc::v1;
use tokio::sync::watch;

use crate::support::{Mesh, TestNamespace, loopback, publication, until};

const PER_ROUND: usize = 20;
/// Rounds in a row that have to be as wanted.
const RIGHT_ROUNDS: u32 = 3;

/// Within this time the next one carries: its stream is over at once, or silent for
/// five seconds, or stalls for two.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(15);

fn all(count: usize) -> TestNamespace {
    TestNamespace::on("demo", (0..count).collect())
}

/// Node 0 alone in the west, the others in the east, with a channel `news`.
async fn west_and_east(count: usize) -> Mesh {
    west_and_east_with_ways(count, &[]).await
}

/// The same with ways that can be cut.
async fn west_and_east_with_ways(count: usize, ways: &[(usize, usize)]) -> Mesh {
    let mesh = Mesh::with_ways(count, &[all(count)], ways, |index, config| {
        config.region = if index == 0 { "west" } else { "east" }.to_owned();
        config.metrics_listen = Some(loopback());
    })
    .await;
    mesh.create_channel(0, "news", &(0..count).collect::<Vec<_>>()).await;
    mesh
}

/// Three regions of one node, with ways that can be cut and a channel `news`.
async fn three_regions(ways: &[(usize, usize)]) -> Mesh {
    let mesh = Mesh::with_ways(3, &[all(3)], ways, |_, config| {
        config.metrics_listen = Some(loopback());
    })
    .await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    mesh
}

/// Who serves the newest log of an origin to a node.
async fn server_at(mesh: &Mesh, at: usize, origin: usize) -> Result<String, String> {
    let origin = format!("node-{origin}");
    let status = mesh.status(at).await.map_err(|status| status.to_string())?;
    let mut logs = status.namespaces.into_iter().flat_map(|namespace| namespace.logs);
    let tip = logs.find(|log| log.tip && log.origin_name == origin);
    tip.map(|log| log.server).ok_or_else(|| format!("it holds nothing of {origin}"))
}

async fn until_served(mesh: &Mesh, at: usize, origin: usize, server: usize) {
    let wanted = format!("node-{server}");
    until(&format!("node-{at} takes node-{origin}'s log from {wanted}"), async || {
        let server = server_at(mesh, at, origin).await?;
        if server == wanted { Ok(()) } else { Err(server) }
    })
    .await;
}

/// Waits until one node of the east takes the west's log from its origin and all
/// others take it from that one, which is told.
async fn until_carried(mesh: &Mesh) -> usize {
    let east = 1..mesh.nodes.len();
    until("one node of the east carries the west's log", async || {
        let mut servers = BTreeMap::new();
        for node in east.clone() {
            servers.insert(node, server_at(mesh, node, 0).await?);
        }
        let carrier = east.clone().find(|node| servers[node] == "node-0");
        let carrier = carrier.ok_or_else(|| format!("{servers:?}"))?;
        let name = format!("node-{carrier}");
        let all = servers.iter().all(|(node, server)| *node == carrier || *server == name);
        if all { Ok(carrier) } else { Err(format!("{servers:?}")) }
    })
    .await
}

/// Messages that went from one node to another: (from, to).
type Traffic = BTreeMap<(usize, usize), u64>;

async fn traffic(mesh: &Mesh) -> Traffic {
    let mut traffic = Traffic::new();
    for to in 0..mesh.nodes.len() {
        for from in (0..mesh.nodes.len()).filter(|from| *from != to) {
            let line = format!("interlock_messages_received_total{{peer=\"node-{from}\"}}");
            let received = mesh.metric(to, &line).await.unwrap_or(0.0);
            traffic.insert((from, to), received as u64);
        }
    }
    traffic
}

/// Rounds of publications, and what was published in them at each node.
#[derive(Default)]
struct Rounds {
    published: BTreeMap<usize, Vec<String>>,
}

impl Rounds {
    /// Publishes at these nodes, waits until all hold it, and says what went where.
    async fn publish(&mut self, mesh: &Mesh, at: &[usize], peers: u32) -> Traffic {
        let nodes: Vec<usize> = (0..mesh.nodes.len()).collect();
        mesh.until_converged(&nodes).await;
        let before = traffic(mesh).await;
        for node in at {
            let published = self.published.entry(*node).or_default();
            for _ in 0..PER_ROUND {
                let text = format!("{node}-{}", published.len());
                let level = match peers {
                    0 => v1::DurabilityLevel::Local,
                    _ => v1::DurabilityLevel::Peers,
                };
                let request = v1::PublishRequest {
                    namespace: "demo".to_owned(),
                    publication: Some(publication("news", text.clone())),
                    durability: Some(v1::Durability { level: level.into(), peers }),
                    ..Default::default()
                };
                let stored = mesh.publisher(*node).publish(request).await;
                let stored = stored.expect("it is accepted and held by so many").into_inner();
                assert!(stored.durable_at.len() > peers as usize, "{stored:?}");
                published.push(text);
            }
        }
        mesh.until_converged(&nodes).await;
        let mut traffic = traffic(mesh).await;
        traffic.iter_mut().for_each(|(way, messages)| *messages -= before[way]);
        traffic.retain(|_, messages| *messages > 0);
        traffic
    }

    /// Publishes until what goes where is as wanted, and stays so: where a busy machine holds a
    /// stream up for seconds, another server takes its place for a while, as it should.
    async fn until_traffic(
        &mut self,
        mesh: &Mesh,
        at: &[usize],
        peers: u32,
        wanted: impl AsyncFn() -> Traffic,
    ) {
        let mut in_a_row = 0;
        until("each message takes the wanted way once", async || {
            let wanted = wanted().await;
            let traffic = self.publish(mesh, at, peers).await;
            in_a_row = if traffic == wanted { in_a_row + 1 } else { 0 };
            match in_a_row {
                RIGHT_ROUNDS => Ok(()),
                _ => Err(format!("{in_a_row} in a row, then {traffic:?}, not {wanted:?}")),
            }
        })
        .await;
    }

    /// Everything is everywhere, in order and once.
    async fn check(&self, mesh: &Mesh) {
        for node in 0..mesh.nodes.len() {
            let read = mesh.read_all(node, &["news"]).await;
            for (origin, published) in &self.published {
                let prefix = format!("{origin}-");
                let of_origin: Vec<&String> =
                    read.iter().filter(|text| text.starts_with(&prefix)).collect();
                assert_eq!(of_origin, published.iter().collect::<Vec<_>>(), "at node-{node}");
            }
        }
    }
}

/// Of three nodes of a region one takes the log of another region from there, the
/// others take it from that one; their own logs they take from each other. Each
/// message goes to each node once.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_crosses_to_a_region_once() {
    let mesh = west_and_east(4).await;
    let mut rounds = Rounds::default();
    // A log is there once something was published.
    rounds.publish(&mesh, &[0, 1, 2, 3], 0).await;
    let wanted = async || {
        let carrier = until_carried(&mesh).await;
        let count = PER_ROUND as u64;
        let mut wanted = Traffic::from([((0, carrier), count)]);
        for node in 1..4 {
            for to in (0..4).filter(|to| *to != node) {
                let west = u64::from(node == carrier && to != 0);
                wanted.insert((node, to), count * (1 + west));
            }
        }
        wanted
    };
    rounds.until_traffic(&mesh, &[0, 1, 2, 3], 0, wanted).await;
    rounds.check(&mesh).await;
}

/// A publication that two other members have to hold is acknowledged where only one
/// of them gets it from its origin: a mark counts however it got there.
#[tokio::test(flavor = "multi_thread")]
async fn marks_count_however_the_messages_came() {
    let mesh = west_and_east(3).await;
    let mut rounds = Rounds::default();
    rounds.publish(&mesh, &[0], 2).await;
    let wanted = async || {
        let carrier = until_carried(&mesh).await;
        let count = PER_ROUND as u64;
        Traffic::from([((0, carrier), count), ((carrier, 3 - carrier), count)])
    };
    rounds.until_traffic(&mesh, &[0], 2, wanted).await;
    rounds.check(&mesh).await;
}

/// The carrier dies while messages come: its sibling takes them from the origin, and
/// from the carrier again once that is back. None is lost, none is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_dies_has_a_successor() {
    let mut mesh = west_and_east(3).await;
    let carrier = until_carried(&mesh).await;
    let sibling = 3 - carrier;
    let mut publisher = mesh.publisher(0);
    let (stop, stopped) = watch::channel(false);
    let publishing = tokio::spawn(async move {
        let mut published = Vec::new();
        while !*stopped.borrow() {
            let text = published.len().to_string();
            let request = v1::PublishRequest {
                namespace: "demo".to_owned(),
                publication: Some(publication("news", text.clone())),
                ..Default::default()
            };
            publisher.publish(request).await.expect("it is accepted");
            published.push(text);
        }
        published
    });
    let until_sibling_has = async |mesh: &Mesh, count: usize| {
        until("the sibling gets what comes", async || {
            let held = mesh.read_all(sibling, &["news"]).await.len();
            if held >= count { Ok(()) } else { Err(held) }
        })
        .await;
    };
    until_sibling_has(&mesh, 50).await;
    mesh.kill(carrier).await;
    let since = Instant::now();
    let at_origin = mesh.read_all(0, &["news"]).await.len();
    until_served(&mesh, sibling, 0, 0).await;
    until_sibling_has(&mesh, at_origin + 50).await;
    assert!(since.elapsed() < TAKE_OVER_LIMIT, "{:?}", since.elapsed());

    mesh.restart(carrier).await;
    // It is the carrier by the log's name.
    until_served(&mesh, carrier, 0, 0).await;
    until_served(&mesh, sibling, 0, carrier).await;
    stop.send_replace(true);
    let published = publishing.await.expect("all were accepted");
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        assert_eq!(mesh.read_all(node, &["news"]).await, published, "at node-{node}");
    }
}

/// The carrier loses the origin and not its sibling: that one takes the log over the
/// WAN and serves it to the carrier, and does not wait for the carrier as long as it is
/// the one who serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_without_the_origin_is_served_by_its_sibling() {
    let ways = [(0, 1), (1, 0), (0, 2), (2, 0)];
    let mesh = west_and_east_with_ways(3, &ways).await;
    let mut rounds = Rounds::default();
    rounds.publish(&mesh, &[0], 0).await;
    let carrier = until_carried(&mesh).await;
    let sibling = 3 - carrier;
    mesh.cut(0, carrier);
    mesh.cut(carrier, 0);
    let count = PER_ROUND as u64;
    let wanted = Traffic::from([((0, sibling), count), ((sibling, carrier), count)]);
    rounds.until_traffic(&mesh, &[0], 2, async || wanted.clone()).await;
    until_served(&mesh, sibling, 0, 0).await;
    until_served(&mesh, carrier, 0, sibling).await;
    mesh.mend(0, carrier);
    mesh.mend(carrier, 0);
    until_served(&mesh, carrier, 0, 0).await;
    until_served(&mesh, sibling, 0, carrier).await;
    rounds.check(&mesh).await;
}

/// Two members that cannot reach each other take each other's logs from the third,
/// and where one direction works, by that. Marks travel back as facts, so that
/// publications are acknowledged and queues become empty. Each message takes one way.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_link_is_gone_around() {
    let mesh = three_regions(&[(0, 1), (1, 0)]).await;
    mesh.cut(0, 1);
    mesh.cut(1, 0);
    let mut rounds = Rounds::default();
    let count = PER_ROUND as u64;
    let wanted = Traffic::from([
        ((0, 2), count),
        ((1, 2), count),
        // Its own, and the other's.
        ((2, 0), 2 * count),
        ((2, 1), 2 * count),
    ]);
    rounds.until_traffic(&mesh, &[0, 1, 2], 2, async || wanted.clone()).await;
    until_served(&mesh, 1, 0, 2).await;
    until_served(&mesh, 0, 1, 2).await;
    until("what came around is no queue any more", async || {
        let status = mesh.status(0).await.map_err(|status| status.to_string())?;
        let peer = status.peers.into_iter().find(|peer| peer.name == "node-1");
        let peer = peer.ok_or("no such peer")?;
        let is_away = !matches!(peer.state(), v1::PeerState::Replicating);
        if is_away && peer.queue_messages == 0 { Ok(()) } else { Err(format!("{peer:?}")) }
    })
    .await;

    mesh.mend(1, 0);
    until_served(&mesh, 0, 1, 1).await;
    let wanted = Traffic::from([
        ((0, 2), count),
        ((1, 2), count),
        ((1, 0), count),
        ((2, 0), count),
        ((2, 1), 2 * count),
    ]);
    rounds.until_traffic(&mesh, &[0, 1, 2], 2, async || wanted.clone()).await;
    assert_eq!(server_at(&mesh, 1, 0).await.as_deref(), Ok("node-2"));

    mesh.mend(0, 1);
    until_served(&mesh, 1, 0, 0).await;
    let everybody = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    let wanted: Traffic = everybody.into_iter().map(|way| (way, count)).collect();
    rounds.until_traffic(&mesh, &[0, 1, 2], 2, async || wanted.clone()).await;
    rounds.check(&mesh).await;
}

/// What only one member has of an origin that is dead gets to the others, who say
/// until then how much of it one lacks; the origin goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_dead_origin_gets_around() {
    let mut mesh = three_regions(&[(0, 2), (1, 2)]).await;
    mesh.cut(0, 2);
    mesh.cut(1, 2);
    let mut published = Vec::new();
    for number in 0..PER_ROUND {
        published.push(number.to_string());
        mesh.publish(0, "news", number.to_string()).await.expect("it is accepted");
    }
    mesh.until_converged(&[0, 1]).await;
    mesh.kill(0).await;
    assert!(mesh.read_all(2, &["news"]).await.is_empty(), "nothing leads there");
    let status = mesh.status(1).await.expect("it serves");
    let lacking = status.peers.iter().find(|peer| peer.name == "node-2").expect("a peer");
    assert!(lacking.queue_messages >= PER_ROUND as u64, "{lacking:?}");

    mesh.mend(1, 2);
    mesh.until_converged(&[1, 2]).await;
    assert_eq!(mesh.read_all(2, &["news"]).await, published);
    assert_eq!(server_at(&mesh, 2, 0).await.as_deref(), Ok("node-1"));

    mesh.restart(0).await;
    mesh.until_serving(0).await;
    mesh.publish(0, "news", "again").await.expect("it is accepted");
    published.push("again".to_owned());
    mesh.until_converged(&[0, 1, 2]).await;
    assert_eq!(mesh.read_all(2, &["news"]).await, published);
    until_served(&mesh, 2, 0, 1).await;
}
