//! What a stream of publications leaves behind when one of them is refused.

use interlock_rpc::status::{PublishOutcome, Reason, Stored, metadata_of, reason_of};
use interlock_rpc::v1;

use crate::support::{Mesh, publication};

/// METHOD M8: without a session nothing but the stream itself keeps frames in
/// order. Those behind a refused one are on their way by then, and are not stored:
/// the publisher is told that nothing from the refused one on is.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_refused_frame_is_stored() {
    let mesh = Mesh::start(1).await;
    mesh.create_channel(0, "news", &[0]).await;
    let frame = |texts: &[&str], channel: &str| v1::PublishStreamRequest {
        namespace: "demo".to_owned(),
        publications: texts.iter().map(|text| publication(channel, text.to_string())).collect(),
        ..Default::default()
    };
    let mut frames =
        vec![frame(&["first", "second"], "news"), frame(&["refused"], "no-such-channel")];
    frames.extend((0..50).map(|_| frame(&["behind it"], "news")));
    let answers = mesh.publisher(0).publish_stream(tokio_stream::iter(frames)).await;
    let mut answers = answers.expect("the node serves").into_inner();
    let mut acknowledged = 0;
    let refused = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                acknowledged =
                    answer.acknowledged.last().map_or(acknowledged, |it| it.last_sequence);
            }
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(acknowledged, 2);
    assert_eq!(reason_of(&refused), Some(Reason::UnknownChannel), "{refused}");
    assert_eq!(metadata_of(&refused, "sequence").as_deref(), Some("3"));
    assert_eq!(PublishOutcome::of(&refused, false).stored, Stored::No);
    // What is stored behind the refusal would be read before this one.
    mesh.publish(0, "news", "last").await.expect("the channel is there");
    assert_eq!(mesh.read_all(0, &[]).await, ["first", "second", "last"]);
}
