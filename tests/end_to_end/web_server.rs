//! A region's web server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use interlock_core::limits::MAX_CONTENT_BYTES;
use tokio::net::TcpListener;

/// What it serves under `/page`, and how often it was asked.
#[derive(Default)]
pub(crate) struct WebServer {
    version: AtomicUsize,
    broken: AtomicBool,
    fetched: AtomicUsize,
    not_modified: AtomicUsize,
}

impl WebServer {
    /// Starts one; with the address of its root.
    pub(crate) async fn start() -> (Arc<Self>, String) {
        let web = Arc::new(Self::default());
        let router = Router::new()
            .route("/page", get(page))
            .route("/largest", get(async || vec![7_u8; MAX_CONTENT_BYTES]))
            .route("/too-large", get(async || vec![7_u8; MAX_CONTENT_BYTES + 1]))
            .route("/empty", get(async || ""))
            .route("/away", get(async || Redirect::temporary("/page")))
            .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
            .with_state(Arc::clone(&web));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        (web, format!("http://{address}/"))
    }

    /// What is served now.
    pub(crate) fn content(&self) -> Vec<u8> {
        // Not text, so that whoever thinks it is damages it.
        let mut content = format!("version {}", self.version.load(Ordering::SeqCst)).into_bytes();
        content.extend((0..=255).cycle().take(5000));
        content
    }

    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// How often `/page` was sent, and how often it was only said to be the same.
    pub(crate) fn answers(&self) -> (usize, usize) {
        (self.fetched.load(Ordering::SeqCst), self.not_modified.load(Ordering::SeqCst))
    }
}

async fn page(State(web): State<Arc<WebServer>>, headers: HeaderMap) -> Response {
    if web.broken.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let etag = format!("\"v{}\"", web.version.load(Ordering::SeqCst));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|held| held == etag.as_str()) {
        web.not_modified.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NOT_MODIFIED.into_response();
    }
    web.fetched.fetch_add(1, Ordering::SeqCst);
    let media_type = "application/octet-stream".to_owned();
    ([(header::ETAG, etag), (header::CONTENT_TYPE, media_type)], web.content()).into_response()
}
