//! Which crate may use what: the table of ARCHITECTURE.md, held against the
//! manifests. Development dependencies are free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// One row of the table.
struct Rule {
    /// The folder under `crates/`.
    folder: &'static str,
    /// The packages of this workspace that it may use.
    ours: &'static [&'static str],
    /// All foreign packages that it may use, or those that it must not.
    foreign: Foreign,
}

enum Foreign {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}

use Foreign::{Never, Only};

const SERVICE_MAY_USE: &[&str] = &["core", "storage", "rpc", "telemetry", "wire"];
const GATEWAY_MAY_USE: &[&str] = &["core", "rpc", "telemetry", "wire"];

const RULES: &[Rule] = &[
    // The rules: no runtime, no protobuf, no disk, no ambient randomness.
    Rule { folder: "core", ours: &[], foreign: Only(&["bytes", "thiserror", "xxhash-rust"]) },
    Rule {
        folder: "storage",
        ours: &["core"],
        foreign: Never(&["tonic", "tonic-prost", "prost", "prost-types", "hyper"]),
    },
    Rule { folder: "rpc", ours: &["core", "wire"], foreign: Never(&["rocksdb", "axum"]) },
    Rule { folder: "telemetry", ours: &[], foreign: Never(&["rocksdb", "tonic", "prost"]) },
    Rule { folder: "push-node", ours: SERVICE_MAY_USE, foreign: Never(&["rocksdb"]) },
    Rule { folder: "control-plane", ours: SERVICE_MAY_USE, foreign: Never(&["rocksdb"]) },
    Rule { folder: "subscriber-gateway", ours: GATEWAY_MAY_USE, foreign: Never(&["rocksdb"]) },
    Rule { folder: "client", ours: &["core", "wire", "rpc"], foreign: Never(&["rocksdb"]) },
    Rule {
        folder: "cli",
        ours: &[
            "core",
            "storage",
            "rpc",
            "telemetry",
            "wire",
            "client",
            "push-node",
            "control-plane",
            "subscriber-gateway",
        ],
        foreign: Never(&["rocksdb"]),
    },
    Rule {
        folder: "simulation",
        ours: &["core", "storage"],
        foreign: Never(&["tokio", "tonic", "prost", "rocksdb", "rand", "interlock-wire"]),
    },
];

/// Packages of which the whole graph has one version, because their types or
/// their state must be the same everywhere.
const ONE_VERSION: &[&str] =
    &["tonic", "prost", "hyper", "h2", "http", "rustls", "tokio", "axum", "opentelemetry"];

/// The wire contract knows its encoding and nothing else.
const WIRE_MAY_USE: &[&str] = &["bytes", "prost", "tonic", "tonic-prost"];

/// What the task runner must stay without, so that it builds in seconds.
const XTASK_NEVER: &[&str] = &["tonic", "prost", "rocksdb", "rustls", "axum", "reqwest"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(folder: &Path) -> Table {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn crate_manifest(folder: &str) -> Table {
    manifest(&root().join("crates").join(folder))
}

fn package_name(manifest: &Table) -> &str {
    manifest["package"]["name"].as_str().expect("a package has a name")
}

/// What a package is built from: its dependencies on every platform, with
/// optional ones, under the names they really have.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    let mut tables: Vec<&Table> =
        manifest.get("dependencies").and_then(Value::as_table).into_iter().collect();
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        let of_target = |target: &'_ Value| target.get("dependencies")?.as_table().cloned();
        let all: Vec<Table> = targets.values().filter_map(of_target).collect();
        assert!(all.is_empty(), "dependencies by platform have no place in the table yet");
    }
    let build = manifest.get("build-dependencies").and_then(Value::as_table);
    if package_name(manifest) != "interlock-wire" {
        tables.extend(build);
    }
    tables
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let renamed = value.get("package").and_then(Value::as_str);
            renamed.unwrap_or(name).to_owned()
        })
        .collect()
}

