//! Batches that are stored as a whole or not at all: ADR-50, "Atomic Batch Publishing",
//! <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>.
//!
//! A server that syncs always does so once for each, which makes them its fastest way
//! to publish what survives a loss of power.

use anyhow::{Context as _, Result};
use async_nats::{Subject, jetstream};
use jetstream_extra::batch_publish::BatchPublishExt as _;

use super::{Acknowledged, PATIENCE, Publisher};
use crate::streams::SUBJECT;

/// While one waits for its batch to be synced, the other sends. On two cores shared with
/// the server one stored 127,000 to 149,000 messages a second in five runs, two 135,000
/// to 155,000, four 140,000 to 144,000, and more no more.
pub(super) const PUBLISHERS: usize = 2;

pub(super) async fn run(publisher: Publisher) -> Result<Acknowledged> {
    let Publisher { client, mut payloads, mut moments, batch, begun, progress, .. } = publisher;
    let context = jetstream::new(client);
    let subject = Subject::from_static(SUBJECT);
    let mut acknowledged = Acknowledged::nothing_yet();
    let mut due = Vec::new();
    while moments.next(batch, &mut due).await > 0 {
        // Only the last message asks for an answer: one round trip for all of them.
        let mut publishing = context.batch_publish().ack_first(false).timeout(PATIENCE).build();
        let (last, before) = due.split_last().context("a batch has a message")?;
        for moment in before {
            let added = publishing.add(subject.clone(), payloads.make(*moment));
            added.await.context("cannot add to an atomic batch")?;
        }
        let committed = publishing.commit(subject.clone(), payloads.make(*last));
        committed.await.context("an atomic batch is not stored")?;
        acknowledged.take(&due);
        due.clear();
        progress.tick(begun);
    }
    Ok(acknowledged)
}
