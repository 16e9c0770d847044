//! Batches without an answer, in the order of their sequences.

use std::collections::VecDeque;

use interlock_rpc::v1;
use tokio::sync::oneshot;

use super::{Outgoing, Published};
use crate::error::ClientError;

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Pending {
    publications: Vec<v1::Publication>,
    /// Sequence of the first publication; 0 before it is queued.
    first_sequence: u64,
    published: Published,
    reply: oneshot::Sender<Result<Published, ClientError>>,
}

impl Pending {
    pub(super) fn new(
        batch: Vec<Outgoing>,
        reply: oneshot::Sender<Result<Published, ClientError>>,
    ) -> Self {
        let publications = batch
            .into_iter()
            .map(|outgoing| v1::Publication {
                channel: outgoing.channel,
                payload: outgoing.payload,
                traceparent: outgoing.traceparent,
                ..Default::default()
            })
            .collect();
        Self { publications, first_sequence: 0, published: Published::default(), reply }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    fn end_sequence(&self) -> u64 {
        self.first_sequence + self.publications.len() as u64
    }

    pub(super) fn answer(self, outcome: Result<(), ClientError>) {
        // Whoever dropped the receipt does not want to know.
        let _ = self.reply.send(outcome.map(|()| self.published));
    }
}

/// All batches without an answer. Sequences run through them without gaps.
#[derive(Debug)]
pub(super) struct PendingQueue {
    batches: VecDeque<Pending>,
    /// The first sequence without an acknowledgement.
    unacknowledged: u64,
    /// The first sequence that was not sent on this stream.
    unsent: u64,
    /// The first sequence that was never sent at all.
    never_sent: u64,
    /// What the next batch begins with.
    next: u64,
}

impl PendingQueue {
    pub(super) fn new() -> Self {
        Self { batches: VecDeque::new(), unacknowledged: 1, unsent: 1, never_sent: 1, next: 1 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Publications without an acknowledgement, sent or not.
    pub(super) fn waiting(&self) -> u64 {
        self.next - self.unacknowledged
    }

    /// Publications sent on this stream and not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.unsent.saturating_sub(self.unacknowledged)
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent < self.next
    }

    /// Whether something was sent, on any stream, and is not acknowledged.
    pub(super) fn has_unknown_outcomes(&self) -> bool {
        self.never_sent > self.unacknowledged
    }

    pub(super) fn push(&mut self, mut batch: Pending) {
        batch.first_sequence = self.next;
        self.next = batch.end_sequence();
        self.batches.push_back(batch);
    }

    /// A new stream: what is not acknowledged is sent again.
    pub(super) fn send_again(&mut self) {
        self.unsent = self.unacknowledged;
    }

    /// A new session, which counts from `first`.
    pub(super) fn renumber(&mut self, first: u64) {
        for batch in &mut self.batches {
            // What was acknowledged of a batch in the old session is over.
            let offset = usize::try_from(self.unacknowledged.saturating_sub(batch.first_sequence))
                .unwrap_or(usize::MAX);
            batch.publications.drain(..offset.min(batch.publications.len()));
        }
        self.number_from(0, first);
        self.unacknowledged = first;
        self.unsent = first;
        self.never_sent = first;
    }

    /// The next publications to send, with the first one's sequence.
    pub(super) fn frame(
        &self,
        max_publications: usize,
        max_bytes: usize,
    ) -> (u64, Vec<v1::Publication>) {
        let mut publications = Vec::new();
        let mut bytes = 0;
        let at = self.batches.partition_point(|batch| batch.end_sequence() <= self.unsent);
        for batch in self.batches.range(at..) {
            let offset =
                usize::try_from(self.unsent.saturating_sub(batch.first_sequence)).unwrap_or(0);
            for publication in batch.publications.iter().skip(offset) {
                bytes += publication.payload.len();
                let is_full = publications.len() >= max_publications || bytes > max_bytes;
                if is_full && !publications.is_empty() {
                    return (self.unsent, publications);
                }
                publications.push(publication.clone());
            }
        }
        (self.unsent, publications)
    }

    /// `count` publications from the first unsent on have been sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.unsent += count;
        self.never_sent = self.never_sent.max(self.unsent);
    }

    /// Takes an acknowledgement, and answers batches that are complete.
    pub(super) fn acknowledge(&mut self, range: &v1::AcknowledgedRange, durable_at: &[String]) {
        let first = range.first_sequence.max(self.unacknowledged);
        let end = (range.last_sequence + 1).min(self.unsent);
        if first != self.unacknowledged || first >= end {
            return;
        }
        for batch in &mut self.batches {
            let from = first.max(batch.first_sequence);
            let to = end.min(batch.end_sequence());
            if from >= to {
                continue;
            }
            let name = |sequence: u64| {
                range.first.map(|first| v1::MessageReference {
                    m_id: first.m_id + (sequence - range.first_sequence),
                    ..first
                })
            };
            let published = &mut batch.published;
            published.first = published.first.or_else(|| name(from));
            published.last = name(to - 1).or(published.last);
            published.count += to - from;
            published.repeated += if range.already_stored { to - from } else { 0 };
            published.durable_at = durable_at.to_vec();
        }
        self.unacknowledged = end;
        while self.batches.front().is_some_and(|batch| batch.end_sequence() <= end) {
            if let Some(batch) = self.batches.pop_front() {
                batch.answer(Ok(()));
            }
        }
    }

