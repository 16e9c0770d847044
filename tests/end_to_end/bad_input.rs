//! Every limit, one beyond it: refused with the field's name, nothing stored, and
//! the service stays up (promise I9, bad input).

use std::collections::BTreeMap;

use bytes::Bytes;
use interlock_client::Start;
use interlock_core::limits::{
    MAX_ADDRESS_BYTES, MAX_CHANNEL_NAME_BYTES, MAX_DESCRIPTION_BYTES, MAX_GROUPS_PER_MESSAGE,
    MAX_KEY_BYTES, MAX_LABEL_BYTES, MAX_LABELS, MAX_NAMESPACE_NAME_BYTES, MAX_PAYLOAD_BYTES,
    MAX_PUBLICATIONS_PER_REQUEST, MAX_SOURCE_PATH_BYTES, MAX_SUBSCRIBE_CHANNELS, MAX_VERIFIED_LOGS,
};
use interlock_rpc::status::{Reason, invalid_fields, metadata_of, reason_of};
use interlock_rpc::{services, v1};
use tonic::{Code, Status};

use crate::support::{
    REGIONS, World, create, delete, describe, get, owned, publication, publish, subscribe,
};
use crate::waiting::{in_time, until};

/// A refusal for what was asked, which names the field.
#[track_caller]
fn assert_names(field: &str, status: &Status) {
    assert!(
        matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted),
        "{field}: {status}"
    );
    let named: Vec<_> = invalid_fields(status).into_iter().map(|named| named.field).collect();
    assert!(named.iter().any(|named| named == field), "{field} is not in {named:?}: {status}");
}

/// Names that no channel can have.
fn wrong_channels() -> Vec<String> {
    let mut names = owned(&["", "no channel", "ümlaut", "a//b", "/a", "a/", "..", "a/./b", "a\0"]);
    names.push("a".repeat(MAX_CHANNEL_NAME_BYTES + 1));
    names
}

/// Names that no namespace, region, group or node can have.
fn wrong_places() -> Vec<String> {
    let mut names = owned(&["", "Upper", "under_score", "-a", "a-", "a/b", "a b", "\u{0}"]);
    names.push("a".repeat(MAX_NAMESPACE_NAME_BYTES + 1));
    names
}

fn labels(count: usize, key_bytes: usize, value_bytes: usize) -> BTreeMap<String, String> {
    (0..count).map(|number| (format!("{number:0>key_bytes$}"), "v".repeat(value_bytes))).collect()
}

fn durability(level: i32, peers: u32) -> Option<v1::Durability> {
    Some(v1::Durability { level, peers })
}

