//! Creates, updates and deletes channels that others edit at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::admission::{
    ChannelChange, ChannelDraft, ChannelEdit, ChannelUpdate, EditCondition, Etag,
};
use interlock_core::identity::Epoch;
use interlock_core::message::Presentation;
use interlock_core::names::ChannelName;

use crate::history::{Attempt, OperationNumber, Outcome};
use crate::requests::{ReplyBody, RequestBody, RequestNumber};

use super::{ClientOutput, Desk, Outstanding, Surroundings};

/// An administrator with one edit at a time.
#[derive(Debug, Default)]
pub(super) struct Editor {
    outstanding: Outstanding<(OperationNumber, ChannelName)>,
    /// What it last saw of each channel.
    seen: BTreeMap<ChannelName, (Epoch, Etag)>,
}

impl Editor {
    pub(super) fn wake(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        if self.outstanding.is_empty() && desk.may_begin(around) {
            self.edit(desk, around);
        }
        if desk.may_begin(around) {
            desk.wake_later(around);
        }
    }

    fn edit(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        desk.begun += 1;
        let channel = desk.channel(around.random);
        let description = desk.unique_text();
        let mut condition = EditCondition::default();
        if let Some((epoch, etag)) = self.seen.get(&channel) {
            condition.epoch = around.random.chance(60).then_some(*epoch);
            condition.etag = around.random.chance(20).then_some(*etag);
        }
        let name = channel.clone();
        let (attempt, change) = match around.random.below(16) {
            0..8 => {
                let presentation =
                    Presentation { description: description.clone(), labels: BTreeMap::new() };
                let draft = ChannelDraft { presentation, ..ChannelDraft::default() };
                (Attempt::Create { channel: name, description }, ChannelChange::Create(draft))
            }
            8..14 => {
                let update = ChannelUpdate {
                    description: Some(description.clone()),
                    max_payload_bytes: around
                        .random
                        .chance(20)
                        .then(|| around.random.between(8, 64) as u32),
                    ..ChannelUpdate::default()
                };
                let change = ChannelChange::Update { condition, update };
                (Attempt::Update { channel: name, description }, change)
            }
            _ => (Attempt::Delete { channel: name }, ChannelChange::Delete { condition }),
        };
        let operation = desk.record(attempt, around.history);
        let namespace = desk.place.namespace;
        let edit = ChannelEdit { namespace, channel: channel.clone(), change, trace: None };
        let number = desk.send(RequestBody::Edit(Box::new(edit)), around);
        self.outstanding.insert(number, (operation, channel));
    }

    pub(super) fn answered(
        &mut self,
        number: RequestNumber,
        body: ReplyBody,
        around: &mut Surroundings<'_>,
    ) {
        let Some((operation, channel)) = self.outstanding.remove(&number) else { return };
        let outcome = match body {
            ReplyBody::Edited(Ok((name, definition))) => {
                self.seen.insert(channel, (definition.epoch(), Etag::of(&definition)));
                Outcome::Ok { name: Some(name) }
            }
            _ => Outcome::Fail,
        };
        around.history.end(operation, outcome);
    }

    pub(super) fn timed_out(&mut self, number: RequestNumber, around: &mut Surroundings<'_>) {
        if self.outstanding.remove(&number).is_some() {
            around.outputs.push(ClientOutput::WakeAfter(Duration::from_millis(100)));
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }
}
