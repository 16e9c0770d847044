//! Examples of each edit, and random sequences of edits.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::features::{
    FEATURE_LEVEL, FIRST_FEATURE_LEVEL, SameVersion, compare_same_version, who_lacks,
};

mod leaving;

fn region(name: &str) -> RegionName {
    RegionName::parse(name).expect("a good name")
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).expect("a good name")
}

fn namespace(name: &str) -> NamespaceName {
    NamespaceName::parse(name).expect("a good name")
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).expect("a good name")
}

fn registration(name: &str, region_name: &str) -> NodeRegistration {
    NodeRegistration {
        name: NodeName::parse(name).expect("a good name"),
        region: region(region_name),
        replication_address: "127.0.0.1:7001".to_owned(),
        client_address: "127.0.0.1:7002".to_owned(),
        feature_level: FEATURE_LEVEL,
    }
}

/// Two regions with a node each, a group of both and a group of one.
fn two_regions() -> Topology {
    let topology = register_node(&empty(), &registration("eu-1", "eu")).expect("registers");
    let topology = register_node(&topology, &registration("us-1", "us")).expect("registers");
    let topology = apply_group(&topology, &group("both"), &[region("eu"), region("us")])
        .expect("both are there");
    apply_group(&topology, &group("europe"), &[region("eu")]).expect("it is there")
}

/// METHOD M2: a name keeps its number, and its token rises.
#[test]
fn a_known_name_keeps_its_number_and_its_token_rises() {
    let topology = two_regions();
    let mut again = registration("eu-1", "eu");
    again.client_address = "[::1]:9".to_owned();
    let next = register_node(&topology, &again).expect("registers");
    let before = topology.node_by_name(&again.name).expect("is there");
    let after = next.node_by_name(&again.name).expect("is there");
    assert_eq!(after.number, before.number);
    assert_eq!(after.fencing_token.get(), before.fencing_token.get() + 1);
    assert_eq!(after.client_address, "[::1]:9");
    assert_eq!(next.version.number, topology.version.number + 1);
    assert_eq!(next.version.generation, 1);
}

#[test]
fn a_node_does_not_change_its_region() {
    let error = register_node(&two_regions(), &registration("eu-1", "us")).expect_err("moved");
    assert!(matches!(error, EditError::RegionChange { .. }), "{error}");
}

#[test]
fn a_removed_name_does_not_come_back() {
    let mut topology = two_regions();
    topology.nodes[0].state = NodeState::Removed;
    let error = register_node(&topology, &registration("eu-1", "eu")).expect_err("was removed");
    assert!(matches!(error, EditError::NodeRemoved(_)), "{error}");
    let next = register_node(&topology, &registration("eu-2", "eu")).expect("registers");
    assert_eq!(next.nodes.last().map(|node| node.number), Some(NodeNumber::new(3)));
}

/// METHOD M15: the nodes of a namespace's groups found it, and nobody else.
#[test]
fn founders_are_the_active_nodes_at_creation() {
    let topology = register_node(&two_regions(), &registration("eu-2", "eu")).expect("registers");
    let mut topology = topology;
    topology.nodes[0].state = NodeState::Leaving;
    let topology =
        create_namespace(&topology, &namespace("eu"), &[group("europe")], 7).expect("created");
    let created = topology.namespace_by_name(&namespace("eu")).expect("is there");
    assert_eq!(created.founders, [Founder { node: NodeNumber::new(3), opened: false }]);
    assert_eq!(created.number, NamespaceNumber::new(1));

    // Who comes later is a member and no founder.
    let later = register_node(&topology, &registration("eu-3", "eu")).expect("registers");
    assert!(later.is_member(NodeNumber::new(4), NamespaceNumber::new(1)));
    let error =
        record_opened(&later, NodeNumber::new(4), FencingToken::new(1), &[NamespaceNumber::new(1)])
            .expect_err("no founder");
    assert!(matches!(error, EditError::NotFounder { .. }), "{error}");
}

#[test]
fn a_namespace_needs_a_founder() {
    let topology = apply_region(&empty(), &region("eu")).expect("made");
    let topology = apply_group(&topology, &group("g"), &[region("eu")]).expect("made");
    let error = create_namespace(&topology, &namespace("n"), &[group("g")], 0).expect_err("none");
    assert!(matches!(error, EditError::NoFounder(_)), "{error}");
}

