//! Subscribers: where they start, what they get, and how they go on.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use interlock_client::Start;
use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use interlock_rpc::v1;
use tonic::{Code, Status};

use crate::support::{
    REGIONS, World, assert_all, assert_rising, numbered, owned, publication, sorted, subscribe,
    text,
};
use crate::waiting::in_time;

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    u64::try_from(since.as_millis()).expect("it is earlier than the year 500,000,000")
}

/// METHOD M13: now, oldest, the last n, a time and a cursor, each at a region
/// that is not where the messages were published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let early = numbered("early", 0..5);
    world.publish_all("europe", "news", &early).await;
    world.until_same().await;
    let mut oldest = world.reader("asia", &["news"], Start::Oldest);
    oldest.until_messages(5).await;
    assert_eq!(oldest.texts(), early);
    let cursor = oldest.cursor.clone();

    // A time of arrival in asia: everything before it has arrived, nothing after.
    let mut now = world.reader("asia", &["news"], Start::Now);
    now.until_caught_up().await;
    let time = unix_milliseconds() + 1;
    while unix_milliseconds() <= time {
        tokio::task::yield_now().await;
    }
    let late = numbered("late", 0..5);
    world.publish_all("america", "news", &late).await;
    now.until_messages(5).await;
    assert_eq!(now.texts(), late);
    oldest.until_messages(10).await;
    assert_eq!(oldest.texts(), [early.clone(), late.clone()].concat());

    let mut from_cursor = world.reader("asia", &["news"], Start::Cursor(cursor));
    from_cursor.until_messages(5).await;
    assert_eq!(from_cursor.texts(), late);
    let mut last = world.reader("asia", &["news"], Start::Last(7));
    last.until_messages(7).await;
    assert_eq!(last.texts(), [&early[3..], &late].concat());
    // Approximate, and never later: it may bring more, but all that came since.
    let mut since = world.reader("asia", &["news"], Start::Time(time));
    since.until("all since then", |reader| reader.texts().ends_with(&late)).await;
    assert!(oldest.texts().ends_with(&since.texts()), "{:?}", since.texts());
    let mut future = world.reader("asia", &["news"], Start::Time(time + 3_600_000));
    future.until_caught_up().await;
    for reader in [&mut now, &mut oldest, &mut from_cursor, &mut last, &mut since, &mut future] {
        let before = reader.texts();
        world.close_off("news", reader, &REGIONS).await;
        assert_eq!(reader.texts(), before, "nothing comes twice");
        assert!(reader.gaps.is_empty(), "{:?}", reader.gaps);
    }
    world.end().await;
}

async fn publish_frame(world: &World, region: &str, channel: &str, count: usize) {
    let frame = v1::PublishStreamRequest {
        namespace: "demo".to_owned(),
        publications: numbered("n", 0..count)
            .into_iter()
            .map(|it| publication(channel, it))
            .collect(),
        ..Default::default()
    };
    let answers = world.publishing(region).publish_stream(tokio_stream::iter([frame])).await;
    let mut answers = answers.expect("the node accepts").into_inner();
    let mut last = 0;
    while let Some(answer) = in_time("an answer", answers.message()).await.expect("it is stored") {
        last = answer.acknowledged.last().map_or(last, |range| range.last_sequence);
    }
    assert_eq!(last as usize, count);
}

/// `last n` of one channel is found by the index, of a prefix in the logs
/// themselves: the same messages, also where the channel is seldom, and after
/// crashes that made the index anew from what was stored of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_messages_of_a_seldom_channel() {
    let mut world = World::start().await;
    world.create("europe", "often").await;
    world.create("europe", "seldom").await;
    for round in 0..4 {
        for region in ["europe", "asia"] {
            publish_frame(&world, region, "often", 700).await;
            world.publish_all(region, "seldom", &[format!("{region} {round}")]).await;
        }
        if round == 1 {
            world.abort("asia").await;
            world.restart("asia").await;
        }
    }
    world.until_same().await;
    for _ in 0..2 {
        for region in REGIONS {
            let all = world.history(region, &["seldom"], Start::Oldest).await;
            assert_eq!(all.messages.len(), 8, "{region}: {:?}", all.texts());
            for count in [1, 3, 8, 9] {
                let from = all.messages.len().saturating_sub(count);
                let start = Start::Last(count as u32);
                let by_index = world.history(region, &["seldom"], start.clone()).await;
                assert_eq!(by_index.messages, all.messages[from..], "{region}: {count}");
                let by_prefix = world.history(region, &["seld*"], start).await;
                assert_eq!(by_prefix.messages, all.messages[from..], "{region}: {count}");
            }
        }
        world.abort("asia").await;
        world.restart("asia").await;
    }
    world.end().await;
}

