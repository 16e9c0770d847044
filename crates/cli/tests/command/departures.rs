//! Nodes, namespaces and regions that are taken away, documents that are adopted, and
//! data folders that are damaged.

use anyhow::ensure;

use crate::support::{World, line, row};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_then_its_region_are_taken_out() {
    let world = World::start().await;
    world.channel("hello");
    world.json("asia", &["publish", "demo/hello", "one", "--durability", "all"]);
    world.until("the node's own word", || {
        let table = world.interlock.json("europe", &["node", "remove", "asia-1", "--dry-run"])?;
        let losses = table["possible_losses"].as_array().map(Vec::len);
        ensure!(losses == Some(0), "{table:#}");
        Ok(())
    });
    let table = world.table("europe", &["node", "remove", "asia-1", "--dry-run"]);
    assert!(table.contains("nothing was changed"), "{table}");
    let said = world.fails("europe", &["region", "remove", "asia"], 4);
    assert!(said.contains("asia-1"), "{said}");
    world.fails("europe", &["node", "remove", "venus-1"], 3);
    world.fails("europe", &["node", "remove", "venus-1", "--dry-run"], 3);

    let removed = world.json("europe", &["node", "remove", "asia-1"]);
    assert_eq!(removed["state"], "removed");
    let listed = world.json("europe", &["node", "list"]);
    assert_eq!(row(&listed["nodes"], "asia-1")["state"], "removed");
    let again = world.table("europe", &["node", "remove", "asia-1"]);
    assert_eq!(again.trim(), "asia-1 is removed", "it may be repeated");
    world.fails("europe", &["node", "remove", "europe-1", "--force"], 4);

    let table = world.table("europe", &["region", "list"]);
    assert!(line(&table, "asia").contains("world"), "{table}");
    let left = world.json("europe", &["region", "remove", "asia"]);
    assert_eq!(left["regions"].as_array().map(Vec::len), Some(1), "{left:#}");
    assert_eq!(row(&left["regions"], "europe")["nodes"][0], "europe-1");
    world.fails("europe", &["region", "remove", "asia"], 3);
    world.json("europe", &["publish", "demo/hello", "two", "--durability", "all"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_may_take_with_it_is_listed() {
    let mut world = World::start().await;
    world.channel("hello");
    world.json("asia", &["publish", "demo/hello", "one", "--durability", "all"]);
    world.mesh.abort_node("asia").await.expect("it is up");
    let table = world.table("europe", &["node", "remove", "asia-1", "--dry-run"]);
    let told = line(&table, "demo:");
    assert!(told.contains("up to 1") && told.contains("is lost"), "{table}");
    let forced = world.json("europe", &["node", "remove", "asia-1", "--force"]);
    assert_eq!((&forced["state"], &forced["node"]), (&"removed".into(), &"asia-1".into()));
    assert_eq!(forced["possible_losses"][0]["held_elsewhere_through"], 1);
    world.json("europe", &["publish", "demo/hello", "two", "--durability", "all"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_leaves_a_region() {
    let world = World::start().await;
    world.channel("hello");
    world.json("asia", &["publish", "demo/hello", "one"]);
    let smaller = ["group", "apply", "world", "--regions", "europe"];
    let said = world.fails("europe", &smaller, 4);
    assert!(said.contains("demo"), "{said}");
    world.json("europe", &[&smaller[..], &["--leave"]].concat());
    world.until("nothing of it is left", || {
        let node = world.interlock.json("europe", &["node", "show", "asia-1"])?;
        ensure!(node["namespaces"].as_array().is_some_and(Vec::is_empty), "{node:#}");
        Ok(())
    });
    world.fails("asia", &["publish", "demo/hello", "two"], 4);
    let table = world.table("europe", &["topology", "show"]);
    assert!(line(&table, "asia-1").contains("active"), "{table}");
    let shown = world.json("europe", &["topology", "show"]);
    assert_eq!(row(&shown["namespaces"], "demo")["leaving"].as_array().map(Vec::len), Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_adopted_only_where_it_is_newer() {
    let world = World::start().await;
    let shown = world.json("europe", &["topology", "show"]);
    world.until("the nodes have it", || {
        let would = world.interlock.json("europe", &["topology", "adopt", "--dry-run"])?;
        ensure!(would["version"] == shown["version"], "{would:#}");
        ensure!(would["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2), "{would:#}");
        Ok(())
    });
    let adopted = world.json("europe", &["topology", "adopt", "--from", "asia-1"]);
    assert_eq!(adopted["adopted"], false, "the control-plane has it: {adopted:#}");
    let table = world.table("europe", &["topology", "adopt"]);
    assert!(table.contains("nothing was changed"), "{table}");
    world.fails("europe", &["topology", "adopt", "--from", "venus-1"], 5);
    world.end().await;
}

/// Synced data that is missing: listed, opened by word, and taken back from the other
/// member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_damaged_folder_is_opened_by_word() {
    let mut world = World::start().await;
    world.channel("hello");
    for number in 0..20 {
        let text = format!("message {number}");
        world.json("asia", &["publish", "demo/hello", &text, "--durability", "all"]);
    }
    let folder = world.mesh.node_folder("asia");
    let text = folder.display().to_string();
    // An opening stores how far everything is durable.
    world.mesh.abort_node("asia").await.expect("it is up");
    world.mesh.start_node("asia").await.expect("it starts again");
    world.mesh.abort_node("asia").await.expect("it is up");
    // What was synced is gone, and the durable marks beside it say so.
    std::fs::remove_dir_all(folder.join("database")).expect("it is a folder");
    let found = world.json("europe", &["node", "recover", &text]);
    assert!(found["damage"].as_array().is_some_and(|all| !all.is_empty()), "{found:#}");
    let refused = world.mesh.start_node("asia").await.expect_err("it is damaged");
    assert!(format!("{refused:#}").contains("interlock node recover"), "{refused:#}");
    let table = world.table("europe", &["node", "recover", &text, "--accept-loss"]);
    assert!(table.contains("the folder can be opened"), "{table}");

    world.mesh.start_node("asia").await.expect("what is left is sound");
    world.until_ready();
    world.until("the same everywhere", || {
        let status = world.interlock.json("europe", &["status"])?;
        let said = status["verdict"].as_str().unwrap_or_default();
        ensure!(said.starts_with("all regions hold the same"), "{said}");
        Ok(())
    });
    let read = world.run("asia", &["-o", "json", "history", "demo/hello"]);
    let messages = read.json_lines().iter().filter(|line| line["type"] == "message").count();
    assert_eq!(messages, 20, "{read:?}");

    let said = world.fails("europe", &["node", "recover", &text], 1);
    assert!(said.contains("in use"), "{said}");
    world.mesh.abort_node("asia").await.expect("it is up");
    let sound = world.table("europe", &["node", "recover", &text]);
    assert!(sound.contains("nothing is damaged"), "{sound}");
    world.end().await;
}
