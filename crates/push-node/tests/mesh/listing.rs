//! Lists of channels whose definitions are large.

use interlock_core::limits::{
    MAX_DESCRIPTION_BYTES, MAX_LABEL_BYTES, MAX_LABELS, MAX_OPERATION_BYTES, MAX_PAGE_BYTES,
};
use interlock_rpc::v1;
use prost::Message as _;

use crate::support::Mesh;

/// A page ends by its size too: else the list of a few large definitions would be
/// larger than any client reads, and fail for ever.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_large_definitions_end_by_their_size() {
    const CHANNELS: usize = 130;
    let mesh = Mesh::start(1).await;
    let labels: std::collections::BTreeMap<_, _> = (0..MAX_LABELS)
        .map(|number| (format!("{number:0>MAX_LABEL_BYTES$}"), "v".repeat(MAX_LABEL_BYTES)))
        .collect();
    for number in 0..CHANNELS {
        let request = v1::CreateChannelRequest {
            namespace: "demo".to_owned(),
            channel: format!("large/{number:03}"),
            description: "d".repeat(MAX_DESCRIPTION_BYTES),
            labels: labels.clone(),
            ..Default::default()
        };
        mesh.channels(0).create_channel(request).await.expect("it is within its limits");
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListChannelsRequest {
            namespace: "demo".to_owned(),
            page_size: u32::MAX,
            page_token,
            ..Default::default()
        };
        let page = mesh.channels(0).list_channels(request).await.expect("it can be read");
        let page = page.into_inner();
        assert!(page.encoded_len() < MAX_PAGE_BYTES + MAX_OPERATION_BYTES);
        names.extend(page.channels.into_iter().map(|channel| channel.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..CHANNELS).map(|number| format!("large/{number:03}")).collect();
    assert_eq!(names, expected);
}
