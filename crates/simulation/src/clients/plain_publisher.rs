//! Publishes without a session: at least once, and says so.

use std::time::Duration;

use interlock_core::admission::NewPublication;

use crate::history::{OperationNumber, Outcome};
use crate::planted_bug::PlantedBug;
use crate::requests::{ReplyBody, RequestBody, RequestNumber};

use super::{ClientOutput, Desk, Outstanding, Surroundings};

/// A publisher with one request at a time.
#[derive(Debug, Default)]
pub(super) struct PlainPublisher {
    outstanding: Outstanding<Vec<(OperationNumber, NewPublication)>>,
    /// To be published again: nobody knows whether it was stored.
    again: Vec<NewPublication>,
}

impl PlainPublisher {
    pub(super) fn wake(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        let may_begin = desk.may_begin(around);
        if self.outstanding.is_empty() && (may_begin || !self.again.is_empty()) {
            let mut publications = std::mem::take(&mut self.again);
            if publications.is_empty() {
                let count = around.random.between(1, 3);
                publications = (0..count).map(|_| desk.new_publication(around)).collect();
            }
            let recorded = publications
                .iter()
                .map(|publication| {
                    let operation = desk.record_publication(publication, around.history);
                    (operation, publication.clone())
                })
                .collect();
            let level = desk.level(around.random);
            let number = desk.send(RequestBody::Publish { publications, level }, around);
            self.outstanding.insert(number, recorded);
        }
        if may_begin {
            desk.wake_later(around);
        }
    }

    pub(super) fn answered(
        &mut self,
        number: RequestNumber,
        body: ReplyBody,
        around: &mut Surroundings<'_>,
    ) {
        let Some(recorded) = self.outstanding.remove(&number) else { return };
        let stored = match body {
            ReplyBody::Published { stored, .. } => stored,
            _ => Vec::new(),
        };
        for (index, (operation, _)) in recorded.into_iter().enumerate() {
            let outcome = match stored.get(index) {
                Some(stored) => Outcome::Ok { name: stored.name },
                None => Outcome::Fail,
            };
            around.history.end(operation, outcome);
        }
    }

    pub(super) fn timed_out(
        &mut self,
        desk: &mut Desk,
        number: RequestNumber,
        around: &mut Surroundings<'_>,
    ) {
        let Some(recorded) = self.outstanding.remove(&number) else { return };
        desk.perhaps_go_elsewhere();
        let possibly_repeated = around.planted != Some(PlantedBug::RepeatsUndeclared);
        if around.random.chance(50) {
            self.again = recorded
                .into_iter()
                .map(|(_, publication)| NewPublication { possibly_repeated, ..publication })
                .collect();
        }
        around.outputs.push(ClientOutput::WakeAfter(Duration::from_millis(100)));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty() && self.again.is_empty()
    }
}
