//! One long batch that is stored as it comes: ADR-50, "Fast-ingest Batch Publishing",
//! <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md>.
//!
//! The server acknowledges every so many messages, as many as it thinks fit up to what
//! the publisher asks for, and the publisher has a few such lots under way.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context as _, Result};
use async_nats::{Subject, jetstream};
use jetstream_extra::batch_publish_fast::{FastPublishExt as _, GapMode};

use super::{Acknowledged, PATIENCE, Publisher};
use crate::streams::SUBJECT;

/// Two stored as much as one: 329,000 messages a second on two cores shared with the
/// server, synced as by default.
pub(super) const PUBLISHERS: usize = 1;

/// Lots under way; ADR-50 calls two "generally optimal".
const LOTS: u16 = 2;
/// Published between two looks at the clock.
const PIECE: usize = 64;

pub(super) async fn run(publisher: Publisher) -> Result<Acknowledged> {
    let Publisher { client, mut payloads, mut moments, in_flight, begun, progress, .. } = publisher;
    let subject = Subject::from_static(SUBJECT);
    let lot = u16::try_from(in_flight / usize::from(LOTS)).unwrap_or(u16::MAX).max(1);
    let mut batch = jetstream::new(client)
        .fast_publish()
        .flow(lot)
        .max_outstanding_acks(LOTS)
        .gap_mode(GapMode::Fail)
        .ack_timeout(PATIENCE)
        .build()
        .context("cannot begin a fast batch")?;
    let mut acknowledged = Acknowledged::nothing_yet();
    let mut outstanding: VecDeque<Instant> = VecDeque::with_capacity(in_flight);
    let (mut due, mut done) = (Vec::new(), 0);
    while moments.next(PIECE, &mut due).await > 0 {
        for moment in due.drain(..) {
            outstanding.push_back(moment);
            let added = batch.add(subject.clone(), payloads.make(moment));
            let answer = added.await.context("cannot add to a fast batch")?;
            if answer.ack_sequence > done {
                let count = (answer.ack_sequence - done) as usize;
                let moments: Vec<Instant> = outstanding.drain(..count).collect();
                acknowledged.take(&moments);
                done = answer.ack_sequence;
            }
        }
        progress.tick(begun);
    }
    if batch.size() > 0 {
        batch.close().await.context("a fast batch is not stored")?;
        acknowledged.take(outstanding.make_contiguous());
    }
    Ok(acknowledged)
}