#[test]
fn creating_again_answers_the_same_and_never_something_else() {
    let groups = [group("europe"), group("both")];
    let topology = create_namespace(&two_regions(), &namespace("n"), &groups, 7).expect("created");
    let reversed = [group("both"), group("europe"), group("both")];
    assert_eq!(create_namespace(&topology, &namespace("n"), &reversed, 7), Ok(topology.clone()));
    for (groups, cap) in [(&groups[..], 8), (&groups[..1], 7)] {
        assert_eq!(
            create_namespace(&topology, &namespace("n"), groups, cap),
            Err(EditError::NamespaceExists(namespace("n")))
        );
    }
    assert_eq!(
        create_namespace(&topology, &namespace("m"), &[], 0),
        Err(EditError::Empty("groups"))
    );
    assert_eq!(
        create_namespace(&topology, &namespace("m"), &[group("mars")], 0),
        Err(EditError::UnknownGroup(group("mars")))
    );
}

#[test]
fn opening_is_recorded_once_and_by_the_token_of_the_last_registration() {
    let topology =
        create_namespace(&two_regions(), &namespace("n"), &[group("both")], 0).expect("created");
    let (node, number) = (NodeNumber::new(1), NamespaceNumber::new(1));
    let opened =
        record_opened(&topology, node, FencingToken::new(1), &[number]).expect("is a founder");
    let founders = &opened.namespaces[0].founders;
    assert_eq!(founders.iter().map(|it| it.opened).collect::<Vec<_>>(), [true, false]);
    assert_eq!(
        record_opened(&opened, node, FencingToken::new(1), &[number]),
        Ok(opened.clone()),
        "a repeat changes nothing"
    );

    let registered = register_node(&opened, &registration("eu-1", "eu")).expect("registers");
    for stale in [1, 3] {
        let error = record_opened(&registered, node, FencingToken::new(stale), &[number])
            .expect_err("another token is held");
        assert!(matches!(error, EditError::TokenMismatch { .. }), "{error}");
    }
    // A restart does not make it a founder that has yet to open.
    assert!(registered.namespaces[0].founders[0].opened);
    assert_eq!(
        record_opened(&registered, node, FencingToken::new(2), &[NamespaceNumber::new(9)]),
        Err(EditError::UnknownNamespaceNumber(NamespaceNumber::new(9)))
    );
}

#[test]
fn groups_take_regions_and_do_not_lose_those_in_use() {
    let topology = two_regions();
    let same = apply_group(&topology, &group("both"), &[region("us"), region("eu"), region("us")]);
    assert_eq!(same, Ok(topology.clone()), "order and repeats do not matter");
    assert_eq!(
        apply_group(&topology, &group("both"), &[region("mars")]),
        Err(EditError::UnknownRegion(region("mars")))
    );
    assert_eq!(apply_group(&topology, &group("both"), &[]), Err(EditError::Empty("regions")));

    let smaller = apply_group(&topology, &group("both"), &[region("eu")]).expect("not in use");
    assert_eq!(smaller.groups[0].number, topology.groups[0].number);

    let used = create_namespace(&topology, &namespace("n"), &[group("both")], 0).expect("created");
    let error = apply_group(&used, &group("both"), &[region("eu")]).expect_err("us would be lost");
    assert!(matches!(error, EditError::RegionInUse { .. }), "{error}");
    // Another group of the namespace keeps it in the region.
    let kept = update_namespace(&used, &namespace("n"), &[group("europe")], None).expect("added");
    apply_group(&kept, &group("both"), &[region("us")]).expect("europe still has eu");
}

#[test]
fn updates_add_groups_and_set_the_cap() {
    let topology =
        create_namespace(&two_regions(), &namespace("n"), &[group("europe")], 0).expect("created");
    let updated = update_namespace(&topology, &namespace("n"), &[group("both")], Some(5))
        .expect("it is there");
    let changed = &updated.namespaces[0];
    assert_eq!(changed.groups, [group("europe"), group("both")]);
    assert_eq!(changed.disk_cap_bytes, 5);
    assert_eq!(changed.founders, topology.namespaces[0].founders);
    assert_eq!(
        update_namespace(&updated, &namespace("n"), &[group("europe")], None),
        Ok(updated.clone())
    );
    assert_eq!(
        update_namespace(&updated, &namespace("m"), &[], None),
        Err(EditError::UnknownNamespace(namespace("m")))
    );
}

#[test]
fn addresses_are_host_and_port() {
    for good in ["a:1", "node-0.nodes.svc:65535", "10.0.0.1:7001", "[::1]:80", "a_b:2"] {
        assert_eq!(check_address("client_address", good), Ok(()), "{good}");
    }
    let long = format!("{}:1", "x".repeat(MAX_ADDRESS_BYTES));
    for bad in
        ["", "a", "a:", ":1", "a:0", "a:65536", "::1:80", "[x]:1", "http://a:1", "a b:1", &long]
    {
        let error = check_address("client_address", bad).expect_err(bad);
        assert!(matches!(error, EditError::Address { field: "client_address", .. }));
    }
}

