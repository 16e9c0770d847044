//! A region's web server for the demonstration (METHOD M5): answers GET with
//! one document and its ETag, and 304 when the client has it already.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::Result;

/// A running web server on loopback; it ends with the process.
pub struct WebOrigin {
    address: String,
    document: Arc<Mutex<Vec<u8>>>,
}

impl WebOrigin {
    /// Serves `document` under every path.
    pub fn start(document: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = format!("http://{}", listener.local_addr()?);
        let document = Arc::new(Mutex::new(document));
        let shared = Arc::clone(&document);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let document = shared.lock().map(|document| document.clone()).unwrap_or_default();
                // A client that goes away in the middle is its own affair.
                let _ = answer(stream, &document);
            }
        });
        Ok(Self { address, document })
    }

    /// `http://127.0.0.1:port`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves other bytes from now on.
    pub fn replace(&self, document: Vec<u8>) {
        if let Ok(mut held) = self.document.lock() {
            *held = document;
        }
    }
}

fn answer(mut stream: TcpStream, document: &[u8]) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let etag = format!("\"{:016x}\"", fingerprint(document));
    let mut known = false;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            known |= name.eq_ignore_ascii_case("if-none-match") && value.trim() == etag;
        }
    }
    if known {
        write!(stream, "HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        document.len()
    )?;
    stream.write_all(document)?;
    Ok(())
}

/// FNV-1a: enough to tell two versions of a document apart.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