/// METHOD M14 and promise I4: history is the same list at every region, in the
/// order of the hybrid clock, with causes before effects; `last n` and pages cut
/// the same list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_the_same_everywhere() {
    let world = World::start().await;
    world.create("europe", "news").await;
    world.create("asia", "other").await;
    let mut publishers = tokio::task::JoinSet::new();
    for region in REGIONS {
        let mut client = world.publishing(region);
        publishers.spawn(async move {
            for number in 0..40 {
                let channel = if number % 4 == 0 { "other" } else { "news" };
                let request = crate::support::publish(channel, format!("{region} {number:02}"));
                client.publish(request).await.expect("the node accepts");
            }
        });
    }
    publishers.join_all().await;
    world.until_same().await;
    // Knows all of the above.
    world.publish("asia", "news", "effect").await;
    world.until_same().await;

    let first = world.history("europe", &["news", "other"], Start::Oldest).await;
    assert_eq!(first.messages.len(), 121);
    assert_rising(&first.messages);
    let order = |message: &v1::DeliveredMessage| {
        let name = message.message.expect("a message has a name");
        (message.stamp, name.origin, name.incarnation, name.m_id)
    };
    assert!(first.messages.is_sorted_by_key(order), "in the order of the hybrid clock");
    assert_eq!(first.texts().last().map(String::as_str), Some("effect"));
    for region in REGIONS {
        let all = world.history(region, &["news", "other"], Start::Oldest).await;
        assert!(all.messages == first.messages, "{region}: {:?}", all.texts());
        let last = world.history(region, &["news", "other"], Start::Last(17)).await;
        assert_eq!(last.messages, first.messages[first.messages.len() - 17..], "{region}");
        let other = world.history(region, &["other"], Start::Oldest).await;
        let expected: Vec<_> =
            first.messages.iter().filter(|message| message.channel == "other").cloned().collect();
        assert_eq!(other.messages, expected, "{region}");

        let mut pages = Vec::new();
        let mut start = Start::Oldest;
        loop {
            let request = v1::ReadHistoryRequest {
                namespace: "demo".to_owned(),
                channels: owned(&["news"]),
                start: Some(start.to_wire()),
                limit: 11,
            };
            let page = world.try_history(region, request).await.expect("it answers");
            assert!(page.messages.len() <= 11);
            pages.extend(page.messages);
            start = Start::Cursor(page.cursor);
            if !page.more {
                break;
            }
        }
        let expected: BTreeSet<_> =
            first.messages.iter().filter(|message| message.channel == "news").map(text).collect();
        assert_eq!(pages.len(), expected.len(), "{region}: a page lacks or repeats something");
        assert_eq!(pages.iter().map(text).collect::<BTreeSet<_>>(), expected, "{region}");
    }
    world.end().await;
}

