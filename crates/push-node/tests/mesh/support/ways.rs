//! The way from one node to another's replication port, for tests that cut it: what
//! one sends on its own connections goes through here, with what is answered on them.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::loopback;

/// See the module's page. It ends when it is dropped.
pub struct Way {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Way {
    /// An open way to an address.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(loopback()).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let is_cut = watch::Sender::new(false);
        let seen = is_cut.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(connect(caller, target, seen.clone()));
            }
        });
        Self { address, is_cut, accepting }
    }

    /// Where it begins.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts it, with the connections that are open, or lets through again.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Lets one connection through until the way is cut, or no longer there.
async fn connect(mut caller: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let through = async {
        let mut called = TcpStream::connect(target).await?;
        called.set_nodelay(true)?;
        caller.set_nodelay(true)?;
        copy_bidirectional(&mut caller, &mut called).await
    };
    // A connection that breaks is one that its ends make anew.
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
        _ = through => {}
    }
}
