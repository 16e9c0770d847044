//! Measures the RocksDB storage as built: appends with a syncer beside, catch-up,
//! and the time to open after a kill.
//!
//! `cargo xtask measure --log-rates` runs it as it is; built, it takes
//! `[messages] [message bytes] [logs] [batch] [folder]`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{
    Epoch, Incarnation, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber, RegisterVersion,
    ShardNumber, TopologyVersion,
};
use interlock_core::message::{Message, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;
use interlock_storage::{AppendBatch, LogStorage, RocksOptions, RocksStorage};

/// A log that is appended to.
struct Source {
    row: Row,
    mark: Mark,
    payload: Bytes,
}

impl Source {
    fn new(origin: u32, payload_bytes: usize) -> Self {
        let log = LogName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
            incarnation: Incarnation::new(7).expect("not zero"),
        };
        let payload = (0..payload_bytes).map(|index| (index * 37) as u8).collect();
        Self { row: Row { log, parents: Vec::new() }, mark: Mark::default(), payload }
    }

    fn next(&mut self) -> AppendEntry {
        let is_first = self.mark.m_id == MessageNumber::ZERO;
        let m_id = self.mark.m_id.next();
        let stamp = HybridTime::new(m_id.get());
        let message = Message {
            m_id,
            groups: Vec::new(),
            kind: MessageKind::Publication,
            stamp,
            parents: Vec::new(),
            topology_version: TopologyVersion { generation: 1, number: 1 },
            channel: ChannelName::parse("prices/gold").expect("a name").into(),
            epoch: Epoch::new(1),
            version: RegisterVersion::new(1),
            key: Bytes::new(),
            publisher: None,
            possibly_repeated: false,
            trace: None,
            payload: self.payload.clone(),
        };
        let bytes = message.encode();
        self.mark = Mark { m_id, hash: self.mark.hash.then(&bytes) };
        let row = is_first.then(|| self.row.clone());
        AppendEntry { log: self.row.log, row, m_id, bytes, hash: self.mark.hash, stamp }
    }
}

struct Arguments {
    messages: usize,
    message_bytes: usize,
    logs: u32,
    batch: usize,
    folder: PathBuf,
}

fn arguments() -> Arguments {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (messages, message_bytes) = (number(1_000_000), number(128));
    let (logs, batch) = (number(1) as u32, number(1024));
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("log-rates-{}", std::process::id()));
    Arguments { messages, message_bytes, logs, batch, folder }
}

fn main() {
    let Arguments { messages, message_bytes, logs, batch, folder } = arguments();
    println!("{messages} messages of {message_bytes} B payload, {logs} logs, batches of {batch}");
    // Prepared before, so that the storage alone is measured.
    let mut sources: Vec<Source> = (1..=logs).map(|log| Source::new(log, message_bytes)).collect();
    let batches: Vec<AppendBatch> = (0..messages / batch)
        .map(|index| {
            let turn = index * batch;
            let entries =
                (turn..turn + batch).map(|turn| sources[turn % logs as usize].next()).collect();
            AppendBatch::new(WallTime::new(index as u64), entries)
        })
        .collect();

    let (storage, _) = RocksStorage::open(&folder, RocksOptions::default()).expect("a new folder");
    let appended = append(&storage, &batches);
    storage.store_checkpoint(&[], &[]).expect("stored");
    println!("append, synced beside: {}", rate(messages, appended));
    read(&storage, &sources);

    drop(storage);
    let begun = Instant::now();
    let (storage, recovery) = RocksStorage::open(&folder, RocksOptions::default()).expect("sound");
    println!("open after a close: {:?}, {} logs", begun.elapsed(), recovery.logs.len());
    read(&storage, &sources);
    drop(storage);
    std::fs::remove_dir_all(Path::new(&folder)).expect("removable");
}

/// Appends as a log writer does, while another thread syncs without a pause.
fn append(storage: &RocksStorage, batches: &[AppendBatch]) -> f64 {
    let is_done = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let syncer = scope.spawn(|| {
            let mut syncs = 0;
            while !is_done.load(Ordering::Acquire) {
                storage.sync().expect("synced");
                syncs += 1;
            }
            storage.sync().expect("synced");
            syncs
        });
        let begun = Instant::now();
        for batch in batches {
            storage.append(batch).expect("appended");
        }
        let in_append = begun.elapsed();
        is_done.store(true, Ordering::Release);
        let syncs: u64 = syncer.join().expect("it does not panic");
        println!("{syncs} syncs; appends alone took {in_append:?}");
    });
    begun.elapsed().as_secs_f64()
}

/// Reads every log from its beginning in frames of 1 MiB.
fn read(storage: &RocksStorage, sources: &[Source]) {
    const FRAME_BYTES: usize = 1024 * 1024;
    let begun = Instant::now();
    let mut messages = 0;
    for source in sources {
        let mut next = MessageNumber::new(1);
        while next <= source.mark.m_id {
            let read = storage.read(&source.row.log, next, source.mark.m_id, FRAME_BYTES);
            let read = read.expect("readable");
            messages += read.len();
            next = read.last().expect("held").m_id.next();
        }
    }
    println!("catch-up: {}", rate(messages, begun.elapsed().as_secs_f64()));
}

fn rate(messages: usize, seconds: f64) -> String {
    format!("{:.0} k/s, {seconds:.2} s", messages as f64 / seconds / 1e3)
}
