//! Processes: how they start over their machines' disks, what reaches them, and what
//! they do to the world.

use std::time::Duration;

use interlock_core::identity::{FencingToken, MemberOpening};

use crate::event::Event;
use crate::history::Record;
use crate::machine::{MachineName, StartError, Starter};
use crate::network::{Cargo, Endpoint, ProcessNumber};
use crate::node::{Input, Output, Process, ProcessConfig};
use crate::world::{Phase, World};

impl World {
    pub(crate) fn start(&mut self, name: MachineName) {
        let token = self.register(name);
        self.start_as(name, token, None);
    }

    /// Starts a process, or goes on with one from a snapshot.
    pub(crate) fn start_as(
        &mut self,
        name: MachineName,
        token: FencingToken,
        resumed: Option<MemberOpening>,
    ) {
        self.processes += 1;
        let config = ProcessConfig {
            frame_messages: self.scenario.weather.frame_messages,
            early_sync_percent: self.scenario.weather.early_sync_percent,
            planted: self.planted,
        };
        let may_die = self.phase == Phase::Faults && resumed.is_none();
        let dies_percent = if may_die { 6 } else { 0 };
        let starter = Starter {
            random: &mut self.random,
            now: self.now,
            process: ProcessNumber::new(self.processes),
            token,
            topologies: &self.topologies,
            config,
            dies_percent,
            resumed,
        };
        let machine = self.machines.get_mut(&name).expect("the machine is there");
        let started = machine.start(starter);
        for namespace in std::mem::take(&mut machine.purged) {
            self.statistics.purges += 1;
            self.history.records.push(Record::Purged { machine: name, namespace });
        }
        let machine = self.machines.get_mut(&name).expect("the machine is there");
        match started {
            Ok(recovery) => {
                let process = machine.process.as_mut().expect("it has just started");
                let incarnation = process.admission().opening().incarnation;
                let outputs = process.first_outputs();
                let logs = recovery.logs.iter().map(|log| (log.row.log, log.mark)).collect();
                let process = machine.process_number;
                self.history.records.push(Record::Opened {
                    machine: name,
                    process,
                    incarnation,
                    token,
                    logs,
                });
                self.note(format_args!("n{name} is {process} @{incarnation}, token {token}"));
                self.statistics.openings += 1;
                self.statistics.cut_logs += recovery.cut.len() as u64;
                self.carry_out(name, outputs);
                self.schedule_timer(name);
            }
            Err(StartError::Storage(_) | StartError::Opening(_)) if machine.disk_may_fail => {
                machine.disk_may_fail = false;
                machine.crash(&mut self.random);
                self.after(Duration::from_millis(100), Event::Start(name));
            }
            Err(StartError::Removed) => self.take_away(name),
            Err(StartError::Died) => {
                self.statistics.deaths_while_opening += 1;
                let after = self.random.duration(Duration::from_millis(10), Duration::from_secs(1));
                self.after(after, Event::Start(name));
            }
            Err(StartError::Storage(error)) => {
                self.history
                    .incident(Some(name.node), format!("the disk cannot be opened: {error}"));
            }
            Err(StartError::Opening(error)) => {
                self.history.incident(Some(name.node), format!("the opening failed: {error}"));
            }
        }
    }

    /// Gives a process an input, if it is still that process, and carries out
    /// what comes of it.
    pub(crate) fn dispatch(&mut self, to: Endpoint, input: Input) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&to.machine) else { return };
        if machine.process_number != to.process {
            return;
        }
        let (local, wall) = (machine.local(now), machine.wall(now));
        let Some(process) = &mut machine.process else { return };
        match process.handle(local, wall, &mut self.random, input) {
            Ok(outputs) => {
                self.carry_out(to.machine, outputs);
                self.schedule_timer(to.machine);
                self.notice_superseded(to);
                self.spring_ambush(to.machine);
            }
            Err(error) => {
                // What was written before may be on the disk.
                for output in process.first_outputs() {
                    if let Output::Record(
                        record @ (Record::Appended { .. }
                        | Record::Content { .. }
                        | Record::HoleTaken { .. }
                        | Record::Drained { .. }
                        | Record::Trimmed { .. }),
                    ) = output
                    {
                        self.history.records.push(record);
                    }
                }
                if !std::mem::take(&mut machine.disk_may_fail) {
                    self.history.incident(Some(to.node()), format!("the storage failed: {error}"));
                }
                self.crash(to.machine, None);
                let after = self.random.duration(Duration::from_millis(50), Duration::from_secs(2));
                self.after(after, Event::Start(to.machine));
            }
        }
    }

    fn schedule_timer(&mut self, node: MachineName) {
        let now = self.now;
        let machine = self.machine(node);
        let Some(process) = &machine.process else { return };
        let at = (machine.started_at + process.timer().since_start()).max(now);
        if machine.timer_at != Some(at) {
            machine.timer_at = Some(at);
            self.queue.push(at, Event::Timer(node, at));
        }
    }

    fn carry_out(&mut self, node: MachineName, outputs: Vec<Output>) {
        let me = self.machine(node).endpoint();
        for output in outputs {
            match output {
                Output::Connect(peer) => self.connect(me, peer),
                Output::Transmit(stream, cargo) => self.transmit(me, stream, cargo),
                Output::Close(stream) => {
                    self.transmit(me, stream, Cargo::End);
                    self.network.close(stream, me);
                }
                Output::TakeOver(stream) => {
                    self.transmit(me, stream, Cargo::TakenOver);
                    self.network.close(stream, me);
                }
                Output::Reply(reply) => self.reply(reply),
                Output::WakeWriter => {
                    let delay = self.within(self.scenario.weather.wake_delay);
                    self.after(delay, Event::WriterRuns(me));
                }
                Output::SyncBegan => {
                    let factor = self.machine(node).sync_factor;
                    let delay = self.within(self.scenario.weather.sync_time) * factor;
                    self.after(delay, Event::SyncEnds(me));
                }
                Output::RecordOpened(namespaces) => {
                    if self.machine(node).hears_control_plane {
                        let delay =
                            self.within((Duration::from_millis(1), Duration::from_millis(50)));
                        let token = self.machines[&node].process.as_ref().map(Process::token);
                        let token = token.unwrap_or_default();
                        self.after(delay, Event::RecordOpened(node, token, namespaces));
                    }
                }
                Output::RecordLeft(namespaces, by) => self.record_left_later(node, namespaces, by),
                Output::Reopens => self.reopen(node),
                Output::Record(record) => {
                    match &record {
                        Record::Durable { log, mark, .. } => {
                            self.machine(node).durable.insert(*log, *mark);
                        }
                        Record::Ready { namespace, .. } => {
                            self.note(format_args!("n{node} is ready in {namespace}"));
                        }
                        Record::Trimmed { log, through, released, .. } => {
                            self.statistics.trims += 1;
                            self.statistics.releases += u64::from(*released);
                            let how = if *released { ", and releases" } else { "" };
                            self.note(format_args!("n{node} trims {log} to {through}{how}"));
                        }
                        Record::HoleTaken { log, from, through, .. } => {
                            self.statistics.holes += 1;
                            let through = through.m_id;
                            self.note(format_args!("n{node} takes hole {log} {from}..{through}"));
                        }
                        _ => {}
                    }
                    self.history.records.push(record);
                }
                Output::Conflict(log, what) => self.conflict_seen(node, log, &what),
                Output::EndAsResumed(log) => self.end_resumed(node, log),
                Output::Incident(what) => {
                    self.note(format_args!("n{node} INCIDENT {what}"));
                    self.history.incident(Some(node.node), what);
                }
            }
        }
    }
}
