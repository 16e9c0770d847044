//! Groups, namespaces, nodes, and how all is.

use crate::support::{World, line, row};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_namespaces_are_made_changed_and_shown() {
    let world = World::start().await;
    let groups = world.json("europe", &["group", "apply", "east", "--regions", "asia"]);
    assert_eq!(row(&groups["groups"], "east")["regions"][0], "asia");
    let table = world.table("europe", &["group", "list"]);
    let listed = line(&table, "world");
    assert!(listed.contains("europe") && listed.contains("asia"), "{table}");

    let table = world.table("europe", &["namespace", "create", "news", "--groups", "east"]);
    assert!(line(&table, "news").contains("default"), "{table}");
    world.fails("europe", &["namespace", "create", "news", "--groups", "world"], 4);
    world.fails("europe", &["namespace", "create", "other", "--groups", "nowhere"], 3);
    let updated = world.json(
        "europe",
        &["namespace", "update", "news", "--add-groups", "world", "--disk-cap-bytes", "1048576"],
    );
    assert_eq!(row(&updated["namespaces"], "news")["disk_cap_bytes"], 1_048_576);
    let table = world.table("europe", &["namespace", "show", "news"]);
    let shown = line(&table, "news");
    assert!(shown.contains("east, world") && shown.contains("1.0 MiB"), "{table}");
    let keeps = ["--retention-age", "36h", "--when-full", "release"];
    let updated = world.json("asia", &[&["namespace", "update", "news"], &keeps[..]].concat());
    let news = row(&updated["namespaces"], "news");
    assert_eq!(
        (&news["retention_age_seconds"], &news["when_full"]),
        (&129_600.into(), &"release".into())
    );
    assert_eq!(news["disk_cap_bytes"], 1_048_576, "what was not said stays");
    let ran = world.run("asia", &["namespace", "update", "news", "--retention-age", "soon"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(!table.contains("demo"), "{table}");
    let listed = world.json("asia", &["namespace", "list"]);
    assert_eq!(listed["namespaces"].as_array().map(Vec::len), Some(2), "{listed:#}");
    let said = world.fails("europe", &["namespace", "show", "olds"], 3);
    assert!(said.contains("olds"), "{said}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_their_state_are_shown() {
    let world = World::start().await;
    world.channel("hello");
    world.json("asia", &["publish", "demo/hello", "good morning"]);
    world.until("the same everywhere", || {
        let status = world.interlock.json("europe", &["status"])?;
        let said = status["verdict"].as_str().unwrap_or_default();
        anyhow::ensure!(said.starts_with("all regions hold the same"), "{said}");
        Ok(())
    });

    let listed = world.json("europe", &["node", "list"]);
    assert_eq!(row(&listed["nodes"], "asia-1")["liveness"], "alive");
    let table = world.table("europe", &["node", "list"]);
    assert!(line(&table, "europe-1").contains("demo"), "{table}");

    let shown = world.json("europe", &["node", "show", "asia-1"]);
    assert_eq!((&shown["name"], &shown["reachable"]), (&"asia-1".into(), &true.into()));
    let table = world.table("europe", &["node", "show", "asia-1"]);
    assert!(table.starts_with("asia-1 in asia, serving"), "{table}");
    assert!(table.contains("DURABLE  APPENDED  TIP"), "{table}");
    world.fails("europe", &["node", "show", "venus-1"], 3);

    let table = world.table("europe", &["verify", "demo"]);
    assert_eq!(table.trim(), "2 members hold the same");
    let verified = world.json("asia", &["verify"]);
    assert_eq!(verified["members"].as_array().map(Vec::len), Some(2), "{verified:#}");
    assert_eq!(verified["conflicts"].as_array().map(Vec::len), Some(0), "{verified:#}");
    world.fails("europe", &["verify", "nowhere"], 3);

    let status = world.json("asia", &["status"]);
    assert_eq!(status["control_plane"]["reachable"], true);
    let europe = row(&status["nodes"], "europe-1");
    let demo = row(&europe["namespaces"], "demo");
    assert_eq!(demo["channels"], 1);
    let hash = demo["logs"][0]["durable_hash"].as_str().unwrap_or_default();
    assert_eq!(hash.len(), 32, "{demo:#}");
    let table = world.table("asia", &["status"]);
    let shown = line(&table, "europe-1");
    assert!(shown.contains("serving") && shown.contains("asia-1:1"), "{table}");
    assert!(table.contains("replicating"), "{table}");

    assert_eq!(world.json("europe", &["lag"])["queues"].as_array().map(Vec::len), Some(0));
    let table = world.table("europe", &["lag"]);
    assert!(table.contains("no peer has anything left"), "{table}");
    world.end().await;
}
