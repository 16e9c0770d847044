//! Nodes, namespaces and regions that are left.

use super::*;

fn token_of(topology: &Topology, name: &str) -> FencingToken {
    topology.node_by_name(&node_name(name)).expect("is there").fencing_token
}

const EU: NodeNumber = NodeNumber::new(1);
const US: NodeNumber = NodeNumber::new(2);
const EVERYWHERE: NamespaceNumber = NamespaceNumber::new(1);

/// Two regions, one namespace in both.
fn placed_in_both() -> Topology {
    create_namespace(&two_regions(), &namespace("all"), &[group("both")], 0).expect("created")
}

#[test]
fn a_node_leaves_its_namespaces_and_then_the_mesh() {
    let before = placed_in_both();
    let leaving = leave_mesh(&before, &node_name("us-1")).expect("the other stays");
    assert_eq!(leaving.version.number, before.version.number + 1);
    assert!(!leaving.is_member(US, EVERYWHERE) && leaving.is_holder(US, EVERYWHERE));
    assert_eq!(leaving.namespaces_held_by(US), [EVERYWHERE]);
    let peers = |topology: &Topology, node| -> Vec<NodeNumber> {
        topology.peers_of(node).into_iter().map(|peer| peer.number).collect()
    };
    assert_eq!((peers(&leaving, US), peers(&leaving, EU)), (vec![EU], vec![US]));
    assert_eq!(leave_mesh(&leaving, &node_name("us-1")), Ok(leaving.clone()), "once more");

    let token = token_of(&leaving, "us-1");
    let stale = FencingToken::new(token.get() + 1);
    let refused = record_left(&leaving, US, stale, &[EVERYWHERE]).expect_err("not its token");
    assert!(matches!(refused, EditError::TokenMismatch { .. }), "{refused}");
    let left = record_left(&leaving, US, token, &[EVERYWHERE]).expect("recorded");
    assert_eq!(left.node(US).map(|node| node.state), Some(NodeState::Removed));
    assert!(!left.is_holder(US, EVERYWHERE) && peers(&left, EU).is_empty());
    assert_eq!(record_left(&left, US, token, &[EVERYWHERE]), Ok(left), "once more");
}

/// A word that was long under way says nothing of a departure that came after it.
#[test]
fn what_was_left_by_an_older_document_is_not_recorded() {
    let before = placed_in_both();
    let leaving = leave_mesh(&before, &node_name("us-1")).expect("the other stays");
    let token = token_of(&leaving, "us-1");
    let later = apply_region(&leaving, &region("asia")).expect("it is new");
    let record = |topology: &Topology, by| record_left_by(topology, US, token, &[EVERYWHERE], by);
    let (by, newest) = (leaving.version, later.version);
    assert_eq!(record(&later, by), Err(EditError::LeftByOlder { by, newest }));
    let left = record(&later, newest).expect("it goes by the newest");
    assert!(!left.is_holder(US, EVERYWHERE));
    assert_eq!(record(&left, by), Ok(left.clone()), "nothing would change");
}

#[test]
fn a_node_that_holds_nothing_is_removed_at_once() {
    let left = leave_mesh(&two_regions(), &node_name("us-1")).expect("it holds nothing");
    assert_eq!(left.node(US).map(|node| node.state), Some(NodeState::Removed));
    let unknown = leave_mesh(&left, &node_name("us-9")).expect_err("was never there");
    assert!(matches!(unknown, EditError::UnknownNodeName(_)), "{unknown}");
}

#[test]
fn the_last_member_stays() {
    let topology = two_regions();
    let topology =
        create_namespace(&topology, &namespace("eu"), &[group("europe")], 0).expect("created");
    for edited in [leave_mesh, remove_node] {
        let refused = edited(&topology, &node_name("eu-1")).expect_err("nobody else holds it");
        assert!(matches!(refused, EditError::LastMember(_)), "{refused}");
    }
    let all = placed_in_both();
    let alone = leave_mesh(&all, &node_name("us-1")).expect("the other stays");
    let refused = leave_mesh(&alone, &node_name("eu-1")).expect_err("the other leaves");
    assert!(matches!(refused, EditError::LastMember(_)), "{refused}");
}

