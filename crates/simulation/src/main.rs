//! `simulate`: replays one seed, or sweeps over many.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use interlock_simulation::exhaustive::{self, Report, SmallWorld, WORLDS};
use interlock_simulation::faults::FaultKind;
use interlock_simulation::run::{Outcome, RunOptions, run};
use interlock_simulation::statistics::Statistics;
use interlock_simulation::trace::Listener;

/// Runs seeded worlds and checks what came of them.
#[derive(Debug, Parser)]
#[command(name = "simulate", version, about)]
struct Arguments {
    /// Replay this seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Sweep over so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    seeds: u64,
    /// The first seed of a sweep.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Have faults of these kinds only, and in every seed.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = fault_kind)]
    only: Vec<FaultKind>,
    /// Walk every interleaving of small worlds instead.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "only"])]
    exhaustive: bool,
    /// With --exhaustive: only this world.
    #[arg(long, value_name = "NAME", requires = "exhaustive", value_parser = small_world)]
    world: Option<&'static SmallWorld>,
    /// With --exhaustive: paths of at most so many steps.
    #[arg(long, value_name = "STEPS", requires = "exhaustive")]
    depth: Option<usize>,
    /// With --seed: print every event.
    #[arg(short, long)]
    verbose: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn fault_kind(name: &str) -> Result<FaultKind, String> {
    let is_named = |kind: &FaultKind| kind.name().replace(' ', "-") == name;
    FaultKind::ALL.into_iter().find(is_named).ok_or_else(|| {
        let names = FaultKind::ALL.map(|kind| kind.name().replace(' ', "-"));
        format!("there is no such kind of fault; there are {}", names.join(", "))
    })
}

fn small_world(name: &str) -> Result<&'static SmallWorld, String> {
    WORLDS.iter().find(|world| world.name == name).ok_or_else(|| {
        let names: Vec<&str> = WORLDS.iter().map(|world| world.name).collect();
        format!("there is no such world; there are {}", names.join(", "))
    })
}

