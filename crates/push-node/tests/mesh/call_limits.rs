//! Limits of calls that a node serves for as long as their callers like.

use interlock_core::limits::{MAX_CHANNEL_WATCHERS, MAX_EXCLUDED_ORIGINS, MAX_GATEWAY_NAME_BYTES};
use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use interlock_rpc::v1;
use tonic::Code;

use crate::support::{Mesh, follow, now, until};

/// What a follower says is kept with its stream.
#[tokio::test(flavor = "multi_thread")]
async fn followers_keep_their_limits() {
    let mesh = Mesh::start(1).await;
    let most = v1::FollowRequest {
        gateway: "g".repeat(MAX_GATEWAY_NAME_BYTES),
        excluded_origins: (0..MAX_EXCLUDED_ORIGINS as u32).collect(),
        ..follow(now(), &[])
    };
    mesh.delivery(0).follow(most.clone()).await.expect("it is at the limits");
    let long = v1::FollowRequest { gateway: format!("{}g", most.gateway), ..most.clone() };
    let many =
        v1::FollowRequest { excluded_origins: (0..=MAX_EXCLUDED_ORIGINS as u32).collect(), ..most };
    for (request, field) in [(long, "gateway"), (many, "excluded_origins")] {
        let refused = mesh.delivery(0).follow(request).await.expect_err(field);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(invalid_fields(&refused)[0].field, field);
    }
}

/// So many watchers and no more; one that goes away makes room.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_channels_are_limited_in_number() {
    let mesh = Mesh::start(1).await;
    let request =
        v1::WatchChannelsRequest { namespace: "demo".to_owned(), prefix: "none".to_owned() };
    // More calls than one connection takes.
    let mut clients = [mesh.channels(0), mesh.channels(0)];
    let mut watching = Vec::with_capacity(MAX_CHANNEL_WATCHERS);
    for number in 0..MAX_CHANNEL_WATCHERS {
        let watched = clients[number % 2].watch_channels(request.clone()).await;
        watching.push(watched.expect("there is room").into_inner());
    }
    let refused =
        mesh.channels(0).watch_channels(request.clone()).await.expect_err("all are taken");
    assert_eq!(reason_of(&refused), Some(Reason::TooManyConnections), "{refused}");
    watching.clear();
    until("there is room again", async || mesh.channels(0).watch_channels(request.clone()).await)
        .await;
}