/// Publications, sessions and streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_keeps_its_limits() {
    let world = World::start().await;
    let longest = "n".repeat(MAX_CHANNEL_NAME_BYTES);
    world.create("europe", &longest).await;
    world.create("europe", "news").await;
    let before = world.until_same().await;
    let peers = v1::DurabilityLevel::Peers.into();
    let with = |change: &dyn Fn(&mut v1::PublishRequest)| {
        let mut request = publish("news", "x");
        change(&mut request);
        request
    };
    let publication_with = |change: &dyn Fn(&mut v1::Publication)| {
        let mut changed = publication("news", "x");
        change(&mut changed);
        v1::PublishRequest { publication: Some(changed), ..publish("news", "x") }
    };
    let session = Bytes::from(vec![1; 16]);
    let mut wrong = vec![
        ("publication", with(&|request| request.publication = None)),
        ("publication.payload", publish("news", vec![0; MAX_PAYLOAD_BYTES + 1])),
        (
            "publication.key",
            publication_with(&|it| it.key = Bytes::from(vec![0; MAX_KEY_BYTES + 1])),
        ),
        ("session", with(&|request| request.session = Bytes::from(vec![1; 15]))),
        ("session", with(&|request| request.session = Bytes::from(vec![1; 100_000]))),
        ("sequence", with(&|request| request.session = session.clone())),
        ("durability.level", with(&|request| request.durability = durability(99, 0))),
        ("durability.level", with(&|request| request.durability = durability(-1, 0))),
        ("durability.peers", with(&|request| request.durability = durability(peers, 0))),
        ("durability.peers", with(&|request| request.durability = durability(0, 1))),
    ];
    for channel in wrong_channels() {
        wrong.push(("publication.channel", publish(&channel, "x")));
    }
    for namespace in wrong_places() {
        wrong.push(("namespace", with(&|request| request.namespace.clone_from(&namespace))));
    }
    for mut client in [world.publishing("europe"), world.publishing_by_gateway("europe")] {
        for (field, request) in &wrong {
            let refused = client.publish(request.clone()).await.expect_err(field);
            assert_names(field, &refused);
        }
    }
    let sessions = [
        ("namespace", v1::OpenSessionRequest::default()),
        ("session", session_request(&[1; 17], 0, None)),
        ("session", session_request(&[], 1, Some(v1::MessageReference::default()))),
        ("last_acknowledged", session_request(&[1; 16], 1, None)),
        ("last_acknowledged_sequence", session_request(&[1; 16], 0, Some(reference(1)))),
        ("last_acknowledged.incarnation", session_request(&[1; 16], 1, Some(reference(0)))),
    ];
    for (field, request) in sessions {
        let refused = world.publishing("europe").open_session(request).await.expect_err(field);
        assert_names(field, &refused);
    }
    let frame = |publications: Vec<v1::Publication>| v1::PublishStreamRequest {
        namespace: "demo".to_owned(),
        publications,
        ..Default::default()
    };
    let too_many = vec![publication("news", "x"); MAX_PUBLICATIONS_PER_REQUEST + 1];
    let mut too_long = vec![publication("news", "x"); 3];
    too_long.push(publication("news", vec![0; MAX_PAYLOAD_BYTES + 1]));
    let no_sequence = v1::PublishStreamRequest {
        session: session.clone(),
        ..frame(vec![publication("news", "x")])
    };
    let streams = [
        ("publications", frame(too_many)),
        ("publications[3].payload", frame(too_long)),
        ("publications[0].channel", frame(vec![publication("no channel", "x")])),
        ("first_sequence", no_sequence),
        ("namespace", v1::PublishStreamRequest::default()),
    ];
    for (field, request) in streams {
        for mut client in [world.publishing("europe"), world.publishing_by_gateway("europe")] {
            let refused = publish_stream(&mut client, vec![request.clone()]).await;
            let refused = refused.expect_err(field);
            assert_names(field, &refused);
            // The publisher learns which one to drop.
            let sequence = match field {
                "publications[3].payload" => Some("4"),
                "publications[0].channel" => Some("1"),
                _ => None,
            };
            assert_eq!(metadata_of(&refused, "sequence").as_deref(), sequence, "{field}");
        }
    }
    assert_eq!(world.until_same().await, before, "nothing was stored anywhere");

    // At the limits, and what a publication may say that is dropped.
    let mut client = world.publishing("europe");
    client.publish(publish("news", vec![0; MAX_PAYLOAD_BYTES])).await.expect("at the limit");
    client.publish(publish(&longest, "x")).await.expect("at the limit");
    client.publish(publish("news", "")).await.expect("an empty payload is one");
    let key = publication_with(&|it| it.key = Bytes::from(vec![0xff; MAX_KEY_BYTES]));
    client.publish(key).await.expect("at the limit");
    let traced = publication_with(&|it| it.traceparent = "no context ".repeat(1000));
    client.publish(traced).await.expect("by its specification a broken context is dropped");
    let full = frame(vec![publication("news", "x"); MAX_PUBLICATIONS_PER_REQUEST]);
    let acknowledged = publish_stream(&mut client, vec![full]).await.expect("at the limit");
    assert_eq!(acknowledged, MAX_PUBLICATIONS_PER_REQUEST as u64);
    world.until_same().await;
    let read = world.history("asia", &["*"], Start::Oldest).await;
    assert_eq!(read.messages.len(), 5 + MAX_PUBLICATIONS_PER_REQUEST);
    assert_eq!(read.messages[0].payload, vec![0; MAX_PAYLOAD_BYTES]);
    assert_eq!(read.messages[3].key, vec![0xff; MAX_KEY_BYTES]);
    world.end().await;
}

