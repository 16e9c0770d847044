//! Fetches the content that a channel's `source` names from the region's own web
//! server (METHOD M5): conditionally, bounded in size and time, and only from
//! addresses the operator meant.
//!
//! The path comes from whoever edits a channel, so it is hostile input: it is
//! joined under `web_origin` and must stay there, redirects are followed only as
//! far as the operator allows, and the address that is really connected to is the
//! one that was checked.

use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use interlock_core::limits::{MAX_CONTENT_BYTES, MAX_SOURCE_PATH_BYTES};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url};
use thiserror::Error;

/// Headers longer than this are left out: they are stored with every definition.
const MAX_STORED_HEADER_BYTES: usize = 256;

/// Where sources are fetched from, and how long that may take.
#[derive(Clone, Debug)]
pub struct SourceFetcherConfig {
    /// The base URL that paths are joined under; `None` refuses every source.
    pub web_origin: Option<String>,
    /// Whether private and loopback addresses may be connected to.
    pub allow_private_addresses: bool,
    /// How many redirects are followed; 0 follows none.
    pub redirects: u8,
    /// A PEM file of certificate authorities to trust besides the system's.
    pub certificate_authorities: Option<PathBuf>,
    /// The bound on one whole fetch.
    pub timeout: Duration,
}

/// What a fetch brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The web server says that what is held is still what it has.
    NotModified,
    /// New content.
    Content(FetchedContent),
}

/// Content as the web server gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedContent {
    /// The body.
    pub content: Bytes,
    /// blake3 of the body.
    pub digest: [u8; 32],
    /// The server's `ETag`, empty if it gave none.
    pub etag: String,
    /// The server's `Content-Type`, empty if it gave none.
    pub media_type: String,
}

/// Why a fetch brought nothing. The old content stays.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No web origin is configured, so this node can fetch nothing.
    #[error("this node has no web_origin, so a source cannot be fetched here")]
    NotConfigured,
    /// The configured origin is no URL.
    #[error("web_origin is not an http or https URL: {0}")]
    BadOrigin(String),
    /// The configured authorities cannot be read.
    #[error("source_ca {path}: {reason}")]
    BadAuthorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The path does not stay under the web origin.
    #[error("source {path:?} is not a path under the web origin: {reason}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name leads to an address that sources may not come from.
    #[error(
        "the web origin leads to {0}, a private or local address (allow_private_sources permits it)"
    )]
    AddressRefused(IpAddr),
    /// The server wants the node to go elsewhere.
    #[error(
        "the web server redirects ({0}), and redirects are not followed (source_redirects permits them)"
    )]
    Redirected(StatusCode),
    /// The server wants the node to go elsewhere more often than it may, or to
    /// somewhere it may not.
    #[error("the web server redirects {0}")]
    RedirectRefused(&'static str),
    /// The server did not give the content.
    #[error("the web server answered {0}")]
    Status(StatusCode),
    /// The body is over the limit.
    #[error("the content is larger than {limit} bytes")]
    TooBig {
        /// The limit that it passes.
        limit: usize,
    },
    /// The fetch took longer than it may.
    #[error("the web server did not answer within {0:?}")]
    TimedOut(Duration),
    /// Connecting or reading failed.
    #[error("the web server could not be read: {0}")]
    Transport(String),
}

impl FetchError {
    /// Whether the same call may succeed later without anything being changed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Transport(_) => true,
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// Fetches sources. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SourceFetcher {
    client: Client,
    origin: Option<Url>,
    allow_private_addresses: bool,
    timeout: Duration,
}

