//! A log with two contents, as a process leaves it that was resumed from a snapshot of
//! its memory, and its repair.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use bytes::Bytes;
use interlock_client::v1;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::WallTime;
use interlock_core::identity::{Incarnation, MemberOpening, ParentPoint};
use interlock_core::message::{Message, MessageKind};
use interlock_core::replication::rows::Row;
use interlock_rpc::services::node;
use interlock_storage::{AppendBatch, LogStorage as _, RocksOptions, RocksStorage};
use serde_json::Value;
use tonic::transport::Channel;

use crate::support::{World, row};

fn numbered(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{what} {number}")).collect()
}

fn publish(world: &World, region: &str, texts: &[String]) {
    let lines = texts.join("\n");
    let arguments = ["publish", "demo/hello", "--lines", "-"];
    let ran = world.run_with(region, &arguments, lines.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Every payload that a region has, with how often, and how often marked as possibly
/// repeated.
fn history(world: &World, region: &str) -> BTreeMap<String, (usize, usize)> {
    let ran = world.run(region, &["-o", "json", "history", "demo/hello", "--limit", "100000"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut seen: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for line in ran.json_lines() {
        let Some(text) = line["payload"].as_str() else { continue };
        let counts = seen.entry(text.to_owned()).or_default();
        counts.0 += 1;
        counts.1 += usize::from(line["possibly_repeated"] == true);
    }
    seen
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Writes what a process would that goes on with an incarnation from an older state: the
/// same names, other content.
fn write_as(folder: &Path, incarnation: Incarnation, payloads: &[String]) {
    let (storage, recovery) =
        RocksStorage::open(folder, RocksOptions::default()).expect("the copy opens");
    let opened_as = recovery.opened_as.expect("it was opened before");
    let opening = MemberOpening { node: opened_as, incarnation, opened_from: recovery.opened_from };
    storage.record_opening(opening).expect("recorded");
    let own = recovery.logs.iter().find(|log| log.row.log.origin == opened_as);
    let own = own.expect("it has published before");
    let before = storage.read(&own.row.log, own.mark.m_id, own.mark.m_id, 0).expect("readable");
    let specimen = Message::decode(&before[0].bytes).expect("a message");
    assert_eq!(specimen.kind, MessageKind::Publication);
    let parents = vec![ParentPoint {
        incarnation: own.row.log.incarnation,
        m_id: own.mark.m_id,
        hash: own.mark.hash,
    }];
    let row = Row { log: own.row.log.path().log(incarnation), parents };
    let (mut m_id, mut hash) = (own.mark.m_id, row.start_hash());
    let mut entries = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        m_id = m_id.next();
        let message = Message {
            m_id,
            parents: if index == 0 { row.parents.clone() } else { Vec::new() },
            payload: Bytes::from(payload.clone()),
            publisher: None,
            ..specimen.clone()
        };
        let bytes = message.encode();
        hash = hash.then(&bytes);
        entries.push(AppendEntry {
            log: row.log,
            row: (index == 0).then(|| row.clone()),
            m_id,
            bytes,
            hash,
            stamp: message.stamp,
        });
    }
    storage.append(&AppendBatch::new(WallTime::new(1_700_000_000_000), entries)).expect("appended");
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
}

/// A world in which asia holds `theirs` under the names that europe has given to
/// `ours` again.
async fn conflicted(before: &[String], theirs: &[String], ours: &[String]) -> World {
    let mut world = World::start().await;
    world.channel("hello");
    publish(&world, "europe", before);
    until_equal(&world);
    world.mesh.abort_node("europe").await.expect("it is up");
    let (home, copy) = (world.mesh.node_folder("europe"), copy_of(&world));
    copy_folder(&home, &copy);

    world.mesh.start_node("europe").await.expect("it starts");
    world.until_ready();
    let shown = world.json("europe", &["node", "show", "europe-1"]);
    let incarnation = shown["incarnation"].as_str().expect("text");
    let incarnation = u64::from_str_radix(incarnation, 16).expect("hexadecimal");
    publish(&world, "europe", theirs);
    world.json("europe", &["channel", "create", "demo/theirs"]);
    until_equal(&world);
    world.mesh.abort_node("europe").await.expect("it is up");
    std::fs::remove_dir_all(&home).expect("it is a folder");
    copy_folder(&copy, &home);
    write_as(&home, Incarnation::new(incarnation).expect("not zero"), ours);
    world.mesh.start_node("europe").await.expect("it starts");
    world.until_ready();
    world
}

fn copy_of(world: &World) -> PathBuf {
    world.folder.path().join("copy")
}

/// Waits until both regions hold the same.
fn until_equal(world: &World) {
    world.until("both hold the same", || {
        let verified = world.interlock.json("asia", &["verify"])?;
        ensure!(verified["behind"].as_array().is_some_and(Vec::is_empty), "{verified:#}");
        Ok(())
    });
}

fn until_alarm(world: &World, region: &str, is_up: bool) {
    world.until("the alarm", || {
        let node = format!("{region}-1");
        let shown = world.interlock.json("europe", &["node", "show", &node])?;
        let alarms = shown["alarms"].as_array().cloned().unwrap_or_default();
        let conflicts = alarms.iter().filter(|alarm| alarm["name"] == "content_conflict").count();
        ensure!((conflicts > 0) == is_up, "{shown:#}");
        Ok(())
    });
}

fn expected(once: &[&[String]], repeated: &[String]) -> BTreeMap<String, (usize, usize)> {
    let once = once.iter().flat_map(|texts| texts.iter()).map(|text| (text.clone(), (1, 0)));
    once.chain(repeated.iter().map(|text| (text.clone(), (1, 1)))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_two_contents_is_repaired() {
    let (before, theirs, ours) = (numbered("b", 5), numbered("x", 3), numbered("y", 2));
    let world = conflicted(&before, &theirs, &ours).await;
    until_alarm(&world, "asia", true);
    until_alarm(&world, "europe", true);
    // Everything else goes on.
    world.json("europe", &["namespace", "create", "other", "--groups", "world"]);
    let found = world.run("asia", &["verify"]);
    assert_eq!(found.code, 6, "{found:?}");
    assert!(found.stdout.contains("differs between"), "{found:?}");
    assert!(found.stdout.contains("--repair"), "{found:?}");

    let planned = world.run("asia", &["-o", "json", "verify", "demo", "--repair", "--dry-run"]);
    assert_eq!(planned.code, 6, "nothing was changed: {planned:?}");
    let planned: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    let cut = &planned["repaired"][0];
    assert_eq!((&cut["content_of"], &cut["member"]), (&"europe-1".into(), &"asia-1".into()));
    let first = cut["first_m_id"].as_u64().expect("a number");
    assert_eq!(cut["last_m_id"], first + 3, "three publications and an operation: {planned:#}");

    let repaired = world.run("europe", &["verify", "--repair"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    let told = "asia-1 gave up messages";
    assert!(repaired.stdout.contains(told), "{repaired:?}");
    assert!(repaired.stdout.contains("published them again"), "{repaired:?}");
    until_equal(&world);
    let all = expected(&[&before, &ours], &theirs);
    for region in ["europe", "asia"] {
        world.until("all of it once", || {
            let seen = history(&world, region);
            ensure!(seen == all, "{region}: {seen:?}");
            // What the lost branch did to the channels has come back as a base.
            let channels = world.interlock.json(region, &["channel", "list", "demo"])?;
            ensure!(row(&channels["channels"], "theirs")["deleted"] == false, "{channels:#}");
            Ok(())
        });
        until_alarm(&world, region, false);
    }
    let again = world.table("asia", &["verify", "--repair"]);
    assert_eq!(again.trim(), "2 members hold the same");
    publish(&world, "europe", &numbered("after", 1));
    world.json("asia", &["publish", "demo/hello", "after", "--durability", "all"]);
    world.end().await;
}

fn asia(world: &World) -> node::Client<Channel> {
    let nodes = world.mesh.client().expect("addresses").nodes("asia").expect("it has a node");
    nodes.into_iter().next().expect("one").1
}

/// The node dies between the note and the cut, and again and again while it publishes:
/// each message comes back once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_is_cut_short_goes_on() {
    const LOST: usize = 4500;
    let (before, theirs, ours) = (numbered("b", 5), numbered("x", LOST), numbered("y", 2));
    let mut world = conflicted(&before, &theirs, &ours).await;
    let planned = world.run("asia", &["-o", "json", "verify", "--repair", "--dry-run"]);
    let planned: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    let first = planned["repaired"][0]["first_m_id"].as_u64().expect("a number");
    let mut client = asia(&world);
    let held = client.verify(v1::VerifyRequest::default()).await.expect("it serves").into_inner();
    let europe = planned["repaired"][0]["origin"].as_u64().expect("a number");
    let mut logs: Vec<v1::LogName> = held.logs.iter().filter_map(|mark| mark.log).collect();
    logs.retain(|log| u64::from(log.origin) == europe);
    let lost = planned["repaired"][0]["incarnation"].as_str().expect("text");
    let lost = u64::from_str_radix(lost, 16).expect("hexadecimal");
    let log = *logs.iter().find(|log| log.incarnation == lost).expect("asia has it");
    let request = v1::RepairRequest {
        repair_id: Bytes::from_static(&[7; 16]),
        keep: vec![v1::LogMark { log: Some(log), m_id: first - 1, hash: Bytes::new() }],
        bring_back: vec![log],
        dry_run: false,
    };
    let refused = client.repair(request.clone()).await.expect_err("the hash is another one");
    assert!(refused.message().contains("is not what this node has"), "{refused}");
    let point = v1::VerifyRequest {
        points: vec![v1::LogMark { log: Some(log), m_id: first - 1, ..Default::default() }],
        ..Default::default()
    };
    let known = client.verify(point).await.expect("it serves").into_inner().points;
    let request = v1::RepairRequest { keep: known, ..request };
    client.repair(request).await.expect("it can be repaired");

    world.mesh.abort_node("asia").await.expect("it was up");
    let mut left = u64::MAX;
    let mut aborts = 0;
    while left > 0 {
        world.mesh.start_node("asia").await.expect("it starts");
        let mut client = asia(&world);
        // As soon as it has got one frame further.
        left = loop {
            let status = client.get_status(v1::GetStatusRequest { brief: true }).await;
            match status.map(|status| status.into_inner().bringing_back_messages) {
                Ok(now) if now < left => break now,
                _ => tokio::task::yield_now().await,
            }
        };
        if left > 0 {
            world.mesh.abort_node("asia").await.expect("it is up");
            aborts += 1;
        }
    }
    assert!(aborts > 0, "it was interrupted");
    world.until_ready();
    let all = expected(&[&before, &ours], &theirs);
    for region in ["europe", "asia"] {
        world.until("all of it once", || {
            let seen = history(&world, region);
            let wrong: Vec<_> = all
                .iter()
                .filter(|(text, counts)| seen.get(*text) != Some(counts))
                .take(3)
                .collect();
            ensure!(wrong.is_empty() && seen.len() == all.len(), "{region}: {wrong:?}");
            Ok(())
        });
    }
    until_equal(&world);
    world.end().await;
}