fn reference(incarnation: u64) -> v1::MessageReference {
    v1::MessageReference { origin: 1, incarnation, namespace: 1, shard: 0, m_id: 1 }
}

fn session_request(
    session: &[u8],
    sequence: u64,
    last: Option<v1::MessageReference>,
) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        namespace: "demo".to_owned(),
        session: Bytes::copy_from_slice(session),
        last_acknowledged_sequence: sequence,
        last_acknowledged: last,
    }
}

/// How many publications of a stream are acknowledged before it ends.
async fn publish_stream(
    client: &mut crate::support::PublishClient,
    requests: Vec<v1::PublishStreamRequest>,
) -> Result<u64, Status> {
    let mut answers = client.publish_stream(tokio_stream::iter(requests)).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(answer) = in_time("an answer", answers.message()).await? {
        acknowledged += answer
            .acknowledged
            .iter()
            .map(|range| range.last_sequence - range.first_sequence + 1)
            .sum::<u64>();
    }
    Ok(acknowledged)
}

/// Channels: names, descriptions, labels, sources, conditions, pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_keep_their_limits() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let before = world.until_same().await;
    let too_long = "d".repeat(MAX_DESCRIPTION_BYTES + 1);
    let long_path = format!("/{}", "p".repeat(MAX_SOURCE_PATH_BYTES));
    let too_much = MAX_PAYLOAD_BYTES as u32 + 1;
    let many = labels(MAX_LABELS + 1, 4, 1);
    let long_key = labels(1, MAX_LABEL_BYTES + 1, 1);
    let long_value = labels(1, 4, MAX_LABEL_BYTES + 1);
    let huge = labels(2000, 200, 200);

    let created = |change: &dyn Fn(&mut v1::CreateChannelRequest)| {
        let mut request = create("other");
        change(&mut request);
        request
    };
    let mut creations = vec![
        ("description", created(&|it| it.description.clone_from(&too_long))),
        ("source", created(&|it| it.source.clone_from(&long_path))),
        ("source", created(&|it| "no-slash".clone_into(&mut it.source))),
        ("source", created(&|it| "/../secret".clone_into(&mut it.source))),
        ("source", created(&|it| "//elsewhere/x".clone_into(&mut it.source))),
        ("max_payload_bytes", created(&|it| it.max_payload_bytes = too_much)),
        ("durability.level", created(&|it| it.durability = durability(7, 0))),
    ];
    for wrong in [&many, &long_key, &long_value, &huge] {
        creations.push(("labels", created(&|it| it.labels.clone_from(wrong))));
    }
    for name in wrong_channels() {
        creations.push(("channel", created(&|it| it.channel.clone_from(&name))));
    }
    for name in wrong_places() {
        creations.push(("namespace", created(&|it| it.namespace.clone_from(&name))));
    }
    let updated = |change: &dyn Fn(&mut v1::UpdateChannelRequest)| {
        let mut request = v1::UpdateChannelRequest { description: None, ..describe("news", "") };
        change(&mut request);
        request
    };
    let mut updates = vec![
        ("description", updated(&|it| it.description = Some(too_long.clone()))),
        ("source", updated(&|it| it.source = Some(long_path.clone()))),
        ("max_payload_bytes", updated(&|it| it.max_payload_bytes = Some(too_much))),
        ("labels", updated(&|it| it.labels = labels(1, 4, 4))),
        ("etag", updated(&|it| (it.etag, it.description) = ("x".repeat(9000), Some("y".into())))),
        ("durability.peers", updated(&|it| it.durability = durability(2, 0))),
    ];
    for wrong in [&many, &long_key, &long_value, &huge] {
        updates.push(("labels", updated(&|it| (it.labels, it.set_labels) = (wrong.clone(), true))));
    }
    for mut channels in [world.channels("europe"), world.channels_by_gateway("europe")] {
        for (field, request) in &creations {
            let refused = channels.create_channel(request.clone()).await.expect_err(field);
            assert_names(field, &refused);
        }
        for (field, request) in &updates {
            let refused = channels.update_channel(request.clone()).await.expect_err(field);
            assert_names(field, &refused);
        }
        let nothing = channels.update_channel(updated(&|_| ())).await.expect_err("sets nothing");
        assert_eq!(nothing.code(), Code::InvalidArgument, "{nothing}");
        let deletion = v1::DeleteChannelRequest { etag: "1.2.3".to_owned(), ..delete("news") };
        assert_names("etag", &channels.delete_channel(deletion).await.expect_err("no etag"));
        for name in wrong_channels() {
            let read = channels.get_channel(get("demo", &name)).await.expect_err("no name");
            assert_names("channel", &read);
            let request = v1::GetChannelContentRequest {
                namespace: "demo".to_owned(),
                channel: name.clone(),
            };
            let read = channels.get_channel_content(request).await.expect_err("no name");
            assert_names("channel", &read);
            let refreshed = v1::RefreshChannelContentRequest {
                namespace: "demo".to_owned(),
                channel: name.clone(),
                durability: None,
            };
            let refreshed = channels.refresh_channel_content(refreshed).await;
            assert_names("channel", &refreshed.expect_err("no name"));
            let deleted = channels.delete_channel(delete(&name)).await.expect_err("no name");
            assert_names("channel", &deleted);
        }
        let list = |prefix: &str, page_token: &str| v1::ListChannelsRequest {
            namespace: "demo".to_owned(),
            prefix: prefix.to_owned(),
            page_token: page_token.to_owned(),
            page_size: u32::MAX,
            show_deleted: true,
        };
        let listed = channels.list_channels(list("", "no token")).await.expect_err("no token");
        assert_names("page_token", &listed);
        let long_prefix = "p".repeat(MAX_CHANNEL_NAME_BYTES + 1);
        let listed = channels.list_channels(list(&long_prefix, "")).await.expect_err("too long");
        assert_names("prefix", &listed);
        let watch =
            v1::WatchChannelsRequest { namespace: "demo".to_owned(), prefix: long_prefix.clone() };
        let watched = async {
            let mut watched = channels.watch_channels(watch).await?.into_inner();
            in_time("a refusal", watched.message()).await
        };
        assert_names("prefix", &watched.await.expect_err("too long"));
        let all = channels.list_channels(list(&long_prefix[1..], "")).await.expect("a prefix");
        assert!(all.into_inner().channels.is_empty());
    }
    assert_eq!(world.until_same().await, before, "nothing was stored anywhere");

    let largest = v1::CreateChannelRequest {
        channel: "c".repeat(MAX_CHANNEL_NAME_BYTES),
        description: "d".repeat(MAX_DESCRIPTION_BYTES),
        labels: labels(MAX_LABELS, MAX_LABEL_BYTES, MAX_LABEL_BYTES),
        max_payload_bytes: MAX_PAYLOAD_BYTES as u32,
        max_publications_per_second: u32::MAX,
        ..create("")
    };
    world.channels("asia").create_channel(largest.clone()).await.expect("at the limits");
    for region in REGIONS {
        let there =
            until("the channel is there", async || world.channel(region, &largest.channel).await);
        let there = there.await.channel.expect("it is told");
        assert_eq!((&there.description, &there.labels), (&largest.description, &largest.labels));
    }
    world.end().await;
}

