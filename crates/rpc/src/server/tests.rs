use std::pin::Pin;
use std::sync::Mutex;
use std::time::Instant;

use interlock_core::limits::MAX_RECEIVED_MESSAGE_BYTES;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as WireStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::*;
use crate::channel::EndpointConfig;
use crate::status::{PublishOutcome, Reason, reason_of, refusal};
use crate::tls::TlsClientConfig;
use crate::{services, v1};

/// Answers by the name of the namespace it is asked for.
#[derive(Clone, Default)]
struct Publisher {
    traceparents: Arc<Mutex<Vec<Option<String>>>>,
    entered: Arc<Notify>,
    /// Counts the answers of a stream that never ends, if it is to be one.
    flood: Option<watch::Sender<u64>>,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl services::publish::Service for Publisher {
    type PublishStreamStream = ResponseStream<v1::PublishStreamResponse>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let traceparent = crate::trace::of_request(&request);
        let traceparent = traceparent.map(|context| crate::trace::format_traceparent(&context));
        self.traceparents.lock().expect("whole").push(traceparent);
        self.entered.notify_one();
        match request.get_ref().namespace.as_str() {
            "slow" => std::future::pending().await,
            "deadline" => {
                let left = deadline_of(&request).map(|deadline| deadline.elapsed());
                assert!(left.is_some(), "the caller named one");
                Ok(Response::new(v1::OpenSessionResponse::default()))
            }
            "full" => Err(refusal(Reason::DiskFull, "4 MiB are left")
                .retry_after(Duration::from_secs(2))
                .outcome(&PublishOutcome::not_stored())
                .into_status()),
            _ => Ok(Response::new(v1::OpenSessionResponse::default())),
        }
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let publication = crate::convert::publish::publication(request.into_inner().publication)?;
        Ok(Response::new(v1::PublishResponse {
            durable_at: vec![publication.channel.as_str().to_owned()],
            ..Default::default()
        }))
    }

