//! `interlock dev`: a mesh in one process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Deserializer, Value};
use xtask::interlock_command::{Interlock, eventually, finish};

use crate::support::{PATIENCE, binaries, row};

fn start(arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_interlock"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    (child, stdout)
}

/// Asks it to end and waits until it has, in order.
fn end(child: Child, signal: &str) {
    let number = child.id().to_string();
    let killed = Command::new("kill").args([signal, &number]).status().expect("it starts");
    assert!(killed.success());
    finish(child, "the mesh", PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn its_addresses_are_json_where_that_is_asked_for_and_sigterm_ends_it() {
    let (child, mut stdout) = start(&["-o", "json", "dev", "--regions", "north,south"]);
    let mut documents = Deserializer::from_reader(&mut stdout).into_iter::<Value>();
    let said = documents.next().expect("it says something").expect("JSON");
    let context = said["context_file"].as_str().expect("a path");
    assert!(said["control_plane"].as_str().is_some_and(|url| url.starts_with("http://")));
    let gateways = &said["regions"]["south"]["gateways"];
    assert!(gateways[0].as_str().is_some_and(|url| url.starts_with("http://")), "{said:#}");
    assert!(said["metrics"]["north-1"].is_string(), "{said:#}");

    let interlock = Interlock::new(&binaries(), context.as_ref());
    let created = eventually("the namespace", PATIENCE, || {
        interlock.json("north", &["channel", "create", "demo/hello"]).map(|_| ())
    });
    created.unwrap_or_else(|error| panic!("{error:#}"));
    let nodes = interlock.json("south", &["node", "list"]).expect("it answers");
    assert_eq!(row(&nodes["nodes"], "south-1")["region"], "south");
    drop(documents);
    end(child, "-TERM");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!(rest.trim(), "", "one document and nothing else");
}

#[test]
fn it_says_what_to_try_and_keeps_its_data_where_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    for _ in 0..2 {
        let (child, stdout) = start(&["dev", "--regions", "north", "--data-dir", data]);
        let mut lines = stdout.lines().map(|line| line.expect("text"));
        let mut until = |what: &str| {
            lines.find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} is not said"))
        };
        until("namespace demo is placed");
        until(&format!("INTERLOCK_CONTEXT_FILE={data}/context.toml"));
        until("Ctrl-C stops it");
        end(child, "-INT");
    }
    assert!(folder.path().join("north-1").exists());
}
