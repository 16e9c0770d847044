//! What every implementation of [`LogStorage`] must do, run against both.

pub(crate) mod appending;
pub(crate) mod cutting;
pub(crate) mod holding;
pub(crate) mod model;
pub(crate) mod recovering;
pub(crate) mod removing;
pub(crate) mod scrubbing;
pub(crate) mod trimming;

use interlock_core::clock::WallTime;
use interlock_core::identity::{Mark, MessageNumber};

use crate::contract::{AppendBatch, LogStorage};
use crate::opening_outcome::{OpenError, OpenOptions, Recovery};
use crate::test_logs::TestLog;

/// A disk of the implementation under test.
pub(crate) trait TestDisk: Sized {
    type Storage: LogStorage;

    fn new() -> Self;

    fn open_with(&self, options: OpenOptions) -> Result<(Self::Storage, Recovery), OpenError>;

    /// Kills the process that has the storage open: the machine lives, so nothing
    /// that was written is lost, and nothing more is written.
    fn kill(&mut self, storage: Self::Storage);

    fn open(&self) -> (Self::Storage, Recovery) {
        self.open_with(OpenOptions::default()).expect("it opens")
    }
}

/// Runs the whole suite against one implementation.
macro_rules! suite {
    ($disk:ty; $($module:ident: $($case:ident),+ $(,)?;)+) => {
        $($(
            #[test]
            fn $case() {
                $crate::conformance::$module::$case::<$disk>();
            }
        )+)+
    };
}

macro_rules! conformance_suite {
    ($disk:ty) => {
        $crate::conformance::suite! {
            $disk;
            appending:
                what_is_appended_can_be_read,
                reads_are_bounded,
                a_batch_is_all_or_nothing,
                large_messages_are_kept_whole,
                hashes_are_known_at_every_message,
                arrival_times_are_never_too_late,
                a_clock_set_back_is_never_too_late,
                ages_go_on_from_acceptance,
                a_burst_that_nothing_follows_grows_old;
            holding:
                documents_are_kept,
                checkpoints_take_durable_marks_only,
                what_is_known_of_members_is_replaced,
                the_queue_of_a_restarted_peer_survives,
                projections_are_kept_by_kind,
                projections_take_durable_positions_only,
                space_is_told,
                the_size_of_logs_is_counted;
            recovering:
                an_empty_disk_has_nothing,
                openings_follow_one_another,
                logs_come_back_after_a_close,
                logs_come_back_after_a_kill,
                what_a_kill_leaves_is_made_durable,
                a_second_opening_is_refused,
                parents_are_checked_over_openings,
                log_numbers_are_not_given_twice;
            trimming:
                a_trimmed_log_begins_at_its_floor,
                a_trim_may_end_anywhere,
                what_is_not_durable_is_not_trimmed,
                holes_are_crossed,
                a_hole_at_the_beginning_is_a_floor,
                a_parent_inside_a_hole_is_held,
                a_trim_passes_over_holes,
                a_trim_flushes_what_is_left_of_the_trimmed;
            removing:
                a_namespace_is_removed_whole,
                a_removal_may_be_repeated,
                a_namespace_that_was_removed_may_come_back;
            cutting:
                a_cut_takes_what_goes_on_from_the_end,
                a_whole_log_may_be_cut,
                what_is_trimmed_is_not_cut;
            scrubbing:
                a_scrub_reads_everything_that_is_stored,
                a_scrub_goes_on_while_logs_change,
                readers_beside_a_trim_miss_nothing;
            model:
                any_history_is_what_a_model_says;
        }
    };
}

pub(crate) use {conformance_suite, suite};

const NO_LIMIT: usize = usize::MAX;

fn m_id(number: u64) -> MessageNumber {
    MessageNumber::new(number)
}

/// Appends messages of one log at a time.
fn append(storage: &impl LogStorage, log: &mut TestLog, messages: usize) {
    append_at(storage, log, messages, 1_000);
}

fn append_at(storage: &impl LogStorage, log: &mut TestLog, messages: usize, arrived_at: u64) {
    let entries = log.push_many(messages, 20);
    let arrived_at = WallTime::new(arrived_at);
    storage.append(&AppendBatch::new(arrived_at, entries)).expect("appended");
}

/// Everything of a log from its floor to the expected mark is there, and nothing
/// more.
pub(crate) fn check_log(storage: &impl LogStorage, log: &TestLog, floor: Mark) {
    let name = log.name();
    let mark = log.mark();
    let beyond = m_id(u64::MAX);
    let mut expected = floor.m_id.next();
    while expected <= mark.m_id {
        let read = storage.read(&name, expected, beyond, 10_000).expect("readable");
        assert!(!read.is_empty(), "message {expected} of {name} is not there");
        for message in read {
            assert_eq!(message.m_id, expected);
            assert_eq!(message.bytes, log.entry(expected).bytes);
            expected = expected.next();
        }
    }
    assert_eq!(storage.read(&name, mark.m_id.next(), beyond, NO_LIMIT), Ok(Vec::new()));
    for at in [floor, log.mark_at(m_id((floor.m_id.get() + mark.m_id.get()) / 2)), mark] {
        assert_eq!(storage.chain_hash_at(&name, at.m_id), Ok(Some(at.hash)));
    }
    assert_eq!(storage.chain_hash_at(&name, mark.m_id.next()), Ok(None));
}

/// A recovery has exactly these logs, up to their marks, nothing cut.
pub(crate) fn check_recovery(recovery: &Recovery, logs: &[&TestLog]) {
    let mut names: Vec<_> = logs.iter().map(|log| log.name()).collect();
    names.sort();
    assert_eq!(recovery.logs.iter().map(|log| log.row.log).collect::<Vec<_>>(), names);
    assert_eq!(recovery.cut, []);
    for log in logs {
        let found = recovery.logs.iter().find(|found| found.row.log == log.name());
        let found = found.expect("compared above");
        assert_eq!(found.row, log.row);
        assert_eq!(found.mark, log.mark());
        assert_eq!(found.last_stamp, log.stamp_at(log.mark().m_id));
    }
    let last_stamp = logs.iter().map(|log| log.stamp_at(log.mark().m_id)).max();
    assert_eq!(recovery.last_stamp, last_stamp.unwrap_or_default());
}
