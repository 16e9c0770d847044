//! Retention, and catching up with what was trimmed: base, hole, and the rest.

use crate::support::{Mesh, TestNamespace, follow, oldest, until};
use interlock_rpc::v1;

const PAYLOAD_BYTES: usize = 1024;

async fn publish_many(mesh: &Mesh, at: usize, channel: &str, count: usize) {
    for number in 0..count {
        let mut payload = format!("{number} ").into_bytes();
        payload.resize(PAYLOAD_BYTES, b'.');
        mesh.publish(at, channel, payload).await.expect("it is accepted");
    }
}

async fn namespace_of(mesh: &Mesh, at: usize) -> Result<v1::NamespaceStatus, String> {
    let status = mesh.status(at).await.map_err(|status| status.to_string())?;
    status.namespaces.into_iter().next().ok_or_else(|| "no namespace".to_owned())
}

/// The highest floor of a node's logs.
async fn floor_at(mesh: &Mesh, at: usize) -> Result<u64, String> {
    let namespace = namespace_of(mesh, at).await?;
    Ok(namespace.logs.iter().map(|log| log.floor).max().unwrap_or(0))
}

async fn until_trimmed(mesh: &Mesh, at: usize, beyond: u64) {
    until("the log is trimmed", async || {
        let floor = floor_at(mesh, at).await?;
        if floor > beyond { Ok(()) } else { Err(format!("its floor is {floor}")) }
    })
    .await;
}

fn kept_small() -> TestNamespace {
    let options = "retention_bytes = 300000";
    TestNamespace { options, ..TestNamespace::on("demo", vec![0, 1, 2]) }
}

/// Three nodes with little memory: what is trimmed is nowhere any more.
async fn small_mesh(namespace: TestNamespace) -> Mesh {
    Mesh::with_config(3, &[namespace], |_, config| {
        config.limits.tail_cache_bytes = 32 * 1024;
    })
    .await
}

/// What all members hold is trimmed by size, everywhere; a member whose disk was
/// lost then takes over the channels, deleted ones too, crosses the hole, and has
/// the rest: it holds the same as the others and accepts.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_gets_base_and_hole() {
    let mut mesh = small_mesh(kept_small()).await;
    for channel in ["news", "gone", "quiet"] {
        mesh.create_channel(0, channel, &[0, 1, 2]).await;
    }
    let gone = v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: "gone".to_owned(),
        ..Default::default()
    };
    mesh.channels(1).delete_channel(gone).await.expect("it is there");
    publish_many(&mesh, 0, "news", 1_000).await;
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        until_trimmed(&mesh, node, 300).await;
    }
    let before = mesh.verify(0).await.expect("it serves");

    mesh.kill(2).await;
    std::fs::remove_dir_all(mesh.data_dir(2)).expect("it is a folder");
    mesh.nodes[2].config.bootstrap = false;
    mesh.restart(2).await;
    mesh.until_serving(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    let after = mesh.verify(2).await.expect("it serves");
    assert_eq!(after.namespaces[0].state, before.namespaces[0].state);

    let floor = floor_at(&mesh, 2).await.expect("it serves");
    assert!(floor > 300, "the hole was crossed: {floor}");
    let taken = v1::CreateChannelRequest {
        namespace: "demo".to_owned(),
        channel: "quiet".to_owned(),
        ..Default::default()
    };
    mesh.channels(2).create_channel(taken).await.expect_err("its creation is in the base");
    let dead = mesh.publish(2, "gone", "x").await.expect_err("its tombstone is in the base");
    assert_eq!(dead.code(), tonic::Code::NotFound, "{dead}");
    mesh.publish(2, "news", "after").await.expect("it accepts");
    mesh.until_converged(&[0, 1, 2]).await;

    // Once more from its disk: the base was stored.
    mesh.kill(2).await;
    mesh.restart(2).await;
    mesh.until_serving(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.publish(2, "gone", "x").await.expect_err("its tombstone was stored");
}

/// Who reads from before the floor is told of the gap first, at every node.
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_told_what_is_trimmed() {
    let mesh = small_mesh(kept_small()).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    publish_many(&mesh, 0, "news", 800).await;
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        until_trimmed(&mesh, node, 100).await;
        let request = v1::FollowRequest { until_now: true, ..follow(oldest(), &["news"]) };
        let stream = mesh.delivery(node).follow(request).await.expect("the node serves");
        let mut stream = stream.into_inner();
        let mut told: Vec<(u64, u64)> = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        while let Some(response) = stream.message().await.expect("the stream goes on") {
            match response.body {
                Some(v1::follow_response::Body::Gap(gap)) => {
                    assert!(numbers.is_empty(), "the gap comes first");
                    told.push((gap.from, gap.through));
                }
                Some(v1::follow_response::Body::Batch(batch)) => {
                    let messages = crate::support::messages(&batch);
                    numbers.extend(messages.into_iter().map(|(_, m_id, _)| m_id.get()));
                }
                _ => {}
            }
        }
        let (from, through) = *told.first().expect("a gap is told");
        assert_eq!((told.len(), from), (1, 1), "{told:?}");
        let rest: Vec<u64> = (through + 1..=801).collect();
        assert_eq!(numbers, rest, "at node {node}");
    }
}

