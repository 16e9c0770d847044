//! Files that are understood, and what is said of those that are not.

use proptest::prelude::*;

use super::*;

const FILE: &str = r#"version = 3
regions = ["eu", "us"]

[[groups]]
number = 1
name = "all"
regions = ["eu", "us"]

[[groups]]
number = 2
name = "europe"
regions = ["eu"]

[[nodes]]
number = 1
name = "eu-1"
region = "eu"
replication_address = "eu-1.example:7300"
client_address = "[::1]:7200"

[[nodes]]
number = 4
name = "us-1"
region = "us"
replication_address = "127.0.0.1:1"
client_address = "127.0.0.1:2"
state = "leaving"

[[namespaces]]
number = 1
name = "news"
groups = ["all"]
leaving = ["us-1"]

[[namespaces]]
number = 7
name = "local"
groups = ["europe", "all"]
disk_cap_bytes = 9
founders = ["us-1"]
"#;

fn read(text: &str) -> Result<Topology, TopologyFileError> {
    parse(text, Path::new("mesh.toml"))
}

#[test]
fn a_file_says_who_holds_what() {
    let topology = read(FILE).expect("a good file");
    assert_eq!(topology.version, TopologyVersion { generation: 1, number: 3 });
    assert_eq!(topology.regions.len(), 2);
    assert_eq!(topology.groups[1].number, GroupNumber::new(2));
    let us = topology.node(NodeNumber::new(4)).expect("is there");
    assert_eq!((us.name.as_str(), us.state), ("us-1", NodeState::Leaving));
    assert_eq!(topology.nodes[0].client_address, "[::1]:7200");

    let founders = |number| -> Vec<u32> {
        let namespace = topology.namespace(NamespaceNumber::new(number)).expect("is there");
        assert!(namespace.founders.iter().all(|founder| !founder.opened));
        namespace.founders.iter().map(|founder| founder.node.get()).collect()
    };
    assert_eq!(founders(1), [1], "the active nodes");
    assert_eq!(founders(7), [4], "those that are named");
    assert_eq!(topology.namespaces[1].disk_cap_bytes, 9);
    assert_eq!(topology.namespaces[0].leaving, [NodeNumber::new(4)]);
    assert!(topology.is_holder(NodeNumber::new(4), NamespaceNumber::new(1)));
}

#[test]
fn the_example_in_the_documentation_is_a_good_file() {
    let source = include_str!("../topology_file.rs");
    let example: String = source
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
        .collect();
    let topology = read(&example).expect("a good file");
    assert_eq!(topology.namespaces.len(), 1);
}

/// Each fault, by what is replaced in the good file, with the line that is named.
#[test]
fn faults_are_named_with_their_line() {
    for (from, to, line, said) in [
        ("number = 4", "number = 1", 22, "node number 1 is taken"),
        ("number = 4", "number = 0", 22, "begin with 1"),
        ("\"us-1\"\nregion", "\"eu-1\"\nregion", 23, "node eu-1 is there already"),
        ("\"us-1\"\nregion", "\"US\"\nregion", 23, "not allowed"),
        ("region = \"us\"", "region = \"mars\"", 24, "the region mars is not in"),
        ("127.0.0.1:2", "here", 26, "client_address"),
        ("name = \"europe\"", "name = \"all\"", 11, "group all is there already"),
        ("regions = [\"eu\"]", "regions = [\"eu\",\n\"ap\"]", 13, "the region ap is not in"),
        ("groups = [\"all\"]", "groups = [\"al\"]", 32, "there is no group al"),
        ("groups = [\"all\"]", "groups = []", 32, "one group at least"),
        ("groups = [\"all\"]", "groups = [\"all\", \"all\"]", 32, "there already"),
        ("founders = [\"us-1\"]", "founders = [\"us-2\"]", 40, "there is no node us-2"),
        ("leaving = [\"us-1\"]", "leaving = [\"us-2\"]", 33, "there is no node us-2"),
        ("leaving = [\"us-1\"]", "leaving = [\"eu-1\"]", 33, "is a member of this namespace"),
        ("leaving = [\"us-1\"]", "", 27, "leaves and no namespace lists it"),
        ("\"europe\", \"all\"", "\"europe\"", 40, "in no group of this namespace"),
        ("number = 7", "number = 1", 36, "namespace number 1 is taken"),
        (
            "regions = [\"eu\", \"us\"]\n\n",
            "regions = [\"eu\", \"us\", \"eu\"]\n\n",
            2,
            "region eu",
        ),
    ] {
        let text = FILE.replacen(from, to, 1);
        assert_ne!(text, FILE, "{from}");
        let error = read(&text).expect_err(to);
        let TopologyFileError::Rule { line: named, .. } = &error else {
            panic!("{to}: {error}");
        };
        let message = error.to_string();
        assert_eq!(*named, line, "{to}: {message}");
        assert!(message.starts_with(&format!("mesh.toml:{line}: ")), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn unknown_keys_and_missing_ones_are_named_with_their_line() {
    for (from, to, line, said) in [
        ("disk_cap_bytes = 9", "disk_cap = 9", "line 39", "disk_cap"),
        ("version = 3", "", "TOML parse error", "version"),
        ("state = \"leaving\"", "state = \"gone\"", "line 27", "gone"),
        ("number = 7", "number = -7", "line 36", "-7"),
    ] {
        let error = read(&FILE.replacen(from, to, 1)).expect_err(to);
        assert!(matches!(error, TopologyFileError::Syntax { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(line) && message.contains(said), "{message}");
        assert!(message.contains("mesh.toml"), "{message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nowhere/mesh.toml")).expect_err("is not there");
    assert!(error.to_string().contains("/nowhere/mesh.toml"), "{error}");
}

proptest! {
    /// Whatever a slip of the pen makes of a good file: a topology that holds its
    /// rules, or an error that names a line of it.
    #[test]
    fn slips_of_the_pen_are_understood_or_named(
        at in 0..FILE.len(),
        removed in 0_usize..12,
        written in "[a-z0-9\"=\\[\\],\n.: -]{0,6}",
    ) {
        let mut text = FILE.to_owned();
        text.replace_range(at..(at + removed).min(FILE.len()), &written);
        match read(&text) {
            Ok(topology) => prop_assert_eq!(topology.validate(), Ok(())),
            Err(TopologyFileError::Rule { line, message, .. }) => {
                prop_assert!(line >= 1 && line <= text.lines().count(), "{}: {}", line, message);
            }
            Err(TopologyFileError::Syntax { .. }) => {}
            Err(error) => prop_assert!(false, "no file was read: {}", error),
        }
    }
}
