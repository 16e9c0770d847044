//! The threads over the memory storage: what is answered is durable, and a disk
//! that fails is an unknown outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::{
    AppendEntry, ChannelChange, ChannelDraft, ChannelEdit, NewPublication, RecoveredState, Telling,
};
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::{
    ChainHash, FencingToken, GroupNumber, Incarnation, MemberOpening, MessageName, MessageNumber,
    PathName, ShardNumber, TopologyVersion,
};
use interlock_core::names::{ChannelName, GroupName, NamespaceName, NodeName, RegionName};
use interlock_core::topology::{Group, Namespace, Node, NodeState, Retention, Topology};
use interlock_storage::{
    LogStorage as _, Loss, MemoryDisk, MemoryStorage, ProjectionKind, Recovery, Ticket,
};
use interlock_telemetry::metrics::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::alarms::AlarmKind;
use crate::channel_segments::ChannelSegments;
use crate::durable_state::DurableLog;
use crate::failure::NodeFailure;
use crate::log_writer::AppendedBatch;
use crate::opening::{rebuild_projections, rebuild_storing_every};
use crate::projector::{ProjectorWork, channel_news};
use crate::writer_commands::{BackfillNews, PublishAnswer, WriterCommand};

const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

struct Node1 {
    writer: LogWriter,
    durable: Arc<DurableState>,
    directories: Directories,
    failure: FailureWatch,
    threads: Threads,
    storage: Storage,
    alarms: Arc<Alarms>,
    projector_queue: Arc<WorkQueue<ProjectorWork>>,
    backfilled: mpsc::UnboundedReceiver<NamespaceNumber>,
}

fn topology() -> Topology {
    let region = RegionName::parse("r").expect("a name");
    let group = GroupName::parse("g").expect("a name");
    Topology {
        version: TopologyVersion { generation: 0, number: 1 },
        regions: vec![region.clone()],
        groups: vec![Group {
            number: GroupNumber::new(1),
            name: group.clone(),
            regions: vec![region.clone()],
        }],
        nodes: vec![Node {
            number: NodeNumber::new(1),
            name: NodeName::parse("n").expect("a name"),
            region,
            replication_address: String::new(),
            client_address: String::new(),
            state: NodeState::Active,
            fencing_token: FencingToken::new(0),
            feature_level: FEATURE_LEVEL,
        }],
        namespaces: vec![Namespace {
            number: NAMESPACE,
            name: NamespaceName::parse("demo").expect("a name"),
            groups: vec![group],
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: Vec::new(),
            leaving: Vec::new(),
        }],
    }
}

/// A node that may accept in its namespace.
fn start(disk: &MemoryDisk, incarnation: u64) -> (Node1, Recovery) {
    let (node, recovery) = start_closed(disk, incarnation);
    node.writer.tell(WriterCommand::SetReady(NAMESPACE)).expect("it is open");
    (node, recovery)
}

