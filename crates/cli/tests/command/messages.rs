//! Publishing and reading.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;
use xtask::interlock_command::finish;

use crate::support::{PATIENCE, World, line};

const MEBIBYTE: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_files_and_lines_are_published_and_read() {
    let world = World::start().await;
    world.channel("hello");
    let said = world.table("europe", &["publish", "demo/hello", "one", "--durability", "all"]);
    assert!(said.starts_with("published 1 to demo/hello, the last as "), "{said}");
    assert!(said.contains("europe-1") && said.contains("asia-1"), "{said}");
    let file = world.folder.path().join("message");
    std::fs::write(&file, b"two\nlines").expect("written");
    let file = file.to_str().expect("UTF-8").to_owned();
    let answer = world.json("asia", &["publish", "demo/hello", "--file", &file]);
    assert_eq!((&answer["published"], &answer["repeated"]), (&json!(1), &json!(0)));
    let answer = world.json("asia", &["publish", "demo/hello", "--lines", &file]);
    assert_eq!(answer["published"], 2);
    let lines = ["-o", "json", "publish", "demo/hello", "--lines", "-"];
    let piped = world.run_with("asia", &lines, b"\nlast");
    assert_eq!((piped.code, piped.stderr.as_str()), (0, ""), "{piped:?}");
    let none = world.run_with("asia", &["publish", "demo/hello", "--lines", "-"], b"");
    assert_eq!(none.code, 0, "{none:?}");
    assert!(none.stdout.starts_with("published 0 to demo/hello, in "), "{none:?}");

    let raw = "one\ntwo\nlines\ntwo\nlines\n\nlast\n";
    world.until("all in both regions", || {
        for region in ["europe", "asia"] {
            let ran = world.run(region, &["history", "demo/hello", "--raw"]);
            anyhow::ensure!(ran.stdout == raw, "{region}: {ran:?}");
        }
        Ok(())
    });
    let table = world.table("europe", &["history", "demo/*", "--from", "last:1"]);
    assert!(table.trim_end().ends_with("last") && table.contains("  hello  "), "{table}");
    let part = world.run("europe", &["-o", "json", "history", "demo/hello", "--limit", "2"]);
    let part = part.json_lines();
    assert_eq!((&part[0]["payload"], &part[0]["type"]), (&json!("one"), &json!("message")));
    assert_eq!((part.len(), &part[2]["more"]), (3, &json!(true)), "{part:#?}");
    let cursor = part[2]["cursor"].as_str().expect("a cursor");
    let from = format!("cursor:{cursor}");
    let rest = world.run("asia", &["history", "demo/hello", "--from", &from, "--raw"]);
    assert_eq!(rest.stdout, "two\nlines\n\nlast\n", "the cursor goes on in another region");

    let read = ["subscribe", "demo/hello", "--from", "oldest", "--count", "6"];
    assert_eq!(world.table("asia", &[&read[..], &["--raw"]].concat()), raw);
    let read_json = world.run("asia", &[&["-o", "json"], &read[..]].concat()).json_lines();
    assert_eq!(read_json.last().expect("six")["payload"], "last");
    let table = world.table("asia", &read);
    assert!(line(&table.replace('\n', " "), "20").contains("  hello  "), "{table}");
    let ran = world.run("asia", &["subscribe", "demo/hello", "--idle-timeout", "1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");

    let position = world.folder.path().join("position");
    let position = position.to_str().expect("UTF-8").to_owned();
    let one = |region| {
        let from = ["--from", "oldest", "--count", "1", "--raw", "--cursor-file", &position];
        world.table(region, &[&["subscribe", "demo/hello"], &from[..]].concat())
    };
    assert_eq!((one("europe").as_str(), one("asia").as_str()), ("one\n", "two\nlines\n"));
    let cursor = std::fs::read_to_string(&position).expect("kept");
    let shown = world.json("asia", &["cursor", "show", cursor.trim()]);
    assert!(shown["tips"].as_array().is_some_and(|tips| !tips.is_empty()), "{shown:#}");
    let table = world.table("asia", &["cursor", "show", cursor.trim()]);
    assert!(table.contains("INCARNATION"), "{table}");
    std::fs::write(&position, "nonsense").expect("written");
    let read = ["subscribe", "demo/hello", "--cursor-file", &position];
    let said = world.fails("asia", &read, 2);
    assert!(said.contains("remove the file"), "{said}");
    world.end().await;
}

/// As behind `tail -f`: what is wrong is said although no further line comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_line_is_told_while_input_is_still_open() {
    let world = World::start().await;
    world.channel("hello");
    for (channel, code, expected) in [
        ("demo/nowhere", 3, "0 lines are stored; no other line is"),
        ("nowhere/hello", 3, "0 lines are stored; no other line is"),
    ] {
        let mut child = world
            .interlock
            .command("europe", &["publish", channel, "--lines", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"a line\n").expect("it reads");
        let error = finish(child, channel, PATIENCE).expect_err("it is refused").to_string();
        drop(stdin);
        assert!(error.contains(&format!("exit status: {code}")), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("the publisher has ended"), "{error}");
    }

    let limited = ["channel", "create", "demo/short", "--max-payload-bytes", "4"];
    world.json("europe", &limited);
    let ran = world.run_with("europe", &["publish", "demo/short", "--lines", "-"], b"too long\n");
    ran.assert_failed(2);
    assert!(ran.stderr.contains("0 lines are stored; no other line is"), "{ran:?}");
    let mut input = b"short\n".to_vec();
    input.extend(vec![b'x'; MEBIBYTE + 1]);
    let ran = world.run_with("europe", &["publish", "demo/hello", "--lines", "-"], &input);
    ran.assert_failed(2);
    assert!(ran.stderr.contains("lines 1 to 1 are stored") && ran.stderr.contains("line 2 has"));
    let ran = world.run("europe", &["history", "demo/hello", "--raw"]);
    assert_eq!(ran.stdout, "short\n");
    world.end().await;
}
