//! Channels whose content comes from the region's web server.

use bytes::Bytes;
use interlock_core::limits::MAX_CONTENT_BYTES;
use interlock_rpc::status::{PublishOutcome, Reason, Stored, reason_of};
use interlock_rpc::v1;
use tonic::{Code, Status};

use crate::support::{REGIONS, World, create, describe};
use crate::waiting::{holds, until};
use crate::web_server::WebServer;

async fn content(
    world: &World,
    region: &str,
    channel: &str,
) -> Result<v1::GetChannelContentResponse, Status> {
    let request =
        v1::GetChannelContentRequest { namespace: "demo".to_owned(), channel: channel.to_owned() };
    Ok(world.channels_by_gateway(region).get_channel_content(request).await?.into_inner())
}

async fn refresh(world: &World, region: &str) -> Result<v1::RefreshChannelContentResponse, Status> {
    let request = v1::RefreshChannelContentRequest {
        namespace: "demo".to_owned(),
        channel: "page".to_owned(),
        durability: None,
    };
    Ok(world.channels(region).refresh_channel_content(request).await?.into_inner())
}

fn with_source(channel: &str, source: &str) -> v1::CreateChannelRequest {
    v1::CreateChannelRequest { source: source.to_owned(), ..create(channel) }
}

/// Waits until every region serves these bytes, with one description of them.
async fn until_served(world: &World, channel: &str, expected: &[u8]) -> v1::ChannelContentInfo {
    let mut infos = Vec::new();
    for region in REGIONS {
        let served = until("the content is there", async || {
            let served = content(world, region, channel).await?;
            holds(served.content == expected, served)
                .map_err(|served| Status::unknown(format!("{:?}", served.info)))
        })
        .await;
        infos.push(served.info.expect("content is described"));
    }
    assert!(infos.windows(2).all(|pair| pair[0] == pair[1]), "{infos:?}");
    let info = infos.remove(0);
    assert_eq!(info.size_bytes as usize, expected.len());
    assert_eq!(info.digest, blake3::hash(expected).to_hex().as_str());
    info
}

/// METHOD M5: the provisional master fetches once, conditionally, and every region
/// serves the very bytes, also the largest and none; lists describe content and
/// never carry it. Whichever region refreshes, all have the result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_fetched_once_and_served_everywhere() {
    let (web, origin) = WebServer::start().await;
    let world = World::with_web_origin(Some(origin)).await;
    let created = world.channels("europe").create_channel(with_source("page", "/page")).await;
    let created = created.expect("it is fetched").into_inner().channel.expect("it is told");
    let info = until_served(&world, "page", &web.content()).await;
    assert_eq!(
        (info.etag.as_str(), info.media_type.as_str()),
        ("\"v0\"", "application/octet-stream")
    );
    assert_eq!(created.content.as_ref(), Some(&info));
    assert_eq!(web.answers(), (1, 0), "one fetch for all regions");

    // The ETag travels with the content: another region asks conditionally too.
    for region in REGIONS {
        let unchanged = refresh(&world, region).await.expect("the server answers");
        assert!(!unchanged.changed && unchanged.message.is_none(), "{region}: {unchanged:?}");
    }
    assert_eq!(web.answers(), (1, 3));
    web.change();
    let changed = refresh(&world, "asia").await.expect("the server answers");
    assert!(changed.changed && changed.message.is_some());
    let info = until_served(&world, "page", &web.content()).await;
    assert_eq!(info.etag, "\"v1\"");
    assert_eq!(web.answers(), (2, 3));

    world.channels("america").create_channel(with_source("large", "/largest")).await.expect("ok");
    until_served(&world, "large", &vec![7; MAX_CONTENT_BYTES]).await;
    world.channels("america").create_channel(with_source("empty", "/empty")).await.expect("ok");
    until_served(&world, "empty", b"").await;
    world.create("america", "plain").await;
    let none = content(&world, "europe", "plain").await.expect_err("it has no source");
    assert_eq!(reason_of(&none), Some(Reason::NoContent));
    let request = v1::RefreshChannelContentRequest {
        namespace: "demo".to_owned(),
        channel: "plain".to_owned(),
        durability: None,
    };
    let none = world.channels("europe").refresh_channel_content(request).await;
    assert_eq!(reason_of(&none.expect_err("it has no source")), Some(Reason::NoSource));
    world.until_same().await;
    for region in REGIONS {
        let request =
            v1::ListChannelsRequest { namespace: "demo".to_owned(), ..Default::default() };
        let listed = world.channels(region).list_channels(request).await.expect("it serves");
        let listed = listed.into_inner();
        let sizes: Vec<_> = listed
            .channels
            .iter()
            .map(|channel| {
                let size = channel.content.as_ref().map(|content| content.size_bytes);
                (channel.name.as_str(), channel.source.as_str(), size)
            })
            .collect();
        assert_eq!(
            sizes,
            [
                ("empty", "/empty", Some(0)),
                ("large", "/largest", Some(MAX_CONTENT_BYTES as u64)),
                ("page", "/page", Some(web.content().len() as u64)),
                ("plain", "", None),
            ]
        );
        let bytes = prost::Message::encoded_len(&listed);
        assert!(bytes < 2000, "{region}: a list of {bytes} bytes carries content");
    }
    world.end().await;
}

/// METHOD M5: a fetch that fails says why and leaves what was there, at every
/// region; nothing is stored for it. What is too large or elsewhere is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fetch_leaves_the_old_content() {
    let (web, origin) = WebServer::start().await;
    let world = World::with_web_origin(Some(origin)).await;
    world.channels("europe").create_channel(with_source("page", "/page")).await.expect("fetched");
    let info = until_served(&world, "page", &web.content()).await;
    let held = world.until_same().await;

    let failed = |status: &Status, words: &str| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert_eq!(reason_of(status), Some(Reason::SourceFailed), "{status}");
        assert!(status.message().contains(words), "{status} does not say {words}");
        assert_eq!(PublishOutcome::of(status, false).stored, Stored::No, "{status}");
    };
    web.set_broken(true);
    for region in REGIONS {
        failed(&refresh(&world, region).await.expect_err("the server is broken"), "503");
    }
    for (source, words) in [
        ("/too-large", "larger than"),
        ("/away", "redirect"),
        ("/broken", "500"),
        ("/missing", "404"),
    ] {
        let moved = v1::UpdateChannelRequest {
            source: Some(source.to_owned()),
            ..describe("page", "not kept either")
        };
        let refused = world.channels("asia").update_channel(moved).await;
        failed(&refused.expect_err("it cannot be fetched"), words);
        let refused = world.channels("asia").create_channel(with_source("other", source)).await;
        failed(&refused.expect_err("it cannot be fetched"), words);
    }
    assert_eq!(world.until_same().await, held, "nothing was stored");
    assert_eq!(until_served(&world, "page", &web.content()).await, info);
    assert!(world.channel("asia", "other").await.is_err(), "nothing was created");

    web.set_broken(false);
    web.change();
    assert!(refresh(&world, "america").await.expect("it works again").changed);
    until_served(&world, "page", &web.content()).await;
    let without = v1::UpdateChannelRequest {
        source: Some(String::new()),
        description: None,
        ..describe("page", "")
    };
    world.channels("asia").update_channel(without).await.expect("a source can be taken away");
    for region in REGIONS {
        until("the content is gone", async || match content(&world, region, "page").await {
            Err(status) if reason_of(&status) == Some(Reason::NoContent) => Ok(()),
            other => Err(other.map(|served| Bytes::len(&served.content))),
        })
        .await;
    }
    world.end().await;
}
