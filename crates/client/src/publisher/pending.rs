//! Batches without an answer, in the order of their sequences.

use std::collections::VecDeque;

use interlock_rpc::status::PublishOutcome;
use interlock_rpc::v1;
use tokio::sync::oneshot;

use super::{Outgoing, Published};
use crate::error::{ClientError, FailedBatch};

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Pending {
    publications: Vec<v1::Publication>,
    /// How many there were at first.
    count: u64,
    /// How many of them were acknowledged under numbers of an earlier session.
    drained: u64,
    /// Sequence of the first publication that is left; 0 before it is queued.
    first_sequence: u64,
    /// Why the publication behind the last was refused: those before it are to be
    /// stored all the same.
    refused: Option<Refused>,
    published: Published,
    reply: oneshot::Sender<Result<Published, ClientError>>,
}

#[derive(Debug)]
struct Refused {
    error: ClientError,
    /// How many of those that it took out may be stored, under another session.
    unknown: u64,
}

impl Pending {
    pub(super) fn new(
        batch: Vec<Outgoing>,
        reply: oneshot::Sender<Result<Published, ClientError>>,
    ) -> Self {
        let publications: Vec<_> = batch
            .into_iter()
            .map(|outgoing| v1::Publication {
                channel: outgoing.channel,
                payload: outgoing.payload,
                traceparent: outgoing.traceparent,
                ..Default::default()
            })
            .collect();
        Self {
            count: publications.len() as u64,
            publications,
            drained: 0,
            first_sequence: 0,
            refused: None,
            published: Published::default(),
            reply,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    fn end_sequence(&self) -> u64 {
        self.first_sequence + self.publications.len() as u64
    }

    /// All that is left of it was acknowledged.
    pub(super) fn complete(mut self) {
        match self.refused.take() {
            None => self.answer(Ok(())),
            Some(Refused { error, unknown }) => {
                let refused = Some(self.published.count);
                self.answer_failed(&error, unknown, refused);
            }
        }
    }

    /// It is given up; of so many that were not acknowledged nobody knows whether
    /// they are stored.
    pub(super) fn fail(mut self, error: &ClientError, unknown: u64) {
        let refused = self.refused.take();
        let unknown = unknown + refused.as_ref().map_or(0, |refused| refused.unknown);
        let left = self.publications.len() as u64;
        let refused = refused.map(|_| self.drained + left);
        self.answer_failed(error, unknown, refused);
    }

    fn answer_failed(self, error: &ClientError, unknown: u64, refused: Option<u64>) {
        let durable_at = self.published.durable_at.clone();
        let outcome = if unknown == 0 {
            PublishOutcome::not_stored()
        } else {
            // The session ends with the publisher: no node knows the repeat.
            PublishOutcome { durable_at, ..PublishOutcome::unknown(false) }
        };
        let failed = FailedBatch {
            publications: self.count,
            stored: self.published.count,
            refused,
            outcome,
            cause: error.clone(),
        };
        self.answer(Err(ClientError::Batch(Box::new(failed))));
    }

    fn answer(self, outcome: Result<(), ClientError>) {
        // Whoever dropped the receipt does not want to know.
        let _ = self.reply.send(outcome.map(|()| self.published));
    }
}

/// Publications to send together.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) first_sequence: u64,
    pub(super) publications: Vec<v1::Publication>,
    /// They may be stored already, under another session.
    pub(super) possibly_repeated: bool,
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
    /// Publications before this sequence may be stored already, under another
    /// session.
    repeated_before: u64,
}

impl PendingQueue {
    pub(super) fn new() -> Self {
        Self {
            batches: VecDeque::new(),
            unacknowledged: 1,
            unsent: 1,
            never_sent: 1,
            next: 1,
            repeated_before: 0,
        }
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

    /// A new session, which counts from `first`. What was sent in the old one and
    /// not acknowledged may be stored.
    pub(super) fn renumber(&mut self, first: u64) {
        let sent = self.never_sent.max(self.repeated_before).saturating_sub(self.unacknowledged);
        self.repeated_before = first + sent;
        for batch in &mut self.batches {
            // What was acknowledged of a batch in the old session is over.
            let offset = usize::try_from(self.unacknowledged.saturating_sub(batch.first_sequence))
                .unwrap_or(usize::MAX);
            let over = offset.min(batch.publications.len());
            batch.publications.drain(..over);
            batch.drained += over as u64;
        }
        self.number_from(0, first);
        self.unacknowledged = first;
        self.unsent = first;
        self.never_sent = first;
    }

    /// The next publications to send.
    pub(super) fn frame(&self, max_publications: usize, max_bytes: usize) -> Frame {
        let possibly_repeated = self.unsent < self.repeated_before;
        let mut frame =
            Frame { first_sequence: self.unsent, publications: Vec::new(), possibly_repeated };
        // The mark is said of a whole frame.
        let same = if possibly_repeated { self.repeated_before - self.unsent } else { u64::MAX };
        let most = max_publications.min(usize::try_from(same).unwrap_or(usize::MAX));
        let mut bytes = 0;
        let at = self.batches.partition_point(|batch| batch.end_sequence() <= self.unsent);
        for batch in self.batches.range(at..) {
            let offset =
                usize::try_from(self.unsent.saturating_sub(batch.first_sequence)).unwrap_or(0);
            for publication in batch.publications.iter().skip(offset) {
                bytes += publication.payload.len();
                let is_full = frame.publications.len() >= most || bytes > max_bytes;
                if is_full && !frame.publications.is_empty() {
                    return frame;
                }
                frame.publications.push(publication.clone());
            }
        }
        frame
    }

    /// `count` publications from the first unsent on have been sent.
    pub(super) fn sent(&mut self, count: u64) {
        self.unsent += count;
        self.never_sent = self.never_sent.max(self.unsent);
    }

    /// Takes an acknowledgement, and answers batches that are complete.
    pub(super) fn acknowledge(&mut self, range: &v1::AcknowledgedRange, durable_at: &[String]) {
        let first = range.first_sequence.max(self.unacknowledged);
        let end = range.last_sequence.saturating_add(1).min(self.unsent);
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
                batch.complete();
            }
        }
    }