fn is_ours(package: &str) -> bool {
    package.starts_with("interlock-")
}

#[test]
fn every_crate_has_a_row_and_every_row_a_crate() {
    let folders: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .expect("the folder of crates")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("plain"))
        .collect();
    let rows: BTreeSet<String> = RULES.iter().map(|rule| rule.folder.to_owned()).collect();
    assert_eq!(folders, rows);
    for folder in folders {
        // A package called `core` would break what derives write.
        assert_eq!(package_name(&crate_manifest(&folder)), format!("interlock-{folder}"));
    }
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let mut violations = Vec::new();
    for rule in RULES {
        for package in dependencies(&crate_manifest(rule.folder)) {
            let is_allowed = match package.strip_prefix("interlock-") {
                Some(ours) => rule.ours.contains(&ours),
                None => match rule.foreign {
                    Only(allowed) => allowed.contains(&package.as_str()),
                    Never(banned) => {
                        // The one place of RocksDB; its feature is checked below.
                        !banned.contains(&package.as_str())
                    }
                },
            };
            if !is_allowed {
                violations.push(format!("{} must not use {package}", rule.folder));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn the_wire_contract_and_the_task_runner_stay_light() {
    let wire = dependencies(&manifest(&root()));
    let allowed: BTreeSet<String> = WIRE_MAY_USE.iter().map(|&name| name.to_owned()).collect();
    assert!(wire.is_subset(&allowed), "{:?}", wire.difference(&allowed));

    let xtask = dependencies(&manifest(&root().join("xtask")));
    let heavy: Vec<_> =
        xtask.iter().filter(|name| is_ours(name) || XTASK_NEVER.contains(&name.as_str())).collect();
    assert!(heavy.is_empty(), "xtask must not use {heavy:?}");
}

#[test]
fn rocksdb_stands_behind_a_feature_that_is_off_by_default() {
    let storage = crate_manifest("storage");
    assert_eq!(storage["dependencies"]["rocksdb"].get("optional"), Some(&Value::Boolean(true)));
    let features = storage["features"].as_table().expect("a table");
    assert!(features.contains_key("rocks"));
    let default = features.get("default").and_then(Value::as_array);
    assert!(default.is_none_or(Vec::is_empty), "default features: {default:?}");

    let simulation = crate_manifest("simulation");
    let features = simulation["dependencies"]["interlock-storage"].get("features");
    assert_eq!(features, None, "the simulation works with the memory storage");
}

#[test]
fn one_version_of_what_must_agree_and_one_source_of_cryptography() {
    let text = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file");
    let lock: Table = text.parse().expect("TOML");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        versions.entry(name).or_default().push(package["version"].as_str().expect("a version"));
    }
    for name in ONE_VERSION {
        assert_eq!(versions.get(name).map(Vec::len), Some(1), "{name}: {:?}", versions.get(name));
    }
    for other in ["aws-lc-rs", "openssl", "openssl-sys", "native-tls"] {
        assert!(!versions.contains_key(other), "{other} beside ring");
    }
}

/// A `clippy.toml` nearer to a crate would replace the one at the root, and with
/// it the core's bans.
#[test]
fn the_bans_of_the_core_hold() {
    let core = fs::read_to_string(root().join("crates/core/src/lib.rs")).expect("core");
    assert!(core.contains("#![deny(clippy::disallowed_methods, clippy::disallowed_types)]"));
    let bans = fs::read_to_string(root().join("clippy.toml")).expect("the bans");
    for banned in ["Instant::now", "SystemTime::now", "HashMap", "HashSet"] {
        assert!(bans.contains(banned), "{banned} is not banned");
    }
    for rule in RULES {
        for name in ["clippy.toml", ".clippy.toml"] {
            let nearer = root().join("crates").join(rule.folder).join(name);
            assert!(!nearer.exists(), "{nearer:?} replaces the root's");
        }
    }
}