    async fn publish_stream(
        &self,
        _: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        if let Some(count) = self.flood.clone() {
            let answer = v1::PublishStreamResponse {
                durable_at: vec!["x".repeat(64 << 10)],
                ..Default::default()
            };
            tokio::spawn(async move {
                while sender.send(Ok(answer.clone())).await.is_ok() {
                    count.send_modify(|count| *count += 1);
                }
            });
            return Ok(Response::new(Box::pin(ReceiverStream::new(receiver))));
        }
        // One answer, and then silence for as long as the caller listens.
        sender.send(Ok(v1::PublishStreamResponse::default())).await.expect("open");
        tokio::spawn(async move { sender.closed().await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn serve(config: ServerConfig, publisher: Publisher) -> RunningServer {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    GrpcServer::new(config)
        .add_service(services::publish::server(publisher))
        .serve(listener)
        .await
        .expect("serves")
}

fn endpoint(server: &RunningServer) -> EndpointConfig {
    EndpointConfig::new(server.local_addr().to_string())
}

fn client(server: &RunningServer) -> services::publish::Client<tonic::transport::Channel> {
    services::publish::client(endpoint(server).connect_lazy().expect("an address"))
}

fn open(namespace: &str) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest { namespace: namespace.to_owned(), ..Default::default() }
}

async fn health_of(server: &RunningServer, service: &str) -> Result<WireStatus, Code> {
    let channel = endpoint(server).connect().await.expect("listens");
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|error| error.code())?;
    Ok(answer.into_inner().status())
}

const PUBLISH_SERVICE: &str = "interlock.v1.PublishService";

#[tokio::test]
async fn health_follows_drain() {
    let server = serve(ServerConfig::default(), Publisher::default()).await;
    for service in ["", PUBLISH_SERVICE] {
        assert_eq!(health_of(&server, service).await, Ok(WireStatus::Serving));
    }
    assert_eq!(health_of(&server, "interlock.v1.NodeService").await, Err(Code::NotFound));

    server.drain().await;
    for service in ["", PUBLISH_SERVICE] {
        assert_eq!(health_of(&server, service).await, Ok(WireStatus::NotServing));
    }
    // Draining is a word to load balancers; calls that come are served.
    client(&server).open_session(open("news")).await.expect("still served");
    assert_eq!(server.shutdown(Duration::from_secs(5)).await, Shutdown::Complete);
}

#[tokio::test]
async fn a_server_may_begin_as_not_serving() {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let server = GrpcServer::new(ServerConfig::default())
        .add_service(services::publish::server(Publisher::default()))
        .not_serving_at_first()
        .serve(listener)
        .await
        .expect("serves");
    assert_eq!(health_of(&server, "").await, Ok(WireStatus::NotServing));
    server.health().set_serving(true).await;
    assert_eq!(health_of(&server, "").await, Ok(WireStatus::Serving));
}

#[tokio::test]
async fn reflection_lists_what_is_served_and_nothing_else() {
    let server = serve(ServerConfig::default(), Publisher::default()).await;
    let channel = endpoint(&server).connect().await.expect("listens");
    let request = |message| tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = tokio_stream::iter([
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol(PUBLISH_SERVICE.to_owned())),
    ]);
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(requests)
        .await
        .expect("answers")
        .into_inner();
    let mut next = async || {
        let answer = answers.next().await.expect("an answer").expect("no error");
        answer.message_response.expect("a message")
    };
    let MessageResponse::ListServicesResponse(list) = next().await else {
        panic!("a list was asked for")
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", PUBLISH_SERVICE]
    );
    let MessageResponse::FileDescriptorResponse(files) = next().await else {
        panic!("a file was asked for")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn refusals_reach_the_caller_with_their_details() {
    let server = serve(ServerConfig::default(), Publisher::default()).await;
    let mut client = client(&server);
    let status = client.open_session(open("full")).await.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason_of(&status), Some(Reason::DiskFull));
    assert_eq!(crate::status::retry_after(&status), Some(Duration::from_secs(2)));
    assert_eq!(PublishOutcome::of(&status, false), PublishOutcome::not_stored());

    let publication = v1::Publication { channel: "a//b".into(), ..Default::default() };
    let request = v1::PublishRequest { publication: Some(publication), ..Default::default() };
    let status = client.publish(request).await.expect_err("no channel name");
    assert_eq!(reason_of(&status), Some(Reason::InvalidField));
    assert_eq!(crate::status::invalid_fields(&status)[0].field, "publication.channel");
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_and_above_it_do_not() {
    let server = serve(ServerConfig::bulk(), Publisher::default()).await;
    let mut client = client(&server);
    let request =
        |bytes: usize| v1::OpenSessionRequest { session: vec![0; bytes].into(), ..open("news") };
    let overhead = 64;
    let most = MAX_RECEIVED_MESSAGE_BYTES - overhead;
    client.open_session(request(most)).await.expect("it is within the limit");
    let mut unbounded = v1::publish_service_client::PublishServiceClient::new(
        endpoint(&server).connect_lazy().expect("an address"),
    );
    let beyond = MAX_RECEIVED_MESSAGE_BYTES + 1;
    let status = unbounded.open_session(request(beyond)).await.expect_err("it is too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

/// Hears the methods and codes of calls, in the order of their ends.
#[derive(Clone)]
struct Heard(tokio::sync::mpsc::UnboundedSender<(String, &'static str)>);

impl CallObserver for Heard {
    fn call_finished(&self, call: &FinishedCall<'_>) {
        // A test that has what it wants stops listening.
        let _ = self.0.send((call.method.to_owned(), call.code_name()));
    }
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let server = GrpcServer::new(ServerConfig::default())
        .add_service(services::publish::server(Publisher::default()))
        .observe(Heard(sender))
        .serve(listener)
        .await
        .expect("serves");
    let mut client = client(&server);
    let mut next = async || heard.recv().await.expect("a call has ended");
    let open_session = "interlock.v1.PublishService/OpenSession".to_owned();

    let mut request = Request::new(open("deadline"));
    request.set_timeout(Duration::from_secs(60));
    client.open_session(request).await.expect("in time");
    assert_eq!(next().await, (open_session.clone(), "OK"));

    client.open_session(open("full")).await.expect_err("refused");
    assert_eq!(next().await, (open_session, "RESOURCE_EXHAUSTED"));

    let mut grpc = tonic::client::Grpc::new(endpoint(&server).connect_lazy().expect("an address"));
    grpc.ready().await.expect("listens");
    let codec = tonic_prost_codec::<v1::OpenSessionRequest, v1::OpenSessionResponse>();
    let path = http::uri::PathAndQuery::from_static("/interlock.v1.PublishService/Invented");
    let status = grpc.unary(Request::new(open("x")), path, codec).await.expect_err("invented");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(next().await, ("unknown".to_owned(), "UNIMPLEMENTED"));
}

/// A call without a client in between, whose own timer would be first.
fn bare_call(method: &str, message: &impl prost::Message) -> http::Request<Body> {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
    framed.extend_from_slice(&message);
    http::Request::post(format!("/{PUBLISH_SERVICE}/{method}"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "20m")
        .body(Body::new(tonic_body(framed)))
        .expect("a request")
}

fn tonic_body(bytes: Vec<u8>) -> impl http_body::Body<Data = bytes::Bytes, Error = Infallible> {
    String::from_utf8(bytes).expect("an empty or plain message")
}

#[tokio::test]
async fn the_server_ends_calls_and_streams_at_their_deadline() {
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let layer = ObserveLayer::new(Some(Arc::new(Heard(sender))));
    let mut service = tower::Layer::layer(&layer, services::publish::server(Publisher::default()));

    let Ok(response) = service.call(bare_call("OpenSession", &open("slow"))).await;
    let code = |headers: &http::HeaderMap| {
        headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
    };
    assert_eq!(code(response.headers()), Some(Code::DeadlineExceeded));

    let Ok(response) = service.call(bare_call("PublishStream", &open(""))).await;
    assert_eq!(code(response.headers()), None, "it has begun");
    let mut body = response.into_body();
    let mut trailers = None;
    while let Some(frame) =
        std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut body), cx)).await
    {
        trailers = frame.expect("no broken body").into_trailers().ok();
    }
    assert_eq!(code(&trailers.expect("an end")), Some(Code::DeadlineExceeded));

    for method in ["OpenSession", "PublishStream"] {
        let method = format!("{PUBLISH_SERVICE}/{method}");
        assert_eq!(heard.recv().await, Some((method, "DEADLINE_EXCEEDED")));
    }
}

fn tonic_prost_codec<Q, A>() -> impl tonic::codec::Codec<Encode = Q, Decode = A>
where
    Q: prost::Message + Send + 'static,
    A: prost::Message + Default + Send + 'static,
{
    tonic_prost::ProstCodec::<Q, A>::default()
}

#[tokio::test]
async fn a_caller_that_goes_away_is_counted_as_cancelled() {
    let (sender, mut codes) = tokio::sync::mpsc::unbounded_channel();
    let publisher = Publisher::default();
    let entered = Arc::clone(&publisher.entered);
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let server = GrpcServer::new(ServerConfig::default())
        .add_service(services::publish::server(publisher))
        .observe(move |call: &FinishedCall<'_>| {
            // A test that has what it wants stops listening.
            let _ = sender.send(call.code);
        })
        .serve(listener)
        .await
        .expect("serves");
    let mut client = client(&server);
    tokio::select! {
        _ = client.open_session(open("slow")) => panic!("the handler never answers"),
        () = entered.notified() => {}
    }
    assert_eq!(codes.recv().await, Some(Code::Cancelled));
}

#[tokio::test]
async fn shutdown_is_bounded_and_cuts_what_is_left() {
    let server = serve(ServerConfig::default(), Publisher::default()).await;
    let address = server.local_addr();
    let mut client = client(&server);
    let request = Request::new(tokio_stream::pending());
    let mut stream = client.publish_stream(request).await.expect("begins").into_inner();
    assert!(stream.next().await.expect("one answer").is_ok());

    let started = Instant::now();
    assert_eq!(server.shutdown(Duration::from_millis(100)).await, Shutdown::Cut);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(stream.next().await.expect("an end").is_err(), "the stream went on");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "still listening");
}

/// What a caller sends that opens windows as wide as can be and calls `PublishStream`.
fn greedy_call(authority: &str) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let window = (i32::MAX as u32).to_be_bytes();
    let settings = [&[0, 4], window.as_slice()].concat();
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("short");
        [&[length], text.as_bytes()].concat()
    };
    // RFC 7541: POST and http by their index, the rest as text.
    let headers = [
        &[0x83, 0x86, 0x04][..],
        &text(&format!("/{PUBLISH_SERVICE}/PublishStream")),
        &[0x01],
        &text(authority),
        &[0x0f, 0x10],
        &text("application/grpc"),
        &[0x00],
        &text("te"),
        &text("trailers"),
    ]
    .concat();
    let (end_stream, end_headers) = (0x1, 0x4);
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(0x4, 0, 0, &settings),
        frame(0x8, 0, 0, &(i32::MAX as u32 - (64 << 10)).to_be_bytes()),
        frame(0x1, end_stream | end_headers, 1, &headers),
    ]
    .concat()
}

