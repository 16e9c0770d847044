//! Damage to stored data that nobody reads is found by the scrubber.

use std::path::{Path, PathBuf};

use interlock_rpc::v1;

use crate::support::{Mesh, TestNamespace, until};

const PAYLOAD: &[u8] = b"the payload that a bit of turns over";

/// The file of the database's tables that has the payload, and where.
fn find_payload(data_dir: &Path) -> (PathBuf, usize) {
    let files = std::fs::read_dir(data_dir.join("database")).expect("readable");
    let tables = files.map(|file| file.expect("readable").path());
    let mut tables = tables.filter(|file| file.extension() == Some("sst".as_ref()));
    let found = tables.find_map(|file| {
        let bytes = std::fs::read(&file).expect("readable");
        let at = bytes.windows(PAYLOAD.len()).position(|window| window == PAYLOAD)?;
        Some((file, at))
    });
    found.expect("an opening moves what the write-ahead file has into tables")
}

fn flip_bit((file, offset): &(PathBuf, usize)) {
    let mut bytes = std::fs::read(file).expect("readable");
    bytes[*offset] ^= 1;
    std::fs::write(file, bytes).expect("writable");
}

async fn scrubbed(mesh: &Mesh, at: usize) -> Result<(v1::ScrubStatus, Vec<v1::Alarm>), String> {
    let status = mesh.status(at).await.map_err(|status| status.to_string())?;
    let scrub = status.scrub.ok_or("it says nothing of scrubbing")?;
    Ok((scrub, status.alarms))
}

/// A bit turns over on the disk of a node that runs: an alarm names the log and the
/// message, the node and its peers go on, and the alarm ends when the data is good.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_raises_an_alarm_and_no_more() {
    let namespaces = [TestNamespace::on("demo", vec![0, 1])];
    let mut mesh = Mesh::with_config(2, &namespaces, |_, config| {
        config.limits.scrub_interval_seconds = 1;
        // What peers ask for comes from the disk.
        config.limits.tail_cache_bytes = 0;
    })
    .await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    mesh.publish(0, "news", PAYLOAD).await.expect("it is accepted");
    // The damaged block is not the one that an opening reads.
    for _ in 0..16 {
        mesh.publish(0, "news", vec![b'.'; 64 * 1024]).await.expect("it is accepted");
    }
    mesh.until_converged(&[0, 1]).await;
    mesh.shutdown(0).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    until("everything was read again", async || match scrubbed(&mesh, 0).await? {
        (scrub, alarms) if scrub.passes >= 1 && alarms.is_empty() => {
            assert!(scrub.expected_bytes > 16 * 64 * 1024, "{scrub:?}");
            assert!(scrub.last_finished > 0, "{scrub:?}");
            Ok(())
        }
        seen => Err(format!("{seen:?}")),
    })
    .await;

    let place = find_payload(&mesh.data_dir(0));
    flip_bit(&place);
    let alarm = until("the damage is found", async || match scrubbed(&mesh, 0).await? {
        (scrub, alarms) if alarms.len() == 1 && scrub.findings == 1 => Ok(alarms[0].clone()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    assert_eq!(alarm.name, "damaged_data");
    let status = mesh.status(0).await.expect("it serves");
    let log = status.namespaces[0].logs[0].log.expect("it has a name");
    let incarnation = format!("{:016x}", log.incarnation);
    assert!(alarm.detail.contains(&incarnation), "{} of {incarnation}", alarm.detail);
    assert!(alarm.detail.contains("from message 1 on"), "{}", alarm.detail);
    mesh.publish(0, "news", "after").await.expect("it accepts");
    mesh.until_converged(&[0, 1]).await;
    assert_eq!(scrubbed(&mesh, 1).await.expect("it serves").1, [], "the other disk is good");

    flip_bit(&place);
    until("the alarm is over", async || match scrubbed(&mesh, 0).await? {
        (scrub, alarms) if alarms.is_empty() && scrub.findings == 0 => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
}

/// With a rate of 0 nothing is read.
#[tokio::test(flavor = "multi_thread")]
async fn no_rate_is_no_scrubbing() {
    let namespaces = [TestNamespace::on("demo", vec![0, 1])];
    let mesh = Mesh::with_config(2, &namespaces, |index, config| {
        config.limits.scrub_interval_seconds = 1;
        if index == 0 {
            config.limits.scrub_bytes_per_second = 0;
        }
    })
    .await;
    until("the other has read twice", async || match scrubbed(&mesh, 1).await? {
        (scrub, _) if scrub.passes >= 2 => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    let (scrub, _) = scrubbed(&mesh, 0).await.expect("it serves");
    assert_eq!((scrub.passes, scrub.read_bytes, scrub.bytes_per_second), (0, 0, 0));
}

/// A pass takes as long as its rate demands, and the next one begins an interval
/// after its beginning, or at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_keeps_to_its_rate() {
    const RATE: u64 = 256 * 1024;
    let namespaces = [TestNamespace::on("demo", vec![0])];
    let mesh = Mesh::with_config(1, &namespaces, |_, config| {
        config.limits.scrub_interval_seconds = 1;
        config.limits.scrub_bytes_per_second = RATE;
    })
    .await;
    mesh.create_channel(0, "news", &[0]).await;
    for _ in 0..8 {
        mesh.publish(0, "news", vec![b'.'; 64 * 1024]).await.expect("it is accepted");
    }
    let scrub = until("all of it was read in one pass", async || {
        let (scrub, _) = scrubbed(&mesh, 0).await?;
        let has_read = scrub.passes > 0 && scrub.expected_bytes > 8 * 64 * 1024;
        // Before the first pass has ended, what is expected is what the logs take.
        if has_read { Ok(scrub) } else { Err(format!("{scrub:?}")) }
    })
    .await;
    let least = scrub.expected_bytes * 1000 / RATE;
    assert!(scrub.last_took_milliseconds >= least, "{least} ms: {scrub:?}");
}
