//! Edits of a channel whose source is, or may be, what is held already: their
//! condition and their durability count all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use interlock_rpc::status::{PublishOutcome, Reason, Stored, reason_of};
use interlock_rpc::v1;
use tokio::sync::Semaphore;

use crate::support::{Mesh, TestNamespace, until, within};

/// A web server with one page, and one that is answered only when it may.
struct Web {
    origin: String,
    slow_asked: Arc<AtomicUsize>,
    slow_may: Arc<Semaphore>,
}

async fn start_web() -> Web {
    let slow_asked = Arc::new(AtomicUsize::new(0));
    let slow_may = Arc::new(Semaphore::new(0));
    let (asked, may) = (Arc::clone(&slow_asked), Arc::clone(&slow_may));
    let slow = async move || {
        asked.fetch_add(1, Ordering::SeqCst);
        may.acquire().await.expect("it is never closed").forget();
        "slow"
    };
    let router = Router::new().route("/page", get(async || "page")).route("/slow", get(slow));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Web { origin, slow_asked, slow_may }
}

async fn mesh(count: usize, web: &Web) -> Mesh {
    let all = TestNamespace::on("demo", (0..count).collect());
    Mesh::with_config(count, &[all], |_, config| {
        config.web_origin = Some(web.origin.clone());
        config.allow_private_sources = true;
    })
    .await
}

fn create(channel: &str) -> v1::CreateChannelRequest {
    v1::CreateChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        source: "/page".to_owned(),
        ..Default::default()
    }
}

fn set_source(source: &str) -> v1::UpdateChannelRequest {
    v1::UpdateChannelRequest {
        namespace: "demo".to_owned(),
        channel: "page".to_owned(),
        source: Some(source.to_owned()),
        ..Default::default()
    }
}

/// An update that would change nothing is refused as any other where the client
/// has seen another definition.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_condition_is_refused_without_a_change_too() {
    let web = start_web().await;
    let mesh = mesh(1, &web).await;
    let created = mesh.channels(0).create_channel(create("page")).await.expect("it is fetched");
    let first = created.into_inner().channel.expect("it is told");
    let current = v1::UpdateChannelRequest {
        etag: first.etag.clone(),
        epoch: first.epoch,
        ..set_source("/page")
    };
    let same = mesh.channels(0).update_channel(current.clone()).await.expect("nothing changed");
    assert!(same.into_inner().message.is_none(), "nothing was stored");

    let epoch = v1::UpdateChannelRequest { epoch: first.epoch + 1, ..set_source("/page") };
    let described =
        v1::UpdateChannelRequest { description: Some("new".to_owned()), ..set_source("/page") };
    mesh.channels(0).update_channel(described).await.expect("it is there");
    for stale in [epoch, current] {
        let refused = mesh.channels(0).update_channel(stale).await.expect_err("it is stale");
        assert_eq!(reason_of(&refused), Some(Reason::StaleEdit), "{refused}");
    }
}

/// What is held is as durable as was asked for before an unchanged update or
/// refresh says so.
#[tokio::test(flavor = "multi_thread")]
async fn unchanged_content_is_as_durable_as_was_asked_for() {
    let web = start_web().await;
    let mut mesh = mesh(2, &web).await;
    mesh.kill(1).await;
    mesh.channels(0).create_channel(create("page")).await.expect("it is fetched");
    let durability = Some(v1::Durability { level: v1::DurabilityLevel::All.into(), peers: 0 });
    let update = v1::UpdateChannelRequest { durability, ..set_source("/page") };
    let refresh = v1::RefreshChannelContentRequest {
        namespace: "demo".to_owned(),
        channel: "page".to_owned(),
        durability,
    };
    let patience = Duration::from_secs(2);
    let updated = mesh.channels(0).update_channel(within(update.clone(), patience)).await;
    let refreshed =
        mesh.channels(0).refresh_channel_content(within(refresh.clone(), patience)).await;
    for late in [updated.map(drop), refreshed.map(drop)] {
        let late = late.expect_err("the other member is away");
        assert_eq!(reason_of(&late), Some(Reason::DurabilityTimeout), "{late}");
        let outcome = PublishOutcome::of(&late, false);
        assert_eq!((outcome.stored, outcome.safe_here), (Stored::Yes, true));
    }
    mesh.restart(1).await;
    let updated = mesh.channels(0).update_channel(update).await.expect("both are up").into_inner();
    assert_eq!((updated.durable_at.len(), updated.message), (2, None));
    let refreshed = mesh.channels(0).refresh_channel_content(refresh).await.expect("both are up");
    let refreshed = refreshed.into_inner();
    assert_eq!((refreshed.durable_at.len(), refreshed.changed), (2, false));
}

/// What is fetched for one epoch is not set in the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_for_the_epoch_that_it_began_in() {
    let web = start_web().await;
    let mesh = mesh(1, &web).await;
    mesh.channels(0).create_channel(create("page")).await.expect("it is fetched");
    let mut channels = mesh.channels(0);
    let updating = tokio::spawn(async move { channels.update_channel(set_source("/slow")).await });
    until("the source is asked for", async || match web.slow_asked.load(Ordering::SeqCst) {
        0 => Err("not yet"),
        _ => Ok(()),
    })
    .await;
    let delete = v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: "page".to_owned(),
        ..Default::default()
    };
    mesh.channels(0).delete_channel(delete).await.expect("it is there");
    mesh.channels(0).create_channel(create("page")).await.expect("the name is free");
    web.slow_may.add_permits(1);
    let refused = updating.await.expect("it ends").expect_err("the epoch has ended");
    assert_eq!(reason_of(&refused), Some(Reason::StaleEdit), "{refused}");
    let request =
        v1::GetChannelRequest { namespace: "demo".to_owned(), channel: "page".to_owned() };
    let read = mesh.channels(0).get_channel(request).await.expect("it is there").into_inner();
    let channel = read.channel.expect("it is told");
    assert_eq!((channel.source.as_str(), channel.epoch), ("/page", 2));
}
