//! A process that is killed while it appends (METHOD M12).

#[path = "../src/test_logs.rs"]
#[allow(dead_code)]
mod test_logs;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use interlock_core::clock::WallTime;
use interlock_core::identity::{MessageNumber, ParentPoint};
use interlock_storage::{AppendBatch, LogStorage, Recovery, RocksOptions, RocksStorage};
use test_logs::{TestLog, log_name};

const FOLDER: &str = "INTERLOCK_TEST_KILL_FOLDER";
const ROUND: &str = "INTERLOCK_TEST_KILL_ROUND";
const ROUNDS: u64 = 6;

fn options() -> RocksOptions {
    // Little memory, so that kills meet flushes.
    RocksOptions { write_buffer_bytes: 2 * 1024 * 1024, ..RocksOptions::default() }
}

fn tip(recovery: &Recovery) -> Option<ParentPoint> {
    let last = recovery.logs.iter().max_by_key(|log| log.mark.m_id)?;
    let (incarnation, mark) = (last.row.log.incarnation, last.mark);
    Some(ParentPoint { incarnation, m_id: mark.m_id, hash: mark.hash })
}

const NAME: &str = "a_killed_process_keeps_what_it_acknowledged";

/// This one program is the test, and the process that the test starts and kills.
/// It takes what other test programs take: `--list`, and parts of names to run.
fn main() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return append_for_ever(&folder);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return println!("{NAME}: test");
    }
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    if filters.peek().is_none() || filters.any(|part| NAME.contains(part.as_str())) {
        a_killed_process_keeps_what_it_acknowledged();
        println!("test {NAME} ... ok");
    }
}

/// What the killed process runs. It tells each number after its sync.
fn append_for_ever(folder: &str) {
    let round: u64 = std::env::var(ROUND).expect("set too").parse().expect("a number");
    let (storage, recovery) = RocksStorage::open(folder, options()).expect("it opens");
    let parents = tip(&recovery).into_iter().collect();
    let mut log = TestLog::after(log_name(1, 1, round + 1), parents);
    for batch in 0_u64.. {
        let entries = log.push_many(1 + batch as usize % 50, batch as usize % 700);
        let arrived_at = WallTime::new(batch);
        storage.append(&AppendBatch::new(arrived_at, entries)).expect("appended");
        if batch % 3 == 0 {
            let mark = log.mark();
            storage.sync().expect("synced");
            let mut out = std::io::stdout().lock();
            writeln!(out, "durable {} {}", mark.m_id, mark.hash).expect("the parent listens");
            out.flush().expect("the parent listens");
        }
        if batch % 100 == 0 {
            storage.store_checkpoint(&[], &[]).expect("stored");
        }
    }
}

/// METHOD M12: what a process acknowledged before it was killed is there, and the
/// next incarnation goes on from it.
fn a_killed_process_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .env(FOLDER, folder.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut acknowledged = None;
        let mut heard = 0;
        for line in lines.by_ref() {
            let line = line.expect("text");
            let Some(mark) = line.strip_prefix("durable ") else { continue };
            acknowledged = Some(mark.to_owned());
            heard += 1;
            if heard == 40 + 60 * round {
                child.kill().expect("killed");
                break;
            }
        }
        // What it said between the decision and its death counts too.
        for line in lines.map_while(Result::ok) {
            if let Some(mark) = line.strip_prefix("durable ").filter(|mark| mark.len() > 33) {
                acknowledged = Some(mark.to_owned());
            }
        }
        child.wait().expect("it is dead");
        let acknowledged = acknowledged.expect("it said something");
        let (m_id, hash) = acknowledged.split_once(' ').expect("a number and a hash");
        let m_id = MessageNumber::new(m_id.parse().expect("a number"));

        let (storage, recovery) =
            RocksStorage::open(folder.path(), options()).expect("a kill only");
        let log = log_name(1, 1, round + 1);
        let found = recovery.logs.iter().find(|found| found.row.log == log);
        assert!(found.expect("its log is there").mark.m_id >= m_id);
        let held = storage.chain_hash_at(&log, m_id).expect("readable").expect("it is held");
        assert_eq!(held.to_string(), hash);
        assert_eq!(recovery.logs.len() as u64, round + 1, "every incarnation is there");
        assert_eq!(recovery.cut, []);
    }
}
