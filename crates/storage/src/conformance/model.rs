//! Random histories against a model that forgets nothing.

use std::collections::BTreeMap;

use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, Mark};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::scrubbing::scrub_all;
use super::{TestDisk, check_log, m_id};
use crate::contract::{AppendBatch, LogStorage};
use crate::opening_outcome::Recovery;
use crate::test_logs::{TestLog, log_name};

const LOGS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    /// Messages of random logs, in one batch.
    Append(Vec<usize>),
    Sync,
    Checkpoint,
    /// A log, and which part of what is durable of it.
    Trim(usize, f64),
    Close,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0..LOGS, 1..400).prop_map(Step::Append),
        3 => Just(Step::Sync),
        2 => Just(Step::Checkpoint),
        1 => (0..LOGS, 0.0..1.0).prop_map(|(log, part)| Step::Trim(log, part)),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ]
}

#[derive(Debug)]
struct Model {
    logs: Vec<TestLog>,
    floors: Vec<Mark>,
    durable: BTreeMap<LogName, Mark>,
}

impl Model {
    fn new() -> Self {
        let logs: Vec<_> =
            (0..LOGS).map(|origin| TestLog::new(log_name(1, origin as u32 + 1, 7))).collect();
        let floors = logs.iter().map(TestLog::start).collect();
        Self { logs, floors, durable: BTreeMap::new() }
    }

    fn held(&self) -> impl Iterator<Item = (&TestLog, Mark)> {
        let logs = self.logs.iter().zip(self.floors.iter().copied());
        logs.filter(|(log, _)| !log.entries.is_empty())
    }

    fn note_durable(&mut self) {
        self.durable = self.held().map(|(log, _)| (log.name(), log.mark())).collect();
    }

    fn check(&self, storage: &impl LogStorage) {
        for (log, floor) in self.held() {
            check_log(storage, log, floor);
        }
    }

    fn check_recovery(&self, recovery: &Recovery) {
        assert_eq!(recovery.cut, []);
        let found = recovery.logs.iter().map(|found| (found.row.log, found.mark, found.floor));
        let held = self.held().map(|(log, floor)| (log.name(), log.mark(), floor));
        assert_eq!(found.collect::<Vec<_>>(), held.collect::<Vec<_>>());
    }
}

/// METHOD M12: whatever was appended, trimmed, synced and killed in whatever
/// order, what is there is what a model says.
pub(crate) fn any_history_is_what_a_model_says<D: TestDisk>() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), 1..25);
    let run = TestRunner::new(config).run(&steps, |steps| {
        play::<D>(&steps);
        Ok(())
    });
    run.expect("every history agrees");
}

fn play<D: TestDisk>(steps: &[Step]) {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Append(choices) => {
                let entries = choices.iter().map(|log| model.logs[*log].push(30)).collect();
                let arrived_at = WallTime::new(1_000);
                storage.append(&AppendBatch::new(arrived_at, entries)).expect("appended");
            }
            Step::Sync => {
                storage.sync().expect("synced");
                model.note_durable();
            }
            Step::Checkpoint => {
                let marks: Vec<_> = model.durable.clone().into_iter().collect();
                storage.store_checkpoint(&marks, &[]).expect("stored");
            }
            Step::Trim(log, part) => {
                let floor = model.floors[*log].m_id.get();
                let Some(durable) = model.durable.get(&model.logs[*log].name()) else { continue };
                let span = durable.m_id.get().saturating_sub(floor) as f64 * part;
                let through = m_id(floor + span as u64);
                let trimmed = storage.trim(&model.logs[*log].name(), through).expect("trimmed");
                assert_eq!(trimmed, model.logs[*log].mark_at(through));
                model.floors[*log] = trimmed;
            }
            Step::Close | Step::Kill => {
                if matches!(step, Step::Kill) {
                    disk.kill(storage);
                } else {
                    drop(storage);
                }
                let (opened, recovery) = disk.open();
                model.check_recovery(&recovery);
                model.note_durable();
                storage = opened;
            }
        }
    }
    model.check(&storage);
    let (_, _, findings) = scrub_all(&storage, 10_000);
    assert_eq!(findings, []);
}