/// Subscriptions and history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_keeps_its_limits() {
    use v1::start_position::Position;
    let world = World::start().await;
    world.create("europe", "news").await;
    let before = world.until_same().await;
    let prefixes = |count: usize| (0..count).map(|it| format!("p{it}*")).collect::<Vec<_>>();
    let start = |position| Some(v1::StartPosition { position: Some(position) });
    let news = subscribe(&["news"], Start::Now);
    let changed = |change: &dyn Fn(&mut v1::SubscribeRequest)| {
        let mut request = news.clone();
        change(&mut request);
        request
    };
    let mut wrong = vec![
        ("channels", changed(&|it| it.channels = prefixes(MAX_SUBSCRIBE_CHANNELS + 1))),
        ("channels", changed(&|it| it.channels = vec!["n".repeat(MAX_CHANNEL_NAME_BYTES + 1)])),
        ("start.last", changed(&|it| it.start = start(Position::Last(65_537)))),
        ("start.now", changed(&|it| it.start = start(Position::Now(false)))),
        ("start.oldest", changed(&|it| it.start = start(Position::Oldest(false)))),
        (
            "start.cursor",
            changed(&|it| it.start = start(Position::Cursor(Bytes::from(vec![1; 2 << 20])))),
        ),
    ];
    for name in wrong_places() {
        wrong.push(("namespace", changed(&|it| it.namespace.clone_from(&name))));
    }
    for (field, request) in wrong {
        let history = v1::ReadHistoryRequest {
            namespace: request.namespace.clone(),
            channels: request.channels.clone(),
            start: request.start.clone(),
            limit: u32::MAX,
        };
        let subscribed = async {
            let mut stream = world.subscribe("america", request).await?;
            loop {
                let told = in_time("a refusal", stream.message()).await?.expect("a refusal");
                let is_position = told.deliveries.is_empty();
                assert!(is_position, "{field}: {told:?}");
            }
        };
        let Err::<(), Status>(refused) = subscribed.await else { panic!("{field}") };
        assert_names(field, &refused);
        assert_names(field, &world.try_history("america", history).await.expect_err(field));
    }
    let full = changed(&|it| it.channels = prefixes(MAX_SUBSCRIBE_CHANNELS));
    let mut stream = world.subscribe("america", full).await.expect("at the limit");
    in_time("the start", stream.message()).await.expect("it serves").expect("it serves");
    let last = Start::Last(65_536);
    assert!(world.history("america", &["news"], last).await.messages.is_empty());
    assert_eq!(world.until_same().await, before);
    world.end().await;
}