#[test]
fn removal_by_force_waits_for_nothing() {
    let leaving = leave_mesh(&placed_in_both(), &node_name("us-1")).expect("the other stays");
    let removed = remove_node(&leaving, &node_name("us-1")).expect("the other stays");
    assert_eq!(removed.node(US).map(|node| node.state), Some(NodeState::Removed));
    assert!(removed.namespaces[0].leaving.is_empty());
    assert_eq!(removed.validate(), Ok(()));
    assert_eq!(remove_node(&removed, &node_name("us-1")), Ok(removed), "once more");
}

#[test]
fn a_namespace_leaves_a_region_with_its_group() {
    let topology = update_namespace(&placed_in_both(), &namespace("all"), &[group("europe")], None)
        .expect("placed twice in one region");
    let smaller =
        remove_groups(&topology, &namespace("all"), &[group("both")]).expect("europe stays");
    assert!(smaller.is_member(EU, EVERYWHERE));
    assert!(smaller.is_leaving(US, EVERYWHERE) && !smaller.is_member(US, EVERYWHERE));
    let nowhere = remove_groups(&smaller, &namespace("all"), &[group("europe")]);
    assert!(matches!(nowhere, Err(EditError::Empty(_))), "{nowhere:?}");

    let again = update_namespace(&smaller, &namespace("all"), &[group("both")], None);
    let again = again.expect("it is taken back");
    assert!(again.is_member(US, EVERYWHERE) && !again.is_leaving(US, EVERYWHERE));

    let token = token_of(&smaller, "us-1");
    let left = record_left(&smaller, US, token, &[EVERYWHERE]).expect("recorded");
    assert_eq!(left.node(US).map(|node| node.state), Some(NodeState::Active), "it stays");
    assert!(!left.is_holder(US, EVERYWHERE));
}

#[test]
fn a_group_loses_a_region_only_by_word() {
    let topology = placed_in_both();
    let regions = [region("eu")];
    let refused = apply_group(&topology, &group("both"), &regions).expect_err("not said");
    assert!(matches!(refused, EditError::RegionInUse { .. }), "{refused}");
    let smaller = apply_group_and_leave(&topology, &group("both"), &regions).expect("said");
    assert!(smaller.is_leaving(US, EVERYWHERE));
    assert_eq!(smaller.version.number, topology.version.number + 1);
}

#[test]
fn a_region_is_given_up_when_its_nodes_are_gone() {
    let topology = placed_in_both();
    let refused = remove_region(&topology, &region("us")).expect_err("a node is there");
    assert!(matches!(refused, EditError::RegionHasNodes { .. }), "{refused}");
    let removed = remove_node(&topology, &node_name("us-1")).expect("the other stays");
    let smaller = remove_region(&removed, &region("us")).expect("nobody is there");
    assert_eq!(smaller.regions, [region("eu")]);
    assert_eq!(smaller.validate(), Ok(()));
    assert!(smaller.node(US).is_some(), "its number stays taken");
    assert!(smaller.groups.iter().all(|group| !group.regions.contains(&region("us"))));
    let unknown = remove_region(&smaller, &region("us")).expect_err("it is gone");
    assert!(matches!(unknown, EditError::UnknownRegion(_)), "{unknown}");
}

#[test]
fn a_namespace_keeps_its_only_region() {
    let mut topology = two_regions();
    topology =
        create_namespace(&topology, &namespace("eu"), &[group("europe")], 0).expect("created");
    topology.nodes[0].state = NodeState::Removed;
    let refused = remove_region(&topology, &region("eu")).expect_err("it would be nowhere");
    assert!(matches!(refused, EditError::PlacedNowhere { .. }), "{refused}");
}

