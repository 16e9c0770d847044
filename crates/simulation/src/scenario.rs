//! What a seed decides before anything happens: the mesh, the workload, the
//! weather. Each seed has some kinds of faults and not others, so that every
//! pair of kinds is met both together and apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::{
    FencingToken, GroupNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use interlock_core::names::{ChannelName, GroupName, NamespaceName, NodeName, RegionName};
use interlock_core::topology::{
    Founder, Group, Namespace, Node, NodeState, Retention, Topology, WhenFull,
};

use crate::clients::{ClientKind, Place};
use crate::faults::FaultKind;
use crate::history::ClientNumber;
use crate::random::Random;

/// The namespace that every node is a member of.
pub const EVERYWHERE: NamespaceNumber = NamespaceNumber::new(1);
/// The namespace that only some regions have, where there are several.
pub const SOMEWHERE: NamespaceNumber = NamespaceNumber::new(2);

const CHANNELS: [&str; 6] = ["news", "prices/EUR", "prices/USD", "live", "config", "a/b/c"];

/// From the shortest to the longest.
pub type Span = (Duration, Duration);

/// How the machines and the network are when nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One way within a region.
    pub near_delay: Span,
    /// One way between regions.
    pub far_delay: Span,
    /// Between a client and its node.
    pub client_delay: Span,
    /// Until the writer's thread runs.
    pub wake_delay: Span,
    /// How long a sync takes.
    pub sync_time: Span,
    /// At most so many messages in a frame.
    pub frame_messages: usize,
    /// How often a sync's writes are on the disk when it begins.
    pub early_sync_percent: u64,
    /// Requests that never arrive, of a hundred.
    pub lost_request_percent: u64,
    /// Answers that never arrive, of a hundred.
    pub lost_reply_percent: u64,
    /// Requests that arrive long after their client gave them up, of a hundred.
    pub stray_request_percent: u64,
}

/// Everything that a seed decides at the start.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The document at the start: no founder has opened anything.
    pub topology: Topology,
    /// The workload.
    pub clients: Vec<(ClientKind, Place)>,
    /// Kinds of faults, and how much time lies between two on average.
    pub faults: BTreeMap<FaultKind, Duration>,
    /// The weather.
    pub weather: Weather,
    /// How long there are faults.
    pub fault_time: Duration,
}

/// What a caller wants of every scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restrictions {
    /// The kinds of faults that may be.
    pub allowed: BTreeSet<FaultKind>,
    /// Kinds of faults that every scenario has.
    pub always: BTreeSet<FaultKind>,
    /// Exactly so many nodes.
    pub nodes: Option<u64>,
    /// Whether publishers go elsewhere when their node does not answer; else the
    /// seed decides.
    pub moving_publishers: Option<bool>,
    /// Whether logs are trimmed; else the seed decides.
    pub trimming: Option<bool>,
    /// Whether the mesh is large, if it is not of a certain size; else the seed decides.
    pub large: Option<bool>,
}

impl Default for Restrictions {
    fn default() -> Self {
        Self {
            allowed: FaultKind::ALL.into(),
            always: BTreeSet::new(),
            nodes: None,
            moving_publishers: None,
            trimming: None,
            large: None,
        }
    }
}

impl Scenario {
    /// Draws a scenario.
    pub fn draw(random: &mut Random, restrictions: &Restrictions) -> Self {
        let mut nodes = restrictions.nodes.unwrap_or_else(|| random.between(2, 5));
        let mut regions = random.between(1, nodes.min(3));
        if restrictions.large == Some(true) && restrictions.nodes.is_none() {
            // Several nodes in a region, and more regions.
            (nodes, regions) = (random.between(6, 7), random.between(2, 4));
        }
        let topology = draw_topology(random, nodes, regions);
        let fault_time = random.duration(Duration::from_secs(12), Duration::from_secs(30));
        let mut faults = BTreeMap::new();
        for kind in FaultKind::ALL.into_iter().filter(|kind| !kind.is_drawn_apart()) {
            let is_in = random.chance(kind.percent_of_seeds());
            let interval = random.duration(fault_time / 12, fault_time / 2);
            if restrictions.always.contains(&kind) || is_in && restrictions.allowed.contains(&kind)
            {
                faults.insert(kind, interval);
            }
        }
        let clients = draw_clients(random, &topology, fault_time);
        Self { topology, clients, faults, weather: draw_weather(random), fault_time }
    }