/// The control-plane: places, groups, addresses, operations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_keeps_its_limits() {
    use v1::execute_channel_operation_request::Operation;
    let world = World::start().await;
    let mut topology = world.client.topology().expect("a control-plane");
    let mut operations = world.client.operations().expect("a control-plane");
    let document = async |topology: &mut services::topology::Client<_>| {
        let answer = topology.get_topology(v1::GetTopologyRequest {}).await.expect("it answers");
        answer.into_inner().topology.expect("it is told")
    };
    let before = document(&mut topology).await;
    let namespace = |name: &str, groups: &[String]| v1::CreateNamespaceRequest {
        name: name.to_owned(),
        groups: groups.to_vec(),
        disk_cap_bytes: 0,
        retention: None,
    };
    let world_group = owned(&["world"]);
    let register = v1::RegisterNodeRequest {
        name: "new-1".to_owned(),
        region: "europe".to_owned(),
        replication_address: "127.0.0.1:1".to_owned(),
        client_address: "127.0.0.1:2".to_owned(),
        incarnation: 7,
        ..Default::default()
    };
    for name in wrong_places() {
        let request = v1::ApplyRegionRequest { name: name.clone() };
        assert_names("name", &topology.apply_region(request).await.expect_err(&name));
        let request =
            v1::ApplyGroupRequest { name: name.clone(), regions: owned(&REGIONS), leave: false };
        assert_names("name", &topology.apply_group(request).await.expect_err(&name));
        let request = namespace(&name, &world_group);
        assert_names("name", &topology.create_namespace(request).await.expect_err(&name));
        let request = v1::RegisterNodeRequest { name: name.clone(), ..register.clone() };
        assert_names("name", &topology.register_node(request).await.expect_err(&name));
        let request = v1::RegisterNodeRequest { region: name.clone(), ..register.clone() };
        assert_names("region", &topology.register_node(request).await.expect_err(&name));
        let request = v1::RemoveNodeRequest { name: name.clone(), force: true };
        assert_names("name", &topology.remove_node(request).await.expect_err(&name));
        let request = v1::RemoveRegionRequest { name: name.clone() };
        assert_names("name", &topology.remove_region(request).await.expect_err(&name));
        let request = v1::ExecuteChannelOperationRequest {
            region: name.clone(),
            operation: Some(Operation::Create(create("x"))),
        };
        let refused = operations.execute_channel_operation(request).await.expect_err(&name);
        assert_names("region", &refused);
    }
    let groups = |count: usize| (0..count).map(|it| format!("g{it}")).collect::<Vec<_>>();
    let too_many = namespace("new", &groups(MAX_GROUPS_PER_MESSAGE + 1));
    assert_names("groups", &topology.create_namespace(too_many).await.expect_err("too many"));
    let none = namespace("new", &[]);
    assert_names("groups", &topology.create_namespace(none).await.expect_err("none"));
    let unknown = topology.create_namespace(namespace("new", &groups(1))).await;
    assert_eq!(reason_of(&unknown.expect_err("unknown")), Some(Reason::UnknownGroup));
    // The same once more is a repeat; something else under the name is not.
    topology.create_namespace(namespace("demo", &world_group)).await.expect("a repeat");
    let other = v1::CreateNamespaceRequest { disk_cap_bytes: 1, ..namespace("demo", &world_group) };
    let taken = topology.create_namespace(other).await;
    assert_eq!(taken.expect_err("taken").code(), Code::AlreadyExists);
    let empty = v1::ApplyGroupRequest { name: "new".to_owned(), ..Default::default() };
    assert_names("regions", &topology.apply_group(empty).await.expect_err("none"));
    for address in
        ["", "no-port", "host:99999", ":1", &format!("{}:1", "h".repeat(MAX_ADDRESS_BYTES))]
    {
        let request =
            v1::RegisterNodeRequest { client_address: address.to_owned(), ..register.clone() };
        let refused = topology.register_node(request).await.expect_err(address);
        assert_names("client_address", &refused);
    }
    let mut execute = async |operation: Option<Operation>| {
        let request = v1::ExecuteChannelOperationRequest { region: "europe".to_owned(), operation };
        operations.execute_channel_operation(request).await.expect_err("it makes no sense")
    };
    assert_names("operation", &execute(None).await);
    assert_names("create.channel", &execute(Some(Operation::Create(create("a//b")))).await);
    assert_names("delete.channel", &execute(Some(Operation::Delete(delete("")))).await);
    let list = v1::ListOperationsRequest { page_token: "x".to_owned(), ..Default::default() };
    assert_names("page_token", &operations.list_operations(list).await.expect_err("no token"));
    assert_eq!(document(&mut topology).await, before, "nothing was changed");
    let listed = operations.list_operations(v1::ListOperationsRequest::default()).await;
    assert!(listed.expect("it answers").into_inner().operations.is_empty());

    let longest = "n".repeat(MAX_NAMESPACE_NAME_BYTES);
    world.namespace(&longest, &["world"]).await;
    for region in REGIONS {
        world.until_ready(region, &longest).await;
    }
    world.end().await;
}

