//! Which operations lose when two opinions about a channel meet.

use crate::identity::{Epoch, Incarnation};
use crate::message::ChannelAction;

use super::audit::{LostOperation, RegisterSet};
use super::definition::Definition;
use super::stamp::RegisterStamp;

/// An operation, apart from what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) action: ChannelAction,
    pub(super) stamp: RegisterStamp,
}

/// What is held when something else arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) definition: &'a Definition,
    /// What created or deleted the epoch, where that is known.
    pub(super) decided_by: Option<RegisterStamp>,
    /// The opening of the database that applies: what it wrote itself knew
    /// nothing that arrives only now.
    pub(super) opening: Option<Incarnation>,
}

impl Held<'_> {
    /// What loses when `arriving` is merged, and which operation it is of; none
    /// for a base entry. Deletions never lose: a higher epoch ends the lower one
    /// as well.
    pub(super) fn losses(
        &self,
        arriving: &Definition,
        operation: Option<Operation>,
    ) -> Vec<LostOperation> {
        let held_epoch = self.definition.epoch();
        let mut losses = Vec::new();
        if arriving.epoch() > held_epoch {
            let Some(winner) = operation else { return losses };
            self.lose_held(&mut losses, |loser| winner.stamp.may_have_known_of_lower_epoch(loser));
        } else if arriving.epoch() < held_epoch {
            self.lose_arriving(&mut losses, arriving.epoch(), operation, |winner, loser| {
                winner.may_have_known_of_lower_epoch(loser)
            });
        } else if self.definition.is_deleted() {
            self.lose_arriving(&mut losses, held_epoch, operation, |winner, loser| {
                winner.may_have_known(loser)
            });
        } else if arriving.is_deleted() {
            let Some(winner) = operation else { return losses };
            self.lose_held(&mut losses, |loser| winner.stamp.may_have_known(loser));
        } else {
            self.lose_registers(&mut losses, arriving, operation);
        }
        losses
    }

    /// All that was written loses to a winner that cannot have known it.
    fn lose_held(
        &self,
        losses: &mut Vec<LostOperation>,
        winner_may_have_known: impl Fn(&RegisterStamp) -> bool,
    ) {
        for (register, loser) in self.definition.writers() {
            if !winner_may_have_known(&loser) {
                push(losses, self.definition.epoch(), register, loser, None);
            }
        }
    }

    /// An operation comes too late for an epoch that was deleted or replaced.
    fn lose_arriving(
        &self,
        losses: &mut Vec<LostOperation>,
        epoch: Epoch,
        operation: Option<Operation>,
        may_have_known: impl Fn(&RegisterStamp, &RegisterStamp) -> bool,
    ) {
        let (Some(winner), Some(operation)) = (self.decided_by, operation) else { return };
        if operation.action == ChannelAction::Delete {
            return;
        }
        if self.was_made_here_without(&winner, &operation.stamp)
            || !may_have_known(&winner, &operation.stamp)
        {
            let (stamp, action) = (operation.stamp, Some(operation.action));
            push(losses, epoch, RegisterSet::NONE, stamp, action);
        }
    }

    /// Two live definitions of one epoch: each register by itself.
    fn lose_registers(
        &self,
        losses: &mut Vec<LostOperation>,
        arriving: &Definition,
        operation: Option<Operation>,
    ) {
        let epoch = arriving.epoch();
        let action = operation.map(|operation| operation.action);
        for (register, new) in arriving.writers() {
            let held = self.definition.writers().find(|(other, _)| *other == register);
            let Some((_, held)) = held else { continue };
            if new > held && !new.may_have_known(&held) {
                push(losses, epoch, register, held, None);
            } else if new < held
                && (self.was_made_here_without(&held, &new) || !held.may_have_known(&new))
            {
                push(losses, epoch, register, new, action);
            }
        }
    }

    fn was_made_here_without(&self, winner: &RegisterStamp, loser: &RegisterStamp) -> bool {
        self.opening == Some(winner.incarnation) && winner.incarnation != loser.incarnation
    }
}

/// One operation is listed once, with all it lost.
fn push(
    losses: &mut Vec<LostOperation>,
    epoch: Epoch,
    register: RegisterSet,
    stamp: RegisterStamp,
    action: Option<ChannelAction>,
) {
    match losses.iter_mut().find(|lost| lost.stamp == stamp) {
        Some(lost) => lost.registers = lost.registers.with(register),
        None => losses.push(LostOperation { action, registers: register, epoch, stamp }),
    }
}