/// A member that is away holds everything back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_trimmed_that_a_member_lacks() {
    let mut mesh = small_mesh(kept_small()).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.shutdown(2).await;
    publish_many(&mesh, 0, "news", 900).await;
    mesh.until_converged(&[0, 1]).await;
    // The look at what may be trimmed has come round when the growth is known.
    until("the space is looked at", async || {
        let namespace = namespace_of(&mesh, 0).await?;
        if namespace.log_bytes > 900_000 { Ok(()) } else { Err(namespace.log_bytes) }
            .map_err(|it| it.to_string())
    })
    .await;
    let held = floor_at(&mesh, 0).await.expect("it serves");
    assert!(held <= 1, "only what all have was trimmed: {held}");
    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    until_trimmed(&mesh, 0, 300).await;
    assert!(floor_at(&mesh, 2).await.expect("it serves") < 900);
}

/// Publishes until what a member lacks is let go of at the cap. Many small messages:
/// few are not worth a trim for a while.
async fn publish_until_released(mesh: &Mesh, beyond: u64) {
    let mut sent = 0;
    until("the queue is released", async || {
        for _ in 0..32 {
            // Published a little faster than it is looked at, it is full for moments.
            let accepted = mesh.publish(0, "news", vec![7; PAYLOAD_BYTES / 4]).await;
            sent += usize::from(accepted.is_ok());
        }
        let floor = floor_at(mesh, 0).await?;
        if floor > beyond { Ok(()) } else { Err(format!("{sent} sent, floor {floor}")) }
    })
    .await;
}

/// A namespace that prefers to go on lets go of what a member that is away lacks,
/// says so, and that member comes back over the hole.
#[tokio::test(flavor = "multi_thread")]
async fn at_its_cap_a_namespace_may_release_the_slowest() {
    let options = "disk_cap_bytes = 400000\nwhen_full = \"release\"";
    let namespace = TestNamespace { options, ..TestNamespace::on("demo", vec![0, 1, 2]) };
    let mut mesh = small_mesh(namespace).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.shutdown(2).await;
    publish_until_released(&mesh, 20).await;
    let status = mesh.status(0).await.expect("it serves");
    let alarm = status.alarms.iter().find(|alarm| alarm.name == "queue_released");
    assert!(alarm.is_some_and(|alarm| alarm.detail.contains("node-2")), "{:?}", status.alarms);

    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    assert!(floor_at(&mesh, 2).await.expect("it serves") > 20);
    mesh.publish(2, "news", "back").await.expect("it accepts");
    mesh.until_converged(&[0, 1, 2]).await;
    until("the alarm is over", async || {
        let status = mesh.status(0).await.map_err(|status| status.to_string())?;
        match status.alarms.iter().find(|alarm| alarm.name == "queue_released") {
            Some(alarm) => Err(alarm.detail.clone()),
            None => Ok(()),
        }
    })
    .await;
}

/// A member with a hole in the middle of a log, started again, hands it on: base,
/// what is before the hole, the hole, what is behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_middle_is_handed_on() {
    let options = "disk_cap_bytes = 400000\nwhen_full = \"release\"";
    let namespace = TestNamespace { options, ..TestNamespace::on("demo", vec![0, 1, 2]) };
    let mut mesh = small_mesh(namespace).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    for number in 0..20 {
        mesh.publish(0, "news", format!("early {number}")).await.expect("it is accepted");
    }
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.shutdown(2).await;
    publish_until_released(&mesh, 40).await;
    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;

    // From its disk: what it offers is what it offered before.
    mesh.kill(2).await;
    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.kill(0).await;
    mesh.kill(1).await;
    std::fs::remove_dir_all(mesh.data_dir(1)).expect("it is a folder");
    mesh.nodes[1].config.bootstrap = false;
    mesh.restart(1).await;
    mesh.until_serving(1).await;
    mesh.until_converged(&[1, 2]).await;
    let (taken, given) = (mesh.verify(1).await, mesh.verify(2).await);
    let (taken, given) = (taken.expect("it serves"), given.expect("it serves"));
    assert_eq!(taken.namespaces[0].state, given.namespaces[0].state);
    mesh.publish(1, "news", "after").await.expect("it accepts");
    mesh.until_converged(&[1, 2]).await;
}
