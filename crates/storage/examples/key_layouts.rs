//! Measures how the log's keys should be laid out: append rate, catch-up rate and
//! the cost of trims, at 100 interleaved logs. The layouts take turns within one
//! run, so that whatever else the machine does meets all of them.
//!
//! Buffers and levels are a sixth of a node's, so that a million messages come as
//! far down as some gigabytes do there.
//!
//! ```text
//! cargo xtask measure --key-layouts
//! ```
//!
//! What was measured, and what was decided: docs/decisions/0003-log-key-layout.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rocksdb::statistics::Ticker;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBCompressionType,
    DBWithThreadMode, FlushOptions, IteratorMode, Options, ReadOptions, SingleThreaded,
    WaitForCompactOptions, WriteBatch, WriteBufferManager,
};

const LOGS: u32 = 100;
const MESSAGE_BYTES: usize = 190;
const MEBIBYTE: usize = 1024 * 1024;
const BUFFER_BYTES: usize = 8 * MEBIBYTE;
/// Appended messages that one entry of the segment index stands for.
const INDEXED_MESSAGES: u64 = 4096;
const RUN_MESSAGES: u64 = 256;

/// One message to append.
#[derive(Clone, Copy)]
struct Message {
    log: u32,
    m_id: u64,
}

impl Message {
    /// Its bytes: different in each, and not compressible.
    fn content(self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let mut state = u64::from(self.log) << 40 | self.m_id | 1 << 63;
        while buffer.len() < MESSAGE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            buffer.extend_from_slice(&state.to_be_bytes());
        }
        buffer.truncate(MESSAGE_BYTES);
    }
}

/// The two tables that every layout has.
struct Tables {
    database: DBWithThreadMode<SingleThreaded>,
    options: Options,
}

impl Tables {
    fn create(folder: &Path) -> Self {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_max_total_wal_size(4 * BUFFER_BYTES as u64);
        let buffers = WriteBufferManager::new_write_buffer_manager(2 * BUFFER_BYTES, false);
        options.set_write_buffer_manager(&buffers);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(MEBIBYTE as u64);
        options.enable_statistics();
        let cache = Cache::new_lru_cache(2 * BUFFER_BYTES);
        let tables = ["log", "index"].map(|name| ColumnFamilyDescriptor::new(name, table(&cache)));
        let database = DBWithThreadMode::open_cf_descriptors(&options, folder, tables);
        Self { database: database.expect("a new folder"), options }
    }

    fn log(&self) -> &ColumnFamily {
        self.database.cf_handle("log").expect("opened with it")
    }

    fn index(&self) -> &ColumnFamily {
        self.database.cf_handle("index").expect("opened with it")
    }

    fn get(&self, at: &[u8]) -> Vec<u8> {
        self.database.get_cf(self.log(), at).expect("readable").expect("indexed")
    }

    fn scan(
        &self,
        table: &ColumnFamily,
        lower: &[u8],
        upper: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]),
    ) {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        for entry in self.database.iterator_cf_opt(table, options, IteratorMode::Start) {
            let (key, value) = entry.expect("readable");
            visit(&key, &value);
        }
    }

    fn write(&self, writes: WriteBatch) {
        self.database.write(writes).expect("written");
        self.database.flush_wal(true).expect("synced");
    }

    /// Waits until nothing is left to be done in the background.
    fn settle(&self) {
        for table in [self.log(), self.index()] {
            self.database.flush_cf(table).expect("flushed");
        }
        self.database.wait_for_compact(&WaitForCompactOptions::default()).expect("compacted");
    }

    fn written_bytes(&self) -> u64 {
        self.options.get_ticker_count(Ticker::FlushWriteBytes)
            + self.options.get_ticker_count(Ticker::CompactWriteBytes)
    }

    fn file_bytes(&self) -> u64 {
        let files = self.database.live_files().expect("listed");
        files.iter().map(|file| file.size as u64).sum()
    }
}