/// What was minted in the lost time and what the old copy minted are both below.
#[test]
fn an_adopted_document_is_above_both() {
    let old = two_regions();
    let newest = register_node(&placed_in_both(), &registration("us-1", "us")).expect("again");
    let mut minted = old.clone();
    for _ in 0..3 {
        minted = register_node(&minted, &registration("eu-1", "eu")).expect("again");
    }
    let adopted = adopt(&minted, &newest);
    assert!(adopted.version > newest.version && adopted.version > minted.version);
    assert_eq!(adopted.version.generation, 2);
    assert_eq!(adopted.namespaces, newest.namespaces);
    assert_eq!(token_of(&adopted, "us-1"), token_of(&newest, "us-1"));
    assert_eq!(token_of(&adopted, "eu-1"), token_of(&minted, "eu-1"));
    let next = register_node(&adopted, &registration("us-2", "us")).expect("registers");
    assert_eq!(next.version.generation, 2);
}

/// What a node does not understand is not begun, and where it has begun such a node does
/// not take part; it may again when that is over.
#[test]
fn nobody_leaves_before_all_understand_it() {
    let old = |name: &str, region: &str| NodeRegistration {
        feature_level: FIRST_FEATURE_LEVEL,
        ..registration(name, region)
    };
    let mixed = register_node(&placed_in_both(), &old("eu-1", "eu")).expect("it was upgraded last");
    let lacks = |topology| who_lacks(topology, Feature::Leaving).map(NodeName::as_str);
    assert_eq!(lacks(&mixed), Some("eu-1"));
    let too_early = EditError::TooEarly { node: node_name("eu-1"), feature: Feature::Leaving };
    assert_eq!(leave_mesh(&mixed, &node_name("us-1")), Err(too_early.clone()));
    let smaller = apply_group_and_leave(&mixed, &group("both"), &[region("eu")]);
    assert_eq!(smaller, Err(too_early));

    let upgraded = register_node(&mixed, &registration("eu-1", "eu")).expect("it is newer now");
    assert_eq!(lacks(&upgraded), None);
    let leaving = leave_mesh(&upgraded, &node_name("us-1")).expect("all understand it");
    let refused = register_node(&leaving, &old("eu-1", "eu")).expect_err("it went back too early");
    assert!(matches!(refused, EditError::NotUnderstood { .. }), "{refused}");
    let token = token_of(&leaving, "us-1");
    let left = record_left(&leaving, US, token, &[EVERYWHERE]).expect("recorded");
    let back = register_node(&left, &old("eu-1", "eu")).expect("nothing new is in use");
    assert_eq!(lacks(&back), Some("eu-1"));
    let mut gone = upgraded.clone();
    gone.nodes.iter_mut().filter(|node| node.number == US).for_each(|node| {
        (node.state, node.feature_level) = (NodeState::Removed, FIRST_FEATURE_LEVEL);
    });
    assert_eq!(lacks(&gone), None, "whoever is gone does not count");
    // By force nothing is handed over: every build understands that.
    let removed = remove_node(&mixed, &node_name("us-1")).expect("by force");
    assert_eq!(removed.node(US).map(|node| node.state), Some(NodeState::Removed));
}

/// A build that knows neither levels nor who leaves passes a document on without them.
#[test]
fn a_copy_that_an_older_build_passed_on_is_no_other_document() {
    let full = leave_mesh(&placed_in_both(), &node_name("us-1")).expect("the other stays");
    let mut copy = full.clone();
    copy.nodes.iter_mut().for_each(|node| node.feature_level = FIRST_FEATURE_LEVEL);
    copy.namespaces.iter_mut().for_each(|namespace| namespace.leaving.clear());
    assert_eq!(compare_same_version(&full, &full), SameVersion::Known);
    assert_eq!(compare_same_version(&full, &copy), SameVersion::Known);
    assert_eq!(compare_same_version(&copy, &full), SameVersion::Fuller);
    let mut other = copy.clone();
    other.nodes[0].client_address.push('0');
    assert_eq!(compare_same_version(&full, &other), SameVersion::Conflict);
    assert_eq!(compare_same_version(&other, &full), SameVersion::Conflict);
    let mut half = full.clone();
    half.namespaces[0].leaving.clear();
    assert_eq!(compare_same_version(&full, &half), SameVersion::Conflict, "no build does that");
}