/// Opens a disk as the service does, and starts the threads.
fn start_closed(disk: &MemoryDisk, incarnation: u64) -> (Node1, Recovery) {
    let (storage, recovery) = MemoryStorage::open(disk).expect("the disk is whole");
    let (storage, _) = Storage::share(storage);
    let me = NodeNumber::new(1);
    let opening = MemberOpening {
        node: me,
        incarnation: Incarnation::new(incarnation).expect("not zero"),
        opened_from: recovery.opened_from,
    };
    storage.record_opening(opening).expect("the disk works");
    let projected = rebuild_projections(storage.as_ref(), &recovery, me).expect("it is readable");
    let mut recovered = RecoveredState {
        directories: projected.directories_by_namespace(),
        publishers: projected.sessions,
        ..RecoveredState::new()
    };
    for log in &recovery.logs {
        recovered
            .insert_log(log.row.clone(), log.mark, log.floor, log.last_stamp)
            .expect("the rows are consistent");
    }
    let topology = Arc::new(TopologyState::new(topology()));
    let recovered_logs = recovery.logs.iter().map(|log| DurableLog {
        row: log.row.clone(),
        durable: log.mark,
        applied: log.mark.m_id,
        last_missing: log.last_missing,
        trimmed: log.floor.m_id,
    });
    let durable = Arc::new(DurableState::new(recovered_logs, 1 << 20));
    let writer = LogWriter::new(8 << 20);
    let directories = Directories::new(projected.directories);
    let failure = FailureWatch::new();
    let (backfilled_sender, backfilled) = mpsc::unbounded_channel();
    let alarms = Arc::new(Alarms::default());
    let projector_queue = Arc::new(WorkQueue::new());
    let threads = Threads::start(ThreadParts {
        storage: &storage,
        admission: Admission::new(opening, recovered, topology.current()),
        writer: &writer,
        durable: &durable,
        projector_queue: &projector_queue,
        directories: &directories,
        channel_segments: &ChannelSegments::new(projected.channel_index),
        publishers: projected.publishers,
        topology: &topology,
        channel_news: channel_news(),
        backfilled: backfilled_sender,
        clock: NodeClock::start(),
        alarms: &alarms,
        metrics: &NodeMetrics::register(&Registry::new()),
        failure: &failure,
        me,
    })
    .expect("threads start");
    let node = Node1 {
        writer,
        durable,
        directories,
        failure,
        threads,
        storage,
        alarms,
        projector_queue,
        backfilled,
    };
    (node, recovery)
}

fn channel() -> ChannelName {
    ChannelName::parse("news").expect("a name")
}

impl Node1 {
    async fn create(&self) {
        let edit = ChannelEdit {
            namespace: NAMESPACE,
            channel: channel(),
            change: ChannelChange::Create(ChannelDraft::default()),
            trace: None,
        };
        let (sender, receiver) = oneshot::channel();
        let command = WriterCommand::Edit(Box::new(edit), sender);
        self.writer.submit(command).await.expect("it is open");
        receiver.await.expect("it is answered").expect("it is accepted");
    }

    async fn publish(&self, payload: &str) -> Result<PublishAnswer, oneshot::error::RecvError> {
        let publication = NewPublication {
            namespace: NAMESPACE,
            channel: channel(),
            key: Bytes::new(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            publisher: None,
            possibly_repeated: false,
            trace: None,
        };
        match self.writer.publish(vec![publication]).await {
            Ok(answer) => tokio::time::timeout(Duration::from_secs(20), answer)
                .await
                .expect("an answer, or none for good"),
            Err(_) => {
                let (gone, answer) = oneshot::channel();
                drop(gone);
                answer.await
            }
        }
    }

    async fn end(self) {
        self.writer.queue().close();
        self.threads.join().await;
    }
}

fn lengths(recovery: &Recovery) -> BTreeMap<u64, u64> {
    recovery.logs.iter().map(|log| (log.row.log.incarnation.get(), log.mark.m_id.get())).collect()
}

/// What was answered survives a cut of power that takes everything unsynced.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_durable() {
    let disk = MemoryDisk::new();
    for round in 1..=4 {
        let (node, recovery) = start(&disk, round);
        if round == 1 {
            node.create().await;
        } else {
            assert_eq!(recovery.opened_from, Incarnation::new(round - 1));
        }
        for number in 0..10 {
            let answer = node.publish(&number.to_string()).await.expect("it is answered");
            assert!(answer.refusal.is_none(), "{answer:?}");
        }
        disk.crash(Loss::Unsynced, &mut |_| 0);
        node.end().await;
    }
    let (node, recovery) = start(&disk, 9);
    assert_eq!(lengths(&recovery), BTreeMap::from([(1, 11), (2, 21), (3, 31), (4, 41)]));
    assert!(recovery.cut.is_empty(), "{:?}", recovery.cut);
    let known = node.directories.namespace(NAMESPACE).read(|directory| directory.live_channels());
    assert_eq!(known, 1);
    assert_eq!(node.durable.marks().len(), 4);
    node.end().await;
}