/// A caller that is frozen, or cut off, takes nothing of what is on its way to it: the
/// server ends in its time all the same.
#[tokio::test]
async fn a_caller_that_takes_nothing_does_not_hold_the_shutdown_up() {
    let (count, mut sent) = watch::channel(0);
    let publisher = Publisher { flood: Some(count), ..Publisher::default() };
    let server = serve(ServerConfig::default(), publisher).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it is not connected yet");
    let mut stalled = socket.connect(server.local_addr()).await.expect("it listens");
    let call = greedy_call(&server.local_addr().to_string());
    stalled.write_all(&call).await.expect("it reads");
    sent.wait_for(|sent| *sent > 0).await.expect("the call is served");
    // Once nothing more goes out, all buffers on the way are full.
    let stands_still = Duration::from_millis(300);
    while tokio::time::timeout(stands_still, sent.changed()).await.is_ok() {}

    let ended = server.shutdown(Duration::from_millis(100));
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert_eq!(ended, Ok(Shutdown::Cut));
    drop(stalled);
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let config = ServerConfig { max_connections: 1, ..ServerConfig::default() };
    let server = serve(config, Publisher::default()).await;
    let mut first = client(&server);
    first.open_session(open("news")).await.expect("the one that fits");
    let mut second = client(&server);
    let status = second.open_session(open("news")).await.expect_err("no room");
    // Closed before or after the caller had sent its request.
    assert!(matches!(status.code(), Code::Unavailable | Code::Cancelled), "{status:?}");
    first.open_session(open("news")).await.expect("undisturbed");

    drop(first);
    // The server hears of the close a moment later.
    let started = Instant::now();
    while client(&server).open_session(open("news")).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "the place was never freed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_callers_trace_context_reaches_the_handler() {
    let publisher = Publisher::default();
    let server = serve(ServerConfig::default(), publisher.clone()).await;
    let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(open("news"));
    request.metadata_mut().insert("traceparent", header.parse().expect("ASCII"));
    client(&server).open_session(request).await.expect("answers");
    client(&server).open_session(open("news")).await.expect("answers");
    let seen = publisher.traceparents.lock().expect("whole").clone();
    assert_eq!(seen, [Some(header.to_owned()), None]);
}

struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// A CA, a server's and a client's certificate, as files.
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).expect("it can be written");
        };
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("valid");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", ca.self_signed(&ca_key).expect("signed").pem());
        let issuer = Issuer::new(ca, ca_key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["north-0.example".to_owned()]);
            let certificate = params.expect("valid").signed_by(&key, &issuer).expect("signed");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self) -> TlsConfig {
        TlsConfig {
            certificate: self.path("server.pem"),
            private_key: self.path("server-key.pem"),
            client_ca: Some(self.path("ca.pem")),
        }
    }

    fn client(&self) -> TlsClientConfig {
        TlsClientConfig {
            ca: self.path("ca.pem"),
            certificate: Some(self.path("client.pem")),
            private_key: Some(self.path("client-key.pem")),
            domain: Some("north-0.example".to_owned()),
        }
    }
}

#[tokio::test]
async fn tls_lets_in_who_is_known_and_nobody_else() {
    crate::install_crypto_provider();
    let files = Certificates::new();
    let config = ServerConfig::default().tls(Some(files.server()));
    let server = serve(config, Publisher::default()).await;
    let call = async |tls: Option<TlsClientConfig>| {
        let channel = endpoint(&server).tls(tls).connect_lazy().expect("valid");
        services::publish::client(channel).open_session(open("news")).await
    };

    call(Some(files.client())).await.expect("known");
    let unknown = TlsClientConfig { certificate: None, private_key: None, ..files.client() };
    assert!(call(Some(unknown)).await.is_err(), "without a certificate");
    let elsewhere = TlsClientConfig { domain: Some("other.example".into()), ..files.client() };
    assert!(call(Some(elsewhere)).await.is_err(), "another name than the certificate's");
    let others = Certificates::new();
    let stranger = TlsClientConfig { ca: others.path("ca.pem"), ..files.client() };
    assert!(call(Some(stranger)).await.is_err(), "not signed by whom we trust");
    assert!(call(None).await.is_err(), "in the clear");
    assert_eq!(server.shutdown(Duration::from_secs(5)).await, Shutdown::Complete);
}

#[tokio::test]
async fn wrong_tls_files_are_named() {
    crate::install_crypto_provider();
    let files = Certificates::new();
    let missing = TlsConfig { certificate: files.path("nowhere.pem"), ..files.server() };
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let config = ServerConfig::default().tls(Some(missing));
    let error = GrpcServer::new(config).serve(listener).await.expect_err("no such file");
    assert!(error.to_string().contains("nowhere.pem"), "{error}");

    let half = TlsClientConfig { private_key: None, ..files.client() };
    let error = EndpointConfig::new("north-0:1").tls(Some(half)).connect_lazy();
    assert!(matches!(error, Err(crate::channel::ChannelError::Tls(TlsError::HalfIdentity))));
}
