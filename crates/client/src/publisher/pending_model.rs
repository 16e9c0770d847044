//! The queue of a publisher against a model of a push-node, in all the ways in
//! which frames, answers and sessions can be lost.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use interlock_rpc::status::Stored;
use interlock_rpc::v1;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tonic::Status;

use super::pending::{Frame, Pending, PendingQueue};
use super::{Outgoing, Published};
use crate::error::ClientError;

/// What a node makes of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fine,
    /// Refused when its turn comes; what comes before it is stored.
    Refused,
    /// Its frame is refused as a whole.
    Malformed,
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<Kind>),
    Send(usize),
    /// The node takes a frame.
    Take,
    /// An answer arrives.
    Hear,
    /// The stream breaks: what is under way is lost, both ways.
    Break,
    /// The node forgets the session; the publisher publishes again, or not.
    Forget(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind =
        prop_oneof![8 => Just(Kind::Fine), 1 => Just(Kind::Refused), 1 => Just(Kind::Malformed)];
    let step = prop_oneof![
        4 => vec(kind, 1..6).prop_map(Step::Push),
        6 => (1_usize..8).prop_map(Step::Send),
        6 => Just(Step::Take),
        5 => Just(Step::Hear),
        2 => Just(Step::Break),
        1 => any::<bool>().prop_map(Step::Forget),
    ];
    vec(step, 1..80)
}

enum Answer {
    Acknowledged(v1::AcknowledgedRange),
    Refused(u64),
}

/// A node with one session, and a stream to it.
#[derive(Default)]
struct Node {
    /// By sequence, from 1 on, what the session has stored.
    session: Vec<usize>,
    /// How often each publication was stored, over all sessions.
    stored: BTreeMap<usize, u32>,
    under_way: VecDeque<Frame>,
    answers: VecDeque<Answer>,
    /// The stream ended with a refusal.
    over: bool,
}

fn number(publication: &v1::Publication) -> usize {
    let text = std::str::from_utf8(&publication.payload).expect("a number");
    text.parse().expect("a number")
}

impl Node {
    fn take(&mut self, kinds: &[Kind]) {
        let Some(frame) = self.under_way.pop_front() else { return };
        if self.over {
            return;
        }
        let expected = self.session.len() as u64 + 1;
        assert!(frame.first_sequence <= expected, "OUT_OF_SEQUENCE");
        let numbers: Vec<usize> = frame.publications.iter().map(number).collect();
        let refused = |kind| numbers.iter().position(|number| kinds[*number] == kind);
        if let Some(index) = refused(Kind::Malformed) {
            self.over = true;
            self.answers.push_back(Answer::Refused(frame.first_sequence + index as u64));
            return;
        }
        let end = refused(Kind::Refused).unwrap_or(numbers.len());
        for (sequence, number) in (frame.first_sequence..).zip(&numbers[..end]) {
            let already_stored = sequence < self.session.len() as u64 + 1;
            if already_stored {
                let held = self.session[sequence as usize - 1];
                assert_eq!(held, *number, "SEQUENCE_CONTENT_DIFFERS");
            } else {
                assert!(!self.session.contains(number), "{number} has two sequences");
                let times = self.stored.entry(*number).or_default();
                assert!(*times == 0 || frame.possibly_repeated, "repeated without a word");
                *times += 1;
                self.session.push(*number);
            }
            self.answers.push_back(Answer::Acknowledged(v1::AcknowledgedRange {
                first_sequence: sequence,
                last_sequence: sequence,
                first: None,
                already_stored,
            }));
        }
        if end < numbers.len() {
            self.over = true;
            self.answers.push_back(Answer::Refused(frame.first_sequence + end as u64));
        }
    }

    fn break_stream(&mut self) {
        self.under_way.clear();
        self.answers.clear();
        self.over = false;
    }
}

type Receipt = oneshot::Receiver<Result<Published, ClientError>>;

#[derive(Default)]
struct Model {
    node: Node,
    /// What the node makes of each publication, by its number.
    kinds: Vec<Kind>,
    /// The numbers of a batch, and its receipt.
    batches: Vec<(Vec<usize>, Receipt)>,
}

