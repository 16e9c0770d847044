//! Who holds what, and how nodes hear of it (METHOD M15).

use std::time::Duration;

use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use interlock_rpc::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status, Streaming};

use super::{Fixture, owned, within};

async fn watch(
    fixture: &Fixture,
    known: Option<v1::TopologyVersion>,
) -> Streaming<v1::WatchTopologyResponse> {
    let request = v1::WatchTopologyRequest { known };
    fixture.topology().watch_topology(request).await.expect("is watched").into_inner()
}

async fn next(watched: &mut Streaming<v1::WatchTopologyResponse>) -> v1::Topology {
    let response = within(watched.message()).await.expect("no error").expect("goes on");
    response.topology.expect("is in every answer")
}

fn number(topology: &v1::Topology) -> u64 {
    topology.version.expect("has one").number
}

#[tokio::test]
async fn watchers_get_what_they_do_not_know() {
    let mut fixture = Fixture::start().await;
    let mut from_nothing = watch(&fixture, None).await;
    assert_eq!(number(&next(&mut from_nothing).await), 0, "an empty document is one too");

    fixture.register("eu-1", "eu").await;
    let first = next(&mut from_nothing).await;
    assert_eq!(number(&first), 1);
    assert_eq!(first.nodes[0].name, "eu-1");

    // Who knows the present one hears of the next.
    let mut from_present = watch(&fixture, first.version).await;
    fixture.register("us-1", "us").await;
    assert_eq!(number(&next(&mut from_present).await), 2);
    assert_eq!(number(&next(&mut from_nothing).await), 2);

    // An edit that changes nothing is nothing to hear of.
    let request = v1::ApplyRegionRequest { name: "eu".to_owned() };
    fixture.topology().apply_region(request).await.expect("it is there");
    let silent = tokio::time::timeout(Duration::from_millis(100), from_nothing.message()).await;
    assert!(silent.is_err(), "{silent:?}");

    // A control-plane that ends says so, and does not wait for its watchers.
    let stopping = std::time::Instant::now();
    fixture.stop().await;
    assert!(stopping.elapsed() < Duration::from_secs(4));
    let status = within(from_present.message()).await.expect_err("it ends");
    assert_eq!(reason_of(&status), Some(Reason::Draining));
}

