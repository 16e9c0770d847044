use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{Incarnation, MemberOpening};
use interlock_core::projection::{ChannelIndex, DirectoryProjection};
use interlock_core::topology::Topology;
use interlock_storage::{MemoryDisk, MemoryStorage};
use interlock_telemetry::metrics::Registry;
use tokio::sync::mpsc;

use super::*;
use crate::directories::Directories;
use crate::node_clock::NodeClock;
use crate::topology_state::TopologyState;

/// A node with nothing in it, where no start can be looked for: others have all
/// the room.
fn busy_sources(draining: watch::Receiver<bool>) -> FeedSources {
    let (storage, _) = MemoryStorage::open(&MemoryDisk::new()).expect("an empty disk");
    let me = MemberOpening {
        node: NodeNumber::new(1),
        incarnation: Incarnation::new(1).expect("not zero"),
        opened_from: None,
    };
    let topology = Arc::new(TopologyState::new(Topology::default()));
    let directories = Directories::new(DirectoryProjection::default());
    FeedSources {
        durable: Arc::new(DurableState::new([], 1 << 20)),
        storage: Storage::share(storage).0,
        directory: directories.namespace(NamespaceNumber::new(1)),
        channel_segments: ChannelSegments::new(ChannelIndex::default()),
        news: Arc::new(OriginNewsBoard::new(me, NodeClock::start(), topology)),
        metrics: NodeMetrics::register(&Registry::new()),
        node: "n".to_owned(),
        draining,
        searches: Arc::new(Semaphore::new(0)),
    }
}

fn last(count: u32) -> FeedRequest {
    FeedRequest {
        namespace: NamespaceNumber::new(1),
        namespace_name: "demo".to_owned(),
        start: StartPosition::Last(count),
        filter: ChannelFilter::default(),
        excluded: BTreeSet::new(),
        until: Until::Forever,
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it ends")
}

/// A search reads whole logs: it ends with the reader who wanted it, and is not
/// begun while as many are under way as may be.
#[tokio::test]
async fn a_search_ends_with_its_reader() {
    let (_drain, draining) = watch::channel(false);
    let (sender, receiver) = mpsc::channel(1);
    let feed = tokio::spawn(run_feed(busy_sources(draining), last(1), sender));
    tokio::task::yield_now().await;
    assert!(!feed.is_finished(), "it waits for its turn");
    drop(receiver);
    in_time(feed).await.expect("it does not panic");
}

#[tokio::test]
async fn a_search_ends_when_the_node_drains() {
    let (drain, draining) = watch::channel(false);
    let (sender, mut receiver) = mpsc::channel(1);
    let feed = tokio::spawn(run_feed(busy_sources(draining), last(1), sender));
    drain.send_replace(true);
    let told = in_time(receiver.recv()).await.expect("the reader is told").expect("no error");
    assert!(matches!(told.body, Some(Body::Draining(_))), "{told:?}");
    in_time(feed).await.expect("it does not panic");
}

/// What needs no search waits for nobody's.
#[tokio::test]
async fn a_start_at_now_waits_for_no_search() {
    let (_drain, draining) = watch::channel(false);
    let (sender, mut receiver) = mpsc::channel(1);
    let request = FeedRequest { start: StartPosition::Now, ..last(0) };
    let feed = tokio::spawn(run_feed(busy_sources(draining), request, sender));
    let told = in_time(receiver.recv()).await.expect("it begins").expect("no error");
    assert!(matches!(told.body, Some(Body::Opened(_))), "{told:?}");
    drop(receiver);
    in_time(feed).await.expect("it does not panic");
}
