//! Which crate may use what: the table of ARCHITECTURE.md, held against the
//! manifests. Development dependencies are free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// One row of the table.
struct Rule {
    /// The folder under `crates/`.
    folder: String,
    /// The packages of this workspace that it may use.
    ours: Vec<String>,
    /// All foreign packages that it may use, or those that it must not.
    foreign: Foreign,
}

enum Foreign {
    Only(Vec<String>),
    Never(Vec<String>),
}

/// The table, as people read it.
fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let list = |cell: &str| -> Vec<String> {
        cell.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect()
    };
    let rows = text.lines().skip_while(|line| *line != "| crate | ours | not ours |").skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [folder, ours, foreign] = cells[..] else { panic!("three cells: {line}") };
            let foreign = match (foreign.strip_prefix("only "), foreign.strip_prefix("never ")) {
                (Some(only), _) => Foreign::Only(list(only)),
                (_, Some(never)) => Foreign::Never(list(never)),
                _ => panic!("neither only nor never: {line}"),
            };
            Rule { folder: folder.to_owned(), ours: list(ours), foreign }
        })
        .collect()
}

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

/// All Rust text under a folder.
fn sources(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut text = String::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
    text
}

/// Whether a crate is named somewhere, in a path or by `use`.
fn is_named(krate: &str, sources: &str) -> bool {
    sources.match_indices(krate).any(|(at, _)| {
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let behind = &sources[at + krate.len()..];
        !sources[..at].ends_with(is_name)
            && ["::", ";", " as "].iter().any(|next| behind.starts_with(next))
    })
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
    let rows: BTreeSet<String> = rules().into_iter().map(|rule| rule.folder).collect();
    assert_eq!(folders, rows);
    for folder in folders {
        // A package called `core` would break what derives write.
        assert_eq!(package_name(&crate_manifest(&folder)), format!("interlock-{folder}"));
    }
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let mut violations = Vec::new();
    for rule in rules() {
        for package in dependencies(&crate_manifest(&rule.folder)) {
            let is_allowed = match package.strip_prefix("interlock-") {
                Some(ours) => rule.ours.iter().any(|allowed| allowed == ours),
                None => match &rule.foreign {
                    Foreign::Only(allowed) => allowed.contains(&package),
                    Foreign::Never(banned) => !banned.contains(&package),
                },
            };
            if !is_allowed {
                violations.push(format!("{} must not use {package}", rule.folder));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

/// A dependency that nothing names costs every build, and says something untrue
/// about what uses what.
#[test]
fn every_dependency_is_used() {
    let mut folders: Vec<PathBuf> =
        rules().iter().map(|rule| root().join("crates").join(&rule.folder)).collect();
    folders.push(root().join("xtask"));
    let mut unused = Vec::new();
    for folder in folders {
        let built = sources(&folder.join("src"));
        let tested = ["tests", "examples", "benches"].map(|kind| sources(&folder.join(kind)));
        let tested = [built.clone(), tested.concat()].concat();
        let manifest = manifest(&folder);
        for (table, text) in [("dependencies", &built), ("dev-dependencies", &tested)] {
            let names = manifest.get(table).and_then(Value::as_table).into_iter().flatten();
            for (name, _) in names.filter(|(name, _)| !is_named(&name.replace('-', "_"), text)) {
                unused.push(format!("{}: {table}: {name}", folder.display()));
            }
        }
    }
    assert!(unused.is_empty(), "{unused:#?}");
    assert!(is_named("rand", "use rand::random;") && !is_named("rand", "brand::new(); // rand"));
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
    for rule in rules() {
        for name in ["clippy.toml", ".clippy.toml"] {
            let nearer = root().join("crates").join(&rule.folder).join(name);
            assert!(!nearer.exists(), "{nearer:?} replaces the root's");
        }
    }
}