/// A write that failed: who waits learns that the outcome is unknown, nothing is
/// tried again, and the node reports why it has to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_append_or_sync_is_an_unknown_outcome() {
    for fail in [MemoryDisk::fail_next_write, MemoryDisk::fail_next_sync] {
        let disk = MemoryDisk::new();
        let (node, _) = start(&disk, 1);
        node.create().await;
        node.publish("a").await.expect("it is answered");
        fail(&disk);
        node.publish("b").await.expect_err("nobody knows what became of it");
        node.publish("c").await.expect_err("nothing is taken any more");
        assert!(matches!(node.failure.wait().await, NodeFailure::Storage(_)));
        let marks = node.durable.marks();
        assert_eq!(marks[0].1.m_id.get(), 2, "what was not synced never counts");
        drop(node.storage.clone());
        node.end().await;
    }
}

/// A trim that ends in damaged data is an alarm: the node goes on, and what it stored
/// before and stores afterwards is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_trim_that_cannot_read_is_an_alarm() {
    let disk = MemoryDisk::new();
    let (node, recovery) = start(&disk, 1);
    assert!(recovery.logs.is_empty());
    node.create().await;
    for text in ["a", "b", "c", "d"] {
        node.publish(text).await.expect("it is answered");
    }
    let log = node.durable.marks()[0].0;
    let m_id = MessageNumber::new;
    disk.lose_synced(&MessageName { log, m_id: m_id(2) });
    let trim = ProjectorWork::Trim(vec![(log, m_id(3))]);
    assert!(node.projector_queue.push(trim).is_ok(), "the projector runs");
    let raised = async {
        while node.alarms.list().is_empty() {
            tokio::task::yield_now().await;
        }
        node.alarms.list()
    };
    let raised = tokio::time::timeout(Duration::from_secs(20), raised).await.expect("in time");
    assert_eq!(raised[0].kind, AlarmKind::DamagedData);
    assert_eq!(raised[0].subject, format!("trimming {log}"));
    node.publish("after").await.expect("it goes on");
    assert_eq!(node.failure.get(), None);
    assert_eq!(node.durable.log(&log).map(|log| log.trimmed), Some(m_id(0)));
    // What is before the damage can be trimmed, and then nothing is in the way.
    let trim = ProjectorWork::Trim(vec![(log, m_id(1))]);
    assert!(node.projector_queue.push(trim).is_ok(), "the projector runs");
    let over = async {
        while !node.alarms.list().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over).await.expect("in time");
    assert_eq!(node.durable.log(&log).map(|log| log.trimmed), Some(m_id(1)));
    node.end().await;
}

/// Members say what they have as soon as they are connected; the decision that
/// there is anything to take over comes from another task, and may come later.
#[tokio::test(flavor = "multi_thread")]
async fn what_members_said_before_the_decision_ends_a_backfill() {
    let (mut node, _) = start_closed(&MemoryDisk::new(), 1);
    let said_all = BackfillNews::OfferedAll(Telling { member: NodeNumber::new(2), stream: 1 });
    for command in [
        WriterCommand::Backfill(vec![NAMESPACE], said_all),
        WriterCommand::BeginBackfill(NAMESPACE),
    ] {
        node.writer.tell(command).expect("it is open");
    }
    let told = tokio::time::timeout(Duration::from_secs(20), node.backfilled.recv()).await;
    assert_eq!(told.expect("it was said"), Some(NAMESPACE));
    node.end().await;
}

/// The writer goes by the newest document it was told, in whatever order.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_topology_changes_nothing() {
    let (node, _) = start(&MemoryDisk::new(), 1);
    let version = |number| TopologyVersion { generation: 0, number };
    for number in [6, 5] {
        let namespaces = if number == 6 { topology().namespaces } else { Vec::new() };
        let document = Topology { version: version(number), namespaces, ..topology() };
        let command = WriterCommand::SetTopology(Arc::new(document));
        node.writer.tell(command).expect("it is open");
    }
    let seen = node
        .writer
        .look(|admission| (admission.topology().version, admission.is_member(NAMESPACE)))
        .await
        .expect("it is open");
    assert_eq!(seen, (version(6), true));
    node.end().await;
}

