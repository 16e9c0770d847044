//! `PublishService`: the first hop of a message. A frame of many publications is
//! one command to the log writer and one answer, acknowledged in ranges.

use std::sync::Arc;

use interlock_core::admission::{NewPublication, ResumeSession};
use interlock_core::identity::{MessageName, NamespaceNumber, PublisherSequence, SessionId};
use interlock_core::limits::MAX_IN_FLIGHT_PUBLICATIONS;
use interlock_core::message::PublisherPosition;
use interlock_core::names::NamespaceName;
use interlock_rpc::convert::identity::{session, session_bytes};
use interlock_rpc::convert::publish::{
    Durability, Publication, durability, publication, publications, sequence,
};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::services::publish::Service;
use interlock_rpc::status::{PublishOutcome, Reason, refusal};
use interlock_rpc::{trace, v1};
use interlock_telemetry::metrics::Counter;
use interlock_telemetry::spans;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use crate::acknowledgement_waiters::{Requirement, deadline_status};
use crate::context::NodeContext;
use crate::deadline::answer_by;
use crate::refusals::{
    cut_status, ending_status, publish_reason, publish_status, session_status, stream_status,
    unknown_status,
};
use crate::tasks::until_set;
use crate::writer_commands::{PublishAnswer, PublishedRange, WriterCommand};

/// Frames of one stream that wait for the log writer or for peers.
const FRAMES_IN_FLIGHT: usize = 256;
/// Acknowledgements of one stream that wait for the connection.
const ACKNOWLEDGEMENTS_AHEAD: usize = 64;
/// Ranges that one acknowledgement collects.
const RANGES_PER_ACKNOWLEDGEMENT: usize = 256;

/// Serves publishers.
#[derive(Clone)]
pub struct PublishServer {
    context: Arc<NodeContext>,
    streams: Arc<Semaphore>,
}

impl PublishServer {
    /// Serves at most as many streams as the limits say.
    pub fn new(context: Arc<NodeContext>) -> Self {
        let streams = Arc::new(Semaphore::new(context.config.limits.max_publish_streams));
        Self { context, streams }
    }
}

