//! What a process does by itself, and when.

use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_storage::{LogStorage, StorageError};

use crate::planted_bug::PlantedBug;

use super::Process;
use super::links::OutboundState;
use super::messages::Output;

/// Marks and facts are stored at least this often.
pub(super) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Projections are stored at most this often.
pub(super) const STORE_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked what may be trimmed.
pub(super) const TRIM_INTERVAL: Duration = Duration::from_secs(1);

impl Process {
    pub(super) fn handle_timers(&mut self) -> Result<(), StorageError> {
        let now = self.now;
        let is_due = |due: Option<Moment>| due.is_some_and(|due| due <= now);
        let ignored = self.is(PlantedBug::TimersIgnored);
        for (peer, outbound) in &mut self.outbound {
            match &mut outbound.state {
                OutboundState::Waiting { until } if *until <= now => {
                    outbound.state = OutboundState::Connecting;
                    self.outputs.push(Output::Connect(*peer));
                }
                OutboundState::Open(open) if !ignored && is_due(open.sender.poll_timeout()) => {
                    open.sender.handle_timeout(now);
                }
                _ => {}
            }
        }
        if is_due(self.tell_links_at) {
            self.tell_links_at = None;
            self.tell_links();
        }
        self.greet_again();
        for inbound in self.inbound.values_mut() {
            if is_due(inbound.receiver.poll_timeout()) {
                inbound.receiver.handle_timeout(now);
            }
        }
        self.sources.handle_timeout(now);
        self.check_waiters();
        self.record_again();
        if self.checkpoint_at <= now {
            self.checkpoint_at = now + CHECKPOINT_INTERVAL;
            let marks: Vec<_> = self.durable.iter().map(|(log, held)| (*log, held.mark)).collect();
            self.storage.store_checkpoint(&marks, &self.facts.to_checkpoint())?;
        }
        if self.store_at <= now {
            self.store_at = now + STORE_INTERVAL;
            self.store_projections()?;
        }
        if is_due(self.base_page_at) {
            self.base_page_at = None;
            self.send_base_pages()?;
        }
        if is_due(self.projector_at) {
            self.projector_at = None;
            self.run_projector()?;
        }
        if is_due(self.departures_at) {
            self.look_at_departures()?;
        }
        if self.trim_at <= now {
            self.trim_at = now + TRIM_INTERVAL;
            self.look_for_trims()?;
        }
        Ok(())
    }
}