fn table(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_block_size(32 * 1024);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(BUFFER_BYTES);
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(BUFFER_BYTES as u64);
    options.set_max_bytes_for_level_base(8 * BUFFER_BYTES as u64);
    options.set_compression_per_level(&[DBCompressionType::None; 7]);
    options
}

/// A way to lay out keys.
trait Layout {
    fn name(&self) -> &'static str;
    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]);
    /// Shows all messages of a log in order.
    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8]));
    /// Removes the messages of a log up to and with `through`.
    fn trim(&mut self, tables: &Tables, log: u32, through: u64);
    /// After all logs were trimmed alike.
    fn trimmed_all(&mut self, _: &Tables) {}
}

fn log_key(log: u32, m_id: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&log.to_be_bytes());
    key[4..].copy_from_slice(&m_id.to_be_bytes());
    key
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

/// The messages of a batch as runs: log, first m_id, messages with their lengths.
fn runs(batch: &[Message], mut put: impl FnMut(u32, u64, &[u8])) {
    let mut open: BTreeMap<u32, (u64, Vec<u8>)> = BTreeMap::new();
    let mut content = Vec::new();
    for message in batch {
        message.content(&mut content);
        let (first, run) = open.entry(message.log).or_insert_with(|| (message.m_id, Vec::new()));
        run.extend_from_slice(&(content.len() as u16).to_be_bytes());
        run.extend_from_slice(&content);
        if message.m_id.is_multiple_of(RUN_MESSAGES) {
            put(message.log, *first, run);
            open.remove(&message.log);
        }
    }
    for (log, (first, run)) in open {
        put(log, first, &run);
    }
}

fn visit_run(mut run: &[u8], visit: &mut dyn FnMut(&[u8])) {
    while let Some((length, rest)) = run.split_first_chunk::<2>() {
        let (content, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        visit(content);
        run = rest;
    }
}

/// log | m_id → message.
struct MessageByLog;

impl Layout for MessageByLog {
    fn name(&self) -> &'static str {
        "a key a message, by log"
    }

    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]) {
        let mut content = Vec::new();
        for message in batch {
            message.content(&mut content);
            writes.put_cf(tables.log(), log_key(message.log, message.m_id), &content);
        }
    }

    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8])) {
        let (lower, upper) = (log_key(log, 0), log_key(log + 1, 0));
        tables.scan(tables.log(), &lower, &upper, |_, message| visit(message));
    }

    fn trim(&mut self, tables: &Tables, log: u32, through: u64) {
        let mut writes = WriteBatch::default();
        writes.delete_range_cf(tables.log(), log_key(log, 0), log_key(log, through + 1));
        tables.write(writes);
    }
}

/// log | first m_id → run.
struct RunByLog;

impl Layout for RunByLog {
    fn name(&self) -> &'static str {
        "a key a run, by log"
    }

    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]) {
        runs(batch, |log, first, run| writes.put_cf(tables.log(), log_key(log, first), run));
    }

    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8])) {
        let (lower, upper) = (log_key(log, 0), log_key(log + 1, 0));
        tables.scan(tables.log(), &lower, &upper, |_, run| visit_run(run, visit));
    }

    fn trim(&mut self, tables: &Tables, log: u32, through: u64) {
        MessageByLog.trim(tables, log, through);
    }
}

/// append number → log | m_id | message; index: log | first append number of a
/// stretch → its first m_id.
#[derive(Default)]
struct MessageInAppendOrder {
    appended: u64,
    in_stretch: BTreeMap<u32, u64>,
}

