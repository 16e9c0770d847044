//! `cargo xtask demo`: three regions on this machine, to look at or to check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::live_table::LiveTable;
use crate::story::{self, Input};
use crate::workspace::{self, binaries};
use xtask::interlock_command::{Interlock, eventually};
use xtask::mesh::{Mesh, REGIONS};
use xtask::web_origin::WebOrigin;

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
    /// Where data, logs and the context are kept; in the target folder unless
    /// given. With --check what is there is removed first.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Seconds until a process that ended is started again.
    #[arg(long, default_value_t = 20, conflicts_with = "check")]
    restart_after: u64,
}

/// Runs the demonstration or the check.
pub fn run(root: &Path, arguments: &DemoArguments) -> Result<()> {
    if arguments.check {
        // The input is checked before anything is built or started.
        let path = arguments.input.clone().unwrap_or_else(|| root.join("tests/data/story.txt"));
        let input = Input::read(&path)?;
        if !arguments.no_build {
            workspace::build(root)?;
        }
        let folder = folder_for(root, arguments, "interlock-demo-check")?;
        return check(root, &folder, &input);
    }
    if !arguments.no_build {
        workspace::build(root)?;
    }
    show(root, arguments)
}

fn folder_for(root: &Path, arguments: &DemoArguments, name: &str) -> Result<PathBuf> {
    match &arguments.folder {
        Some(folder) => Ok(folder.clone()),
        None => Ok(workspace::target_folder(root)?.join(name)),
    }
}

/// Removes what an earlier demonstration left, and nothing else.
fn forget(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let is_empty = fs::read_dir(folder)?.next().is_none();
    ensure!(
        is_empty || Mesh::was_made_in(folder),
        "{} holds something else than a demonstration's data: name another folder",
        folder.display()
    );
    Ok(fs::remove_dir_all(folder)?)
}

fn check(root: &Path, folder: &Path, input: &Input) -> Result<()> {
    forget(folder)?;
    let started = Instant::now();
    println!("story: {} lines of {}", input.lines().len(), input.path().display());
    let origin = WebOrigin::start(b"opening hours: 9 to 5\n".to_vec())?;
    let mut mesh = Mesh::new(folder, &binaries(root)?, web_origins(&origin))?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    mesh.start()?;
    let outcome = story::tell(&mut mesh, &interlock, &origin, input);
    let stopped = mesh.stop_all();
    outcome.with_context(|| {
        format!("the story failed; data and logs are kept in {}", folder.display())
    })?;
    stopped?;
    fs::remove_dir_all(folder)?;
    println!("story: M1 to M15 hold, {} s", started.elapsed().as_secs());
    Ok(())
}

fn web_origins(origin: &WebOrigin) -> BTreeMap<String, String> {
    REGIONS.into_iter().map(|region| (region.to_owned(), origin.address().to_owned())).collect()
}

fn show(root: &Path, arguments: &DemoArguments) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let folder = folder_for(root, arguments, "interlock-demo")?;
    if arguments.fresh {
        forget(&folder)?;
    }
    let origin = WebOrigin::start(b"opening hours: 9 to 5\n".to_vec())?;
    let mut mesh = Mesh::new(&folder, &binaries(root)?, web_origins(&origin))?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    eprintln!("demo: starting three regions and a control-plane");
    mesh.start()?;
    let outcome = prepare(&interlock).and_then(|()| {
        let restart_after = Duration::from_secs(arguments.restart_after);
        print_what_to_try(&mesh, &binaries(root)?, restart_after);
        LiveTable::new(&interlock)?.show(&mut mesh, restart_after, &interrupted)
    });
    eprintln!("\ndemo: stopping; the data stays in {} (--fresh forgets it)", folder.display());
    mesh.stop_all()?;
    outcome
}

/// Makes the namespace `demo` on all regions and the channel `demo/hello`,
/// unless an earlier demonstration has.
pub fn prepare(interlock: &Interlock) -> Result<()> {
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

fn print_what_to_try(mesh: &Mesh, binaries: &Path, restart_after: Duration) {
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
    println!("  interlock lag");
    let asia = Mesh::push_node(REGIONS[2]);
    if let Some(number) = mesh.process_number(&asia) {
        println!("  kill -9 {number}");
    }
    println!(
        "\nWhat ends is started again after {} s: kill {asia}, publish on, and see its queue.",
        restart_after.as_secs()
    );
    println!("Ctrl-C stops all.\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_demonstration_left_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (own, foreign) = (folder.path().join("own"), folder.path().join("foreign"));
        Mesh::new(&own, Path::new("/nowhere"), BTreeMap::new()).expect("free ports");
        forget(&own).expect("its own");
        assert!(!own.exists());
        forget(&own).expect("nothing there");
        fs::create_dir(&foreign).expect("a folder");
        fs::write(foreign.join("letters"), "dear all").expect("written");
        assert!(forget(&foreign).is_err());
        assert!(foreign.join("letters").exists());
    }
}
