//! Accepting connections: as many as configured, and each can be cut.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// After an accept that failed for want of something (file descriptors), trying
/// at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket. Bind early, so that a port that is taken stops the start, and
/// so that the address is known before anything is served.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
}

impl Listener {
    /// Binds `host:port`; port 0 takes a free one.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self { inner: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// The stream of accepted connections.
pub(super) struct Incoming {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    cut: watch::Receiver<bool>,
    pause: Option<Pin<Box<Sleep>>>,
    full: bool,
}

impl Incoming {
    pub(super) fn new(
        listener: Listener,
        max_connections: usize,
        cut: watch::Receiver<bool>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { listener: listener.inner, permits, cut, pause: None, full: false }
    }

    /// `None` when there is no room: then the caller learns at once, by the
    /// close, to go elsewhere.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            if !self.full {
                tracing::warn!(%peer, "as many connections as allowed: closing new ones");
                self.full = true;
            }
            return None;
        };
        self.full = false;
        // Without it answers wait for the peer's delayed acknowledgement; a
        // socket that refuses has been closed already.
        let _ = stream.set_nodelay(true);
        let mut cut = self.cut.clone();
        let cut = Box::pin(async move {
            // The sender's end is the server's end.
            let _ = cut.wait_for(|cut| *cut).await;
        });
        Some(Connection { stream, cut: Some(cut), _permit: permit })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    if let Some(connection) = this.admit(stream, peer) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // The peer gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    this.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// An accepted connection. When the server's time is up its reads and writes fail,
/// and with them all its calls.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Fails once the server's time is up. Every direction asks: HTTP/2 reads nothing
    /// while it owes the peer a frame, so behind a peer that takes nothing only writes
    /// are tried.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_cut = match &mut self.cut {
            Some(cut) => cut.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if !is_cut {
            return Ok(());
        }
        self.cut = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has ended"))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