impl MessageInAppendOrder {
    /// Shows append number, m_id and message of a log.
    fn scan(tables: &Tables, log: u32, mut visit: impl FnMut(&[u8], u64, &[u8])) {
        let (lower, upper) = (log_key(log, 0), log_key(log + 1, 0));
        tables.scan(tables.index(), &lower, &upper, |stretch, _| {
            let first = number(&stretch[4..]);
            let (lower, upper) = (first.to_be_bytes(), (first + INDEXED_MESSAGES).to_be_bytes());
            tables.scan(tables.log(), &lower, &upper, |at, value| {
                if value[..4] == log.to_be_bytes() {
                    visit(at, number(&value[4..12]), &value[12..]);
                }
            });
        });
    }
}

impl Layout for MessageInAppendOrder {
    fn name(&self) -> &'static str {
        "a key a message, append order"
    }

    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]) {
        let mut content = Vec::new();
        for message in batch {
            message.content(&mut content);
            self.in_stretch.entry(message.log).or_insert(message.m_id);
            let mut value = log_key(message.log, message.m_id).to_vec();
            value.extend_from_slice(&content);
            writes.put_cf(tables.log(), self.appended.to_be_bytes(), &value);
            self.appended += 1;
            if self.appended.is_multiple_of(INDEXED_MESSAGES) {
                let stretch = self.appended - INDEXED_MESSAGES;
                for (log, first) in std::mem::take(&mut self.in_stretch) {
                    writes.put_cf(tables.index(), log_key(log, stretch), first.to_be_bytes());
                }
            }
        }
    }

    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8])) {
        Self::scan(tables, log, |_, _, message| visit(message));
    }

    fn trim(&mut self, tables: &Tables, log: u32, through: u64) {
        let mut writes = WriteBatch::default();
        Self::scan(tables, log, |at, m_id, _| {
            if m_id <= through {
                writes.delete_cf(tables.log(), at);
            }
        });
        tables.write(writes);
    }
}

/// append number → run; index: log | first m_id → append number.
#[derive(Default)]
struct RunInAppendOrder {
    appended: u64,
}

impl Layout for RunInAppendOrder {
    fn name(&self) -> &'static str {
        "a key a run, append order"
    }

    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]) {
        runs(batch, |log, first, run| {
            let at = self.appended.to_be_bytes();
            writes.put_cf(tables.log(), at, run);
            writes.put_cf(tables.index(), log_key(log, first), at);
            self.appended += 1;
        });
    }

    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8])) {
        let (lower, upper) = (log_key(log, 0), log_key(log + 1, 0));
        tables.scan(tables.index(), &lower, &upper, |_, at| visit_run(&tables.get(at), visit));
    }

    fn trim(&mut self, tables: &Tables, log: u32, through: u64) {
        let mut writes = WriteBatch::default();
        let (lower, upper) = (log_key(log, 0), log_key(log, through + 1));
        tables.scan(tables.index(), &lower, &upper, |_, at| writes.delete_cf(tables.log(), at));
        writes.delete_range_cf(tables.index(), lower, upper);
        tables.write(writes);
    }
}

/// segment | log | first m_id → run; index: log | first m_id in a segment →
/// segment. A segment is what one buffer holds, and is flushed at its end.
#[derive(Default)]
struct RunBySegment {
    segment: u32,
    bytes: usize,
    logs: BTreeSet<u32>,
    /// Up to which segment each log is trimmed.
    trimmed: BTreeMap<u32, u32>,
}

fn segment_key(segment: u32, log: u32, m_id: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&segment.to_be_bytes());
    key[4..].copy_from_slice(&log_key(log, m_id));
    key
}

impl RunBySegment {
    fn segments(tables: &Tables, log: u32) -> Vec<(u64, u32)> {
        let (lower, upper) = (log_key(log, 0), log_key(log + 1, 0));
        let mut segments = Vec::new();
        tables.scan(tables.index(), &lower, &upper, |key, segment| {
            let segment = u32::from_be_bytes(segment.try_into().expect("four bytes"));
            segments.push((number(&key[4..]), segment));
        });
        segments
    }
}

