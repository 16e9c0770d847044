//! Channels: definitions converge, content comes from the region's web server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Mesh, TestNamespace, until};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::v1;
use tonic::{Code, Status};

fn create(channel: &str, source: &str) -> v1::CreateChannelRequest {
    v1::CreateChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        source: source.to_owned(),
        ..Default::default()
    }
}

fn describe(channel: &str, description: &str) -> v1::UpdateChannelRequest {
    v1::UpdateChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        description: Some(description.to_owned()),
        ..Default::default()
    }
}

async fn read(mesh: &Mesh, at: usize, channel: &str) -> Result<v1::Channel, Status> {
    let request =
        v1::GetChannelRequest { namespace: "demo".to_owned(), channel: channel.to_owned() };
    let response = mesh.channels(at).get_channel(request).await?.into_inner();
    Ok(response.channel.expect("a channel is in the answer"))
}

/// METHOD M3, M4: concurrent edits at all nodes lead to one definition
/// everywhere, and what lost is kept to be shown.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_edits_converge() {
    let mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    for round in 0..5 {
        let edits: Vec<_> = (0..3)
            .map(|node| {
                let mut channels = mesh.channels(node);
                let edit = describe("news", &format!("{round} by {node}"));
                tokio::spawn(async move { channels.update_channel(edit).await })
            })
            .collect();
        for edit in edits {
            edit.await.expect("it ends").expect("it is accepted");
        }
    }
    mesh.until_converged(&[0, 1, 2]).await;
    let first = read(&mesh, 0, "news").await.expect("it is there");
    for node in 1..3 {
        assert_eq!(read(&mesh, node, "news").await.expect("it is there"), first);
    }
}

/// A deleted name stays deleted until it is created again, with a new epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_begins_a_new_epoch() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    let taken = mesh.channels(1).create_channel(create("news", "")).await;
    assert_eq!(taken.expect_err("it exists").code(), Code::AlreadyExists);
    let stale = v1::UpdateChannelRequest { epoch: 7, ..describe("news", "x") };
    let stale = mesh.channels(1).update_channel(stale).await.expect_err("another epoch");
    assert_eq!(reason_of(&stale), Some(Reason::StaleEdit));

    let before = read(&mesh, 1, "news").await.expect("it is there");
    mesh.channels(1).update_channel(describe("news", "y")).await.expect("it is there");
    let stale = v1::UpdateChannelRequest { etag: before.etag, ..describe("news", "z") };
    let stale = mesh.channels(1).update_channel(stale).await.expect_err("another etag");
    assert_eq!(reason_of(&stale), Some(Reason::StaleEdit));

    let delete = v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: "news".to_owned(),
        ..Default::default()
    };
    mesh.channels(1).delete_channel(delete).await.expect("it is there");
    until("the deletion is everywhere", async || match read(&mesh, 0, "news").await {
        Ok(channel) if channel.deleted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let refused = mesh.publish(0, "news", "x").await.expect_err("it is deleted");
    assert_eq!(refused.code(), Code::NotFound);
    let created = mesh.channels(0).create_channel(create("news", "")).await.expect("it is free");
    assert_eq!(created.into_inner().channel.expect("it is told").epoch, 2);
}

/// A watcher is told the present state, that this was all, and then changes.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_of_changes() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "a/one", &[0, 1]).await;
    mesh.create_channel(0, "b/one", &[0, 1]).await;
    let request =
        v1::WatchChannelsRequest { namespace: "demo".to_owned(), prefix: "a/".to_owned() };
    let mut events =
        mesh.channels(1).watch_channels(request).await.expect("it serves").into_inner();
    let mut next = async || {
        let event = events.message().await.expect("it goes on").expect("it goes on");
        match event.event.expect("an event has a kind") {
            v1::watch_channels_response::Event::Changed(channel) => {
                format!("{} {}", channel.name, channel.description)
            }
            v1::watch_channels_response::Event::Synchronized(_) => "all".to_owned(),
            v1::watch_channels_response::Event::Lost(_) => "lost".to_owned(),
        }
    };
    assert_eq!(next().await, "a/one ");
    assert_eq!(next().await, "all");
    mesh.channels(0).update_channel(describe("b/one", "hidden")).await.expect("it is there");
    mesh.channels(0).update_channel(describe("a/one", "new")).await.expect("it is there");
    assert_eq!(next().await, "a/one new");
}

