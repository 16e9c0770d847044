//! `cargo xtask demo`: three regions on this machine, to look at or to check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::story;
use crate::web_origin::WebOrigin;
use crate::workspace::{self, binaries};
use xtask::interlock_command::{Interlock, eventually};
use xtask::mesh::{Mesh, REGIONS};

/// Every message's payload ends here; a longer line cannot be published.
const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// How `cargo xtask demo` is called.
#[derive(Args)]
pub struct DemoArguments {
    /// Run the story of M1–M15 on real input, without a terminal, and exit.
    #[arg(long)]
    check: bool,
    /// The file whose lines are published with --check.
    #[arg(long, requires = "check")]
    input: Option<PathBuf>,
    /// Forget the data of the last demonstration.
    #[arg(long)]
    fresh: bool,
    /// Use the binaries that were built before.
    #[arg(long)]
    no_build: bool,
}

/// Runs the demonstration or the check.
pub fn run(root: &Path, arguments: &DemoArguments) -> Result<()> {
    if arguments.check {
        // The input is checked before anything is built or started.
        let path = arguments.input.clone().unwrap_or_else(|| root.join("tests/data/story.txt"));
        let input = read_lines(&path)?;
        if !arguments.no_build {
            workspace::build(root)?;
        }
        return check(root, &path, &input);
    }
    if !arguments.no_build {
        workspace::build(root)?;
    }
    show(root, arguments.fresh)
}

/// The lines of a file, split at `\n`; what follows the last `\n` counts if it
/// is not empty.
fn read_lines(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    if lines.is_empty() {
        bail!("{} has no lines", path.display());
    }
    for (number, line) in lines.iter().enumerate() {
        if line.len() > MAX_PAYLOAD_BYTES {
            bail!(
                "{}: line {} has {} bytes; a message holds at most {MAX_PAYLOAD_BYTES}",
                path.display(),
                number + 1,
                line.len()
            );
        }
    }
    Ok(lines)
}

fn check(root: &Path, path: &Path, input: &[Vec<u8>]) -> Result<()> {
    let folder = crate::demo_folder(root)?.with_file_name("interlock-demo-check");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let started = Instant::now();
    println!("story: {} lines of {}", input.len(), path.display());
    let origin = WebOrigin::start(b"opening hours: 9 to 5\n".to_vec())?;
    let web_origins = REGIONS
        .into_iter()
        .map(|region| (region.to_owned(), origin.address().to_owned()))
        .collect();
    let mut mesh = Mesh::new(&folder, &binaries(root)?, web_origins)?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    mesh.start()?;
    let outcome = story::tell(&mut mesh, &interlock, &origin, path, input);
    let stopped = mesh.stop_all();
    outcome.with_context(|| {
        format!("the story failed; data and logs are kept in {}", folder.display())
    })?;
    stopped?;
    fs::remove_dir_all(&folder)?;
    println!("story: M1 to M15 hold, {} s", started.elapsed().as_secs());
    Ok(())
}

fn show(root: &Path, fresh: bool) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let folder = crate::demo_folder(root)?;
    if fresh && folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let origin = WebOrigin::start(b"opening hours: 9 to 5\n".to_vec())?;
    let web_origins = REGIONS
        .into_iter()
        .map(|region| (region.to_owned(), origin.address().to_owned()))
        .collect();
    let mut mesh = Mesh::new(&folder, &binaries(root)?, web_origins)?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    eprintln!("demo: starting three regions and a control-plane");
    mesh.start()?;
    let outcome = prepare(&interlock).and_then(|()| {
        print_what_to_try(&mesh, &binaries(root)?);
        watch(&mut mesh, &interlock, &interrupted)
    });
    eprintln!("\ndemo: stopping; the data stays in {} (--fresh forgets it)", folder.display());
    mesh.stop_all()?;
    outcome
}

/// Makes the namespace `demo` on all regions and the channel `demo/hello`,
/// unless an earlier demonstration has.
fn prepare(interlock: &Interlock) -> Result<()> {
    let home = REGIONS[0];
    interlock.json(home, &["group", "apply", "world", "--regions", &REGIONS.join(",")])?;
    let namespaces = interlock.json(home, &["namespace", "list"])?;
    if !names(&namespaces, "namespaces").contains(&"demo".to_owned()) {
        interlock.json(home, &["namespace", "create", "demo", "--groups", "world"])?;
    }
    eventually("demo/hello", Duration::from_secs(30), || {
        let channels = interlock.json(home, &["channel", "list", "demo"])?;
        if !names(&channels, "channels").contains(&"hello".to_owned()) {
            interlock
                .json(home, &["channel", "create", "demo/hello", "--description", "Try me"])?;
        }
        Ok(())
    })
}

/// The `name` of each row in a JSON answer's list.
pub fn names(answer: &serde_json::Value, list: &str) -> Vec<String> {
    answer[list]
        .as_array()
        .map(|rows| rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

fn print_what_to_try(mesh: &Mesh, binaries: &Path) {
    let context = mesh.context_file();
    println!("\nlistening:\n{}", mesh.listing());
    println!("context: {}\n", context.display());
    println!("try, in another terminal:");
    println!(
        "  export PATH=\"{}:$PATH\" INTERLOCK_CONTEXT_FILE=\"{}\"",
        binaries.display(),
        context.display()
    );
    println!("  interlock --region asia subscribe demo/hello --from oldest");
    println!("  interlock --region europe publish demo/hello 'good morning'");
    println!("  interlock status\n");
    println!("Ctrl-C stops all.\n");
}

/// Shows the live table until Ctrl-C.
fn watch(mesh: &mut Mesh, interlock: &Interlock, interrupted: &AtomicBool) -> Result<()> {
    let mut table = interlock.command(REGIONS[0], &["status", "--watch"]).spawn()?;
    while !interrupted.load(Ordering::Relaxed) {
        if let Some(what) = mesh.ended() {
            let _ = table.kill();
            let _ = table.wait();
            bail!(what);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = table.kill();
    table.wait()?;
    Ok(())
}

/// First figures on a fresh mesh, by `interlock bench`.
pub fn measure(root: &Path, seconds: u32) -> Result<()> {
    workspace::build(root)?;
    let folder = crate::demo_folder(root)?.with_file_name("interlock-measure");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut mesh = Mesh::new(&folder, &binaries(root)?, BTreeMap::new())?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    mesh.start()?;
    prepare(&interlock)?;
    for arguments in [vec!["bench", "publish"], vec!["bench", "latency", "--to", REGIONS[2]]] {
        let seconds = seconds.to_string();
        let mut command: Command = interlock.command(REGIONS[0], &arguments);
        workspace::run(command.args(["--seconds", &seconds]).arg("demo/hello"), "the measurement")?;
    }
    mesh.stop_all()?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}