impl Layout for RunBySegment {
    fn name(&self) -> &'static str {
        "a key a run, by segment and log"
    }

    fn append(&mut self, tables: &Tables, writes: &mut WriteBatch, batch: &[Message]) {
        if self.bytes > BUFFER_BYTES * 3 / 4 {
            let mut options = FlushOptions::default();
            options.set_wait(false);
            tables.database.flush_cf_opt(tables.log(), &options).expect("scheduled");
            self.segment += 1;
            self.bytes = 0;
            self.logs.clear();
        }
        runs(batch, |log, first, run| {
            if self.logs.insert(log) {
                let segment = self.segment.to_be_bytes();
                writes.put_cf(tables.index(), log_key(log, first), segment);
            }
            writes.put_cf(tables.log(), segment_key(self.segment, log, first), run);
            self.bytes += run.len();
        });
    }

    fn read(&self, tables: &Tables, log: u32, visit: &mut dyn FnMut(&[u8])) {
        for (_, segment) in Self::segments(tables, log) {
            let (lower, upper) = (segment_key(segment, log, 0), segment_key(segment, log + 1, 0));
            tables.scan(tables.log(), &lower, &upper, |_, run| visit_run(run, visit));
        }
    }

    fn trim(&mut self, tables: &Tables, log: u32, through: u64) {
        let mut writes = WriteBatch::default();
        let segments = Self::segments(tables, log);
        let reached = segments.iter().filter(|(first, _)| *first <= through);
        for (index, (_, segment)) in reached.enumerate() {
            let is_whole = segments.get(index + 1).is_some_and(|(first, _)| *first <= through + 1);
            if is_whole {
                let from = segment_key(*segment, log, 0);
                writes.delete_range_cf(tables.log(), from, segment_key(*segment, log + 1, 0));
                self.trimmed.insert(log, *segment);
            }
        }
        writes.delete_range_cf(tables.index(), log_key(log, 0), log_key(log, through));
        tables.write(writes);
    }

    fn trimmed_all(&mut self, tables: &Tables) {
        let least = self.trimmed.values().min().copied().unwrap_or(0);
        let (from, to) = (segment_key(0, 0, 0), segment_key(least + 1, 0, 0));
        tables.database.delete_file_in_range_cf(tables.log(), from, to).expect("dropped");
    }
}

/// How messages of the logs come: so many in a batch, so many of one log in a row.
#[derive(Clone, Copy)]
struct Arrival {
    name: &'static str,
    batch: usize,
    in_a_row: usize,
}

const ARRIVALS: [Arrival; 3] = [
    Arrival { name: "Batches of 1,000, all logs interleaved", batch: 1000, in_a_row: 1 },
    Arrival { name: "Batches of 1,000, frames of 250 of one log", batch: 1000, in_a_row: 250 },
    Arrival { name: "Batches of 32, all logs interleaved", batch: 32, in_a_row: 1 },
];

#[derive(Clone, Copy)]
struct Measured {
    appended_per_second: f64,
    processor_microseconds: f64,
    written_ratio: f64,
    read_per_second: f64,
    trim_one_milliseconds: f64,
    trim_all_milliseconds: f64,
    trim_written_ratio: f64,
    left_ratio: f64,
}

