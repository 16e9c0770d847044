//! `interlock channel …`

use anyhow::ensure;
use serde_json::json;
use xtask::web_origin::WebOrigin;

use crate::support::{World, line, row};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_made_changed_shown_and_deleted() {
    let world = World::start().await;
    let table = world.table(
        "europe",
        &["channel", "create", "demo/a/b", "--description", "first", "--label", "team=shop"],
    );
    assert!(line(&table, "channel").contains("demo/a/b"), "{table}");
    assert!(line(&table, "labels").contains("team=shop"), "{table}");
    assert!(table.contains("durable at europe-1"), "{table}");
    let said = world.fails("europe", &["channel", "create", "demo/a/b"], 4);
    assert!(said.contains("interlock channel update"), "{said}");
    world.fails("europe", &["channel", "create", "demo/a/b", "--etag", "x"], 2);
    world.fails("europe", &["channel", "create", "nowhere/a"], 3);

    let made = world.json("europe", &["channel", "show", "demo/a/b"]);
    let etag = made["channel"]["etag"].as_str().expect("an etag").to_owned();
    let level = ["--durability", "all", "--etag", &etag];
    let update = [&["channel", "update", "demo/a/b", "--description", "second"], &level[..]];
    let updated = world.json("europe", &update.concat());
    assert_eq!(updated["channel"]["description"], "second");
    assert_eq!(updated["durable_at"].as_array().map(Vec::len), Some(2), "{updated:#}");
    let said = world.fails("europe", &update.concat(), 4);
    assert!(said.contains("edit again"), "{said}");

    world.json("asia", &["channel", "create", "demo/c"]);
    world.until("the channel", || world.interlock.json("europe", &["channel", "show", "demo/c"]));
    let listed = world.json("europe", &["channel", "list", "demo"]);
    assert_eq!(listed["channels"].as_array().map(Vec::len), Some(2), "{listed:#}");
    let table = world.table("europe", &["channel", "list", "demo", "--prefix", "a/"]);
    assert!(line(&table, "a/b").contains("second") && !table.contains("\n c "), "{table}");

    let deleted = world.json("europe", &["channel", "delete", "demo/a/b"]);
    assert_eq!(deleted["epoch"], 1);
    let said = world.table("europe", &["channel", "delete", "demo/c"]);
    assert!(said.starts_with("deleted demo/c"), "{said}");
    world.fails("europe", &["channel", "delete", "demo/c"], 3);
    let said = world.fails("europe", &["channel", "show", "demo/never"], 3);
    assert!(said.contains("interlock channel list"), "{said}");
    world.fails("europe", &["publish", "demo/c", "too late"], 3);
    let listed = world.json("europe", &["channel", "list", "demo", "--deleted"]);
    assert_eq!(row(&listed["channels"], "c")["deleted"], true);
    world.json("europe", &["channel", "create", "demo/c"]);
    let shown = world.json("europe", &["channel", "show", "demo/c", "--history"]);
    assert_eq!(shown["channel"]["epoch"], 2);
    assert_eq!(shown["lost_operations"], json!([]));
    let table = world.table("europe", &["channel", "show", "demo/c", "--history"]);
    assert!(table.contains("LOST TO A CONCURRENT OPERATION"), "{table}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_written_as_it_is_and_fetched_again() {
    let origin = WebOrigin::start(b"open\n".to_vec()).expect("a port");
    let world = World::with_web_origin(Some(origin.address().to_owned())).await;
    world.json("europe", &["channel", "create", "demo/page", "--source", "/page.txt"]);
    world.until("the content", || {
        let ran = world.run("asia", &["channel", "content", "demo/page"]);
        ensure!(ran.stdout == "open\n", "{ran:?}");
        Ok(())
    });
    let same = world.json("europe", &["channel", "refresh", "demo/page"]);
    assert_eq!(same["changed"], false);
    origin.replace(b"closed\xff".to_vec());
    let said = world.table("europe", &["channel", "refresh", "demo/page"]);
    assert!(said.starts_with("new content"), "{said}");
    let content = world.interlock.command("europe", &["channel", "content", "demo/page"]).output();
    assert_eq!(content.expect("it starts").stdout, b"closed\xff");
    world.json("europe", &["channel", "create", "demo/plain"]);
    world.fails("europe", &["channel", "refresh", "demo/plain"], 4);
    world.fails("europe", &["channel", "content", "demo/plain"], 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_says_which_channels_there_are() {
    let world = World::start().await;
    world.json("europe", &["group", "apply", "west", "--regions", "europe"]);
    world.json("europe", &["namespace", "create", "news", "--groups", "west"]);
    world.until("the namespace", || world.interlock.json("europe", &["channel", "list", "news"]));
    world.json("europe", &["channel", "create", "demo/old"]);
    world.json("europe", &["channel", "create", "demo/kept", "--description", "before"]);
    let file = world.folder.path().join("channels.yaml");
    let text = "namespace: demo\n\
                channels:\n\
                - name: kept\n  description: now\n\
                - name: new\n\
                ---\n\
                namespace: news\n\
                channels:\n\
                - name: world\n";
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");
    let apply = ["channel", "apply", "-f", file];
    let expected = json!([
        { "op": "update", "namespace": "demo", "name": "kept", "fields": ["description"] },
        { "op": "create", "namespace": "demo", "name": "new", "fields": [] },
        { "op": "create", "namespace": "news", "name": "world", "fields": [] },
    ]);

    let dry = world.run("europe", &[&apply[..], &["--dry-run"]].concat());
    dry.assert_failed(6);
    assert!(dry.stdout.contains("~ kept (description)\n+ new\nnews:\n+ world"), "{dry:?}");
    let dry = world.run("europe", &[&["-o", "json"], &apply[..], &["--dry-run"]].concat());
    dry.assert_failed(6);
    let printed: serde_json::Value = serde_json::from_str(&dry.stdout).expect("JSON");
    assert_eq!(printed["changes"], expected);
    let listed = world.json("europe", &["channel", "list", "demo"]);
    assert_eq!(row(&listed["channels"], "kept")["description"], "before", "it was dry");

    let said = world.fails("europe", &apply, 2);
    assert!(said.contains("--yes"), "{said}");
    let done = world.json("europe", &[&apply[..], &["--yes"]].concat());
    assert_eq!(done["changes"], expected);
    let listed = world.json("europe", &["channel", "list", "demo"]);
    assert_eq!(row(&listed["channels"], "kept")["description"], "now");
    assert_eq!(listed["channels"].as_array().map(Vec::len), Some(3), "{listed:#}");
    let same = world.json("europe", &[&apply[..], &["--dry-run"]].concat());
    assert_eq!(same["changes"], json!([]));
    let table = world.table("europe", &[&apply[..], &["--yes", "--prune"]].concat());
    assert!(table.contains("- old") && table.contains("1 channel changed"), "{table}");
    let matches = world.table("europe", &[&apply[..], &["--prune", "--yes"]].concat());
    assert_eq!(matches, "demo matches the file\nnews matches the file\n");

    for wrong in ["namespace: demo\nchanels: []\n", "namespace: demo\n", "- [", "x"] {
        let ran = world.run_with("europe", &["channel", "apply", "-f", "-"], wrong.as_bytes());
        ran.assert_failed(2);
    }
    world.fails("europe", &["channel", "apply", "-f", "/nowhere.yaml"], 2);
    world.end().await;
}