    /// Perhaps has machines resumed from snapshots: decided apart, because it is rare
    /// and most worlds are to be as they are without it.
    pub fn perhaps_resume_snapshots(&mut self, random: &mut Random, restrictions: &Restrictions) {
        let kind = FaultKind::ResumedSnapshot;
        let is_in = random.chance(kind.percent_of_seeds()) && restrictions.allowed.contains(&kind);
        if is_in || restrictions.always.contains(&kind) {
            self.faults.insert(kind, self.fault_time / 4);
        }
    }

    /// Perhaps lets members leave, decided apart like that. Where machines are resumed
    /// from snapshots nobody leaves: what stands still cannot be handed over before
    /// somebody repairs it.
    pub fn perhaps_let_members_leave(&mut self, random: &mut Random, restrictions: &Restrictions) {
        let is_resumed = self.faults.contains_key(&FaultKind::ResumedSnapshot);
        for kind in FaultKind::LEAVING {
            let is_in = random.chance(kind.percent_of_seeds()) && !is_resumed;
            let interval = random.duration(self.fault_time / 6, self.fault_time / 2);
            if restrictions.always.contains(&kind) || is_in && restrictions.allowed.contains(&kind)
            {
                self.faults.insert(kind, interval);
            }
        }
    }

    /// Lets namespaces keep little: by age, by bytes, or up to a cap at which publications
    /// are refused or the slowest member's queue is released. Decided apart, so that
    /// the rest of a world is as it is without it.
    pub fn let_logs_be_trimmed(&mut self, random: &mut Random) {
        for namespace in &mut self.topology.namespaces {
            let (kind, bytes) = (random.below(8), random.between(800, 8_000));
            let retention = &mut namespace.retention;
            if matches!(kind, 0..=3) {
                retention.bytes = bytes;
            }
            if matches!(kind, 2..=4) {
                retention.age_seconds = random.between(1, 6);
            }
            if kind == 3 {
                namespace.disk_cap_bytes = 3 * bytes;
            }
            if matches!(kind, 5 | 6) {
                retention.when_full = WhenFull::Release;
                namespace.disk_cap_bytes = 2 * bytes;
            }
        }
    }

    /// Lets publishers go to other nodes.
    pub fn let_publishers_move(&mut self) {
        let nodes: Vec<NodeNumber> = self.topology.nodes.iter().map(|node| node.number).collect();
        self.clients.iter_mut().for_each(|(_, place)| place.elsewhere.clone_from(&nodes));
    }

    /// When the faults stop.
    pub fn heal_at(&self) -> Moment {
        Moment::START + self.fault_time
    }
}

/// One region with so many nodes.
pub(crate) fn small_topology(nodes: u64) -> Topology {
    draw_topology(&mut Random::new(0), nodes, 1)
}

fn draw_topology(random: &mut Random, nodes: u64, regions: u64) -> Topology {
    let region = |index: u64| {
        let name = ["north", "south", "west", "east"][index as usize];
        RegionName::parse(name).expect("a good name")
    };
    let regions: Vec<RegionName> = (0..regions).map(region).collect();
    let mut mesh_nodes = Vec::new();
    for number in 1..=nodes {
        // Every region has a node.
        let index = if number <= regions.len() as u64 {
            number as usize - 1
        } else {
            random.index(regions.len())
        };
        mesh_nodes.push(Node {
            number: NodeNumber::new(number as u32),
            name: NodeName::parse(&format!("node-{number}")).expect("a good name"),
            region: regions[index].clone(),
            replication_address: format!("node-{number}:7001"),
            client_address: format!("node-{number}:7000"),
            state: NodeState::Active,
            fencing_token: FencingToken::new(1),
            feature_level: FEATURE_LEVEL,
        });
    }
    let group = |number, name: &str, regions: &[RegionName]| Group {
        number: GroupNumber::new(number),
        name: GroupName::parse(name).expect("a good name"),
        regions: regions.to_vec(),
    };
    let some = regions.len().div_ceil(2);
    let groups = vec![group(1, "all", &regions), group(2, "some", &regions[..some])];
    let mut topology = Topology {
        version: TopologyVersion { generation: 1, number: 1 },
        regions,
        groups,
        nodes: mesh_nodes,
        namespaces: Vec::new(),
    };
    for (number, name, group) in
        [(EVERYWHERE, "everywhere", "all"), (SOMEWHERE, "somewhere", "some")]
    {
        topology.namespaces.push(Namespace {
            number,
            name: NamespaceName::parse(name).expect("a good name"),
            groups: vec![GroupName::parse(group).expect("a good name")],
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: Vec::new(),
            leaving: Vec::new(),
        });
        let members = topology.members(number);
        let founders =
            members.iter().map(|member| Founder { node: member.number, opened: false }).collect();
        topology.namespaces.last_mut().expect("just added").founders = founders;
    }
    topology
}

