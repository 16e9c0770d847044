//! Channels: one call at any node, the same at every node, whatever is done at
//! the same time elsewhere.

use std::collections::BTreeSet;

use interlock_client::Start;
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::v1;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::{Code, Request, Status};

use crate::support::{ChannelClient, REGIONS, World, create, delete, describe, get, publish};
use crate::waiting::{holds, until};

/// What is said of a channel at a region, and of which origins' operations lost.
async fn seen(world: &World, region: &str, channel: &str) -> (v1::Channel, BTreeSet<String>) {
    let response = world.channel(region, channel).await.expect("the channel is known");
    let status = world.status(region).await.expect("the node serves");
    let logs = &status.namespaces[0].logs;
    let lost = response
        .lost_operations
        .iter()
        .filter_map(|lost| lost.message)
        .map(|name| {
            let origin =
                logs.iter().find(|log| log.log.is_some_and(|log| log.origin == name.origin));
            origin.expect("an origin has a log").origin_name.clone()
        })
        .collect();
    (response.channel.expect("a channel is in the answer"), lost)
}

/// METHOD M1, M3, M4 and promise I6, I7: each region edits the same channels
/// while it is alone in the world, so that no edit knows another. Together again
/// all have the same definitions: the latest of equal edits, a deletion before an
/// update, a new epoch before all that meant the old one. What lost is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_made_apart_converge() {
    let mut world = World::start().await;
    for channel in ["described", "deleted", "again"] {
        world.create("europe", channel).await;
    }
    world.until_same().await;
    for region in REGIONS {
        world.abort(region).await;
    }
    for region in REGIONS {
        world.restart(region).await;
        let mut channels = world.channels(region);
        let by = format!("by {region}");
        channels.update_channel(describe("described", &by)).await.expect("it is known");
        let made = v1::CreateChannelRequest { description: by.clone(), ..create("made") };
        channels.create_channel(made).await.expect("nobody else is there");
        match region {
            "europe" => {
                channels.update_channel(describe("deleted", &by)).await.expect("it is known");
                channels.delete_channel(delete("again")).await.expect("it is known");
                let again = v1::CreateChannelRequest { description: by, ..create("again") };
                let again = channels.create_channel(again).await.expect("it is free");
                assert_eq!(again.into_inner().channel.expect("it is told").epoch, 2);
            }
            "america" => {
                channels.delete_channel(delete("deleted")).await.expect("it is known");
                channels.update_channel(describe("again", &by)).await.expect("it is known");
            }
            _ => {
                channels.update_channel(describe("deleted", &by)).await.expect("it is known");
                channels.update_channel(describe("again", &by)).await.expect("it is known");
            }
        }
        world.abort(region).await;
    }
    for region in REGIONS {
        world.restart(region).await;
    }
    world.until_same().await;

    let nodes = |regions: &[&str]| -> BTreeSet<String> {
        regions.iter().map(|region| format!("{region}-1")).collect()
    };
    for region in REGIONS {
        let (described, lost) = seen(&world, region, "described").await;
        assert_eq!((described.description.as_str(), described.epoch), ("by asia", 1), "{region}");
        assert_eq!(lost, nodes(&["europe", "america"]), "{region}");
        let (made, lost) = seen(&world, region, "made").await;
        assert_eq!((made.description.as_str(), made.epoch), ("by asia", 1), "{region}");
        assert_eq!(lost, nodes(&["europe", "america"]), "{region}");
        let (deleted, lost) = seen(&world, region, "deleted").await;
        assert!(deleted.deleted, "{region}: {deleted:?}");
        assert_eq!(lost, nodes(&["europe", "asia"]), "{region}");
        let (again, lost) = seen(&world, region, "again").await;
        assert_eq!((again.description.as_str(), again.epoch), ("by europe", 2), "{region}");
        assert_eq!(lost, nodes(&["america", "asia"]), "{region}");
    }
    world.end().await;
}

/// Creates, updates and deletes a few names in no particular order; whether each
/// is accepted depends on what is known there at that moment.
async fn edit_at_random(mut channels: ChannelClient, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for number in 0..60 {
        let channel = ["a", "b/c", "d"][random.random_range(0..3)];
        let by = format!("{seed} {number}");
        let outcome = match random.random_range(0..4) {
            0 => {
                let create = v1::CreateChannelRequest { description: by, ..create(channel) };
                channels.create_channel(create).await.map(drop)
            }
            1 => channels.delete_channel(delete(channel)).await.map(drop),
            _ => channels.update_channel(describe(channel, &by)).await.map(drop),
        };
        if let Err(status) = outcome {
            let code = status.code();
            assert!(matches!(code, Code::AlreadyExists | Code::NotFound), "{status}");
        }
    }
}