    /// The publication of this sequence was refused, and nothing from it on is
    /// stored in this session: it and what follows it in its batch are taken out,
    /// and the batches behind move up. What comes before it keeps its number and
    /// is sent again until it is acknowledged: a frame that is malformed is refused
    /// as a whole, and what an earlier stream stored of it may be known to nobody
    /// here. False when none of that sequence is under way.
    pub(super) fn refuse(&mut self, sequence: u64, error: &ClientError) -> bool {
        if !(self.unacknowledged..self.never_sent).contains(&sequence) {
            return false;
        }
        let at = self.batches.partition_point(|batch| batch.end_sequence() <= sequence);
        let Some(batch) = self.batches.get_mut(at) else { return false };
        let end = batch.end_sequence();
        let unknown = end.min(self.repeated_before).saturating_sub(sequence);
        batch.refused = Some(Refused { error: error.clone(), unknown });
        let left = usize::try_from(sequence - batch.first_sequence).unwrap_or(usize::MAX);
        batch.publications.truncate(left);
        // Nothing of it waits any more if it has no more, or all of that is stored.
        let is_over = left == 0 || sequence == self.unacknowledged;
        if is_over && let Some(batch) = self.batches.remove(at) {
            batch.complete();
        }
        self.number_from(if is_over { at } else { at + 1 }, sequence);
        self.unsent = self.unsent.min(sequence);
        self.never_sent = sequence;
        self.repeated_before = if self.repeated_before > end {
            self.repeated_before - (end - sequence)
        } else {
            self.repeated_before.min(sequence)
        };
        true
    }

    /// Fails what was sent and not acknowledged.
    pub(super) fn fail_unknown(&mut self, error: &ClientError) {
        while self.batches.front().is_some_and(|batch| batch.first_sequence < self.never_sent) {
            let unknown = self.unknown_of_first();
            if let Some(batch) = self.batches.pop_front() {
                batch.fail(error, unknown);
            }
        }
        self.unacknowledged = self.batches.front().map_or(self.next, |batch| batch.first_sequence);
        self.unsent = self.unacknowledged;
        self.never_sent = self.unacknowledged;
    }