fn draw_clients(
    random: &mut Random,
    topology: &Topology,
    fault_time: Duration,
) -> Vec<(ClientKind, Place)> {
    let mut clients = Vec::new();
    let mut number = 0;
    for namespace in [EVERYWHERE, SOMEWHERE] {
        let channels: Vec<ChannelName> = CHANNELS[..random.between(2, 6) as usize]
            .iter()
            .map(|name| ChannelName::parse(name).expect("a good name"))
            .collect();
        // Those who are no members are asked too: they may become some.
        for node in &topology.nodes {
            for kind in
                [ClientKind::Editor, ClientKind::SessionPublisher, ClientKind::PlainPublisher]
            {
                let is_member = topology.is_member(node.number, namespace);
                let is_left_out = match kind {
                    ClientKind::PlainPublisher => random.chance(50),
                    _ => !is_member && random.chance(60),
                };
                if is_left_out {
                    continue;
                }
                number += 1;
                let operations = random.between(10, 40) as u32;
                clients.push((
                    kind,
                    Place {
                        client: ClientNumber::new(number),
                        node: node.number,
                        elsewhere: Vec::new(),
                        namespace,
                        channels: channels.clone(),
                        operations,
                        pace: fault_time / operations,
                    },
                ));
            }
        }
    }
    clients
}

fn draw_weather(random: &mut Random) -> Weather {
    const fn micros(low: u64, high: u64) -> Span {
        (Duration::from_micros(low), Duration::from_micros(high))
    }
    let is_rough = random.chance(50);
    let slowest_sync = random.between(1_000, 40_000);
    Weather {
        near_delay: micros(100, 2_000),
        far_delay: micros(5_000, random.between(10_000, 120_000)),
        client_delay: micros(100, 5_000),
        wake_delay: micros(0, 500),
        sync_time: micros(300, slowest_sync),
        frame_messages: random.between(1, 6) as usize,
        early_sync_percent: random.below(101),
        lost_request_percent: if is_rough { random.below(6) } else { 0 },
        lost_reply_percent: if is_rough { random.below(6) } else { 0 },
        stray_request_percent: if is_rough { random.below(4) } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mesh_is_valid_and_has_members_everywhere() {
        for seed in 0..200 {
            let scenario = Scenario::draw(&mut Random::new(seed), &Restrictions::default());
            let topology = &scenario.topology;
            assert_eq!(topology.validate(), Ok(()));
            assert_eq!(topology.members(EVERYWHERE).len(), topology.nodes.len());
            assert!(!topology.members(SOMEWHERE).is_empty());
        }
    }

    #[test]
    fn restrictions_hold() {
        let restrictions = Restrictions {
            allowed: BTreeSet::new(),
            always: [FaultKind::Crash].into(),
            nodes: Some(2),
            moving_publishers: None,
            trimming: None,
            large: None,
        };
        for seed in 0..50 {
            let scenario = Scenario::draw(&mut Random::new(seed), &restrictions);
            assert_eq!(scenario.topology.nodes.len(), 2);
            assert_eq!(scenario.faults.keys().copied().collect::<Vec<_>>(), [FaultKind::Crash]);
        }
    }
}