/// A push-node's operator: what a repair names, and the messages to compare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairing_keeps_its_limits() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let before = world.until_same().await;
    let (_, mut node) = world.client.nodes("europe").expect("a node").remove(0);
    let named = |id_bytes: usize| v1::RepairRequest {
        repair_id: Bytes::from(vec![1; id_bytes]),
        ..Default::default()
    };
    let keeping =
        |count: usize| v1::RepairRequest { keep: vec![v1::LogMark::default(); count], ..named(16) };
    let bringing_back = |count: usize| v1::RepairRequest {
        bring_back: vec![v1::LogName::default(); count],
        ..named(16)
    };
    let wrong = [
        ("repair_id", named(0)),
        ("repair_id", named(15)),
        ("repair_id", named(17)),
        ("keep", keeping(MAX_VERIFIED_LOGS + 1)),
        ("bring_back", bringing_back(MAX_VERIFIED_LOGS + 1)),
        // So many are read, and the first of them names no log.
        ("keep[0].log", keeping(MAX_VERIFIED_LOGS)),
        ("bring_back[0].incarnation", bringing_back(MAX_VERIFIED_LOGS)),
    ];
    for (field, request) in wrong {
        assert_names(field, &node.repair(request).await.expect_err(field));
    }
    for (field, count) in [("points", MAX_VERIFIED_LOGS + 1), ("points[0].log", MAX_VERIFIED_LOGS)]
    {
        let points = vec![v1::LogMark::default(); count];
        let request = v1::VerifyRequest { points, ..Default::default() };
        assert_names(field, &node.verify(request).await.expect_err(field));
    }
    let nothing = node.repair(named(16)).await.expect("an id and nothing to cut");
    assert!(nothing.into_inner().taken.is_empty());
    assert_eq!(world.until_same().await, before, "nothing was cut anywhere");
    world.end().await;
}
