use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

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

/// One that may fetch from this machine.
fn permissive(origin: &str) -> SourceFetcher {
    let config = SourceFetcherConfig { allow_private_addresses: true, ..config(origin) };
    SourceFetcher::new(&config).expect("a good origin")
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
    let refused = text_of(fetcher.fetch("/page", None).await).expect_err("nobody vouches for it");
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

/// A body without a length is read no further than the limit.
#[tokio::test]
async fn a_body_without_a_length_is_capped() {
    let body =
        |bytes: usize| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(bytes));
    let answers = BTreeMap::from([
        ("/most", body(MAX_CONTENT_BYTES)),
        ("/more", body(MAX_CONTENT_BYTES + 1)),
    ]);
    let address = web_server(answers, None).await;
    let fetcher = permissive(&format!("http://{address}"));
    let most = text_of(fetcher.fetch("/most", None).await).expect("it is at the limit");
    assert_eq!(most.len(), MAX_CONTENT_BYTES);
    let refused = fetcher.fetch("/more", None).await;
    assert!(matches!(refused, Err(FetchError::TooBig { .. })), "{refused:?}");
}

/// A web server that accepts and says nothing, or never ends, costs no more than
/// the configured time.
#[tokio::test]
async fn a_fetch_ends_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    // Connections are made by the system, and nobody ever accepts them.
    let config = SourceFetcherConfig {
        timeout: Duration::from_millis(100),
        allow_private_addresses: true,
        ..config(&format!("http://{address}"))
    };
    let fetcher = SourceFetcher::new(&config).expect("a good configuration");
    let patience = Duration::from_secs(20);
    let silent = tokio::time::timeout(patience, fetcher.fetch("/silent", None)).await;
    let silent = silent.expect("it ends by itself");
    assert!(matches!(silent, Err(FetchError::TimedOut(_))), "{silent:?}");
    assert!(silent.is_err_and(|error| error.may_pass()));
}

/// A redirect into the node's own network is not followed, by address or by name,
/// also where redirects are.
#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused() {
    let inside = web_server(BTreeMap::from([("/secret", page("secret"))]), None).await;
    let by_name = format!("http://localhost:{}/secret", inside.port());
    let answers = BTreeMap::from([
        ("/by-address", moved(&format!("http://{inside}/secret"))),
        ("/by-name", moved(&by_name)),
        ("/mapped", moved(&format!("http://[::ffff:127.0.0.1]:{}/secret", inside.port()))),
    ]);
    let outside = web_server(answers, None).await;
    for path in ["/by-address", "/by-name", "/mapped"] {
        let config = SourceFetcherConfig { redirects: 3, ..config(&format!("http://{outside}")) };
        let mut fetcher = SourceFetcher::new(&config).expect("a good configuration");
        // The first step is as if it led outside; what it redirects to is checked.
        fetcher.allow_private_addresses = true;
        let refused = fetcher.fetch(path, None).await;
        assert!(matches!(refused, Err(FetchError::AddressRefused(_))), "{path}: {refused:?}");
    }
}

/// What a definition has room for is kept, by each header's own limit.
#[tokio::test]
async fn headers_are_kept_up_to_their_limits() {
    let answer = |etag: usize, media_type: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nETag: {}\r\nContent-Type: {}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            "e".repeat(etag),
            "t".repeat(media_type)
        )
    };
    let answers = BTreeMap::from([
        ("/longest", answer(MAX_ETAG_BYTES, MAX_MEDIA_TYPE_BYTES)),
        ("/longer", answer(MAX_ETAG_BYTES + 1, MAX_MEDIA_TYPE_BYTES + 1)),
    ]);
    let address = web_server(answers, None).await;
    let fetcher = permissive(&format!("http://{address}"));
    for (path, expected) in
        [("/longest", (MAX_ETAG_BYTES, MAX_MEDIA_TYPE_BYTES)), ("/longer", (0, 0))]
    {
        let Ok(Fetched::Content(content)) = fetcher.fetch(path, None).await else {
            panic!("{path} is there");
        };
        assert_eq!((content.etag.len(), content.media_type.len()), expected, "{path}");
    }
}

/// So many fetches and no more are under way; one beyond waits as long as a fetch
/// may take.
#[tokio::test]
async fn fetches_are_limited_in_number() {
    let address = web_server(BTreeMap::from([("/page", page("page"))]), None).await;
    let config = SourceFetcherConfig {
        timeout: Duration::from_millis(100),
        allow_private_addresses: true,
        ..config(&format!("http://{address}"))
    };
    let fetcher = SourceFetcher::new(&config).expect("a good configuration");
    let taken = fetcher.room.acquire_many(MAX_SOURCE_FETCHES as u32).await.expect("all are free");
    let refused = fetcher.fetch("/page", None).await;
    assert!(matches!(refused, Err(FetchError::Busy)), "{refused:?}");
    drop(taken);
    text_of(fetcher.fetch("/page", None).await).expect("there is room again");
}