    /// The publication of this sequence was refused: its batch fails, and what
    /// follows moves up.
    pub(super) fn refuse(&mut self, sequence: u64, error: &ClientError) {
        let at = self.batches.partition_point(|batch| batch.end_sequence() <= sequence);
        if let Some(batch) = self.batches.remove(at) {
            batch.answer(Err(error.clone()));
        }
        self.number_from(at, sequence);
        self.unsent = self.unsent.min(sequence);
        self.never_sent = self.never_sent.min(sequence);
    }

    /// Fails what was sent and not acknowledged.
    pub(super) fn fail_unknown(&mut self, error: &ClientError) {
        while self.batches.front().is_some_and(|batch| batch.first_sequence < self.never_sent) {
            if let Some(batch) = self.batches.pop_front() {
                batch.answer(Err(error.clone()));
            }
        }
        self.unacknowledged = self.batches.front().map_or(self.next, |batch| batch.first_sequence);
        self.unsent = self.unacknowledged;
        self.never_sent = self.unacknowledged;
    }

    /// Fails everything.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        for batch in std::mem::take(&mut self.batches) {
            batch.answer(Err(error.clone()));
        }
    }

    fn number_from(&mut self, at: usize, first: u64) {
        let mut sequence = first;
        for batch in self.batches.range_mut(at..) {
            batch.first_sequence = sequence;
            sequence = batch.end_sequence();
        }
        self.next = sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    type Answer = oneshot::Receiver<Result<Published, ClientError>>;

    fn batch(payloads: &[&'static str]) -> (Pending, Answer) {
        let (reply, answer) = oneshot::channel();
        let outgoing = payloads
            .iter()
            .map(|payload| Outgoing {
                channel: "a".into(),
                payload: Bytes::from_static(payload.as_bytes()),
                ..Default::default()
            })
            .collect();
        (Pending::new(outgoing, reply), answer)
    }

    fn range(first: u64, last: u64, m_id: u64) -> v1::AcknowledgedRange {
        v1::AcknowledgedRange {
            first_sequence: first,
            last_sequence: last,
            first: Some(v1::MessageReference { m_id, ..Default::default() }),
            already_stored: false,
        }
    }

    fn payloads(publications: &[v1::Publication]) -> Vec<&str> {
        publications
            .iter()
            .map(|publication| std::str::from_utf8(&publication.payload).expect("text"))
            .collect()
    }

    #[test]
    fn acknowledgements_answer_batches_in_order_and_only_when_complete() {
        let mut queue = PendingQueue::new();
        let (first, mut first_answer) = batch(&["a", "b"]);
        let (second, mut second_answer) = batch(&["c"]);
        queue.push(first);
        queue.push(second);
        queue.sent(3);
        queue.acknowledge(&range(1, 1, 10), &[]);
        assert!(first_answer.try_recv().is_err());
        queue.acknowledge(&range(2, 3, 20), &["europe-1".into()]);
        let first = first_answer.try_recv().expect("answered").expect("published");
        assert_eq!((first.count, first.first.map(|name| name.m_id)), (2, Some(10)));
        assert_eq!(first.last.map(|name| name.m_id), Some(20));
        let second = second_answer.try_recv().expect("answered").expect("published");
        assert_eq!(second.last.map(|name| name.m_id), Some(21));
        assert!(queue.is_empty());
    }

    #[test]
    fn after_a_break_the_same_goes_out_under_the_same_sequences() {
        let mut queue = PendingQueue::new();
        let (first, _first_answer) = batch(&["a", "b"]);
        let (second, _second_answer) = batch(&["c", "d"]);
        queue.push(first);
        queue.push(second);
        queue.sent(4);
        queue.acknowledge(&range(1, 3, 1), &[]);
        queue.send_again();
        let (sequence, publications) = queue.frame(10, 1000);
        assert_eq!((sequence, payloads(&publications)), (4, vec!["d"]));
    }

    #[test]
    fn a_refused_batch_gives_its_sequences_to_those_behind_it() {
        let mut queue = PendingQueue::new();
        let (first, mut first_answer) = batch(&["a"]);
        let (second, mut second_answer) = batch(&["b", "c"]);
        let (third, _third_answer) = batch(&["d"]);
        queue.push(first);
        queue.push(second);
        queue.push(third);
        queue.sent(4);
        queue.acknowledge(&range(1, 2, 1), &[]);
        assert!(first_answer.try_recv().expect("answered").is_ok());
        // "b" is stored, "c" is refused.
        queue.refuse(3, &ClientError::Ended);
        assert!(second_answer.try_recv().expect("answered").is_err());
        let (sequence, publications) = queue.frame(10, 1000);
        assert_eq!((sequence, payloads(&publications)), (3, vec!["d"]));
    }

    #[test]
    fn a_new_session_counts_anew_and_drops_what_was_acknowledged() {
        let mut queue = PendingQueue::new();
        let (first, _answer) = batch(&["a", "b", "c"]);
        queue.push(first);
        queue.sent(3);
        queue.acknowledge(&range(1, 1, 1), &[]);
        assert!(queue.has_unknown_outcomes());
        queue.renumber(1);
        assert!(!queue.has_unknown_outcomes());
        let (sequence, publications) = queue.frame(10, 1000);
        assert_eq!((sequence, payloads(&publications)), (1, vec!["b", "c"]));
    }

    #[test]
    fn frames_keep_to_their_limits_but_carry_at_least_one() {
        let mut queue = PendingQueue::new();
        let (first, _answer) = batch(&["aaaa", "bbbb", "cccc"]);
        queue.push(first);
        assert_eq!(payloads(&queue.frame(2, 1000).1), ["aaaa", "bbbb"]);
        assert_eq!(payloads(&queue.frame(10, 8).1), ["aaaa", "bbbb"]);
        assert_eq!(payloads(&queue.frame(10, 1).1), ["aaaa"]);
    }
}