impl Model {
    fn push(&mut self, queue: &mut PendingQueue, kinds: &[Kind]) {
        let first = self.kinds.len();
        self.kinds.extend(kinds);
        let numbers: Vec<usize> = (first..self.kinds.len()).collect();
        let outgoing = numbers.iter().map(|number| Outgoing {
            payload: Bytes::from(number.to_string()),
            ..Default::default()
        });
        let (reply, receipt) = oneshot::channel();
        queue.push(Pending::new(outgoing.collect(), reply));
        self.batches.push((numbers, receipt));
    }

    fn send(&mut self, queue: &mut PendingQueue, most: usize) {
        if queue.has_unsent() {
            let frame = queue.frame(most, usize::MAX);
            queue.sent(frame.publications.len() as u64);
            self.node.under_way.push_back(frame);
        }
    }

    fn hear(&mut self, queue: &mut PendingQueue) {
        match self.node.answers.pop_front() {
            Some(Answer::Acknowledged(range)) => queue.acknowledge(&range, &[]),
            Some(Answer::Refused(sequence)) => {
                assert!(queue.refuse(sequence, &refusal()), "{sequence} is under way");
                self.node.break_stream();
                queue.send_again();
            }
            None => {}
        }
    }

    fn step(&mut self, queue: &mut PendingQueue, step: &Step) {
        match step {
            Step::Push(kinds) => self.push(queue, kinds),
            Step::Send(most) => self.send(queue, *most),
            Step::Take => self.node.take(&self.kinds),
            Step::Hear => self.hear(queue),
            Step::Break => {
                self.node.break_stream();
                queue.send_again();
            }
            Step::Forget(republish) => {
                self.node.break_stream();
                self.node.session.clear();
                if !republish && queue.has_unknown_outcomes() {
                    queue.fail_unknown(&refusal());
                }
                queue.renumber(1);
            }
        }
    }

    /// What a batch was told is so.
    fn check(self) {
        for (numbers, mut receipt) in self.batches {
            let times: Vec<u32> =
                numbers.iter().map(|it| self.node.stored.get(it).copied().unwrap_or(0)).collect();
            match receipt.try_recv().expect("every batch is answered") {
                Ok(published) => {
                    assert_eq!(published.count, numbers.len() as u64);
                    assert!(times.iter().all(|times| *times > 0), "{times:?}");
                }
                Err(ClientError::Batch(failed)) => {
                    assert_eq!(failed.publications, numbers.len() as u64);
                    let (stored, rest) = times.split_at(failed.stored as usize);
                    assert!(stored.iter().all(|times| *times > 0), "{times:?}: {failed:?}");
                    if let Some(refused) = failed.refused {
                        let kind = self.kinds[numbers[refused as usize]];
                        assert_ne!(kind, Kind::Fine, "{failed:?}");
                    }
                    if failed.outcome.stored == Stored::No {
                        assert!(rest.iter().all(|times| *times == 0), "{times:?}: {failed:?}");
                    } else {
                        assert!(!failed.outcome.safe_here && !failed.outcome.safe_elsewhere);
                    }
                }
                Err(other) => panic!("a batch that failed, not {other}"),
            }
        }
    }
}

fn refusal() -> ClientError {
    ClientError::from(Status::not_found("refused"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_publication_has_one_number_and_every_answer_is_true(steps in steps()) {
        let mut queue = PendingQueue::new();
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut queue, step);
        }
        // The network heals, and everything is answered.
        for _ in 0..10_000 {
            if queue.is_empty() {
                break;
            }
            model.send(&mut queue, 8);
            model.node.take(&model.kinds);
            if model.node.answers.is_empty() && model.node.under_way.is_empty() && !queue.has_unsent() {
                model.step(&mut queue, &Step::Break);
            }
            while !model.node.answers.is_empty() {
                model.hear(&mut queue);
            }
        }
        prop_assert!(queue.is_empty());
        model.check();
    }
}
