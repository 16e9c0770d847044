//! The works: what each contender does, and which goals their ratios are for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use xtask::mesh::Mesh;

use super::Options;
use super::goals::{Goals, Measured};
use super::mesh::{A, B, CHANNEL, OurMesh, until};
use super::rounds::{Turn, Turns};

/// A work by its name.
type Work = fn(&mut Bench, &mut Goals) -> Result<()>;

/// All works, in the order in which they are done.
pub const ALL: [(&str, Work); 7] = [
    ("durable publish, PublishStream, one node", publish_stream),
    ("durable publish, single calls, 64 in flight", publish_unary),
    ("publish at A, durable at B", durable_at_b),
    ("publish at A, subscriber at B, 1,000/s", latency),
    ("fan-out to 1,000 subscribers", fan_out),
    ("a dead peer, a restart, a catch-up", outage),
    ("larger payloads", payloads),
];

/// What all works share.
pub struct Bench {
    folder: PathBuf,
    binaries: PathBuf,
    peer: PathBuf,
    options: Options,
}

/// Somebody who does a work: a name for people, and one turn.
struct Contender<'a> {
    name: &'static str,
    command: String,
    turn: Box<dyn FnMut() -> Result<Turn> + 'a>,
}

impl Bench {
    /// Works in a folder, with our binaries and the peer's driver.
    pub fn new(folder: &Path, binaries: &Path, peer: &Path, options: Options) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (folder, binaries, peer) = (folder.to_owned(), binaries.to_owned(), peer.to_owned());
        Ok(Self { folder, binaries, peer, options })
    }

    /// Removes what is left.
    pub fn finish(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).context("removing what was measured on")
    }

    fn mesh(&self, regions: usize, gateways: &[&str]) -> Result<OurMesh> {
        OurMesh::start(&self.folder.join("mesh"), &self.binaries, regions, gateways)
    }

    fn seconds(&self) -> String {
        self.options.seconds.to_string()
    }

    fn ours<'a>(&self, mesh: &'a OurMesh, arguments: &[&str]) -> Contender<'a> {
        let mut all: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        all.extend([CHANNEL.to_owned(), "--seconds".to_owned(), self.seconds()]);
        let command = format!("interlock bench {}", all.join(" "));
        let turn = move || mesh.bench(&all.iter().map(String::as_str).collect::<Vec<_>>());
        Contender { name: "interlock", command, turn: Box::new(turn) }
    }

    fn peer(&self, name: &'static str, arguments: &[&str]) -> Contender<'static> {
        let mut all: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        all.extend(["--seconds".to_owned(), self.seconds()]);
        let command = format!("nats-bench {}", all.join(" "));
        let (driver, data) = (self.peer.clone(), self.folder.join("peer"));
        let turn = move || {
            std::fs::create_dir_all(&data)?;
            let output = Command::new(&driver)
                .args(["-o", "json", "--data-dir"])
                .arg(&data)
                .args(&all)
                .stdin(Stdio::null())
                .output()
                .context("starting the peer's driver")?;
            if !output.status.success() {
                bail!("nats-bench: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Turn::of(&serde_json::from_slice(&output.stdout).context("nats-bench's report")?)
        };
        Contender { name, command, turn: Box::new(turn) }
    }

    /// Gives each contender its turns, the order turned round each time.
    fn compete(&self, contenders: &mut [Contender<'_>]) -> Result<Vec<Turns>> {
        let mut all = vec![Turns::default(); contenders.len()];
        for round in 0..self.options.rounds {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let contender = &mut contenders[index];
                let turn = (contender.turn)().with_context(|| contender.command.clone())?;
                eprintln!("  round {}: {:36} {turn}", round + 1, contender.name);
                all[index].push(turn);
            }
        }
        Ok(all)
    }
}

/// Notes what was measured, for the page.
fn note(
    goals: &mut Goals,
    work: &'static str,
    contenders: &[Contender<'_>],
    turns: &[Turns],
    said: impl Fn(&Turns) -> Result<String>,
) -> Result<()> {
    for (contender, turns) in contenders.iter().zip(turns) {
        let (contender_name, command) = (contender.name.to_owned(), contender.command.clone());
        let figures = said(turns)?;
        goals.measured.push(Measured { work, contender: contender_name, figures, command });
    }
    Ok(())
}

fn rate(turns: &Turns) -> Result<String> {
    Ok(format!("{:.0}/s", turns.median("messages_per_second")?))
}

fn publish_stream(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    let mesh = bench.mesh(1, &[])?;
    let mut contenders = [
        bench.ours(&mesh, &["publish"]),
        bench.peer(
            "nats, fsync, atomic batches",
            &["publish", "--mode", "atomic", "--sync", "always"],
        ),
        bench.peer("nats, no fsync, single", &["publish", "--mode", "single", "--sync", "default"]),
        bench.peer(
            "nats, no fsync, fast ingest",
            &["publish", "--mode", "fast", "--sync", "default"],
        ),
    ];
    let turns = bench.compete(&mut contenders)?;
    let of = |index: usize| turns[index].median("messages_per_second");
    goals.reach("publish stream / peer with fsync", of(0)? / of(1)?);
    goals.reach("publish stream / peer without fsync", of(0)? / of(2)?.max(of(3)?));
    note(goals, "durable publish, PublishStream, one node", &contenders, &turns, rate)?;
    drop(contenders);
    mesh.end()
}

fn publish_unary(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    let mesh = bench.mesh(1, &[])?;
    let single = ["publish", "--mode", "single", "--in-flight", "64", "--sync", "always"];
    let mut contenders = [
        bench.ours(&mesh, &["publish", "--unary", "--in-flight", "64"]),
        bench.peer("nats, fsync, 64 in flight", &single),
    ];
    let turns = bench.compete(&mut contenders)?;
    let of = |index: usize| turns[index].median("messages_per_second");
    goals.reach("unary publish / peer with fsync", of(0)? / of(1)?);
    note(goals, "durable publish, single calls, 64 in flight", &contenders, &turns, rate)?;
    drop(contenders);
    mesh.end()
}

fn durable_at_b(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    let mesh = bench.mesh(2, &[])?;
    let stored = ["replicate", "--until", "stored", "--mode", "single"];
    let mut contenders = [
        bench.ours(&mesh, &["publish", "--durability", "all"]),
        bench.peer(
            "nats, fsync, mirror over a leaf node",
            &[&stored[..], &["--sync", "always", "--in-flight", "1000"]].concat(),
        ),
        bench.peer(
            "nats, no fsync, mirror over a leaf node",
            &[&stored[..], &["--sync", "default"]].concat(),
        ),
    ];
    let turns = bench.compete(&mut contenders)?;
    let of = |index: usize| turns[index].median("messages_per_second");
    goals.reach("durable at B / peer with fsync", of(0)? / of(1)?);
    goals.reach("durable at B / peer without fsync", of(0)? / of(2)?);
    note(goals, "publish at A, durable at B", &contenders, &turns, rate)?;
    drop(contenders);
    mesh.end()
}

fn latency(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    let mesh = bench.mesh(2, &[B])?;
    let delivered =
        ["replicate", "--until", "delivered", "--mode", "single", "--rate", "1000", "--sync"];
    let mut contenders = [
        bench.ours(&mesh, &["replicate", "--to", B, "--rate", "1000"]),
        bench.peer("nats, fsync", &[&delivered[..], &["always"]].concat()),
        bench.peer("nats, no fsync", &[&delivered[..], &["default"]].concat()),
    ];
    let turns = bench.compete(&mut contenders)?;
    let of = |index: usize, quantile: &str| turns[index].median(&format!("delivery {quantile}"));
    goals.reach("latency A to B p50 / peer with fsync", of(0, "p50")? / of(1, "p50")?);
    goals.reach("latency A to B p99 / peer with fsync", of(0, "p99")? / of(1, "p99")?);
    goals.reach("latency A to B p50 / peer without fsync", of(0, "p50")? / of(2, "p50")?);
    note(goals, "publish at A, subscriber at B, 1,000/s", &contenders, &turns, |turns| {
        let milliseconds = |quantile| anyhow::Ok(turns.median(quantile)? / 1000.0);
        let (p50, p99) = (milliseconds("delivery p50")?, milliseconds("delivery p99")?);
        Ok(format!("p50 {p50:.2} ms, p99 {p99:.2} ms"))
    })?;
    drop(contenders);
    mesh.end()
}

fn fan_out(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    let mesh = bench.mesh(1, &[A])?;
    let mut contenders = [
        bench.ours(&mesh, &["fan-out", "--subscribers", "1000"]),
        bench.peer("nats core, nothing stored", &["fan-out", "--subscribers", "1000"]),
    ];
    let turns = bench.compete(&mut contenders)?;
    let of = |index: usize| turns[index].median("deliveries_per_second");
    goals.reach("fan-out to 1000 / peer's core", of(0)? / of(1)?);
    note(goals, "fan-out to 1,000 subscribers", &contenders, &turns, |turns| {
        Ok(format!("{:.0} deliveries/s", turns.median("deliveries_per_second")?))
    })?;
    drop(contenders);
    mesh.end()
}

/// One node is dead while the other publishes, is killed and comes back; then the dead
/// one catches up while publishing goes on.
fn outage(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    const LIVE: &str = "5000";
    const LIVE_RATE: f64 = 5000.0;
    let backlog = bench.options.backlog;
    let mut ours = bench.mesh(2, &[A])?;
    let seconds = bench.seconds();
    let live = ["replicate", CHANNEL, "--to", A, "--rate", LIVE, "--seconds", &seconds];
    let before = ours.bench(&live)?;

    let held_at_b = ours.held(B)?;
    ours.mesh.kill(&Mesh::push_node(B))?;
    while ours.held(A)? < backlog {
        ours.bench(&["publish", CHANNEL, "--seconds", "5"])?;
        eprintln!("  {} of {backlog} messages", ours.held(A)?);
    }
    goals.reach("memory with a dead peer and 10 million queued, MiB", ours.peak_memory(A)?);

    ours.mesh.kill(&Mesh::push_node(A))?;
    let begun = Instant::now();
    ours.mesh.start_push_node(A)?;
    until("it accepts", || ours.interlock.json(A, &["publish", CHANNEL, "back"]).map(|_| ()))?;
    let restarted = begun.elapsed().as_secs_f64();
    goals.reach("restart with 10 million messages, seconds", restarted);

    let queued = ours.held(A)?.saturating_sub(held_at_b);
    let reading = ours.interlock.start(A, &[&["-o", "json", "bench"], &live[..]].concat())?;
    let begun = Instant::now();
    ours.mesh.start_push_node(B)?;
    until("the queue is nearly empty", || {
        let waiting = ours.queue()?;
        ensure!(waiting < LIVE_RATE as u64 / 10, "{waiting} wait");
        Ok(())
    })?;
    let took = begun.elapsed().as_secs_f64();
    let output = reading.wait_with_output().context("the live reader")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the live report")?;
    let meanwhile = Turn::of(&report)?;
    let p99 = |turn: &Turn| turn.figure("delivery p99");
    goals.reach("catch-up / live rate", queued as f64 / took / LIVE_RATE);
    goals.reach("live p99 during catch-up / before", p99(&meanwhile)? / p99(&before)?);
    goals.measured.push(Measured {
        work: "a dead peer, a restart, a catch-up",
        contender: "interlock".to_owned(),
        figures: format!(
            "{queued} messages queued; restart {restarted:.2} s; caught up in {took:.1} s, \
             {:.0}/s; live p99 {:.2} ms before, {:.2} ms meanwhile",
            queued as f64 / took,
            p99(&before)? / 1000.0,
            p99(&meanwhile)? / 1000.0
        ),
        command: "cargo xtask bench-compare".to_owned(),
    });
    ours.end()
}

fn payloads(bench: &mut Bench, goals: &mut Goals) -> Result<()> {
    for (size, in_flight, goal, work) in [
        ("1024", "8192", "payload 1 KiB / peer with fsync", "publish of 1 KiB"),
        ("65536", "512", "payload 64 KiB / peer with fsync", "publish of 64 KiB"),
        ("1048576", "32", "payload 1 MiB / peer with fsync", "publish of 1 MiB"),
    ] {
        let mesh = bench.mesh(1, &[])?;
        let batch = if size == "1024" { "1024" } else { "8" };
        let of_size = |mode: &'static str, sync: &'static str| {
            ["publish", "--mode", mode, "--sync", sync, "--size", size]
        };
        let mut contenders = [
            bench.ours(
                &mesh,
                &["publish", "--size", size, "--in-flight", in_flight, "--batch", batch],
            ),
            bench.peer(
                "nats, fsync, atomic batches",
                &[&of_size("atomic", "always")[..], &["--batch", batch]].concat(),
            ),
            bench.peer(
                "nats, no fsync, single",
                &[&of_size("single", "default")[..], &["--in-flight", in_flight]].concat(),
            ),
        ];
        let turns = bench.compete(&mut contenders)?;
        let of = |index: usize| turns[index].median("messages_per_second");
        goals.reach(goal, of(0)? / of(1)?);
        note(goals, work, &contenders, &turns, rate)?;
        drop(contenders);
        mesh.end()?;
    }
    Ok(())
}