async fn listed(world: &World, region: &str) -> Vec<v1::Channel> {
    let request = v1::ListChannelsRequest {
        namespace: "demo".to_owned(),
        show_deleted: true,
        ..Default::default()
    };
    let listed = world.channels(region).list_channels(request).await.expect("it serves");
    listed.into_inner().channels
}

/// METHOD M3, M4 and promise I6, I7: the same names edited at all regions at
/// once lead to equal digests and definitions; then what is deleted stays deleted
/// over the restart of all nodes, until it is created again with a higher epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_made_at_once_converge_and_deletions_last() {
    let mut world = World::start().await;
    let editors: Vec<_> = (1..)
        .zip(REGIONS)
        .map(|(seed, region)| tokio::spawn(edit_at_random(world.channels(region), seed)))
        .collect();
    for editor in editors {
        editor.await.expect("no edit fails otherwise");
    }
    world.until_same().await;
    let listed_first = listed(&world, "europe").await;
    assert_eq!(listed_first.len(), 3, "each name was created: {listed_first:?}");
    for region in REGIONS {
        assert_eq!(listed(&world, region).await, listed_first, "{region}");
    }

    for channel in listed_first.iter().filter(|channel| !channel.deleted) {
        let mut channels = world.channels("america");
        channels.delete_channel(delete(&channel.name)).await.expect("it is live");
    }
    let before = world.until_same().await;
    for region in REGIONS {
        world.abort(region).await;
    }
    for region in REGIONS {
        world.restart(region).await;
    }
    assert_eq!(world.until_same().await.namespaces, before.namespaces, "a restart changes nothing");
    for region in REGIONS {
        for channel in listed(&world, region).await {
            assert!(channel.deleted, "{region}: {channel:?}");
            let refused = world.publishing(region).publish(publish(&channel.name, "x")).await;
            assert_eq!(refused.expect_err("it is deleted").code(), Code::NotFound);
            let refused = world.channels(region).update_channel(describe(&channel.name, "x")).await;
            assert_eq!(refused.expect_err("it is deleted").code(), Code::NotFound);
        }
    }
    let past = listed(&world, "asia").await.remove(0);
    let again = world.channels("asia").create_channel(create(&past.name)).await;
    let again = again.expect("the name is free").into_inner().channel.expect("it is told");
    assert_eq!(again.epoch, past.epoch + 1);
    for region in REGIONS {
        until("the new epoch is there", async || {
            let seen = world.channel(region, &past.name).await?.channel.unwrap_or_default();
            let there = seen.epoch == again.epoch && !seen.deleted;
            holds(there, seen).map_err(|seen| Status::unknown(format!("{seen:?}")))
        })
        .await;
    }
    world.end().await;
}

/// METHOD M3, M13: a deletion and a new epoch at another region are told to
/// subscribers in their stream; what was published before is past for whoever
/// comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_are_told_of_epochs() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let mut reader = world.reader("america", &["news"], Start::Now);
    reader.until_caught_up().await;
    world.publish("europe", "news", "old").await;
    reader.until_messages(1).await;
    world.channels("europe").delete_channel(delete("news")).await.expect("it is live");
    reader.until("the deletion", |reader| !reader.events.is_empty()).await;
    world.until_same().await;
    world.channels("asia").create_channel(create("news")).await.expect("it is free");
    reader.until("the new epoch", |reader| reader.events.len() == 2).await;
    world.publish("asia", "news", "new").await;
    reader.until_messages(2).await;

    let kinds: Vec<_> = reader.events.iter().map(|event| (event.kind(), event.epoch)).collect();
    let expected = [(v1::ChannelEventKind::Deleted, 1), (v1::ChannelEventKind::Created, 2)];
    assert_eq!(kinds, expected);
    let epochs: Vec<_> = reader.messages.iter().map(|message| message.epoch).collect();
    assert_eq!((reader.texts(), epochs), (vec!["old".to_owned(), "new".to_owned()], vec![1, 2]));
    world.until_same().await;
    for region in REGIONS {
        assert_eq!(world.history(region, &["news"], Start::Oldest).await.texts(), ["new"]);
    }
    world.end().await;
}