fn measure(layout: &mut dyn Layout, arrival: Arrival, total: usize, folder: &Path) -> Measured {
    let tables = Tables::create(folder);
    let bytes = (total * MESSAGE_BYTES) as f64;
    let mut next = [1_u64; LOGS as usize];
    let rows = (0..).map(|turn: usize| turn as u32 % LOGS);
    let mut order = rows.flat_map(|log| std::iter::repeat_n(log, arrival.in_a_row));
    let (begun, processor) = (Instant::now(), processor_seconds());
    for _ in 0..total / arrival.batch {
        let logs = order.by_ref().take(arrival.batch);
        let batch: Vec<Message> = logs
            .map(|log| {
                let m_id = next[log as usize];
                next[log as usize] += 1;
                Message { log, m_id }
            })
            .collect();
        let mut writes = WriteBatch::default();
        layout.append(&tables, &mut writes, &batch);
        tables.write(writes);
    }
    let appended_per_second = total as f64 / begun.elapsed().as_secs_f64();
    tables.settle();
    let processor_microseconds = (processor_seconds() - processor) / total as f64 * 1e6;
    let written = tables.written_bytes();

    let begun = Instant::now();
    let mut read = 0;
    for log in (0..LOGS).step_by(20) {
        let mut messages = 0;
        layout.read(&tables, log, &mut |message| {
            assert_eq!(message.len(), MESSAGE_BYTES);
            messages += 1;
        });
        let held = next[log as usize] - 1;
        // The last stretch in append order is not indexed yet.
        assert!(messages <= held && messages + INDEXED_MESSAGES >= held);
        read += messages;
    }
    let read_per_second = read as f64 / begun.elapsed().as_secs_f64();

    let begun = Instant::now();
    layout.trim(&tables, 0, next[0] / 2);
    let trim_one_milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let begun = Instant::now();
    for log in 1..LOGS {
        layout.trim(&tables, log, next[log as usize] / 2);
    }
    layout.trimmed_all(&tables);
    let trim_all_milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    tables.settle();
    Measured {
        appended_per_second,
        processor_microseconds,
        written_ratio: written as f64 / bytes,
        read_per_second,
        trim_one_milliseconds,
        trim_all_milliseconds,
        trim_written_ratio: (tables.written_bytes() - written) as f64 / bytes,
        left_ratio: tables.file_bytes() as f64 / bytes,
    }
}

/// What this process has used of the processors, its background work included.
fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const LAYOUTS: usize = 5;

fn layout(index: usize) -> Box<dyn Layout> {
    match index {
        0 => Box::new(MessageByLog),
        1 => Box::new(RunByLog),
        2 => Box::new(MessageInAppendOrder::default()),
        3 => Box::new(RunInAppendOrder::default()),
        _ => Box::new(RunBySegment::default()),
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let total = arguments.next().map_or(1_000_000, |text| text.parse().expect("messages"));
    let rounds: usize = arguments.next().map_or(3, |text| text.parse().expect("rounds"));
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "{total} messages of {MESSAGE_BYTES} bytes in {LOGS} logs, each batch synced, median of \
         {rounds} rounds. \"Written\" is by flushes and compactions, in times the messages' bytes."
    );
    for arrival in ARRIVALS {
        let mut measured: BTreeMap<usize, Vec<Measured>> = BTreeMap::new();
        for round in 0..rounds {
            for turn in 0..LAYOUTS {
                let index = (turn + round) % LAYOUTS;
                let path = folder.join(format!("key-layouts-{}", std::process::id()));
                let messages = if arrival.batch < 100 { total / 4 } else { total };
                let result = measure(&mut *layout(index), arrival, messages, &path);
                measured.entry(index).or_default().push(result);
                std::fs::remove_dir_all(&path).expect("removable");
            }
        }
        println!("\n{}\n", arrival.name);
        println!(
            "| layout | append, k/s | processor, µs a message | written | catch-up of a log, k/s | \
             trim of one log, ms | of the other 99, ms | written by trims | left on disk |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for (index, measured) in measured {
            let column = |of: fn(&Measured) -> f64| median(measured.iter().map(of));
            println!(
                "| {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.1} | {:.0} | {:.2} | {:.2} |",
                layout(index).name(),
                column(|m| m.appended_per_second) / 1e3,
                column(|m| m.processor_microseconds),
                column(|m| m.written_ratio),
                column(|m| m.read_per_second) / 1e3,
                column(|m| m.trim_one_milliseconds),
                column(|m| m.trim_all_milliseconds),
                column(|m| m.trim_written_ratio),
                column(|m| m.left_ratio),
            );
        }
    }
}
