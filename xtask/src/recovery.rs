//! `cargo xtask measure --recovery`: how long nodes take to come back. Real
//! processes, full logs, the mesh at work meanwhile.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::measure::on_fresh_mesh;
use xtask::interlock_command::Interlock;
use xtask::mesh::{Mesh, REGIONS};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// Live messages per second while a node comes back.
const LIVE_RATE: u64 = 1_000;
/// Of an outage: messages per second, and how long it lasts.
const OUTAGE_RATE: u64 = 5_000;
const OUTAGE: Duration = Duration::from_secs(30);

const CHANNEL: &str = "demo/hello";

/// Fills the logs with so many messages of 128 B, and then takes nodes away.
pub fn measure(root: &Path, messages: u64) -> Result<()> {
    on_fresh_mesh(root, |mesh, interlock| {
        fill(interlock, messages)?;
        restart(mesh, interlock)?;
        backfill(mesh, interlock)?;
        outage(mesh, interlock)
    })
}

/// Publishes until the first region holds so many, and waits until all do.
fn fill(interlock: &Interlock, messages: u64) -> Result<()> {
    while held(interlock, REGIONS[0])? < messages {
        interlock.json(REGIONS[0], &["bench", "publish", CHANNEL, "--seconds", "10"])?;
        println!("{} of {messages} messages", held(interlock, REGIONS[0])?);
    }
    until_same(interlock)?;
    println!("all regions hold {} messages of 128 B", held(interlock, REGIONS[0])?);
    Ok(())
}

/// kill -9, and from the start of the process to the first publication it accepts.
fn restart(mesh: &mut Mesh, interlock: &Interlock) -> Result<()> {
    let (region, messages) = (REGIONS[0], held(interlock, REGIONS[0])?);
    mesh.kill(&Mesh::push_node(region))?;
    let begun = Instant::now();
    mesh.start_push_node(region)?;
    let listens = begun.elapsed();
    until("it accepts", || interlock.json(region, &["publish", CHANNEL, "back"]).map(|_| ()))?;
    println!(
        "restart after kill -9 with {messages} messages: listens after {:.2} s, accepts after {:.2} s",
        listens.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    until_same(interlock)
}

/// An empty disk: until it accepts, and until it has all, while others publish.
fn backfill(mesh: &mut Mesh, interlock: &Interlock) -> Result<()> {
    let region = REGIONS[2];
    let messages = held(interlock, REGIONS[0])?;
    let node = Mesh::push_node(region);
    mesh.kill(&node)?;
    fs::remove_dir_all(mesh.data_folder(&node)).context("its data folder")?;
    let live = publish_live(interlock, LIVE_RATE, Duration::from_secs(600))?;
    let begun = Instant::now();
    mesh.start_push_node(region)?;
    until("it has taken over everything", || {
        interlock.json(region, &["publish", CHANNEL, "whole"]).map(|_| ())
    })?;
    let took = begun.elapsed().as_secs_f64();
    end(live)?;
    println!(
        "backfill of an empty node with {messages} messages, {LIVE_RATE}/s published meanwhile: \
         accepts after {took:.1} s, {:.0} messages/s",
        messages as f64 / took
    );
    until_same(interlock)
}

/// A node that is away while the others publish: how long until no queue is left.
fn outage(mesh: &mut Mesh, interlock: &Interlock) -> Result<()> {
    let region = REGIONS[1];
    mesh.kill(&Mesh::push_node(region))?;
    let live = publish_live(interlock, OUTAGE_RATE, OUTAGE)?;
    live.wait_with_output().context("the publisher")?;
    let queued = queue(interlock)?;
    let live = publish_live(interlock, LIVE_RATE, Duration::from_secs(600))?;
    let begun = Instant::now();
    mesh.start_push_node(region)?;
    // What is published meanwhile is always a little on its way.
    until("the queue is empty", || {
        let left = queue(interlock)?;
        ensure!(left < LIVE_RATE / 10, "{left} messages are left");
        Ok(())
    })?;
    let took = begun.elapsed().as_secs_f64();
    end(live)?;
    println!(
        "healing: {queued} messages queued in {} s at {OUTAGE_RATE}/s, {LIVE_RATE}/s published \
         meanwhile: queue empty {took:.1} s after the start of the process",
        OUTAGE.as_secs()
    );
    until_same(interlock)
}

fn publish_live(interlock: &Interlock, rate: u64, time: Duration) -> Result<Child> {
    let (rate, seconds) = (rate.to_string(), time.as_secs().to_string());
    let to = REGIONS[0];
    interlock.start(
        to,
        &["bench", "replicate", CHANNEL, "--to", to, "--rate", &rate, "--seconds", &seconds],
    )
}

fn end(mut live: Child) -> Result<()> {
    live.kill().context("ending the publisher")?;
    live.wait().context("the publisher")?;
    Ok(())
}

fn node(interlock: &Interlock, region: &str) -> Result<Value> {
    interlock.json(region, &["node", "show", &Mesh::push_node(region)])
}

fn held(interlock: &Interlock, region: &str) -> Result<u64> {
    let node = node(interlock, region)?;
    let namespaces = node["namespaces"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(namespaces.iter().filter_map(|namespace| namespace["messages"].as_u64()).sum())
}

/// The longest queue that any node has for another.
fn queue(interlock: &Interlock) -> Result<u64> {
    let lag = interlock.json(REGIONS[0], &["lag"])?;
    let queues = lag["queues"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(queues.iter().filter_map(|queue| queue["queue_messages"].as_u64()).max().unwrap_or(0))
}

fn until_same(interlock: &Interlock) -> Result<()> {
    until("all regions hold the same", || {
        let status = interlock.json(REGIONS[0], &["status"])?;
        let verdict = status["verdict"].as_str().unwrap_or_default();
        ensure!(verdict.starts_with("all regions hold the same"), "{verdict}");
        Ok(())
    })
}

/// Looks as often as the command can be asked.
fn until(what: &str, mut condition: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match condition() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {LIMIT:?}")));
            }
            Err(_) => {}
        }
    }
}