#[tonic::async_trait]
impl Service for PublishServer {
    type PublishStreamStream = ReceiverStream<Result<v1::PublishStreamResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        let resume = resume_of(&request)?;
        let (sender, receiver) = oneshot::channel();
        let bits = self.context.random_bits();
        let command = WriterCommand::OpenSession(namespace.number, bits, resume, sender);
        self.context.writer.submit(command).await.map_err(|_| ending_status())?;
        let opened = receiver
            .await
            .map_err(|_| unknown_status(false))?
            .map_err(|refused| session_status(&refused))?;
        Ok(Response::new(v1::OpenSessionResponse {
            session: session_bytes(opened.session),
            next_sequence: opened.next_sequence.get(),
            max_in_flight: MAX_IN_FLIGHT_PUBLICATIONS as u32,
            last_stored: opened.last_stored.map(|name| name.into_wire()),
        }))
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let deadline = answer_by(&request, self.context.config.limits.default_deadline());
        let caller = trace::of_request(&request);
        let request = request.into_inner();
        let level = durability(request.durability)?;
        let target = Target::open(&self.context, &request.namespace, &request.session, level)?;
        let mut asked = publication(request.publication)?;
        asked.trace = asked.trace.or(caller);
        let first = match target.session {
            Some(_) => Some(sequence(request.sequence, "sequence")?),
            None => None,
        };
        let (publications, spans) = target.admit(vec![asked], first, request.possibly_repeated);
        let answer =
            self.context.writer.publish(publications).await.map_err(|_| ending_status())?;
        let answer = answer.await.map_err(|_| unknown_status(target.session.is_some()))?;
        target.count(&answer, &spans);
        if let Some(refused) = &answer.refusal {
            return Err(publish_status(refused));
        }
        let Some(range) = answer.ranges.first() else {
            return Err(unknown_status(target.session.is_some()));
        };
        let durable_at = target.wait(range, deadline).await?;
        Ok(Response::new(v1::PublishResponse {
            message: range.first.map(|name| name.into_wire()),
            durable_at,
            already_stored: range.repeat,
        }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            refusal(Reason::TooManyConnections, "this node has as many publish streams as it takes")
        })?;
        let context = Arc::clone(&self.context);
        let (sender, receiver) = mpsc::channel(ACKNOWLEDGEMENTS_AHEAD);
        let requests = request.into_inner();
        let mut ending = context.tasks.ending();
        self.context.tasks.spawn(async move {
            tokio::select! {
                () = serve_stream(context, requests, sender.clone()) => {}
                () = until_set(&mut ending) => {
                    // Where the publisher is gone, nobody is there to be told.
                    let _ = sender.send(Err(cut_status())).await;
                }
            }
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Acknowledgements = mpsc::Sender<Result<v1::PublishStreamResponse, Status>>;

/// A frame on its way: its answer, and what to do with it.
struct FrameInFlight {
    first: PublisherSequence,
    spans: Vec<Span>,
    answer: oneshot::Receiver<PublishAnswer>,
}

/// Reads frames and answers them, at the same time and in order.
async fn serve_stream(
    context: Arc<NodeContext>,
    mut requests: Streaming<v1::PublishStreamRequest>,
    out: Acknowledgements,
) {
    let (frames, in_flight) = mpsc::channel(FRAMES_IN_FLIGHT);
    let first = match requests.message().await {
        Ok(Some(first)) => first,
        Ok(None) => return,
        // Where the publisher is gone, nobody is there to be told.
        Err(status) => return drop(out.send(Err(status)).await),
    };
    let opened = durability(first.durability)
        .map_err(Status::from)
        .and_then(|level| Target::open(&context, &first.namespace, &first.session, level));
    let target = match opened {
        Ok(target) => Arc::new(target),
        Err(status) => return drop(out.send(Err(status)).await),
    };
    let reading = read_frames(&target, requests, first, frames);
    let answering = answer_frames(&target, in_flight, &out);
    let (read, answered) = tokio::join!(reading, answering);
    // What was refused first is what the publisher has to know.
    if let Err(status) = answered.and(read) {
        let _ = out.send(Err(status)).await;
    }
}

async fn read_frames(
    target: &Target,
    mut requests: Streaming<v1::PublishStreamRequest>,
    first: v1::PublishStreamRequest,
    frames: mpsc::Sender<FrameInFlight>,
) -> Result<(), Status> {
    let mut next = PublisherSequence::new(1);
    let mut request = Some(first);
    while let Some(frame) = request {
        let first = match target.session {
            Some(_) => sequence(frame.first_sequence, "first_sequence")?,
            // Without a session, publications count from 1 on.
            None => next,
        };
        let asked = publications(frame.publications)?;
        next = PublisherSequence::new(first.get().saturating_add(asked.len() as u64));
        let of_session = target.session.map(|_| first);
        let (publications, spans) = target.admit(asked, of_session, frame.possibly_repeated);
        if !publications.is_empty() {
            let answer =
                target.context.writer.publish(publications).await.map_err(|_| ending_status())?;
            if frames.send(FrameInFlight { first, spans, answer }).await.is_err() {
                // A frame before this one was refused.
                return Ok(());
            }
        }
        request = tokio::select! {
            request = requests.message() => request?,
            () = frames.closed() => return Ok(()),
        };
    }
    Ok(())
}

async fn answer_frames(
    target: &Target,
    mut frames: mpsc::Receiver<FrameInFlight>,
    out: &Acknowledgements,
) -> Result<(), Status> {
    let mut ready = Vec::new();
    loop {
        // All that is answered by now goes into one acknowledgement.
        if frames.recv_many(&mut ready, RANGES_PER_ACKNOWLEDGEMENT).await == 0 {
            return Ok(());
        }
        let mut ready_frames = ready.drain(..).peekable();
        while let Some(frame) = ready_frames.next() {
            let mut acknowledged = Vec::new();
            let mut last = None;
            let mut refused =
                target.take_answer(frame.await_answer().await?, &mut acknowledged, &mut last);
            while refused.is_none()
                && acknowledged.len() < RANGES_PER_ACKNOWLEDGEMENT
                && let Some(next) = ready_frames.peek_mut()
                && let Ok(answer) = next.answer.try_recv()
            {
                let frame =
                    Answered { first: next.first, spans: std::mem::take(&mut next.spans), answer };
                ready_frames.next();
                refused = target.take_answer(frame, &mut acknowledged, &mut last);
            }
            if !acknowledged.is_empty() {
                let deadline = Instant::now() + target.context.config.limits.default_deadline();
                let durable_at = match &last {
                    Some(range) => target.wait(range, deadline).await?,
                    None => Vec::new(),
                };
                let response = v1::PublishStreamResponse { acknowledged, durable_at };
                if out.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            if let Some(status) = refused {
                return Err(status);
            }
        }
    }
}

/// A frame with its answer.
struct Answered {
    first: PublisherSequence,
    spans: Vec<Span>,
    answer: PublishAnswer,
}

impl FrameInFlight {
    async fn await_answer(self) -> Result<Answered, Status> {
        let answer = self.answer.await.map_err(|_| unknown_status(true))?;
        Ok(Answered { first: self.first, spans: self.spans, answer })
    }
}

/// What a call or stream publishes to, and how.
struct Target {
    context: Arc<NodeContext>,
    namespace: NamespaceNumber,
    name: NamespaceName,
    session: Option<SessionId>,
    requirement: Requirement,
    stored: Counter,
}

impl Target {
    fn open(
        context: &Arc<NodeContext>,
        namespace: &str,
        session_id: &[u8],
        level: Durability,
    ) -> Result<Self, Status> {
        let namespace = context.member_namespace(namespace)?;
        let topology = context.topology.current();
        let requirement = Requirement::of(level, namespace.number, &topology, context.me().node)?;
        Ok(Self {
            session: session(session_id, "session")?,
            requirement,
            stored: context.metrics.publications.with([namespace.name.to_string()]),
            namespace: namespace.number,
            name: namespace.name,
            context: Arc::clone(context),
        })
    }

    /// Makes the writer's publications of a request's, with spans for those that
    /// are sampled.
    fn admit(
        &self,
        asked: Vec<Publication>,
        first: Option<PublisherSequence>,
        possibly_repeated: bool,
    ) -> (Vec<NewPublication>, Vec<Span>) {
        let mut spans = Vec::new();
        let mut sequence = first.map_or(0, PublisherSequence::get);
        let publications = asked
            .into_iter()
            .map(|publication| {
                let publisher = self.session.map(|session| PublisherPosition {
                    session,
                    sequence: PublisherSequence::new(sequence),
                });
                sequence = sequence.saturating_add(1);
                let mut trace = publication.trace;
                if let Some(context) = trace
                    && spans::exporting()
                {
                    let span = spans::publish(self.name.as_str(), publication.channel.as_str());
                    trace::set_parent(&span, &context);
                    trace = trace::of_span(&span).or(trace);
                    spans.push(span);
                }
                NewPublication {
                    namespace: self.namespace,
                    channel: publication.channel,
                    key: publication.key,
                    payload: publication.payload,
                    publisher,
                    possibly_repeated,
                    trace,
                }
            })
            .collect();
        (publications, spans)
    }

    /// Turns a frame's answer into acknowledged ranges, and a refusal into the
    /// status that ends the stream.
    fn take_answer(
        &self,
        frame: Answered,
        acknowledged: &mut Vec<v1::AcknowledgedRange>,
        last: &mut Option<PublishedRange>,
    ) -> Option<Status> {
        self.count(&frame.answer, &frame.spans);
        let mut sequence = frame.first.get();
        for range in &frame.answer.ranges {
            acknowledged.push(v1::AcknowledgedRange {
                first_sequence: sequence,
                last_sequence: sequence + range.count - 1,
                first: range.first.map(|name| name.into_wire()),
                already_stored: range.repeat,
            });
            sequence += range.count;
            *last = Some(*range);
        }
        frame.answer.refusal.as_ref().map(|refused| stream_status(refused, sequence))
    }

    fn count(&self, answer: &PublishAnswer, spans: &[Span]) {
        let stored: u64 =
            answer.ranges.iter().filter(|range| !range.repeat).map(|range| range.count).sum();
        self.stored.add(stored);
        self.context.count_publications(stored);
        if let Some(refused) = &answer.refusal {
            let reason = publish_reason(refused);
            self.context.metrics.refusals.with([reason.as_str()]).increment();
            if let Some(span) = spans.last() {
                spans::record_failure(span, reason);
            }
        }
        if let ([span], Some(name)) = (spans, answer.ranges.first().and_then(|range| range.first)) {
            spans::record_message_id(span, name);
        }
    }

    /// Waits until the last of a range is durable everywhere asked for: then all
    /// before it in its log are. Says where.
    async fn wait(&self, range: &PublishedRange, deadline: Instant) -> Result<Vec<String>, Status> {
        let Some(name) = range.last() else {
            // A repeat whose name is forgotten: durable here is all that is known.
            return self.without_name();
        };
        let current = || self.context.topology.current();
        let reached = self.requirement.wait(&self.context.hub, &name, current, deadline).await;
        if reached.satisfied {
            Ok(reached.durable_at)
        } else {
            Err(deadline_status(&reached, &name, self.session.is_some()))
        }
    }

    fn without_name(&self) -> Result<Vec<String>, Status> {
        let here = vec![self.context.name().to_string()];
        if self.requirement.is_local() {
            return Ok(here);
        }
        Err(refusal(Reason::AlreadyStored, "stored before, under a name no longer known here")
            .outcome(&PublishOutcome::stored(here, true))
            .into())
    }
}

fn resume_of(request: &v1::OpenSessionRequest) -> Result<Option<ResumeSession>, Status> {
    let Some(session) = session(&request.session, "session")? else {
        if request.last_acknowledged.is_some() || request.last_acknowledged_sequence != 0 {
            return Err(InvalidField::missing("session").into());
        }
        return Ok(None);
    };
    let last_acknowledged = match (&request.last_acknowledged, request.last_acknowledged_sequence) {
        (None, 0) => None,
        (Some(name), given) => {
            let name: MessageName = name.into_core().map_err(|error| {
                InvalidField::new(format!("last_acknowledged.{}", error.field), error.reason)
            })?;
            Some((sequence(given, "last_acknowledged_sequence")?, name))
        }
        (None, _) => return Err(InvalidField::missing("last_acknowledged").into()),
    };
    Ok(Some(ResumeSession { session, last_acknowledged }))
}