/// METHOD M14 and promise I3, I8: a cursor taken at each region, in the middle
/// of what three origins publish, goes on at each region with exactly the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_any_region_goes_on_at_any_region() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let texts = |from: usize, to: usize| move |region: &&str| numbered(region, from..to);
    for region in REGIONS {
        world.publish_all(region, "news", &numbered(region, 0..10)).await;
    }
    // Taken while the regions do not hold the same: asia lacks what comes now.
    world.abort("asia").await;
    for region in ["europe", "america"] {
        world.publish_all(region, "news", &numbered(region, 10..20)).await;
    }
    let mut cursors = Vec::new();
    for region in ["europe", "america"] {
        let mut reader = world.reader(region, &["news"], Start::Oldest);
        reader.until_messages(25).await;
        cursors.push((region, reader.cursor.clone(), reader.texts()));
    }
    world.restart("asia").await;
    let mut reader = world.reader("asia", &["news"], Start::Oldest);
    reader.until_messages(12).await;
    cursors.push(("asia", reader.cursor.clone(), reader.texts()));
    world.publish_all("asia", "news", &numbered("asia", 10..20)).await;
    world.until_same().await;

    let all: Vec<_> = REGIONS.iter().flat_map(texts(0, 20)).collect();
    for (taken, cursor, before) in cursors {
        for region in REGIONS {
            let rest = world.history(region, &["news"], Start::Cursor(cursor.clone())).await;
            let together = [before.clone(), rest.texts()].concat();
            assert_all(&format!("{taken} to {region}"), &together, &all);
            assert_eq!(rest.gaps, 0);
            let mut live = world.reader(region, &["news"], Start::Cursor(cursor.clone()));
            live.until_messages(rest.messages.len()).await;
            assert_rising(&live.messages);
            assert_eq!(sorted(live.texts()), sorted(rest.texts()), "{taken} to {region}");
            assert!(live.gaps.is_empty());
        }
    }
    world.end().await;
}

/// METHOD M13: names and prefixes choose; a cursor moves past what was not chosen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters() {
    let world = World::start().await;
    let channels = ["prices/eur", "prices/usd", "prices-old", "news"];
    for channel in channels {
        world.create("europe", channel).await;
    }
    for (round, region) in REGIONS.into_iter().enumerate() {
        for channel in channels {
            world.publish(region, channel, format!("{channel} {round}")).await;
        }
    }
    world.until_same().await;
    let cases: [(&[&str], &[&str]); 5] = [
        (&["prices/*"], &["prices/eur", "prices/usd"]),
        (&["prices*"], &["prices/eur", "prices/usd", "prices-old"]),
        (&["news", "prices/usd"], &["news", "prices/usd"]),
        (&["none*"], &[]),
        (&["*"], &channels),
    ];
    for (asked, expected) in cases {
        let expected: BTreeSet<String> = (0..3)
            .flat_map(|round| expected.iter().map(move |channel| format!("{channel} {round}")))
            .collect();
        let mut reader = world.reader("america", asked, Start::Oldest);
        reader.until_caught_up().await;
        assert_eq!(reader.messages.len(), expected.len(), "{asked:?}: {:?}", reader.texts());
        assert_eq!(reader.texts().into_iter().collect::<BTreeSet<_>>(), expected, "{asked:?}");
        // With nothing chosen or all of it, the position is the same: the end.
        let rest = world.history("asia", &["*"], Start::Cursor(reader.cursor.clone())).await;
        assert_eq!(rest.texts(), Vec::<String>::new(), "{asked:?}");
    }
    // A channel that comes later is chosen by a prefix.
    let mut reader = world.reader("america", &["prices/*"], Start::Now);
    reader.until_caught_up().await;
    world.create("asia", "prices/krw").await;
    world.publish("asia", "news", "not chosen").await;
    world.publish("asia", "prices/krw", "chosen").await;
    reader.until_messages(1).await;
    assert_eq!(reader.texts(), ["chosen"]);
    world.end().await;
}

