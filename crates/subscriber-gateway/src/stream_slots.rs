//! Room for streams that stay open, at one push-node: several connections, and
//! on each fewer streams than a server takes, so that nothing hangs in a
//! connection's queue without a word.

use std::sync::Arc;
use std::time::Duration;

use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::status::{Reason, refusal};
use interlock_telemetry::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::transport::Channel;

/// When a retry may help where all room is taken.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// How much room there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    /// How many connections share the streams.
    pub(crate) connections: usize,
    /// How many streams there may be on one of them.
    pub(crate) streams_per_connection: usize,
    /// How long to wait for room.
    pub(crate) patience: Duration,
}

/// The connections. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct StreamSlots {
    what: &'static str,
    connections: Arc<[Connection]>,
    /// As much as all connections have together; who has some of it finds some
    /// at a connection.
    room: Arc<Semaphore>,
    patience: Duration,
    open: Gauge,
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    room: Arc<Semaphore>,
}

/// Room for one stream, until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    pub(crate) channel: Channel,
    open: Gauge,
    // Given back before what counts all connections.
    _of_connection: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl StreamSlots {
    /// Connections that are made when first used. `what` they are for is said to
    /// those who find no room; `open` counts the streams.
    pub(crate) fn new(
        what: &'static str,
        endpoint: &EndpointConfig,
        limits: SlotLimits,
        open: &Gauge,
    ) -> Result<Self, ChannelError> {
        let connection = || {
            let room = Arc::new(Semaphore::new(limits.streams_per_connection));
            Ok(Connection { channel: endpoint.connect_lazy()?, room })
        };
        let connections: Vec<_> =
            (0..limits.connections).map(|_| connection()).collect::<Result<_, ChannelError>>()?;
        let streams = limits.connections * limits.streams_per_connection;
        Ok(Self {
            what,
            connections: connections.into(),
            room: Arc::new(Semaphore::new(streams)),
            patience: limits.patience,
            open: open.clone(),
        })
    }

    /// Room at the connection with the fewest streams; refused when none comes
    /// free in time.
    pub(crate) async fn slot(&self) -> Result<StreamSlot, Status> {
        let room = Arc::clone(&self.room).acquire_owned();
        let Ok(Ok(of_all)) = tokio::time::timeout(self.patience, room).await else {
            let text = format!("this gateway has as many {} as it takes", self.what);
            let refused = refusal(Reason::TooManyConnections, text).retry_after(ROOM_RETRY);
            return Err(refused.into_status());
        };
        loop {
            let freest = self.connections.iter().max_by_key(|it| it.room.available_permits());
            let taken = freest.and_then(|connection| {
                let permit = Arc::clone(&connection.room).try_acquire_owned().ok()?;
                Some((connection.channel.clone(), permit))
            });
            // Another may have been quicker there; elsewhere there is room then.
            if let Some((channel, of_connection)) = taken {
                self.open.add(1.0);
                let open = self.open.clone();
                return Ok(StreamSlot {
                    channel,
                    open,
                    _of_connection: of_connection,
                    _of_all: of_all,
                });
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.open.add(-1.0);
    }
}

#[cfg(test)]
mod tests {
    use interlock_rpc::status::reason_of;
    use interlock_telemetry::metrics::Registry;

    use super::*;

    #[tokio::test]
    async fn streams_are_spread_and_refused_when_there_is_no_room() {
        let limits =
            SlotLimits { connections: 3, streams_per_connection: 2, patience: Duration::ZERO };
        let open = Registry::new().gauge("open", "Streams");
        let endpoint = EndpointConfig::new("http://nowhere:1");
        let slots = StreamSlots::new("reads", &endpoint, limits, &open).expect("an address");
        let free = |slots: &StreamSlots| -> Vec<usize> {
            slots.connections.iter().map(|it| it.room.available_permits()).collect()
        };
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(slots.slot().await.expect("room"));
        }
        assert_eq!(free(&slots), [1, 1, 1]);
        for _ in 0..3 {
            taken.push(slots.slot().await.expect("room"));
        }
        let refused = slots.slot().await.expect_err("no room");
        assert_eq!(reason_of(&refused), Some(Reason::TooManyConnections));
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(open.get() > 5.5);
        taken.pop();
        slots.slot().await.expect("room again");
    }
}