    /// Fails everything.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        loop {
            let unknown = self.unknown_of_first();
            let Some(batch) = self.batches.pop_front() else { return };
            batch.fail(error, unknown);
        }
    }

    /// How many of the first batch may be stored without an acknowledgement.
    fn unknown_of_first(&self) -> u64 {
        let Some(batch) = self.batches.front() else { return 0 };
        let from = batch.first_sequence.max(self.unacknowledged);
        let to = batch.end_sequence().min(self.never_sent.max(self.repeated_before));
        to.saturating_sub(from)
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
        let frame = queue.frame(10, 1000);
        assert_eq!((frame.first_sequence, payloads(&frame.publications)), (4, vec!["d"]));
    }

    fn failed(answer: &mut Answer) -> FailedBatch {
        match answer.try_recv().expect("answered").expect_err("it failed") {
            ClientError::Batch(batch) => *batch,
            other => panic!("a batch that failed, not {other}"),
        }
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
        assert!(queue.refuse(3, &ClientError::Ended));
        let failed = failed(&mut second_answer);
        assert_eq!((failed.publications, failed.stored, failed.refused), (2, 1, Some(1)));
        assert_eq!(failed.outcome, PublishOutcome::not_stored());
        let frame = queue.frame(10, 1000);
        assert_eq!((frame.first_sequence, payloads(&frame.publications)), (3, vec!["d"]));
    }

    /// A malformed frame is refused as a whole: nothing before the one at fault is
    /// stored by it.
    #[test]
    fn what_comes_before_a_refused_one_is_sent_again_under_its_number() {
        let mut queue = PendingQueue::new();
        let (first, mut first_answer) = batch(&["a"]);
        let (second, mut second_answer) = batch(&["b", "c", "d"]);
        let (third, mut third_answer) = batch(&["e"]);
        queue.push(first);
        queue.push(second);
        queue.push(third);
        queue.sent(5);
        assert!(queue.refuse(3, &ClientError::Ended));
        assert!(first_answer.try_recv().is_err() && second_answer.try_recv().is_err());
        queue.send_again();
        let frame = queue.frame(10, 1000);
        assert_eq!((frame.first_sequence, payloads(&frame.publications)), (1, vec!["a", "b", "e"]));
        queue.sent(3);
        queue.acknowledge(&range(1, 3, 1), &[]);
        assert!(first_answer.try_recv().expect("answered").is_ok());
        let failed = failed(&mut second_answer);
        assert_eq!((failed.publications, failed.stored, failed.refused), (3, 1, Some(1)));
        assert!(third_answer.try_recv().expect("answered").is_ok());
        assert!(queue.is_empty());
    }

    #[test]
    fn giving_up_says_of_each_batch_what_is_known() {
        let mut queue = PendingQueue::new();
        let (first, mut first_answer) = batch(&["a", "b", "c"]);
        let (second, mut second_answer) = batch(&["d"]);
        queue.push(first);
        queue.push(second);
        queue.sent(3);
        queue.acknowledge(&range(1, 1, 1), &[]);
        queue.fail_all(&ClientError::Ended);
        let first = failed(&mut first_answer);
        assert_eq!((first.publications, first.stored, first.refused), (3, 1, None));
        assert_eq!(first.outcome, PublishOutcome::unknown(false));
        let second = failed(&mut second_answer);
        assert_eq!((second.stored, second.outcome), (0, PublishOutcome::not_stored()));
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
        let frame = queue.frame(10, 1000);
        assert_eq!((frame.first_sequence, payloads(&frame.publications)), (1, vec!["b", "c"]));
    }

    #[test]
    fn frames_keep_to_their_limits_but_carry_at_least_one() {
        let mut queue = PendingQueue::new();
        let (first, _answer) = batch(&["aaaa", "bbbb", "cccc"]);
        queue.push(first);
        assert_eq!(payloads(&queue.frame(2, 1000).publications), ["aaaa", "bbbb"]);
        assert_eq!(payloads(&queue.frame(10, 8).publications), ["aaaa", "bbbb"]);
        assert_eq!(payloads(&queue.frame(10, 1).publications), ["aaaa"]);
    }

    #[test]
    fn a_refusal_of_what_is_not_under_way_changes_nothing() {
        let mut queue = PendingQueue::new();
        let (first, mut answer) = batch(&["a", "b"]);
        queue.push(first);
        queue.sent(1);
        assert!(!queue.refuse(0, &ClientError::Ended));
        assert!(!queue.refuse(2, &ClientError::Ended), "it was never sent");
        assert!(!queue.refuse(9, &ClientError::Ended));
        assert!(answer.try_recv().is_err());
        assert_eq!(payloads(&queue.frame(10, 1000).publications), ["b"]);
    }

    #[test]
    fn only_what_was_in_flight_is_marked_as_possibly_repeated() {
        let mut queue = PendingQueue::new();
        let (first, _first_answer) = batch(&["a", "b", "c"]);
        let (second, _second_answer) = batch(&["d", "e"]);
        queue.push(first);
        queue.push(second);
        queue.sent(4);
        queue.acknowledge(&range(1, 2, 1), &[]);
        // "c" and "d" were sent in a session that is lost, "e" was not.
        queue.renumber(1);
        let frame = queue.frame(10, 1000);
        assert_eq!(
            (payloads(&frame.publications), frame.possibly_repeated),
            (vec!["c", "d"], true)
        );
        queue.sent(2);
        let frame = queue.frame(10, 1000);
        assert_eq!((payloads(&frame.publications), frame.possibly_repeated), (vec!["e"], false));
        // The next session is lost too, after "c" was acknowledged.
        queue.acknowledge(&range(1, 1, 1), &[]);
        queue.renumber(5);
        let frame = queue.frame(10, 1000);
        assert_eq!((frame.first_sequence, payloads(&frame.publications)), (5, vec!["d"]));
    }
}
