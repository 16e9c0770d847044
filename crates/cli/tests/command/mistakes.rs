//! The caller's mistakes, which end with 2 and say what to do.

use std::process::{Command, Stdio};

use crate::support::{Ran, World};

/// Runs the command by itself, without a context of its own.
fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interlock"));
    for variable in ["INTERLOCK_CONTEXT_FILE", "INTERLOCK_CONTEXT", "INTERLOCK_REGION"] {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null()).output().expect("it starts").into()
}

#[test]
fn contexts_that_are_none_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("context.toml");
    let file = path.to_str().expect("UTF-8").to_owned();
    let fails = |text: Option<&str>, arguments: &[&str], expected: &str| {
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
        }
        let ran = run(&[&["--context-file", &file], arguments].concat());
        ran.assert_failed(2);
        assert!(ran.stderr.contains(expected), "{text:?}: {ran:?}");
    };
    let good =
        "current = \"x\"\n[contexts.x.regions.europe]\npush_nodes = [\"http://127.0.0.1:1\"]\n";
    fails(None, &["status"], "interlock dev");
    fails(Some("current = "), &["status"], "context.toml");
    fails(Some("current = \"x\"\ncontext = 1\n"), &["status"], "unknown field");
    fails(Some("current = \"y\"\n[contexts.x]\n"), &["status"], "the file has: x");
    fails(Some("current = \"x\"\n[contexts.x]\n"), &["status"], "no region");
    fails(Some(good), &["--context", "z", "status"], "the file has: x");
    fails(Some(good), &["--region", "mars", "status"], "it has: europe");
    fails(Some(good), &["history", "demo/a"], "no gateway");
    fails(Some(&good.replace("http://127.0.0.1:1", "a b")), &["status"], "context.toml");
}

#[test]
fn arguments_that_make_no_sense_are_named() {
    for (arguments, expected) in [
        (["publish", "no-channel", "x"].as_slice(), "namespace/channel"),
        (&["publish", "demo/a", "x", "--durability", "most"], "local, peers:N and all"),
        (&["subscribe", "demo/a", "--from", "yesterday"], "time:RFC3339"),
        (&["channel", "create", "demo/a", "--label", "x"], "key=value"),
        (&["status", "--watch", "soon"], "soon"),
        (&["completion", "cobol"], "cobol"),
        (&["fly"], "fly"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
    run(&["cursor", "show", "nonsense"]).assert_failed(2);
    let completion = run(&["completion", "bash"]);
    assert_eq!(completion.code, 0);
    assert!(completion.stdout.contains("interlock"), "{completion:?}");
}

#[test]
fn a_data_folder_that_is_none_is_not_made_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let misspelt = folder.path().join("misspelt");
    let path = misspelt.to_str().expect("UTF-8");
    for arguments in
        [["node", "recover", path].as_slice(), &["node", "recover", path, "--accept-loss"]]
    {
        let ran = run(arguments);
        ran.assert_failed(1);
        assert!(ran.stderr.contains("there is no database in"), "{ran:?}");
        assert!(!misspelt.exists(), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_that_only_a_mesh_shows_are_named() {
    let world = World::start().await;
    world.channel("hello");
    world.fails("europe", &["publish", "demo/hello"], 2);
    world.fails("europe", &["publish", "demo/hello", "--file", "/nowhere"], 2);
    world.fails("europe", &["publish", "demo/hello", "--lines", "/nowhere"], 2);
    world.fails("europe", &["publish", "demo/not a name", "x"], 2);
    world.fails("europe", &["history", "demo/a", "other/b"], 2);
    world.fails("europe", &["bench", "replicate", "demo/hello", "--to", "mars"], 2);
    let file = world.folder.path().join("large");
    std::fs::write(&file, vec![b'x'; 1024 * 1024 + 1]).expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    let said = world.fails("europe", &["publish", "demo/hello", "--file", &file], 2);
    assert!(said.contains("1048577 bytes"), "{said}");
    world.end().await;
}