impl SourceFetcher {
    /// Checks the origin and makes the client. A rustls provider must have been
    /// installed in the process.
    pub fn new(config: &SourceFetcherConfig) -> Result<Self, FetchError> {
        let origin = config.web_origin.as_deref().map(parse_origin).transpose()?;
        let mut builder = Client::builder();
        if let Some(path) = &config.certificate_authorities {
            builder = builder.tls_certs_merge(authorities(path)?);
        }
        let client = builder
            .redirect(redirects(config))
            // A proxy would connect in our place, past the check of addresses.
            .no_proxy()
            .referer(false)
            .timeout(config.timeout)
            .user_agent(concat!("interlock-push-node/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(CheckedResolver {
                allow_private_addresses: config.allow_private_addresses,
            }))
            .build()
            .map_err(|error| FetchError::Transport(error.to_string()))?;
        Ok(Self {
            client,
            origin,
            allow_private_addresses: config.allow_private_addresses,
            timeout: config.timeout,
        })
    }

    /// Fetches `path`. With the `ETag` of what is held, the server may answer that
    /// nothing has changed.
    pub async fn fetch(&self, path: &str, held_etag: Option<&str>) -> Result<Fetched, FetchError> {
        let url = self.locate(path)?;
        // The connector asks the resolver for names only, not for literal addresses.
        if let Some(address) = literal_address(&url) {
            self.check_address(address)?;
        }
        let mut request = self.client.get(url);
        if let Some(etag) = held_etag.filter(|etag| !etag.is_empty()) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let mut response = request.send().await.map_err(|error| self.transport(&error))?;
        if let Some(address) = response.remote_addr() {
            self.check_address(address.ip())?;
        }
        match response.status() {
            StatusCode::NOT_MODIFIED if held_etag.is_some() => return Ok(Fetched::NotModified),
            status if status.is_redirection() => return Err(FetchError::Redirected(status)),
            status if status != StatusCode::OK => return Err(FetchError::Status(status)),
            _ => {}
        }
        let too_big = FetchError::TooBig { limit: MAX_CONTENT_BYTES };
        if response.content_length().is_some_and(|length| length > MAX_CONTENT_BYTES as u64) {
            return Err(too_big);
        }
        let etag = stored_header(response.headers(), ETAG);
        let media_type = stored_header(response.headers(), CONTENT_TYPE);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if body.len() + chunk.len() > MAX_CONTENT_BYTES {
                return Err(too_big);
            }
            body.extend_from_slice(&chunk);
        }
        let content = body.freeze();
        let digest = *blake3::hash(&content).as_bytes();
        Ok(Fetched::Content(FetchedContent { content, digest, etag, media_type }))
    }

    /// The URL of a path, which stays under the web origin.
    fn locate(&self, path: &str) -> Result<Url, FetchError> {
        let bad = |reason| FetchError::BadPath { path: path.to_owned(), reason };
        if path.is_empty() {
            return Err(bad("it is empty"));
        }
        if path.len() > MAX_SOURCE_PATH_BYTES {
            return Err(bad("it is too long"));
        }
        if path.chars().any(|character| character.is_control() || character == '\\') {
            return Err(bad("it has a control character or a backslash"));
        }
        if path.contains('#') {
            return Err(bad("it has a fragment"));
        }
        let relative = path.strip_prefix('/').unwrap_or(path);
        if relative.starts_with('/') {
            return Err(bad("it names a host"));
        }
        let origin = self.origin.as_ref().ok_or(FetchError::NotConfigured)?;
        // A first segment with a colon would be read as a scheme.
        let url = origin
            .join(&format!("./{relative}"))
            .map_err(|_| bad("it cannot be joined to the web origin"))?;
        if url.origin() != origin.origin() || !url.path().starts_with(origin.path()) {
            return Err(bad("it leads out of the web origin"));
        }
        Ok(url)
    }

    fn check_address(&self, address: IpAddr) -> Result<(), FetchError> {
        if self.allow_private_addresses || is_public(address) {
            Ok(())
        } else {
            Err(FetchError::AddressRefused(address))
        }
    }

    fn transport(&self, error: &reqwest::Error) -> FetchError {
        if error.is_timeout() {
            return FetchError::TimedOut(self.timeout);
        }
        let mut deepest: &dyn std::error::Error = error;
        let mut next = error.source();
        while let Some(source) = next {
            if let Some(refused) = source.downcast_ref::<RefusedAddress>() {
                return FetchError::AddressRefused(refused.0);
            }
            if let Some(refused) = source.downcast_ref::<RefusedRedirect>() {
                return FetchError::RedirectRefused(refused.0);
            }
            deepest = source;
            next = source.source();
        }
        FetchError::Transport(deepest.to_string())
    }
}

fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, FetchError> {
    let bad = |reason: String| FetchError::BadAuthorities { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// Follows as many redirects as configured, never from https to http, and to
/// literal addresses only where those are permitted; names go through the
/// resolver, which checks them.
fn redirects(config: &SourceFetcherConfig) -> reqwest::redirect::Policy {
    if config.redirects == 0 {
        return reqwest::redirect::Policy::none();
    }
    let (most, allow_private) = (usize::from(config.redirects), config.allow_private_addresses);
    reqwest::redirect::Policy::custom(move |attempt| {
        let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > most {
            return attempt.error(RefusedRedirect("more often than source_redirects permits"));
        }
        if from_https && attempt.url().scheme() != "https" {
            return attempt.error(RefusedRedirect("from https to a connection in the clear"));
        }
        match literal_address(attempt.url()) {
            Some(address) if !allow_private && !is_public(address) => {
                attempt.error(RefusedAddress(address))
            }
            _ => attempt.follow(),
        }
    })
}

fn parse_origin(text: &str) -> Result<Url, FetchError> {
    let bad = || FetchError::BadOrigin(text.to_owned());
    let mut url = Url::parse(text).map_err(|_| bad())?;
    let plain = url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        return Err(bad());
    }
    // Joining replaces what follows the last slash, so the origin ends in one.
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn literal_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn stored_header(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_STORED_HEADER_BYTES)
        .unwrap_or_default()
        .to_owned()
}

/// Resolves names and hands out permitted addresses only, so that what is
/// connected to is what was checked, whatever the name says a moment later.
#[derive(Debug)]
struct CheckedResolver {
    allow_private_addresses: bool,
}

#[derive(Debug, Error)]
#[error("{0} is a private or local address")]
struct RefusedAddress(IpAddr);

#[derive(Debug, Error)]
#[error("the web server redirects {0}")]
struct RefusedRedirect(&'static str);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_addresses = self.allow_private_addresses;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let permitted: Vec<SocketAddr> = found
                .iter()
                .copied()
                .filter(|address| allow_private_addresses || is_public(address.ip()))
                .collect();
            match (permitted.is_empty(), found.first()) {
                (true, Some(refused)) => Err(RefusedAddress(refused.ip()).into()),
                _ => Ok(Box::new(permitted.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether an address belongs to the public Internet: everything that is
/// reserved for one host, one link, one site or no use at all is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = a == 192 && b == 0 && c == 0;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || shared
        || protocol_assignments
        || benchmarking)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let [a, b, c, d, e, f, high, low] = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    // Translated and tunnelled addresses lead to the IPv4 address inside.
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        return is_public_v4(embedded(high, low));
    }
    if a == 0x2002 {
        return is_public_v4(embedded(b, c));
    }
    // Only 2000::/3 is given out; Teredo and documentation are carved out of it.
    let global = (a & 0xe000) == 0x2000;
    let teredo = a == 0x2001 && b == 0;
    let documentation = a == 0x2001 && b == 0xdb8;
    global && !teredo && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn config(origin: &str) -> SourceFetcherConfig {
        let _ = rustls::crypto::ring::default_provider().install_default();
        SourceFetcherConfig {
            web_origin: Some(origin.to_owned()),
            allow_private_addresses: false,
            redirects: 0,
            certificate_authorities: None,
            timeout: Duration::from_secs(10),
        }
    }

    fn fetcher(origin: &str) -> SourceFetcher {
        SourceFetcher::new(&config(origin)).expect("a good origin")
    }

    /// Answers each path with what it is given, over TLS if there is an acceptor.
    async fn web_server(
        answers: BTreeMap<&'static str, String>,
        tls: Option<TlsAcceptor>,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => answer(stream, &answers).await,
                    Some(acceptor) => {
                        // A client that does not trust us goes away here.
                        if let Ok(stream) = acceptor.accept(stream).await {
                            answer(stream, &answers).await;
                        }
                    }
                }
            }
        });
        address
    }

    async fn answer(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answers: &BTreeMap<&'static str, String>,
    ) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        let line = String::from_utf8_lossy(&request);
        let path = line.split_whitespace().nth(1).unwrap_or_default();
        let missing = "HTTP/1.1 404 Not Found\r\n\r\n".to_owned();
        let answer = answers.get(path).unwrap_or(&missing);
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn page(text: &str) -> String {
        let length = text.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
    }

    fn moved(to: &str) -> String {
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    }

    fn text_of(fetched: Result<Fetched, FetchError>) -> Result<String, FetchError> {
        match fetched? {
            Fetched::Content(content) => Ok(String::from_utf8_lossy(&content.content).into_owned()),
            Fetched::NotModified => Ok("not modified".to_owned()),
        }
    }

    /// METHOD M5: a source behind TLS, signed by an authority that the operator
    /// names.
    #[tokio::test]
    async fn https_is_trusted_by_configuration() {
        // Installs the cryptography that the server needs as well.
        let _ = config("https://localhost");
        let signed =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der())
            .expect("a key");
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .expect("certificate and key fit");
        let answers = BTreeMap::from([("/page", page("over TLS"))]);
        let address = web_server(answers, Some(TlsAcceptor::from(Arc::new(server)))).await;
        let origin = format!("https://localhost:{}", address.port());

        let authority = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(authority.path(), signed.cert.pem()).expect("it can be written");
        let trusting = SourceFetcherConfig {
            allow_private_addresses: true,
            certificate_authorities: Some(authority.path().to_owned()),
            ..config(&origin)
        };
        let fetcher = SourceFetcher::new(&trusting).expect("a good configuration");
        assert_eq!(text_of(fetcher.fetch("/page", None).await).expect("trusted"), "over TLS");

        let wary = SourceFetcherConfig { certificate_authorities: None, ..trusting };
        let fetcher = SourceFetcher::new(&wary).expect("a good configuration");
        let refused =
            text_of(fetcher.fetch("/page", None).await).expect_err("nobody vouches for it");
        assert!(matches!(refused, FetchError::Transport(_)), "{refused}");
    }

    /// METHOD M5: redirects are followed as far as configured and no further.
    #[tokio::test]
    async fn redirects_are_followed_by_configuration() {
        let answers = BTreeMap::from([
            ("/old", moved("/newer")),
            ("/newer", moved("/new")),
            ("/new", page("found")),
        ]);
        let address = web_server(answers, None).await;
        let with = |redirects| {
            let config = SourceFetcherConfig {
                redirects,
                allow_private_addresses: true,
                ..config(&format!("http://{address}"))
            };
            SourceFetcher::new(&config).expect("a good configuration")
        };
        assert_eq!(text_of(with(2).fetch("/old", None).await).expect("two are allowed"), "found");
        let refused = text_of(with(1).fetch("/old", None).await).expect_err("two are too many");
        assert!(matches!(refused, FetchError::RedirectRefused(_)), "{refused}");
        let refused = text_of(with(0).fetch("/old", None).await).expect_err("none is allowed");
        assert!(matches!(refused, FetchError::Redirected(_)), "{refused}");
    }

    #[test]
    fn paths_stay_under_the_origin() {
        let fetcher = fetcher("https://web.example/site");
        let located = |path: &str| fetcher.locate(path).map(|url| url.to_string()).ok();
        assert_eq!(located("a/b.html").as_deref(), Some("https://web.example/site/a/b.html"));
        assert_eq!(located("/a?x=1").as_deref(), Some("https://web.example/site/a?x=1"));
        assert_eq!(located("a:b").as_deref(), Some("https://web.example/site/a:b"));
        for hostile in [
            "",
            "../secret",
            "a/../../secret",
            "%2e%2e/secret",
            "//evil.example/x",
            "/%2e%2e/%2e%2e/x",
            "a\\b",
            "a\nb",
            "a#b",
        ] {
            assert_eq!(located(hostile), None, "{hostile:?}");
        }
        assert_eq!(
            located("https://evil.example/x").as_deref(),
            Some("https://web.example/site/https://evil.example/x")
        );
    }

    #[test]
    fn origins_are_plain_web_addresses() {
        for bad in ["file:///etc", "web.example", "ftp://web.example", "http://web.example/?a"] {
            assert!(parse_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_public_addresses_count_as_public() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for good in ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(public(good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(!public(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_literal_private_address_is_refused_before_connecting() {
        let refused = fetcher("http://127.0.0.1:1/").fetch("x", None).await;
        assert!(matches!(refused, Err(FetchError::AddressRefused(_))), "{refused:?}");
        let refused = fetcher("http://[::1]:1/").fetch("x", None).await;
        assert!(matches!(refused, Err(FetchError::AddressRefused(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused() {
        let refused = fetcher("http://localhost:1/").fetch("x", None).await;
        assert!(matches!(refused, Err(FetchError::AddressRefused(_))), "{refused:?}");
    }
}
