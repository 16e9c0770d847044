//! One copy over the WAN for each region: while all is healthy, of the members in a
//! region one alone takes a log that another region writes from outside it, and its
//! siblings take it from that one.
//!
//! It is looked at when it has been quiet for longer than a server that once stalled is
//! left alone: until then whoever was disappointed goes to the origin by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::identity::{LogName, NodeNumber};
use interlock_core::names::RegionName;
use interlock_core::replication::timing::STALLED_SERVER_PENALTY;

use crate::event::Event;
use crate::node::Process;
use crate::world::World;

/// What was decided last has been acted on by then.
const SETTLING_TIME: Duration = Duration::from_secs(2);

impl World {
    /// Looks once nobody is left alone any more for having stalled.
    pub(crate) fn look_at_carriers_later(&mut self) {
        let after = STALLED_SERVER_PENALTY + SETTLING_TIME;
        self.after(after, Event::CarriersLooked);
    }

    /// Whether any region has several nodes, and there is another one.
    pub(crate) fn has_carriers(&self) -> bool {
        let mut regions: BTreeMap<&RegionName, usize> = BTreeMap::new();
        for machine in self.machines.values() {
            *regions.entry(&machine.node.region).or_default() += 1;
        }
        regions.len() > 1 && regions.values().any(|nodes| *nodes > 1)
    }

    /// Looks who takes what from where.
    pub(crate) fn look_at_carriers(&mut self) {
        for what in self.second_carriers() {
            self.history.incident(None, what);
        }
    }

    /// The logs that more than one member of a region takes from outside it.
    fn second_carriers(&mut self) -> Vec<String> {
        let still = self.standing_still();
        let topology = std::sync::Arc::clone(self.topology());
        let region = |node: NodeNumber| topology.node(node).map(|node| &node.region);
        let mut carriers: BTreeMap<(LogName, &RegionName), Vec<NodeNumber>> = BTreeMap::new();
        let processes: Vec<(NodeNumber, &Process)> = self
            .machines
            .values()
            .filter_map(|machine| Some((machine.node.number, machine.process.as_ref()?)))
            .collect();
        for (me, process) in processes {
            let Some(here) = region(me) else { continue };
            for (log, _) in process.admission().logs().iter() {
                let is_away = topology.is_member(log.origin, log.namespace)
                    && region(log.origin) != Some(here)
                    && !still.touches(log);
                let server = process.server_of(log).filter(|_| is_away);
                if server.is_some_and(|server| region(server) != Some(here)) {
                    carriers.entry((*log, here)).or_default().push(me);
                }
            }
        }
        // Where a member has no sibling there is nothing to choose.
        let has_siblings = |(log, here): &&(LogName, &RegionName)| {
            let members = topology.members(log.namespace);
            members.iter().filter(|member| member.region == **here).count() > 1
        };
        self.statistics.carried_logs += carriers.keys().filter(has_siblings).count() as u64;
        let several = carriers.iter().filter(|(_, carriers)| carriers.len() > 1);
        several
            .map(|((log, region), carriers)| {
                format!("nodes {carriers:?} of {region} all take {log} over the WAN")
            })
            .collect()
    }
}
