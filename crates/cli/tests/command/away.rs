//! What is said when parts of the mesh are away, and when they have come back.

use anyhow::ensure;

use crate::support::{World, line, row};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_named_and_its_restart_does_not_show() {
    let mut world = World::start().await;
    world.channel("hello");
    world.json("asia", &["publish", "demo/hello", "one", "--durability", "all"]);
    world.mesh.abort_node("asia").await.expect("it is up");

    let said = world.fails("europe", &["node", "show", "asia-1"], 5);
    assert!(said.contains("asia-1 in asia does not answer"), "{said}");
    let status = world.table("europe", &["status"]);
    assert!(status.contains("asia-1 does not answer"), "{status}");
    assert!(line(&status, "asia-1").contains("no answer"), "{status}");
    assert_eq!(row(&world.json("europe", &["status"])["nodes"], "asia-1")["reachable"], false);
    for arguments in [
        ["channel", "list", "demo"].as_slice(),
        &["channel", "create", "demo/other"],
        &["publish", "demo/hello", "two", "--timeout", "1"],
        &["history", "demo/hello"],
    ] {
        world.fails("asia", arguments, 5);
    }

    let written = world.json("europe", &["publish", "demo/hello", "two"]);
    assert_eq!(written["published"], 1);
    world.until("the queue", || {
        let lag = world.interlock.json("europe", &["lag"])?;
        ensure!(lag["queues"][0]["queue_messages"] == 1, "{lag:#}");
        ensure!(lag["unreachable"][0] == "asia-1", "{lag:#}");
        Ok(())
    });
    let table = world.table("europe", &["lag"]);
    assert!(line(&table, "europe-1").contains("asia-1"), "{table}");
    assert!(table.contains("asia-1 does not answer"), "{table}");
    // More than there are members.
    let level = ["publish", "demo/hello", "three", "--durability", "peers:2"];
    world.fails("europe", &level, 4);

    world.mesh.start_node("asia").await.expect("it starts again");
    world.until_ready();
    world.json("asia", &["publish", "demo/hello", "four", "--durability", "all"]);
    world.until("the same everywhere", || {
        let status = world.interlock.json("europe", &["status"])?;
        let said = status["verdict"].as_str().unwrap_or_default();
        ensure!(said.starts_with("all regions hold the same"), "{said}");
        Ok(())
    });
    let status = world.json("europe", &["status"]);
    let demo = row(&row(&status["nodes"], "europe-1")["namespaces"], "demo");
    let logs = demo["logs"].as_array().expect("logs");
    let of_asia: Vec<_> = logs.iter().filter(|log| log["origin_name"] == "asia-1").collect();
    assert_eq!(of_asia.len(), 2, "a log for each opening: {demo:#}");
    assert_eq!(of_asia.iter().filter(|log| log["tip"] == true).count(), 1, "{demo:#}");
    let table = world.table("europe", &["status"]);
    assert_eq!(line(&table, "europe-1").matches("asia-1:").count(), 1, "{table}");
    assert!(line(&table, "europe-1").contains("asia-1:2"), "{table}");
    world.until("who serves the log", || {
        let node = world.interlock.json("europe", &["node", "show", "europe-1"])?;
        let demo = row(&node["namespaces"], "demo");
        let logs = demo["logs"].as_array().expect("logs");
        let mut tips = logs.iter().filter(|log| log["tip"] == true);
        let is_direct = tips.all(|log| {
            let own = log["origin_name"] == "europe-1";
            log["server"] == if own { "" } else { log["origin_name"].as_str().unwrap_or("?") }
        });
        ensure!(is_direct, "{demo:#}");
        let lag = world.interlock.json("europe", &["lag"])?;
        ensure!(lag["servers"].as_array().is_some_and(Vec::is_empty), "{lag:#}");
        Ok(())
    });
    assert!(world.table("europe", &["node", "show", "europe-1"]).contains("TAKEN FROM"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_control_plane_the_regions_go_on_and_it_is_said() {
    let mut world = World::start().await;
    world.channel("hello");
    world.mesh.stop_control_plane().await;
    let table = world.table("europe", &["status"]);
    assert!(table.contains("control-plane does not answer"), "{table}");
    assert!(!table.contains("all regions hold the same"), "{table}");
    assert_eq!(world.json("europe", &["status"])["control_plane"]["reachable"], false);
    world.json("europe", &["publish", "demo/hello", "still", "--durability", "all"]);
    let shown = world.json("europe", &["node", "show", "asia-1"]);
    assert_eq!(shown["reachable"], true);
    for arguments in [
        ["node", "list"].as_slice(),
        &["namespace", "list"],
        &["group", "list"],
        &["channel", "create", "demo/other", "--via-control-plane"],
    ] {
        world.fails("europe", arguments, 5);
    }
    world.mesh.stop_gateway("asia").await.expect("it runs");
    world.fails("asia", &["history", "demo/hello"], 5);
    world.end().await;
}
