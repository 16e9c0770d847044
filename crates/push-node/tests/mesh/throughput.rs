//! A first look at the hot path; run it with `--ignored --nocapture`.

use std::time::Instant;

use bytes::Bytes;
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Mesh, publication};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn publications_per_second() {
    for nodes in [1, 2] {
        let mesh = Mesh::start(nodes).await;
        let everywhere: Vec<usize> = (0..nodes).collect();
        mesh.create_channel(0, "news", &everywhere).await;
        let request = v1::OpenSessionRequest { namespace: "demo".to_owned(), ..Default::default() };
        let session =
            mesh.publisher(0).open_session(request).await.expect("free").into_inner().session;
        const FRAMES: u64 = 1000;
        const PER_FRAME: u64 = 500;
        let (frames, requests) = mpsc::channel(16);
        let payload = Bytes::from(vec![7_u8; 128]);
        tokio::spawn(async move {
            for frame in 0..FRAMES {
                let request = v1::PublishStreamRequest {
                    namespace: "demo".to_owned(),
                    session: session.clone(),
                    first_sequence: frame * PER_FRAME + 1,
                    publications: (0..PER_FRAME)
                        .map(|_| publication("news", payload.clone()))
                        .collect(),
                    ..Default::default()
                };
                if frames.send(request).await.is_err() {
                    return;
                }
            }
        });
        let begun = Instant::now();
        let mut publisher = mesh.publisher(0);
        let answers = publisher.publish_stream(ReceiverStream::new(requests)).await;
        let mut answers = answers.expect("the node serves").into_inner();
        let mut last = 0;
        while let Some(answer) = answers.message().await.expect("it goes on") {
            last = answer.acknowledged.last().map_or(last, |range| range.last_sequence);
        }
        assert_eq!(last, FRAMES * PER_FRAME);
        let took = begun.elapsed();
        println!("{nodes} nodes: {:.0} acknowledged per second", last as f64 / took.as_secs_f64());
        mesh.until_converged(&everywhere).await;
        println!("{nodes} nodes: everywhere after {:?}", begun.elapsed());
        let begun = Instant::now();
        for _ in 0..300 {
            mesh.publish(0, "news", payload_of()).await.expect("accepted");
        }
        println!("{nodes} nodes: one by one {:?} each", begun.elapsed() / 300);
    }
}

fn payload_of() -> Bytes {
    Bytes::from(vec![1_u8; 128])
}
