//! Fetches the content that a channel's `source` names from the region's own web
//! server (METHOD M5): conditionally, bounded in size and time, and only from
//! addresses the operator meant.
//!
//! The path comes from whoever edits a channel, so it is hostile input: it is
//! joined under `web_origin` and must stay there, redirects are followed only as
//! far as the operator allows, and the address that is really connected to is the
//! one that was checked.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use interlock_core::limits::{
    MAX_CONTENT_BYTES, MAX_ETAG_BYTES, MAX_MEDIA_TYPE_BYTES, MAX_SOURCE_FETCHES,
    MAX_SOURCE_PATH_BYTES,
};
use reqwest::{Client, Url};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::public_addresses::{CheckedResolver, RefusedAddress, is_public};

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
    /// As many sources are fetched as may be at a time, and none ended in time.
    #[error("this node fetches {MAX_SOURCE_FETCHES} other sources; try again later")]
    Busy,
    /// Connecting or reading failed.
    #[error("the web server could not be read: {0}")]
    Transport(String),
}

impl FetchError {
    /// Whether the same call may succeed later without anything being changed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Busy | Self::Transport(_) => true,
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
    /// Room for fetches under way.
    room: Arc<Semaphore>,
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
            room: Arc::new(Semaphore::new(MAX_SOURCE_FETCHES)),
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
        let _room = tokio::time::timeout(self.timeout, self.room.acquire())
            .await
            .map_err(|_| FetchError::Busy)?;
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
        let etag = stored_header(response.headers(), ETAG, MAX_ETAG_BYTES);
        let media_type = stored_header(response.headers(), CONTENT_TYPE, MAX_MEDIA_TYPE_BYTES);
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

/// A header as it is stored with the definition; one that is too long for that is
/// left out.
fn stored_header(headers: &HeaderMap, name: http::HeaderName, max_bytes: usize) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= max_bytes)
        .unwrap_or_default()
        .to_owned()
}

#[derive(Debug, Error)]
#[error("the web server redirects {0}")]
struct RefusedRedirect(&'static str);

#[cfg(test)]
mod tests;