/// Promise I9: what cannot be subscribed to is refused with a reason
/// and the field, at the gateway as in history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused() {
    let world = World::start().await;
    world.create("europe", "news").await;
    world.namespace("second", &["world"]).await;
    world.until_ready("asia", "second").await;
    let history = world.history("asia", &["news"], Start::Oldest).await;
    let of_demo = Start::Cursor(history.cursor.clone());
    let mut damaged = history.cursor.to_vec();
    *damaged.last_mut().expect("it is not empty") ^= 1;

    let refused = async |request: v1::SubscribeRequest| -> Status {
        let read = v1::ReadHistoryRequest {
            namespace: request.namespace.clone(),
            channels: request.channels.clone(),
            start: request.start.clone(),
            limit: 0,
        };
        let subscribed = async {
            let mut stream = world.subscribe("asia", request).await?;
            loop {
                // The position at the start may come before the refusal.
                in_time("a refusal", stream.message()).await?.expect("a refusal");
            }
        };
        let Err::<(), Status>(status) = subscribed.await else { panic!("it is refused") };
        let history = world.try_history("asia", read.clone()).await;
        if !read.channels.is_empty() {
            let history = history.expect_err("history is refused too");
            assert_eq!((history.code(), reason_of(&history)), (status.code(), reason_of(&status)));
        }
        status
    };
    let unknown = refused(subscribe(&["news", "nothing"], Start::Now)).await;
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    assert_eq!(reason_of(&unknown), Some(Reason::UnknownChannel));
    let elsewhere =
        v1::SubscribeRequest { namespace: "nowhere".to_owned(), ..subscribe(&["*"], Start::Now) };
    let elsewhere = refused(elsewhere).await;
    assert_eq!(reason_of(&elsewhere), Some(Reason::UnknownNamespace), "{elsewhere}");
    let other =
        v1::SubscribeRequest { namespace: "second".to_owned(), ..subscribe(&["*"], of_demo) };
    let other = refused(other).await;
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
    assert_eq!(reason_of(&other), Some(Reason::CursorInvalid), "{other}");
    for garbage in [Bytes::from(damaged), Bytes::from_static(b"cursor"), Bytes::new()] {
        let refused = refused(subscribe(&["news"], Start::Cursor(garbage))).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(reason_of(&refused), Some(Reason::CursorInvalid), "{refused}");
        assert_eq!(invalid_fields(&refused)[0].field, "start.cursor");
    }
    for channels in [&[][..], &["no channel"], &["a*b"], &["/news"], &["news", ""]] {
        let refused = refused(subscribe(channels, Start::Now)).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{channels:?}: {refused}");
        assert_eq!(invalid_fields(&refused)[0].field, "channels", "{channels:?}");
    }
    world.end().await;
}

/// METHOD M13, M14 and promise I3, I8: gateways and push-nodes go away and
/// come back under their subscribers, who get everything once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_go_on_over_restarts() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let mut readers = Vec::new();
    for region in REGIONS {
        let mut reader = world.reader(region, &["news"], Start::Now);
        reader.until_caught_up().await;
        readers.push(reader);
    }
    let mut all = Vec::new();
    let mut publish = async |world: &World, what: &str, regions: &[&str]| {
        for region in regions {
            let texts = numbered(&format!("{what} {region}"), 0..10);
            world.publish_all(region, "news", &texts).await;
            all.extend(texts);
        }
    };
    publish(&world, "before", &REGIONS).await;
    world.restart_gateway("america").await;
    publish(&world, "gateway restarted", &REGIONS).await;
    world.abort("asia").await;
    publish(&world, "node away", &["europe", "america"]).await;
    world.restart("asia").await;
    publish(&world, "node back", &REGIONS).await;
    world.mesh.stop_gateway("europe").await.expect("it is up");
    publish(&world, "gateway away", &REGIONS).await;
    crate::waiting::until("the gateway starts", async || world.mesh.start_gateway("europe").await)
        .await;
    publish(&world, "after", &REGIONS).await;

    for (region, reader) in REGIONS.iter().zip(&mut readers) {
        world.close_off("news", reader, &REGIONS).await;
        assert_rising(&reader.messages);
        assert_all(region, &reader.texts(), &all);
        assert!(reader.gaps.is_empty(), "{region}: {:?}", reader.gaps);
    }
    assert!(readers[0].resumed() > 0 && readers[1].resumed() > 0, "their gateways went away");
    world.end().await;
}

/// METHOD M13: a subscription with a limit ends behind that many messages, in the
/// middle of what came together, with the cursor just there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_ends_a_subscription() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let texts = numbered("", 0..30);
    world.publish_all("europe", "news", &texts).await;
    world.until_same().await;
    let mut start = Start::Oldest;
    let mut got = Vec::new();
    for limit in [1, 7, 22] {
        let request = v1::SubscribeRequest { limit, ..subscribe(&["news"], start) };
        let mut stream = world.subscribe("america", request).await.expect("it serves");
        let mut cursor = Bytes::new();
        let before = got.len();
        while let Some(response) = in_time("the end", stream.message()).await.expect("no error") {
            for delivery in response.deliveries {
                if let Some(v1::delivery::Event::Message(message)) = delivery.event {
                    got.push(text(&message));
                }
            }
            cursor = response.cursor;
        }
        assert_eq!((got.len() - before) as u64, limit);
        start = Start::Cursor(cursor);
    }
    assert_eq!(got, texts);
    world.end().await;
}
