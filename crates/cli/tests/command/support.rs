//! A mesh of two regions, and the command against it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::ensure;
use interlock_cli::dev_mesh::{DevMesh, DevMeshOptions};
use serde_json::Value;
use tempfile::TempDir;
use xtask::interlock_command::{Interlock, eventually};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const REGIONS: [&str; 2] = ["europe", "asia"];

/// Where the command was built.
pub(crate) fn binaries() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_interlock")).parent().expect("a folder").to_owned()
}

/// A mesh with the namespace `demo` in both regions, and the command's context.
pub(crate) struct World {
    pub(crate) mesh: DevMesh,
    pub(crate) folder: TempDir,
    pub(crate) interlock: Interlock,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_web_origin(None).await
    }

    pub(crate) async fn with_web_origin(web_origin: Option<String>) -> Self {
        interlock_rpc::install_crypto_provider();
        let folder = tempfile::tempdir().expect("a folder");
        let options = DevMeshOptions {
            folder: folder.path().to_owned(),
            regions: REGIONS.map(str::to_owned).to_vec(),
            web_origin,
        };
        let mesh = DevMesh::start(options).await.expect("the mesh starts");
        let context = folder.path().join("context.toml");
        mesh.write_context(&context).expect("written");
        let world = Self { mesh, folder, interlock: Interlock::new(&binaries(), &context) };
        let regions = REGIONS.join(",");
        world.until("the regions", || {
            world.interlock.json("europe", &["group", "apply", "world", "--regions", &regions])
        });
        world.json("europe", &["namespace", "create", "demo", "--groups", "world"]);
        world.until_ready();
        world
    }

    /// Waits until every node that is up accepts for what it is a member of.
    pub(crate) fn until_ready(&self) {
        self.until("all are ready", || {
            let status = self.interlock.json("europe", &["status"])?;
            for node in status["nodes"].as_array().into_iter().flatten() {
                let ready =
                    |namespace: &Value| namespace["name"] == "demo" && namespace["ready"] == true;
                let namespaces = node["namespaces"].as_array();
                ensure!(namespaces.is_some_and(|all| all.iter().any(ready)), "{node:#}");
            }
            Ok(())
        });
    }

    /// Makes a channel of `demo` and waits until both regions have it.
    pub(crate) fn channel(&self, name: &str) {
        let path = format!("demo/{name}");
        self.json("europe", &["channel", "create", &path]);
        self.until("the channel", || self.interlock.json("asia", &["channel", "show", &path]));
    }

    pub(crate) fn until<T>(&self, what: &str, mut attempt: impl FnMut() -> anyhow::Result<T>) {
        let reached = eventually(what, PATIENCE, || attempt().map(|_| ()));
        reached.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Runs to the end, however that is.
    pub(crate) fn run(&self, region: &str, arguments: &[&str]) -> Ran {
        let output = self.interlock.command(region, arguments).stdin(Stdio::null()).output();
        output.expect("it starts").into()
    }

    /// Runs with this as its input.
    pub(crate) fn run_with(&self, region: &str, arguments: &[&str], input: &[u8]) -> Ran {
        run_with(&mut self.interlock.command(region, arguments), input)
    }

    /// What it printed as a table; it must succeed, and say nothing else.
    pub(crate) fn table(&self, region: &str, arguments: &[&str]) -> String {
        let ran = self.run(region, arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}: {}", ran.stdout);
        ran.stdout
    }

    /// What it printed as JSON; it must succeed.
    pub(crate) fn json(&self, region: &str, arguments: &[&str]) -> Value {
        let printed = self.interlock.json(region, arguments);
        printed.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// How it fails: the code, with words of ours and none of a panic.
    #[track_caller]
    pub(crate) fn fails(&self, region: &str, arguments: &[&str], code: i32) -> String {
        let ran = self.run(region, arguments);
        ran.assert_failed(code);
        ran.stderr
    }

    /// Ends it without the patience of an orderly end.
    pub(crate) async fn end(mut self) {
        for region in REGIONS {
            // Where a test has ended it already, there is nothing to do.
            let _ = self.mesh.abort_node(region).await;
        }
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.starts_with("interlock: "), "{self:?}");
    }

    /// A JSON object per line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).expect("JSON");
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs a command with this as its input.
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends").into()
}

/// The rows of a JSON answer's list, by name.
pub(crate) fn row<'a>(rows: &'a Value, name: &str) -> &'a Value {
    let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {rows:#}"))
}

/// The line of a table that begins so.
pub(crate) fn line<'a>(table: &'a str, beginning: &str) -> &'a str {
    let found = table.lines().find(|line| line.trim_start().starts_with(beginning));
    found.unwrap_or_else(|| panic!("no {beginning} in {table}"))
}
