//! Reads everything that is stored again, slowly and over and over, so that damage to
//! the disk is known while other members still hold what it took.
//!
//! A finding raises an alarm and nothing else: what is damaged may never be asked for,
//! and a node that ended by itself would take what is good with it. The alarm ends when
//! a later pass reads that log or table through without a finding.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use interlock_storage::{ScrubFinding, ScrubPosition, ScrubbedPlace};
use tokio::time::Instant;

use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::scrub_progress::ScrubProgress;
use crate::status::held_namespaces;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;

/// What one step reads at most: a fraction of what a disk reads in a moment, so that
/// nobody else waits for it.
const MAX_STEP_BYTES: u64 = 256 * 1024;
/// What one step reads at least, however low the rate is.
const MIN_STEP_BYTES: u64 = 4 * 1024;

/// Scrubs until the node ends; not at all where the rate is 0.
pub async fn scrub_stored_data(context: Arc<NodeContext>) {
    let limits = &context.config.limits;
    let (rate, interval) = (limits.scrub_bytes_per_second, limits.scrub_interval());
    if rate == 0 {
        return;
    }
    let mut scrubber = Scrubber { context: Arc::clone(&context), rate, raised: BTreeSet::new() };
    loop {
        let begun = Instant::now();
        if !scrubber.pass(begun).await || !scrubber.wait_until(begun + interval).await {
            return;
        }
    }
}

struct Scrubber {
    context: Arc<NodeContext>,
    /// Bytes a second.
    rate: u64,
    /// What alarms are up for.
    raised: BTreeSet<String>,
}

impl Scrubber {
    /// Reads everything once. False when the node ends.
    async fn pass(&mut self, begun: Instant) -> bool {
        let step_bytes = (self.rate / 8).clamp(MIN_STEP_BYTES, MAX_STEP_BYTES);
        let mut found = BTreeSet::new();
        let (mut read_bytes, mut next) = (0, Some(ScrubPosition::default()));
        self.expect_log_bytes();
        while let Some(from) = next {
            let step_begun = Instant::now();
            let step = on_disk(&self.context.storage, move |it| it.scrub(&from, step_bytes)).await;
            // A storage that has failed ends the node by whoever it failed.
            let Ok(step) = step else { return false };
            read_bytes += step.bytes;
            if let Some(finding) = step.finding {
                found.insert(self.raise(&finding));
            }
            let findings = found.union(&self.raised).count() as u64;
            self.context.metrics.scrub_read_bytes.add(step.bytes);
            self.context.scrub.update(|progress| {
                (progress.read_bytes, progress.findings) = (read_bytes, findings);
            });
            next = step.next;
            let due = Duration::from_secs_f64(step.bytes as f64 / self.rate as f64);
            if !self.wait_until(step_begun + due).await {
                return false;
            }
        }
        self.end_pass(found, read_bytes, begun.elapsed());
        true
    }

    /// Before the first pass has told how much there is.
    fn expect_log_bytes(&self) {
        let namespaces = held_namespaces(&self.context, &self.context.topology.current());
        let bytes = namespaces.into_iter().map(|it| self.context.storage.log_bytes(it)).sum();
        self.context.scrub.update(|progress| {
            if progress.passes == 0 {
                progress.expected_bytes = bytes;
            }
        });
    }

    fn raise(&self, finding: &ScrubFinding) -> String {
        let (subject, detail) = match &finding.place {
            ScrubbedPlace::Log { log, first } => {
                (log.to_string(), format!("from message {first} on: {}", finding.detail))
            }
            ScrubbedPlace::Table(name) => (format!("table {name}"), finding.detail.clone()),
        };
        let now = self.context.clock.wall();
        self.context.alarms.raise(now, AlarmKind::DamagedData, &subject, &detail);
        self.context.metrics.scrub_findings.increment();
        subject
    }

    fn end_pass(&mut self, found: BTreeSet<String>, read_bytes: u64, took: Duration) {
        for subject in self.raised.difference(&found) {
            self.context.alarms.clear(AlarmKind::DamagedData, subject);
        }
        let findings = found.len() as u64;
        self.raised = found;
        self.context.metrics.scrub_passes.increment();
        let last_finished = Some(self.context.clock.wall());
        self.context.scrub.update(|progress| {
            *progress = ScrubProgress {
                passes: progress.passes + 1,
                read_bytes: 0,
                expected_bytes: read_bytes,
                last_finished,
                last_took: took,
                findings,
            };
        });
        tracing::debug!(bytes = read_bytes, ?took, findings, "all stored data was read again");
    }

    /// False when the node ends first.
    async fn wait_until(&self, moment: Instant) -> bool {
        let mut ending = self.context.tasks.ending();
        tokio::select! {
            biased;
            () = until_set(&mut ending) => false,
            () = tokio::time::sleep_until(moment) => true,
        }
    }
}