/// Channels are listed in pages, in the order of names.
#[tokio::test(flavor = "multi_thread")]
async fn channels_are_listed_in_pages() {
    let mesh = Mesh::start(1).await;
    for number in 0..7 {
        mesh.create_channel(0, &format!("list/{number}"), &[0]).await;
    }
    mesh.create_channel(0, "other", &[0]).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListChannelsRequest {
            namespace: "demo".to_owned(),
            prefix: "list/".to_owned(),
            page_size: 3,
            page_token,
            show_deleted: false,
        };
        let page = mesh.channels(0).list_channels(request).await.expect("it serves").into_inner();
        assert!(page.channels.len() <= 3);
        names.extend(page.channels.into_iter().map(|channel| channel.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..7).map(|number| format!("list/{number}")).collect();
    assert_eq!(names, expected);
}

#[derive(Default)]
struct Web {
    version: AtomicUsize,
    requests: AtomicUsize,
    not_modified: AtomicUsize,
}

async fn page(State(web): State<Arc<Web>>, headers: HeaderMap) -> Response {
    web.requests.fetch_add(1, Ordering::SeqCst);
    let etag = format!("\"v{}\"", web.version.load(Ordering::SeqCst));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|held| held == etag.as_str()) {
        web.not_modified.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let body = format!("content {etag}");
    ([(header::ETAG, etag), (header::CONTENT_TYPE, "text/plain".to_owned())], body).into_response()
}

/// A web server of the region, under `/site/`.
async fn start_web() -> (Arc<Web>, String) {
    let web = Arc::new(Web::default());
    let router = Router::new()
        .route("/site/page", get(page))
        .route("/site/big", get(async || vec![0_u8; 2 << 20]))
        .route("/site/away", get(async || Redirect::temporary("/site/page")))
        .route("/site/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .with_state(Arc::clone(&web));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (web, format!("http://{address}/site/"))
}

async fn content(mesh: &Mesh, at: usize) -> Result<v1::GetChannelContentResponse, Status> {
    let request =
        v1::GetChannelContentRequest { namespace: "demo".to_owned(), channel: "page".to_owned() };
    Ok(mesh.channels(at).get_channel_content(request).await?.into_inner())
}

async fn refresh(mesh: &Mesh, at: usize) -> Result<v1::RefreshChannelContentResponse, Status> {
    let request = v1::RefreshChannelContentRequest {
        namespace: "demo".to_owned(),
        channel: "page".to_owned(),
        durability: None,
    };
    Ok(mesh.channels(at).refresh_channel_content(request).await?.into_inner())
}

/// METHOD M5: the node that takes the edit fetches the content from its web
/// server, conditionally, and every member serves the very bytes.
#[tokio::test(flavor = "multi_thread")]
async fn content_is_fetched_once_and_served_everywhere() {
    let (web, origin) = start_web().await;
    let all = TestNamespace::on("demo", vec![0, 1]);
    let mesh = Mesh::with_config(2, &[all], |index, config| {
        // Only the first region has a web server.
        config.web_origin = (index == 0).then(|| origin.clone());
        config.allow_private_sources = true;
    })
    .await;
    mesh.channels(0).create_channel(create("page", "/page")).await.expect("it is fetched");
    for node in 0..2 {
        let got = until("the content is there", async || content(&mesh, node).await).await;
        assert_eq!(&got.content[..], b"content \"v0\"");
        let info = got.info.expect("it is described");
        assert_eq!((info.etag.as_str(), info.media_type.as_str()), ("\"v0\"", "text/plain"));
        assert_eq!(info.digest, blake3::hash(b"content \"v0\"").to_hex().to_string());
    }
    let unchanged = refresh(&mesh, 0).await.expect("the server answers");
    assert!(!unchanged.changed && unchanged.message.is_none());
    assert_eq!(web.not_modified.load(Ordering::SeqCst), 1, "it was asked conditionally");

    web.version.store(1, Ordering::SeqCst);
    assert!(refresh(&mesh, 0).await.expect("the server answers").changed);
    until("the new content is at the other node", async || {
        let got = content(&mesh, 1).await.map_err(|status| status.to_string())?;
        if got.content == "content \"v1\"" { Ok(()) } else { Err(format!("{got:?}")) }
    })
    .await;
    // A region without a web server cannot fetch, and what was there stays.
    let refused = refresh(&mesh, 1).await.expect_err("it has no web server");
    assert_eq!(reason_of(&refused), Some(Reason::SourceFailed), "{refused}");
    assert_eq!(web.requests.load(Ordering::SeqCst), 3);
}

/// METHOD M5: what is too big, elsewhere or broken is refused, and nothing is
/// stored.
#[tokio::test(flavor = "multi_thread")]
async fn bad_sources_are_refused() {
    let (_web, origin) = start_web().await;
    let all = TestNamespace::on("demo", vec![0]);
    let mesh = Mesh::with_config(1, &[all], |_, config| {
        config.web_origin = Some(origin.clone());
        config.allow_private_sources = true;
    })
    .await;
    for (source, words) in
        [("/big", "larger than"), ("/away", "redirects"), ("/broken", "500"), ("/missing", "404")]
    {
        let refused = mesh.channels(0).create_channel(create("page", source)).await;
        let refused = refused.expect_err("the content is not to be had");
        assert_eq!(reason_of(&refused), Some(Reason::SourceFailed), "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    for source in ["/../secret", "//evil.example/x", "page", "/a\\b"] {
        let refused = mesh.channels(0).create_channel(create("page", source)).await;
        assert_eq!(refused.expect_err("it is no path").code(), Code::InvalidArgument, "{source}");
    }
    assert!(read(&mesh, 0, "page").await.is_err(), "nothing was created");
}

/// METHOD M5: private addresses are refused unless they are configured.
#[tokio::test(flavor = "multi_thread")]
async fn private_sources_are_refused_by_default() {
    let (web, origin) = start_web().await;
    let all = TestNamespace::on("demo", vec![0]);
    let mesh = Mesh::with_config(1, &[all], |_, config| {
        config.web_origin = Some(origin.clone());
    })
    .await;
    let refused = mesh.channels(0).create_channel(create("page", "/page")).await;
    let refused = refused.expect_err("the address is a private one");
    assert!(refused.message().contains("private"), "{refused}");
    assert_eq!(web.requests.load(Ordering::SeqCst), 0, "it was not even asked");
}