/// What the arguments want of every run.
fn options(arguments: &Arguments) -> RunOptions {
    let mut options = RunOptions::default();
    if !arguments.only.is_empty() {
        options.restrictions.allowed.clear();
        options.restrictions.always = arguments.only.iter().copied().collect();
    }
    options
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_right = match arguments.seed {
        _ if arguments.exhaustive => search_all(&arguments),
        Some(seed) => replay(seed, &arguments),
        None => sweep(&arguments),
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn search_all(arguments: &Arguments) -> bool {
    println!(
        "{:<22} {:>9} {:>11} {:>6} {:>9} {:>9}  result",
        "world", "states", "transitions", "depth", "", "seconds"
    );
    let worlds =
        WORLDS.iter().filter(|world| arguments.world.is_none_or(|it| it.name == world.name));
    let reports: Vec<Report> = worlds.map(|world| search_one(world, arguments.depth)).collect();
    reports.iter().all(|report| report.violation.is_none())
}

fn search_one(world: &'static SmallWorld, depth: Option<usize>) -> Report {
    let mut told_at = Instant::now();
    let report = exhaustive::search(world, depth.unwrap_or(world.depth), None, |states, depth| {
        if told_at.elapsed() >= Duration::from_secs(2) {
            told_at = Instant::now();
            eprintln!("{}: {states} states, depth {depth}", world.name);
        }
    });
    let extent = if report.is_complete { "complete" } else { "so far" };
    let result = if report.violation.is_some() { "VIOLATION" } else { "clean" };
    println!(
        "{:<22} {:>9} {:>11} {:>6} {extent:>9} {:>9.1}  {result}",
        report.world,
        report.states,
        report.transitions,
        report.depth,
        report.elapsed.as_secs_f64()
    );
    if let Some(violation) = &report.violation {
        println!("{}, after", violation.what);
        for (number, step) in (1..).zip(&violation.path) {
            println!("{number:>4}. {step}");
        }
    }
    report
}

fn replay(seed: u64, arguments: &Arguments) -> bool {
    let listener: Option<Listener> =
        arguments.verbose.then(|| Box::new(|line: &str| println!("{line}")) as Listener);
    let started = Instant::now();
    let outcome = run(seed, &options(arguments), listener);
    print_violations(seed, &outcome, &arguments.only);
    print_summary(&outcome.statistics, 1, started.elapsed(), arguments.json);
    if let Some(hash) = outcome.trace_hash {
        println!("trace hash: {hash}");
    }
    outcome.violations.is_empty()
}

fn sweep(arguments: &Arguments) -> bool {
    let started = Instant::now();
    let mut all = Statistics::default();
    let mut failed = 0_u64;
    let mut told_at = started;
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let outcome = run(seed, &options(arguments), None);
        all.add(&outcome.statistics);
        failed += u64::from(!outcome.violations.is_empty());
        print_violations(seed, &outcome, &arguments.only);
        if told_at.elapsed() >= Duration::from_secs(2) {
            told_at = Instant::now();
            let done = seed + 1 - arguments.from;
            eprintln!("{done} of {} seeds, {failed} failed", arguments.seeds);
        }
    }
    if !arguments.json {
        let last = arguments.from.saturating_add(arguments.seeds).saturating_sub(1);
        println!("seeds {} to {last}, {failed} failed", arguments.from);
    }
    print_summary(&all, arguments.seeds, started.elapsed(), arguments.json);
    failed == 0
}

fn print_violations(seed: u64, outcome: &Outcome, only: &[FaultKind]) {
    const SHOWN: usize = 5;
    for violation in outcome.violations.iter().take(SHOWN) {
        eprintln!("seed {seed}: {violation}");
    }
    if outcome.violations.len() > SHOWN {
        eprintln!("seed {seed}: and {} more", outcome.violations.len() - SHOWN);
    }
    if !outcome.violations.is_empty() {
        let kinds: Vec<String> = only.iter().map(|kind| kind.name().replace(' ', "-")).collect();
        let only =
            if kinds.is_empty() { String::new() } else { format!(" --only {}", kinds.join(",")) };
        eprintln!("cargo xtask simulate --seed {seed}{only}");
    }
}

fn print_summary(all: &Statistics, seeds: u64, elapsed: Duration, json: bool) {
    let counts = [
        ("operations", all.operations),
        ("acknowledged", all.acknowledged),
        ("refused", all.refused),
        ("unknown", all.unknown),
        ("messages", all.messages),
        ("logs", all.logs),
        ("branches", all.branches),
        ("openings", all.openings),
        ("logs cut", all.cut_logs),
        ("deaths while opening", all.deaths_while_opening),
        ("backfills", all.backfills),
        ("lost with disks", all.lost_with_disks),
        ("accepted beside", all.accepted_beside),
        ("frames", all.frames),
        ("messages sent", all.messages_sent),
        ("complaints", all.nacks),
        ("lost requests", all.lost_requests),
        ("stray requests", all.stray_requests),
        ("lost answers", all.lost_replies),
        ("snapshots resumed", all.resumed_snapshots),
        ("seen as resumed", all.resumed_and_seen),
        ("two contents seen", all.conflicts),
        ("subscriptions", all.subscriptions),
        ("began at n or a time", all.wished_starts),
        ("channels apart", all.channels_apart),
        ("delivered", all.delivered),
        ("gaps", all.gaps),
        ("namespaces purged", all.purges),
        ("machines gone", all.machines_gone),
        ("trims", all.trims),
        ("queues released", all.releases),
        ("holes taken", all.holes),
        ("logs carried", all.carried_logs),
        ("cursors kept", all.kept_cursors),
        ("cursors resumed", all.resumed_cursors),
        ("events", all.events),
    ];
    let (virtual_time, recovery) = (all.virtual_time.as_secs(), all.longest_recovery.as_secs_f64());
    if json {
        let faults: Vec<String> =
            all.faults.iter().map(|(kind, count)| format!("{:?}: {count}", kind.name())).collect();
        let counts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name:?}: {count}")).collect();
        println!(
            "{{\"seeds\": {seeds}, \"faults\": {{{}}}, {}, \"virtual seconds\": {virtual_time}, \
             \"longest recovery seconds\": {recovery:.1}, \"elapsed seconds\": {:.1}}}",
            faults.join(", "),
            counts.join(", "),
            elapsed.as_secs_f64()
        );
        return;
    }
    println!("{seeds} seeds, {virtual_time} s of virtual time in {:.1} s", elapsed.as_secs_f64());
    println!("faults: {}", all.all_faults());
    for (kind, count) in &all.faults {
        println!("  {kind:<20} {count:>9}");
    }
    for (name, count) in counts {
        println!("{name:<22} {count:>9}");
    }
    println!("longest recovery       {recovery:>9.1} s");
}
