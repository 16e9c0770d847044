//! `PublishService`: the first hop of a message. A frame of many publications is
//! one command to the log writer and one answer, acknowledged in ranges.

use std::sync::Arc;

use interlock_core::admission::{NewPublication, ResumeSession, Standing};
use interlock_core::identity::{MessageName, NamespaceNumber, PublisherSequence, SessionId};
use interlock_core::limits::MAX_IN_FLIGHT_PUBLICATIONS;
use interlock_core::message::PublisherPosition;
use interlock_core::names::NamespaceName;
use interlock_core::topology::Topology;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use crate::acknowledgement_waiters::{Requirement, deadline_status};
use crate::context::NodeContext;
use crate::deadline::answer_by;
use crate::refusals::{
    cut_status, ending_status, invalid_frame_status, publish_reason, publish_status,
    session_status, stream_status, unknown_status,
};
use crate::tasks::until_set;
use crate::writer_commands::{FrameOrder, PublishAnswer, PublishedRange, WriterCommand};

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
        let command =
            WriterCommand::OpenSession(Standing::Member, namespace.number, bits, resume, sender);
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
        target.check_members()?;
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
        let durable_at = target.wait(range, &answer.topology, deadline).await?;
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
        self.context.tasks.spawn("a publish stream", async move {
            if let Err(status) = serve_stream(context, requests, &sender).await {
                // Where the publisher is gone, nobody is there to be told.
                let _ = sender.send(Err(status)).await;
            }
            drop(permit);
        })?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Acknowledgements = mpsc::Sender<Result<v1::PublishStreamResponse, Status>>;

/// A frame on its way: its answer, and the room that it takes until its
/// acknowledgement is handed over.
struct FrameInFlight {
    first: PublisherSequence,
    spans: Vec<Span>,
    answer: oneshot::Receiver<PublishAnswer>,
    room: OwnedSemaphorePermit,
}

/// Reads frames and answers them, at the same time and in order, until the
/// publisher, a refusal or the node ends it.
async fn serve_stream(
    context: Arc<NodeContext>,
    mut requests: Streaming<v1::PublishStreamRequest>,
    out: &Acknowledgements,
) -> Result<(), Status> {
    let mut ending = context.tasks.ending();
    let first = tokio::select! {
        first = requests.message() => first?,
        // Nothing was asked for yet.
        () = until_set(&mut ending) => return Err(ending_status()),
    };
    let Some(first) = first else { return Ok(()) };
    let level = durability(first.durability)?;
    let target = Target::open(&context, &first.namespace, &first.session, level)?;
    let (frames, in_flight) = mpsc::channel(FRAMES_IN_FLIGHT);
    let reading = read_frames(&target, requests, first, frames);
    let answering = answer_frames(&target, in_flight, out);
    tokio::select! {
        // What was refused first is what the publisher has to know.
        (read, answered) = async { tokio::join!(reading, answering) } => answered.and(read),
        () = until_set(&mut ending) => Err(cut_status(target.session.is_some())),
    }
}

async fn read_frames(
    target: &Target,
    mut requests: Streaming<v1::PublishStreamRequest>,
    first: v1::PublishStreamRequest,
    frames: mpsc::Sender<FrameInFlight>,
) -> Result<(), Status> {
    // A session's table answers repeats of as many as this: a publisher that does
    // not wait for its acknowledgements is not read any further.
    let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT_PUBLICATIONS));
    let order = FrameOrder::default();
    let mut next = PublisherSequence::new(1);
    let mut request = Some(first);
    while let Some(frame) = request {
        let first = match target.session {
            Some(_) => sequence(frame.first_sequence, "first_sequence")?,
            // Without a session, publications count from 1 on.
            None => next,
        };
        let asked = publications(frame.publications)
            .map_err(|invalid| invalid_frame_status(invalid, first))?;
        next = PublisherSequence::new(first.get().saturating_add(asked.len() as u64));
        // Members may have come and gone since the frame before.
        target.check_members()?;
        let of_session = target.session.map(|_| first);
        let (publications, spans) = target.admit(asked, of_session, frame.possibly_repeated);
        if !publications.is_empty() {
            let room = tokio::select! {
                room = Arc::clone(&room).acquire_many_owned(publications.len() as u32) => room,
                () = frames.closed() => return Ok(()),
            };
            // The semaphore is never closed.
            let Ok(room) = room else { return Ok(()) };
            let writer = &target.context.writer;
            let answer =
                writer.publish_in_order(publications, &order).await.map_err(|_| ending_status())?;
            if frames.send(FrameInFlight { first, spans, answer, room }).await.is_err() {
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
            let FrameInFlight { first, spans, answer, room } = frame;
            let mut rooms = vec![room];
            let with_session = target.session.is_some();
            let answer = answer.await.map_err(|_| unknown_status(with_session))?;
            let mut refused =
                target.take_answer(first, &spans, &answer, &mut acknowledged, &mut last);
            while refused.is_none()
                && acknowledged.len() < RANGES_PER_ACKNOWLEDGEMENT
                && let Some(next) = ready_frames.peek_mut()
                && let Ok(answer) = next.answer.try_recv()
            {
                refused = target.take_answer(
                    next.first,
                    &next.spans,
                    &answer,
                    &mut acknowledged,
                    &mut last,
                );
                rooms.extend(ready_frames.next().map(|frame| frame.room));
            }
            if !acknowledged.is_empty() {
                let deadline = Instant::now() + target.context.config.limits.default_deadline();
                let durable_at = match &last {
                    Some((range, topology)) => target.wait(range, topology, deadline).await?,
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
        Ok(Self {
            session: session(session_id, "session")?,
            requirement: Requirement::new(level, namespace.number, context.me().node),
            stored: context.metrics.publications.with([namespace.name.to_string()]),
            namespace: namespace.number,
            name: namespace.name,
            context: Arc::clone(context),
        })
    }

    /// Refuses a level that there are too few members for.
    fn check_members(&self) -> Result<(), Status> {
        self.requirement.check(&self.context.topology.current())
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
        first: PublisherSequence,
        spans: &[Span],
        answer: &PublishAnswer,
        acknowledged: &mut Vec<v1::AcknowledgedRange>,
        last: &mut Option<(PublishedRange, Arc<Topology>)>,
    ) -> Option<Status> {
        self.count(answer, spans);
        let mut sequence = first.get();
        for range in &answer.ranges {
            acknowledged.push(v1::AcknowledgedRange {
                first_sequence: sequence,
                last_sequence: sequence + range.count - 1,
                first: range.first.map(|name| name.into_wire()),
                already_stored: range.repeat,
            });
            sequence += range.count;
        }
        if let Some(range) = answer.ranges.last() {
            *last = Some((*range, Arc::clone(&answer.topology)));
        }
        answer.refusal.as_ref().map(|refused| stream_status(refused, sequence))
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
    async fn wait(
        &self,
        range: &PublishedRange,
        stamped: &Topology,
        deadline: Instant,
    ) -> Result<Vec<String>, Status> {
        let Some(name) = range.last() else {
            // A repeat whose name is forgotten: durable here is all that is known.
            return self.without_name();
        };
        let current = || self.context.topology.current();
        let hub = &self.context.hub;
        let reached = self.requirement.wait(hub, &name, stamped, current, deadline).await;
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
