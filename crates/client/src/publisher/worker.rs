//! The task behind a publisher: opens and resumes the session, sends, takes
//! acknowledgements.

use std::time::Duration;

use bytes::Bytes;
use interlock_rpc::channel::Backoff;
use interlock_rpc::status::{Reason, metadata_of, reason_of, retry_after};
use interlock_rpc::{services, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::PublisherOptions;
use super::pending::{Frame, Pending, PendingQueue};
use crate::addresses::Addresses;
use crate::error::{ClientError, is_transient};

/// Requests that may wait for the connection.
const WAITING_REQUESTS: usize = 4;

pub(super) struct Worker {
    push_nodes: Addresses,
    namespace: String,
    options: PublisherOptions,
    waiting: mpsc::Receiver<Pending>,
    queue: PendingQueue,
    session: Option<Session>,
    backoff: Backoff,
    /// Since when something waits and nothing of it is settled.
    failing_since: Option<Instant>,
}

#[derive(Clone)]
struct Session {
    id: Bytes,
    max_in_flight: u64,
    last_acknowledged: Option<(u64, v1::MessageReference)>,
}

/// Why a stream is over.
enum Over {
    /// Everything is answered, and nothing more comes.
    Finished,
    Status(Status),
}

impl Worker {
    pub(super) fn new(
        push_nodes: Addresses,
        namespace: String,
        options: PublisherOptions,
        waiting: mpsc::Receiver<Pending>,
    ) -> Self {
        Self {
            push_nodes,
            namespace,
            options,
            waiting,
            queue: PendingQueue::new(),
            session: None,
            backoff: Backoff::new(
                Duration::from_millis(50),
                Duration::from_secs(2),
                rand::random(),
            ),
            failing_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            // Without something to publish nothing is opened, and nothing fails.
            while self.queue.is_empty() {
                self.failing_since = None;
                match self.waiting.recv().await {
                    Some(batch) => self.take(batch),
                    None => return,
                }
            }
            let status = match self.stream().await {
                Over::Finished => return,
                Over::Status(status) => status,
            };
            if let Err(error) = self.recover(status).await {
                self.end(&error).await;
                return;
            }
        }
    }

    /// Opens or resumes the session and pumps until the stream is over.
    async fn stream(&mut self) -> Over {
        match self.open().await {
            Ok((requests, responses)) => self.pump(requests, responses).await,
            Err(status) => Over::Status(status),
        }
    }

    async fn open(
        &mut self,
    ) -> Result<
        (mpsc::Sender<v1::PublishStreamRequest>, Streaming<v1::PublishStreamResponse>),
        Status,
    > {
        let channel = self
            .push_nodes
            .current()
            .ok_or_else(|| Status::failed_precondition("no push-node is known"))?;
        let mut client = services::publish::client(channel);
        let session = self.open_session(&mut client).await?;
        self.queue.send_again();
        let max_in_flight = session.max_in_flight.min(self.options.max_in_flight);
        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS);
        let first = v1::PublishStreamRequest {
            namespace: self.namespace.clone(),
            session: session.id,
            durability: Some(self.options.durability.to_wire()),
            ..self.next_request(max_in_flight)
        };
        requests.send(first).await.map_err(|_| Status::internal("the request stream is closed"))?;
        let responses = client.publish_stream(ReceiverStream::new(waiting)).await?.into_inner();
        Ok((requests, responses))
    }

    async fn open_session(
        &mut self,
        client: &mut services::publish::Client<Channel>,
    ) -> Result<Session, Status> {
        let mut request =
            v1::OpenSessionRequest { namespace: self.namespace.clone(), ..Default::default() };
        // A session without an acknowledged message is not stored anywhere yet,
        // unless something of it was sent.
        if let Some(session) = &self.session
            && (session.last_acknowledged.is_some() || self.queue.has_unknown_outcomes())
        {
            request.session = session.id.clone();
            request.last_acknowledged_sequence =
                session.last_acknowledged.as_ref().map_or(0, |(sequence, _)| *sequence);
            request.last_acknowledged = session.last_acknowledged.as_ref().map(|(_, name)| *name);
        }
        let is_new = request.session.is_empty();
        let opened = client.open_session(request).await?.into_inner();
        if is_new {
            self.queue.renumber(opened.next_sequence);
        }
        let last_acknowledged = if is_new {
            None
        } else {
            self.session.as_ref().and_then(|session| session.last_acknowledged)
        };
        let session = Session {
            id: opened.session,
            max_in_flight: u64::from(opened.max_in_flight).max(1),
            last_acknowledged,
        };
        self.session = Some(session.clone());
        Ok(session)
    }

    async fn pump(
        &mut self,
        requests: mpsc::Sender<v1::PublishStreamRequest>,
        mut responses: Streaming<v1::PublishStreamResponse>,
    ) -> Over {
        let max_in_flight = self
            .session
            .as_ref()
            .map_or(1, |session| session.max_in_flight)
            .min(self.options.max_in_flight);
        let mut more_comes = true;
        loop {
            if !more_comes && self.queue.is_empty() {
                return Over::Finished;
            }
            let may_send = self.queue.has_unsent() && self.queue.in_flight() < max_in_flight;
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => self.acknowledge(&response),
                    Ok(None) => return Over::Status(Status::unavailable("the node ended the stream")),
                    Err(status) => return Over::Status(status),
                },
                permit = requests.reserve(), if may_send => match permit {
                    Ok(permit) => permit.send(self.next_request(max_in_flight)),
                    // The answer says why.
                    Err(_) => match responses.message().await {
                        Ok(Some(response)) => self.acknowledge(&response),
                        Ok(None) => return Over::Status(Status::unavailable("the node ended the stream")),
                        Err(status) => return Over::Status(status),
                    },
                },
                batch = self.waiting.recv(), if more_comes && self.queue.waiting() < 2 * max_in_flight => match batch {
                    Some(batch) => self.take(batch),
                    None => more_comes = false,
                },
            }
        }
    }

    fn take(&mut self, batch: Pending) {
        if batch.is_empty() { batch.complete() } else { self.queue.push(batch) }
    }

    fn next_request(&mut self, max_in_flight: u64) -> v1::PublishStreamRequest {
        let room = usize::try_from(max_in_flight - self.queue.in_flight()).unwrap_or(usize::MAX);
        let most = self.options.max_frame_publications.min(room);
        let Frame { first_sequence, publications, possibly_repeated } =
            self.queue.frame(most, self.options.max_frame_bytes);
        self.queue.sent(publications.len() as u64);
        v1::PublishStreamRequest {
            first_sequence,
            publications,
            possibly_repeated,
            ..Default::default()
        }
    }

    fn acknowledge(&mut self, response: &v1::PublishStreamResponse) {
        self.failing_since = None;
        for range in &response.acknowledged {
            self.queue.acknowledge(range, &response.durable_at);
            if let (Some(session), Some(first)) = (&mut self.session, range.first) {
                let m_id = first.m_id + range.last_sequence.saturating_sub(range.first_sequence);
                let name = v1::MessageReference { m_id, ..first };
                session.last_acknowledged = Some((range.last_sequence, name));
            }
        }
        self.backoff.reset();
    }

    /// Decides what a broken stream means. An error ends the publisher.
    async fn recover(&mut self, status: Status) -> Result<(), ClientError> {
        match reason_of(&status) {
            Some(Reason::SessionForked | Reason::SessionUnknown) => {
                self.lose_session(status);
                return Ok(());
            }
            _ if is_transient(&status) => {}
            _ => return self.refuse(status),
        }
        if self.queue.is_empty() {
            // Nobody waits: the next batch will see whether a node answers.
            return Ok(());
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.options.give_up_after {
            let seconds = self.options.give_up_after.as_secs();
            return Err(ClientError::GaveUp { seconds, last: Box::new(status) });
        }
        tracing::debug!(%status, "publishing again");
        // A session belongs to its node: only one that cannot be reached is left,
        // and only while nothing of the session is in flight there.
        if status.code() == Code::Unavailable && !self.queue.has_unknown_outcomes() {
            self.push_nodes.leave_current();
            if self.push_nodes.iter().count() > 1 {
                self.session = None;
            }
        }
        let asked_for = retry_after(&status).unwrap_or_default();
        tokio::time::sleep(self.backoff.next_delay().max(asked_for)).await;
        Ok(())
    }

    /// The node does not know the session any more.
    fn lose_session(&mut self, status: Status) {
        self.session = None;
        if self.queue.has_unknown_outcomes() && !self.options.republish_unknown {
            self.queue.fail_unknown(&ClientError::OutcomeUnknown(Box::new(status)));
        }
    }

    /// The node refuses a publication, or all of them.
    fn refuse(&mut self, status: Status) -> Result<(), ClientError> {
        let sequence = metadata_of(&status, "sequence").and_then(|text| text.parse::<u64>().ok());
        let error = ClientError::from(status);
        let is_one = sequence.is_some_and(|sequence| self.queue.refuse(sequence, &error));
        if !is_one {
            return Err(error);
        }
        self.failing_since = None;
        Ok(())
    }

    async fn end(&mut self, error: &ClientError) {
        self.queue.fail_all(error);
        self.waiting.close();
        while let Some(batch) = self.waiting.recv().await {
            batch.fail(error, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::Outgoing;
    use super::*;

    fn worker(give_up_after: Duration) -> Worker {
        let nodes = Addresses::new(&[], None).expect("no addresses");
        let options = PublisherOptions { give_up_after, ..Default::default() };
        Worker::new(nodes, "demo".to_owned(), options, mpsc::channel(1).1)
    }

    fn restart() -> Status {
        Status::unavailable("the node restarts")
    }

    /// However often and for how long a node goes away while nobody waits for it.
    #[tokio::test]
    async fn an_idle_publisher_does_not_give_up() {
        let mut worker = worker(Duration::ZERO);
        for _ in 0..3 {
            worker.recover(restart()).await.expect("nobody waits");
        }
        let (reply, _receipt) = oneshot::channel();
        worker.take(Pending::new(vec![Outgoing::default()], reply));
        let error = worker.recover(restart()).await.expect_err("somebody waits too long");
        assert!(matches!(error, ClientError::GaveUp { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_settled_ends_failing() {
        let mut worker = worker(Duration::from_secs(3600));
        let (reply, _receipt) = oneshot::channel();
        worker.take(Pending::new(vec![Outgoing::default(); 2], reply));
        worker.recover(restart()).await.expect("not for so long");
        assert!(worker.failing_since.is_some());
        worker.queue.sent(2);
        let first =
            v1::AcknowledgedRange { first_sequence: 1, last_sequence: 1, ..Default::default() };
        let acknowledged = vec![first];
        worker.acknowledge(&v1::PublishStreamResponse { acknowledged, ..Default::default() });
        assert!(worker.failing_since.is_none());
    }
}