/// METHOD M15: a group names who shares the channels; nobody else founds them.
#[tokio::test]
async fn namespaces_are_founded_by_the_nodes_of_their_groups() {
    let mut fixture = Fixture::start().await;
    let eu = fixture.register("eu-1", "eu").await;
    let us = fixture.register("us-1", "us").await;
    fixture.register("ap-1", "ap").await;
    fixture.apply_group("atlantic", &["eu", "us"]).await;

    let created = fixture.create_namespace("news", &["atlantic"]).await.expect("created");
    assert_eq!(created.number, 1);
    let founders: Vec<u32> = created.founders.iter().map(|it| it.node).collect();
    assert_eq!(founders, [eu.number, us.number]);
    assert!(created.founders.iter().all(|it| !it.opened));
    let again = fixture.create_namespace("news", &["atlantic"]).await.expect("the same");
    assert_eq!(again, created);

    let opened = |fencing_token, namespaces: &[u32]| {
        let mut client = fixture.topology();
        let namespaces = namespaces.to_vec();
        let request =
            v1::RecordNamespaceOpenedRequest { node: eu.number, fencing_token, namespaces };
        async move { client.record_namespace_opened(request).await }
    };
    opened(eu.fencing_token, &[1]).await.expect("is a founder");
    let stale = opened(eu.fencing_token + 1, &[1]).await.expect_err("not its token");
    assert_eq!(reason_of(&stale), Some(Reason::Fenced));
    let unknown = opened(eu.fencing_token, &[2]).await.expect_err("no such number");
    assert_eq!(unknown.code(), Code::NotFound);

    // Who comes later is a member and no founder; nothing is forgotten.
    fixture.register("eu-2", "eu").await;
    fixture.restart().await;
    let topology = fixture.get_topology().await;
    let opened: Vec<bool> = topology.namespaces[0].founders.iter().map(|it| it.opened).collect();
    assert_eq!(opened, [true, false]);
    let shown: Vec<(String, usize)> = fixture
        .nodes()
        .await
        .into_iter()
        .map(|record| (record.node.expect("is in every record").name, record.namespaces.len()))
        .collect();
    let expected = [("eu-1", 1), ("us-1", 1), ("ap-1", 0), ("eu-2", 1)]
        .map(|(name, it)| (name.to_owned(), it));
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn refused_edits_name_the_field_and_change_nothing() {
    let fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    fixture.register("us-1", "us").await;
    fixture.apply_group("both", &["eu", "us"]).await;
    fixture.create_namespace("news", &["both"]).await.expect("created");
    let request = v1::ApplyRegionRequest { name: "empty".to_owned() };
    fixture.topology().apply_region(request).await.expect("made");
    fixture.apply_group("nobody", &["empty"]).await;
    let before = fixture.get_topology().await;

    let group = |name: &str, regions: &[&str]| {
        let mut client = fixture.topology();
        let request = v1::ApplyGroupRequest {
            name: name.to_owned(),
            regions: owned(regions),
            ..Default::default()
        };
        async move { client.apply_group(request).await.map(|_| ()) }
    };
    let create = |name: &str, groups: &[&str], disk_cap_bytes| {
        let mut client = fixture.topology();
        let request = v1::CreateNamespaceRequest {
            name: name.to_owned(),
            groups: owned(groups),
            disk_cap_bytes,
            retention: None,
        };
        async move { client.create_namespace(request).await.map(|_| ()) }
    };
    let update = |name: &str, add_groups: &[&str]| {
        let mut client = fixture.topology();
        let request = v1::UpdateNamespaceRequest {
            name: name.to_owned(),
            add_groups: owned(add_groups),
            ..Default::default()
        };
        async move { client.update_namespace(request).await.map(|_| ()) }
    };
    let many = vec!["both"; 65];
    let cases: Vec<(Result<(), Status>, Reason, &str)> = vec![
        (group("g", &["mars"]).await, Reason::UnknownRegion, "regions"),
        (group("g", &["eu", "M"]).await, Reason::InvalidField, "regions[1]"),
        (group("G", &["eu"]).await, Reason::InvalidField, "name"),
        (group("g", &[]).await, Reason::InvalidField, "regions"),
        (group("both", &["eu"]).await, Reason::TopologyInvalid, "regions"),
        (create("n", &["mars"], 0).await, Reason::UnknownGroup, "groups"),
        (create("n", &[], 0).await, Reason::InvalidField, "groups"),
        (create("n", &many, 0).await, Reason::InvalidField, "groups"),
        (create("n/a", &["both"], 0).await, Reason::InvalidField, "name"),
        (create("n", &["nobody"], 0).await, Reason::TopologyInvalid, "groups"),
        (create("news", &["both"], 1).await, Reason::NamespaceExists, "name"),
        (update("news", &["mars"]).await, Reason::UnknownGroup, "add_groups"),
        (update("olds", &["both"]).await, Reason::UnknownNamespace, "name"),
    ];
    for (answer, reason, field) in cases {
        let status = answer.expect_err(field);
        assert_eq!(reason_of(&status), Some(reason), "{status:?}");
        let fields = invalid_fields(&status);
        assert_eq!(fields.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), [field]);
    }
    assert_eq!(fixture.get_topology().await, before);
}

#[tokio::test]
async fn groups_can_be_added_to_a_namespace() {
    let fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    fixture.register("us-1", "us").await;
    fixture.apply_group("europe", &["eu"]).await;
    fixture.apply_group("america", &["us"]).await;
    fixture.create_namespace("news", &["europe"]).await.expect("created");
    let request = v1::UpdateNamespaceRequest {
        name: "news".to_owned(),
        add_groups: owned(&["america"]),
        disk_cap_bytes: Some(1 << 30),
        ..Default::default()
    };
    let updated = fixture.topology().update_namespace(request).await.expect("updated");
    let namespace = updated.into_inner().namespace.expect("is in every answer");
    assert_eq!(namespace.groups, ["europe", "america"]);
    assert_eq!(namespace.disk_cap_bytes, 1 << 30);
    assert_eq!(namespace.founders.len(), 1, "who is added is no founder");
}

#[tokio::test]
async fn metrics_say_who_is_alive_and_which_version_holds() {
    let fixture = Fixture::start().await;
    fixture.register("eu-1", "eu").await;
    let _watched = watch(&fixture, None).await;
    let address = fixture.running.as_ref().and_then(|it| it.metrics_address()).expect("is served");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("listens");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .await
        .expect("is open");
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.expect("text");
    for line in [
        "interlock_control_plane_nodes{liveness=\"alive\"} 1.0",
        "interlock_control_plane_nodes{liveness=\"lease_expired\"} 0.0",
        "interlock_control_plane_topology_version{part=\"number\"} 1.0",
        "interlock_control_plane_operations_total{outcome=\"done\"} 0",
        "interlock_control_plane_topology_watchers 1.0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let behind = |line: &&str| line.starts_with("interlock_control_plane_topology_behind");
    assert!(text.lines().find(behind).is_some_and(|line| line.ends_with(" 0.0")), "{text}");
}