#[test]
fn counts_are_bounded() {
    let mut topology = empty();
    for index in 0..MAX_REGIONS {
        topology = apply_region(&topology, &region(&format!("r{index}"))).expect("fits");
    }
    let error = apply_region(&topology, &region("one-more")).expect_err("one too many");
    assert_eq!(error, EditError::TooMany { kind: "regions", limit: MAX_REGIONS });
    apply_region(&topology, &region("r0")).expect("it is there");
}

#[derive(Clone, Debug)]
enum Edit {
    Register { node: u8, region: u8 },
    Region(u8),
    Group { name: u8, regions: Vec<u8> },
    Create { name: u8, groups: Vec<u8>, cap: u64 },
    Update { name: u8, groups: Vec<u8>, cap: Option<u64> },
    Opened { node: u8, namespace: u8, token: u64 },
    Leave(u8),
    Remove(u8),
    Left { node: u8, namespace: u8, token: u64 },
    GroupAndLeave { name: u8, regions: Vec<u8> },
    RemoveGroups { name: u8, groups: Vec<u8> },
    RemoveRegion(u8),
}

impl Edit {
    /// Whether it takes away what a node may hold, and of which: the others only ever
    /// have it leave.
    fn ends_holding_of(&self, topology: &Topology) -> Option<NodeNumber> {
        match self {
            Self::Remove(node) => {
                let name = format!("n{node}");
                let found = topology.nodes.iter().find(|node| node.name.as_str() == name);
                found.map(|node| node.number)
            }
            Self::Left { node, .. } => Some(NodeNumber::new((*node).into())),
            _ => None,
        }
    }

    /// Whether a namespace may lose a region by it.
    fn moves_namespaces(&self) -> bool {
        matches!(
            self,
            Self::GroupAndLeave { .. } | Self::RemoveGroups { .. } | Self::RemoveRegion(_)
        )
    }
}

fn edits() -> impl Strategy<Value = Edit> {
    let few = || proptest::collection::vec(0_u8..4, 0..4);
    prop_oneof![
        3 => (0_u8..6, 0_u8..4).prop_map(|(node, region)| Edit::Register { node, region }),
        1 => (0_u8..4).prop_map(Edit::Region),
        2 => (0_u8..4, few()).prop_map(|(name, regions)| Edit::Group { name, regions }),
        2 => (0_u8..4, few(), 0_u64..2)
            .prop_map(|(name, groups, cap)| Edit::Create { name, groups, cap }),
        2 => (0_u8..4, few(), proptest::option::of(0_u64..2))
            .prop_map(|(name, groups, cap)| Edit::Update { name, groups, cap }),
        2 => (0_u8..6, 0_u8..5, 0_u64..4)
            .prop_map(|(node, namespace, token)| Edit::Opened { node, namespace, token }),
        1 => (0_u8..6).prop_map(Edit::Leave),
        1 => (0_u8..6).prop_map(Edit::Remove),
        2 => (0_u8..6, 0_u8..5, 0_u64..4)
            .prop_map(|(node, namespace, token)| Edit::Left { node, namespace, token }),
        1 => (0_u8..4, few()).prop_map(|(name, regions)| Edit::GroupAndLeave { name, regions }),
        1 => (0_u8..4, few()).prop_map(|(name, groups)| Edit::RemoveGroups { name, groups }),
        1 => (0_u8..4).prop_map(Edit::RemoveRegion),
    ]
}