/// METHOD M3: an edit through a gateway is an edit at its region; an edit made
/// from a definition that has changed is refused wherever it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_hand_edits_on() {
    let world = World::start().await;
    let mut channels = world.channels_by_gateway("asia");
    let labels = [("team".to_owned(), "one".to_owned())].into();
    let request = v1::CreateChannelRequest {
        description: "first".to_owned(),
        labels,
        max_payload_bytes: 10,
        ..create("news")
    };
    let created = channels.create_channel(request).await.expect("it is free").into_inner();
    let first = created.channel.clone().expect("it is told");
    assert!(created.durable_at.contains(&"asia-1".to_owned()), "{created:?}");
    until("the channel is there", async || world.channel("europe", "news").await).await;
    let update = v1::UpdateChannelRequest {
        etag: first.etag.clone(),
        epoch: first.epoch,
        ..describe("news", "second")
    };
    let mut europe = world.channels_by_gateway("europe");
    let second = europe.update_channel(update.clone()).await.expect("it has not changed");
    let second = second.into_inner().channel.expect("it is told");
    assert_eq!((second.description.as_str(), &second.labels), ("second", &first.labels));
    until("the update is there", async || {
        let seen = world.channel("asia", "news").await?.channel;
        holds(seen.as_ref() == Some(&second), seen)
            .map_err(|seen| Status::unknown(format!("{seen:?}")))
    })
    .await;
    let stale = channels.update_channel(update).await.expect_err("it has changed");
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&stale), Some(Reason::StaleEdit));
    let refused = world.publishing("europe").publish(publish("news", "eleven byte")).await;
    assert_eq!(refused.expect_err("it is over the channel's limit").code(), Code::InvalidArgument);
    world.publish("europe", "news", "ten bytes.").await;
    world.end().await;
}

/// METHOD M2, M3: the control-plane hands an operator's operation to a push-node
/// of the region that is named, keeps a record of it, and forwards reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_delivers_operations_to_a_region() {
    use v1::execute_channel_operation_request::Operation;
    let world = World::start().await;
    let mut operations = world.client.operations().expect("a control-plane");
    let mut execute = async |region: &str, operation: Operation| {
        let request = v1::ExecuteChannelOperationRequest {
            region: region.to_owned(),
            operation: Some(operation),
        };
        operations.execute_channel_operation(request).await.map(tonic::Response::into_inner)
    };
    let created = execute("asia", Operation::Create(create("ordered"))).await;
    let record = created.expect("the region is there").record.expect("it is recorded");
    assert_eq!((record.node.as_str(), record.outcome()), ("asia-1", v1::OperationOutcome::Done));
    for region in REGIONS {
        until("the channel is there", async || world.channel(region, "ordered").await).await;
    }
    let again = execute("america", Operation::Create(create("ordered"))).await;
    let again = again.expect("it is recorded").record.expect("it is recorded");
    assert_eq!(again.outcome(), v1::OperationOutcome::Failed, "{again:?}");
    assert!(again.detail.contains("CHANNEL_EXISTS"), "{again:?}");
    let nowhere = execute("nowhere", Operation::Delete(delete("ordered"))).await;
    assert_eq!(reason_of(&nowhere.expect_err("no such region")), Some(Reason::UnknownRegion));
    execute("america", Operation::Delete(delete("ordered"))).await.expect("it is there");
    world.until_same().await;
    assert!(seen(&world, "europe", "ordered").await.0.deleted);

    let listed = operations.list_operations(v1::ListOperationsRequest::default()).await;
    let listed = listed.expect("it answers").into_inner().operations;
    let mut done: Vec<_> = listed
        .iter()
        .map(|record| (record.number, record.action.as_str(), record.outcome()))
        .collect();
    done.sort_by_key(|(number, ..)| *number);
    let done: Vec<_> = done.into_iter().map(|(_, action, outcome)| (action, outcome)).collect();
    assert_eq!(
        done,
        [
            ("create", v1::OperationOutcome::Done),
            ("create", v1::OperationOutcome::Failed),
            ("delete", v1::OperationOutcome::Done)
        ]
    );

    let context = world.mesh.context();
    let address = context.control_plane.expect("there is one");
    let endpoint = interlock_rpc::channel::EndpointConfig::new(address);
    let mut forwarded =
        interlock_rpc::services::channel::client(endpoint.connect_lazy().expect("an address"));
    let mut request = Request::new(get("demo", "ordered"));
    request.metadata_mut().insert("interlock-region", "europe".parse().expect("a plain word"));
    let read = forwarded.get_channel(request).await.expect("europe answers").into_inner();
    assert!(read.channel.expect("it is told").deleted);
    world.end().await;
}