/// A panic of one thread ends the others too: nobody waits for it for ever, and
/// the node says why it has to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_writer_ends_all_threads() {
    let (node, _) = start(&MemoryDisk::new(), 1);
    let looked = node.writer.look::<()>(|_| panic!("an invariant is broken")).await;
    assert!(looked.is_err());
    let joined = tokio::time::timeout(Duration::from_secs(20), node.threads.join());
    joined.await.expect("all threads have ended");
    assert_eq!(node.failure.get(), Some(NodeFailure::Panicked("the log writer")));
    assert!(node.writer.look(|_| ()).await.is_err(), "nothing is taken any more");
}

/// The same for the thread behind it, whose queue nobody empties any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_syncer_ends_all_threads() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("the disk is whole");
    let (queue, projector) = (Arc::new(WorkQueue::new()), Arc::new(WorkQueue::new()));
    let (writer, failure) = (LogWriter::new(1 << 20), FailureWatch::new());
    let syncer = LogSyncer {
        queue: Arc::clone(&queue),
        storage: Storage::share(storage).0,
        durable: Arc::new(DurableState::new([], 1 << 20)),
        newly_durable: Arc::default(),
        writer: writer.clone(),
        projector: Arc::clone(&projector),
        metrics: NodeMetrics::register(&Registry::new()),
        failure: failure.clone(),
    };
    let thread = syncer.spawn().expect("threads start");
    let log =
        PathName { namespace: NAMESPACE, shard: ShardNumber::new(0), origin: NodeNumber::new(1) }
            .log(Incarnation::new(1).expect("not zero"));
    // A log's row comes with its first message; here it does not.
    let entries = vec![AppendEntry {
        log,
        row: None,
        m_id: MessageNumber::new(1),
        bytes: Bytes::from_static(b"x"),
        hash: ChainHash::EMPTY,
        stamp: HybridTime::ZERO,
    }];
    let batch = AppendedBatch {
        ticket: Ticket::ZERO,
        entries,
        arrived_at: WallTime::new(1),
        accepted: BTreeMap::new(),
        holes: Vec::new(),
        answers: Vec::new(),
        permits: Vec::new(),
    };
    queue.push(batch).expect("it is open");
    let taken = tokio::task::spawn_blocking(move || {
        drop(thread.join());
        let mut taken = Vec::new();
        projector.take(&mut taken, |_| true)
    });
    let taken = tokio::time::timeout(Duration::from_secs(20), taken).await;
    assert!(!taken.expect("the projector's queue is closed").expect("it ends"));
    assert_eq!(failure.get(), Some(NodeFailure::Panicked("the log syncer")));
    assert!(writer.look(|_| ()).await.is_err(), "nothing is taken any more");
}

/// What a rebuild has read is stored as it goes: a large log is not kept in
/// memory, and a crash does not begin it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_stores_as_it_goes() {
    let disk = MemoryDisk::new();
    let (node, _) = start(&disk, 1);
    node.create().await;
    for number in 0..25 {
        node.publish(&number.to_string()).await.expect("it is answered");
    }
    node.end().await;
    let (storage, recovery) = MemoryStorage::open(&disk).expect("the disk is whole");
    for kind in ProjectionKind::ALL {
        storage.reset_projection(kind).expect("the disk works");
    }
    rebuild_storing_every(10, &storage, &recovery, NodeNumber::new(1)).expect("it is readable");
    for kind in ProjectionKind::ALL {
        let stored = storage.projection(kind).expect("the disk works").expect("it was stored");
        let reached: Vec<u64> = stored.positions.iter().map(|(_, m_id)| m_id.get()).collect();
        assert_eq!(reached, [20], "{kind:?}");
    }
}