fn apply(topology: &Topology, edit: &Edit) -> Result<Topology, EditError> {
    let groups = |numbers: &[u8]| -> Vec<GroupName> {
        numbers.iter().map(|number| group(&format!("g{number}"))).collect()
    };
    match edit {
        Edit::Register { node, region } => {
            register_node(topology, &registration(&format!("n{node}"), &format!("r{region}")))
        }
        Edit::Region(number) => apply_region(topology, &region(&format!("r{number}"))),
        Edit::Group { name, regions } => {
            let regions: Vec<RegionName> =
                regions.iter().map(|number| region(&format!("r{number}"))).collect();
            apply_group(topology, &group(&format!("g{name}")), &regions)
        }
        Edit::Create { name, groups: named, cap } => {
            create_namespace(topology, &namespace(&format!("s{name}")), &groups(named), *cap)
        }
        Edit::Update { name, groups: named, cap } => {
            update_namespace(topology, &namespace(&format!("s{name}")), &groups(named), *cap)
        }
        Edit::Opened { node, namespace, token } => record_opened(
            topology,
            NodeNumber::new((*node).into()),
            FencingToken::new(*token),
            &[NamespaceNumber::new((*namespace).into())],
        ),
        Edit::Leave(node) => leave_mesh(topology, &node_name(&format!("n{node}"))),
        Edit::Remove(node) => remove_node(topology, &node_name(&format!("n{node}"))),
        Edit::Left { node, namespace, token } => record_left(
            topology,
            NodeNumber::new((*node).into()),
            FencingToken::new(*token),
            &[NamespaceNumber::new((*namespace).into())],
        ),
        Edit::GroupAndLeave { name, regions } => {
            let regions: Vec<RegionName> =
                regions.iter().map(|number| region(&format!("r{number}"))).collect();
            apply_group_and_leave(topology, &group(&format!("g{name}")), &regions)
        }
        Edit::RemoveGroups { name, groups: named } => {
            remove_groups(topology, &namespace(&format!("s{name}")), &groups(named))
        }
        Edit::RemoveRegion(number) => remove_region(topology, &region(&format!("r{number}"))),
    }
}

/// Every number that was ever given, with the name it was given to.
#[derive(Default)]
struct Given(BTreeMap<(&'static str, u32), String>);

impl Given {
    fn record(&mut self, topology: &Topology) {
        let groups = topology.groups.iter();
        let nodes = topology.nodes.iter();
        let namespaces = topology.namespaces.iter();
        let all = groups
            .map(|it| ("group", it.number.get(), it.name.to_string()))
            .chain(nodes.map(|it| ("node", it.number.get(), it.name.to_string())))
            .chain(namespaces.map(|it| ("namespace", it.number.get(), it.name.to_string())));
        for (kind, number, name) in all {
            let holder = self.0.entry((kind, number)).or_insert_with(|| name.clone());
            assert_eq!(*holder, name, "{kind} {number} was given twice");
        }
    }

    fn holders(&self) -> usize {
        self.0.len()
    }
}

proptest! {
    /// METHOD M2, M15: whatever is edited, and in whatever order, the document is
    /// valid, no number is given twice or lost, tokens and the version only rise,
    /// and nobody stops holding a namespace before it was handed over, unless removed by
    /// force; a namespace that has a member keeps one.
    #[test]
    fn edits_keep_the_documents_promises(edits in proptest::collection::vec(edits(), 1..60)) {
        let mut topology = empty();
        let mut given = Given::default();
        for edit in &edits {
            let next = match apply(&topology, edit) {
                Ok(next) => next,
                Err(_) => continue,
            };
            prop_assert_eq!(next.validate(), Ok(()));
            given.record(&next);
            let held = next.groups.len() + next.nodes.len() + next.namespaces.len();
            prop_assert_eq!(given.holders(), held, "nothing leaves the document");

            let raised = next.version.number - topology.version.number;
            prop_assert_eq!(raised, u64::from(next != topology), "one for each change");
            for before in &topology.nodes {
                let after = next.node(before.number).expect("nothing leaves the document");
                prop_assert!(after.fencing_token >= before.fencing_token);
                prop_assert_eq!(&after.region, &before.region);
            }
            for before in &topology.namespaces {
                let after = next.namespace(before.number).expect("nothing leaves the document");
                for founder in &before.founders {
                    let kept = after.founders.iter().find(|it| it.node == founder.node);
                    prop_assert!(kept.is_some_and(|kept| kept.opened >= founder.opened));
                }
                prop_assert_eq!(after.founders.len(), before.founders.len());
                for region in &topology.regions {
                    prop_assert!(
                        next.is_placed_in(before.number, region)
                            || !topology.is_placed_in(before.number, region)
                            || edit.moves_namespaces()
                    );
                }
                let ends = edit.ends_holding_of(&topology);
                for node in topology.nodes.iter().map(|node| node.number) {
                    prop_assert!(
                        next.is_holder(node, before.number)
                            || !topology.is_holder(node, before.number)
                            || ends == Some(node)
                    );
                }
                prop_assert!(
                    !next.members(before.number).is_empty()
                        || topology.members(before.number).is_empty()
                );
            }
            // A repeat of what was just done is harmless: the same document, or,
            // for a registration, the same number again.
            match (apply(&next, edit), edit) {
                (Ok(again), Edit::Register { .. }) => {
                    prop_assert_eq!(again.nodes.len(), next.nodes.len());
                }
                // What is gone is unknown.
                (again, Edit::RemoveRegion(_)) => prop_assert!(again.is_err()),
                (again, _) => prop_assert_eq!(again.as_ref(), Ok(&next)),
            }
            topology = next;
        }
    }
}
