//! How each kind of fault is done to the world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_storage::Loss;

use crate::event::{Event, FaultEnd};
use crate::faults::FaultKind;
use crate::history::{Record, Replacement};
use crate::machine::{Machine, MachineName, SavedCopy};
use crate::network::{Cargo, Delivery};
use crate::scenario::SOMEWHERE;
use crate::world::{Phase, World};

const fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl World {
    pub(crate) fn schedule_fault(&mut self, kind: FaultKind) {
        let interval = self.scenario.faults[&kind];
        let after = self.random.duration(interval / 4, 2 * interval);
        self.after(after, Event::Fault(kind));
    }

    pub(crate) fn fault(&mut self, kind: FaultKind) {
        if self.inject(kind) {
            *self.statistics.faults.entry(kind).or_default() += 1;
        }
        self.schedule_fault(kind);
    }

    /// Does it, if it can be done now.
    fn inject(&mut self, kind: FaultKind) -> bool {
        match kind {
            FaultKind::StreamBreak => self.break_streams(),
            FaultKind::Delay => self.delay_frames(),
            FaultKind::OneWayPartition => {
                let (one, other) = self.two_nodes();
                let time = self.random.duration(milliseconds(100), milliseconds(9_000));
                self.block(vec![(one, other)], time)
            }
            FaultKind::Partition => self.partition(),
            FaultKind::Flapping => self.flap(),
            FaultKind::Crash => {
                let node = self.any_machine();
                if self.random.chance(70) {
                    self.lay_ambush(node)
                } else {
                    self.crash_and_restart(node, None)
                }
            }
            FaultKind::PowerCut if self.random.chance(50) => {
                let node = self.any_machine();
                self.machine(node).cuts_power = true;
                self.lay_ambush(node)
            }
            FaultKind::PowerCut => self.cut_power(),
            FaultKind::RestoredCopy => self.restore_copy(),
            FaultKind::WipedDisk => self.wipe_disk(),
            FaultKind::ClockJump => self.jump_clock(),
            FaultKind::SlowSync => {
                let node = self.any_machine();
                let factor = self.random.between(5, 40) as u32;
                self.machine(node).sync_factor = factor;
                let time = self.random.duration(milliseconds(500), milliseconds(8_000));
                self.after(time, Event::FaultEnds(FaultEnd::SyncRestored(node)));
                true
            }
            FaultKind::DiskError => self.fail_disk(),
            FaultKind::NamespaceGrowth => self.place_everywhere(SOMEWHERE),
            FaultKind::SecondProcess => self.start_second_process(),
            FaultKind::ResumedSnapshot => self.take_snapshot(),
            FaultKind::NamespaceShrink => self.shrink_namespace(),
            FaultKind::NodeLeaves => self.have_node_leave(),
            FaultKind::NodeRemoved => self.remove_node(),
            FaultKind::ControlPlaneLost => {
                let node = self.any_machine();
                self.machine(node).hears_control_plane = false;
                let time = self.random.duration(milliseconds(1_000), milliseconds(15_000));
                self.after(time, Event::FaultEnds(FaultEnd::ControlPlaneBack(node)));
                true
            }
        }
    }

    pub(crate) fn any_machine(&mut self) -> MachineName {
        let index = self.random.index(self.machines.len());
        *self.machines.keys().nth(index).expect("below the length")
    }

    /// The nodes that are there.
    fn nodes(&self) -> Vec<NodeNumber> {
        let nodes: BTreeSet<NodeNumber> = self.machines.keys().map(|name| name.node).collect();
        nodes.into_iter().collect()
    }

    fn two_nodes(&mut self) -> (NodeNumber, NodeNumber) {
        let mut nodes = self.nodes();
        self.random.shuffle(&mut nodes);
        (nodes[0], nodes[1])
    }

    fn break_streams(&mut self) -> bool {
        let (one, other) = self.two_nodes();
        self.break_streams_between(one, other)
    }

    fn break_streams_between(&mut self, one: NodeNumber, other: NodeNumber) -> bool {
        let streams = self.network.streams_between(one, other);
        for stream in &streams {
            let Some((caller, callee)) = self.network.ends(*stream) else { continue };
            self.network.lose_cargo(*stream);
            self.transmit(caller, *stream, Cargo::End);
            self.transmit(callee, *stream, Cargo::End);
        }
        !streams.is_empty()
    }

    fn delay_frames(&mut self) -> bool {
        let (one, other) = self.two_nodes();
        let extra = self.random.duration(milliseconds(20), milliseconds(1_500));
        self.extra_delays.insert((one, other), extra);
        if self.random.chance(50) {
            self.extra_delays.insert((other, one), extra);
        }
        let time = self.random.duration(milliseconds(500), milliseconds(8_000));
        self.after(time, Event::FaultEnds(FaultEnd::Undelayed(one, other)));
        true
    }

    fn block(&mut self, directions: Vec<(NodeNumber, NodeNumber)>, time: Duration) -> bool {
        directions.iter().for_each(|(from, to)| self.network.block(*from, *to));
        self.after(time, Event::FaultEnds(FaultEnd::Unblocked(directions)));
        true
    }

    /// Cuts any part of the nodes off from the others.
    fn partition(&mut self) -> bool {
        let mut nodes = self.nodes();
        self.random.shuffle(&mut nodes);
        let part = self.random.between(1, nodes.len() as u64 - 1) as usize;
        let (one, other) = nodes.split_at(part);
        let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (*one, *other)));
        let directions = pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect();
        let time = self.random.duration(milliseconds(100), milliseconds(12_000));
        self.block(directions, time)
    }

    fn flap(&mut self) -> bool {
        let (one, other) = self.two_nodes();
        let times = self.random.between(3, 8) as u32;
        self.flap_again(one, other, times);
        true
    }

    /// Cuts two nodes off from each other for a moment, and later again.
    pub(crate) fn flap_again(&mut self, one: NodeNumber, other: NodeNumber, times: u32) {
        let time = self.random.duration(milliseconds(20), milliseconds(900));
        self.block(vec![(one, other), (other, one)], time);
        if self.random.chance(50) {
            self.break_streams_between(one, other);
        }
        if times > 1 {
            self.after(time + time / 2, Event::FlapsAgain(one, other, times - 1));
        }
    }

    /// The process dies now, if there is one.
    pub(crate) fn crash(&mut self, node: MachineName, loss: Option<Loss>) -> bool {
        let Self { random, machines, .. } = self;
        let machine = machines.get_mut(&node).expect("the machine is there");
        if machine.process.is_none() {
            return false;
        }
        let endpoint = machine.endpoint();
        let says_goodbye = match loss {
            Some(loss) => {
                machine.crash_losing(loss, random);
                false
            }
            None => machine.crash(random),
        };
        for delivery in self.network.streams_of(endpoint) {
            if says_goodbye {
                self.transmit(endpoint, delivery.stream, Cargo::End);
            }
            self.network.close(delivery.stream, endpoint);
        }
        self.note(format_args!("n{node} dies"));
        true
    }

    fn crash_and_restart(&mut self, node: MachineName, loss: Option<Loss>) -> bool {
        let is_done = self.crash(node, loss);
        if is_done {
            let longest = if self.random.chance(30) { 9_000 } else { 800 };
            let down = self.random.duration(milliseconds(20), milliseconds(longest));
            self.after(down, Event::Start(node));
        }
        is_done
    }

    fn cut_power(&mut self) -> bool {
        let all_at_once = self.random.chance(50).then_some(Loss::Unsynced);
        let mut is_done = false;
        for node in self.machine_names() {
            is_done |= self.crash_and_restart(node, all_at_once);
        }
        is_done
    }

    /// The process dies in the middle of something: as soon as some writes are
    /// not synced.
    fn lay_ambush(&mut self, node: MachineName) -> bool {
        let writes = self.random.between(1, 8) as usize;
        let machine = self.machine(node);
        machine.ambush = Some(writes);
        // Until then there is time for more than one.
        machine.sync_factor = machine.sync_factor.max(20);
        machine.process.is_some()
    }

    pub(crate) fn spring_ambush(&mut self, node: MachineName) {
        let is_fault_time = self.phase == Phase::Faults;
        let machine = self.machine(node);
        let is_due = machine.ambush.is_some_and(|writes| machine.disk.unsynced_writes() >= writes);
        if !is_due || !is_fault_time {
            return;
        }
        if std::mem::take(&mut machine.cuts_power) {
            self.cut_power();
        } else {
            self.crash_and_restart(node, None);
        }
    }

    /// Whether each namespace of a node has another member that is ready, if its
    /// disk says no more than this.
    pub(crate) fn can_be_without(
        &mut self,
        node: NodeNumber,
        recorded: &BTreeSet<NamespaceNumber>,
    ) -> bool {
        self.machines.values_mut().for_each(Machine::note_readiness);
        let topology = self.topology();
        topology.namespaces_of(node).into_iter().all(|namespace| {
            recorded.contains(&namespace)
                || topology.members(namespace).iter().any(|member| {
                    let mut machines = self.machines_of(member.number);
                    member.number != node && machines.any(|it| it.recorded.contains(&namespace))
                })
        })
    }

    fn restore_copy(&mut self) -> bool {
        let node = self.any_machine();
        let copies = self.machine(node).copies.len();
        if copies == 0 {
            return false;
        }
        let index = self.random.index(copies);
        let recorded = self.machine(node).copies[index].recorded.clone();
        if !self.can_be_without(node.node, &recorded) || !self.may_be_put_back(node, index) {
            return false;
        }
        self.crash(node, None);
        let machine = self.machine(node);
        let SavedCopy { disk, logs, recorded } = &machine.copies[index];
        machine.disk.restore(disk);
        machine.durable = logs.clone();
        machine.recorded = recorded.clone();
        machine.disk_may_fail = false;
        let logs = logs.clone();
        self.history.records.push(Record::Replaced {
            machine: node,
            by: Replacement::Restored,
            logs,
        });
        self.after_replacement(node);
        true
    }

    fn wipe_disk(&mut self) -> bool {
        let node = self.any_machine();
        if !self.can_be_without(node.node, &BTreeSet::new()) {
            return false;
        }
        self.crash(node, None);
        let machine = self.machine(node);
        machine.disk.wipe();
        machine.durable.clear();
        machine.recorded.clear();
        machine.disk_may_fail = false;
        let (by, logs) = (Replacement::Wiped, BTreeMap::new());
        self.history.records.push(Record::Replaced { machine: node, by, logs });
        self.after_replacement(node);
        true
    }

    /// The node comes back, with all its peers reachable, some, or none.
    fn after_replacement(&mut self, name: MachineName) {
        let node = name.node;
        self.note(format_args!("n{name} has another disk"));
        let unreachable = [0, 50, 100][self.random.index(3)];
        let mut directions = Vec::new();
        for peer in self.nodes().into_iter().filter(|peer| *peer != node) {
            if self.random.chance(unreachable) {
                directions.extend([(node, peer), (peer, node)]);
            }
        }
        let time = self.random.duration(milliseconds(500), milliseconds(8_000));
        self.block(directions, time);
        let down = self.random.duration(milliseconds(20), milliseconds(2_000));
        self.after(down, Event::Start(name));
    }

    fn jump_clock(&mut self) -> bool {
        const HOUR: i64 = 3_600_000;
        let node = self.any_machine();
        let (now, choice) = (self.now, self.random.below(5));
        let near = self.random.below(180_000) as i64;
        let machine = self.machine(node);
        match choice {
            0 => machine.clock_offset_milliseconds = HOUR,
            1 => machine.clock_offset_milliseconds = -HOUR,
            2 => machine.set_clock_to_1970(now),
            3 => machine.clock_offset_milliseconds = 0,
            _ => machine.clock_offset_milliseconds = near - 90_000,
        }
        true
    }

    fn fail_disk(&mut self) -> bool {
        let node = self.any_machine();
        let at_sync = self.random.chance(50);
        let machine = self.machine(node);
        if machine.process.is_none() || machine.disk_may_fail {
            return false;
        }
        machine.disk_may_fail = true;
        if at_sync {
            machine.disk.fail_next_sync()
        } else {
            machine.disk.fail_next_write()
        }
        true
    }

    /// Everything is right again, at once.
    pub(crate) fn heal(&mut self) {
        self.extra_delays.clear();
        let due = self.network.unblock_all();
        self.deliver_late(due);
        for node in self.machine_names() {
            let machine = self.machine(node);
            machine.sync_factor = 1;
            machine.clock_offset_milliseconds = 0;
            self.control_plane_back(node);
            let after = self.random.duration(milliseconds(1), milliseconds(500));
            self.after(after, Event::Start(node));
        }
        self.turn_clients_to_members();
        self.begin_healing();
        self.tell_topology();
    }

    pub(crate) fn healed_at(&self) -> Moment {
        self.scenario.heal_at()
    }

    pub(crate) fn end_fault(&mut self, end: FaultEnd) {
        match end {
            FaultEnd::Unblocked(directions) => {
                for (from, to) in directions {
                    let due = self.network.unblock(from, to);
                    self.deliver_late(due);
                }
            }
            FaultEnd::Undelayed(one, other) => {
                self.extra_delays.remove(&(one, other));
                self.extra_delays.remove(&(other, one));
            }
            FaultEnd::SyncRestored(name) => {
                if let Some(machine) = self.machines.get_mut(&name) {
                    machine.sync_factor = 1;
                }
            }
            FaultEnd::ControlPlaneBack(name) => self.control_plane_back(name),
            FaultEnd::NamespaceGrown(namespace) => _ = self.place_everywhere(namespace),
        }
    }

    pub(crate) fn deliver_late(&mut self, due: Vec<Delivery>) {
        for delivery in due {
            // The other end's retransmissions find the way open after a while.
            let delay = self.within((Duration::from_millis(5), Duration::from_millis(200)));
            self.after(delay, Event::Deliver(delivery));
        }
    }
}
