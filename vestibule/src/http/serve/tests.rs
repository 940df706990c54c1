use super::*;
use crate::{
    application::{Application, Build},
    config::Config,
    http::{
        connection::ClientAuthority,
        door::Door,
        policy::{ListenerLimits, ListenerTls},
    },
    metrics::MetricsRegistry,
    openapi::OpenApiRouter,
    package::Package,
    resources::build_error::BuildError,
    testing::{Harness, MemoryManager, idle_service::NoSecrets},
};
use axum::{
    extract::Path,
    http::{StatusCode, header},
    routing::{any, get, post},
};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    upgrade::Upgraded,
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivatePkcs8KeyDer};
use std::{
    net::SocketAddr,
    sync::{Mutex, OnceLock},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The bound of a wait.
const IN_TIME: Duration = Duration::from_secs(30);

/// The head of an upload that is refused.
const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4194304\r\n\r\n";

/// A policy with the default limits.
#[derive(Default)]
struct Defaults {
    tls: Option<Arc<ServerConfig>>,
    is_short: bool,
}

fn limits() -> ListenerLimits {
    ListenerLimits {
        max_open: 10,
        connections: ConnectionsConfig::default(),
        response_timeout: Duration::from_secs(60),
    }
}

impl ListenerPolicy for Defaults {
    fn limits(&self) -> ListenerLimits {
        limits()
    }

    fn tls(&self) -> Option<ListenerTls> {
        Some(ListenerTls { config: self.tls.clone()?, authority: None })
    }

    fn client_authority(&self) -> Option<ClientAuthority> {
        None
    }

    fn is_short_of_places(&self) -> bool {
        self.is_short
    }
}

/// A policy by which the watchdog panics in its first round. Nothing else asks it for places.
struct PanicsInTheWatchdog;

impl ListenerPolicy for PanicsInTheWatchdog {
    fn limits(&self) -> ListenerLimits {
        limits()
    }

    fn tls(&self) -> Option<ListenerTls> {
        None
    }

    fn client_authority(&self) -> Option<ClientAuthority> {
        None
    }

    fn is_short_of_places(&self) -> bool {
        panic!("a bug")
    }
}

async fn start(
    policy: impl ListenerPolicy,
    service: impl ListenerService,
) -> (HttpServer, SocketAddr, ConnectionMetrics) {
    let listener = ListenerSocket::Tcp(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    let address = listener.address().expect("it is TCP");
    let metrics = ConnectionMetrics::register(&MetricsRegistry::new("svc"));
    (HttpServer::start("public", listener, policy, &metrics, service), address, metrics)
}

/// Returns the number of connections that ended for a reason.
fn ended(metrics: &ConnectionMetrics, reason: EndReason) -> u64 {
    metrics.ended.get_or_create(&[("listener", "public"), ("reason", reason.label())]).get()
}

/// Returns routes that refuse every body unread.
fn refuse() -> Router {
    Router::new().route("/", post(StatusCode::PAYLOAD_TOO_LARGE))
}

/// Sends a part of an upload, also when the answer is there, and then reads the rest of the answer.
async fn upload(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    stream.write_all(UPLOAD).await?;
    stream.flush().await?;
    let mut answer = String::from(char::from(stream.read_u8().await?));
    // A write to a connection that was reset fails, though not the first one.
    for _ in 0..64 {
        stream.write_all(&[b' '; 8 * 1024]).await?;
        stream.flush().await?;
    }
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Uploads until that succeeds once. The server reads on for a second, in which a busy machine may not run the client.
async fn upload_once<S: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> S) -> String {
    let mut errors = Vec::new();
    while errors.len() < 10 {
        match timeout(IN_TIME, upload(connect().await)).await.expect("in time") {
            Ok(answer) => return answer,
            Err(error) => errors.push(error),
        }
    }
    panic!("{errors:?}");
}

#[tokio::test]
async fn an_upload_that_is_refused_early_gets_its_answer() {
    let (server, address, metrics) = start(Defaults::default(), refuse()).await;
    let answer = upload_once(async || TcpStream::connect(address).await.expect("it listens")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    timeout(IN_TIME, server.connections.none_open()).await.expect("the client has closed it");
    assert!(ended(&metrics, EndReason::Closed) >= 1);
}

#[tokio::test]
async fn an_upload_over_tls_that_is_refused_early_gets_its_answer() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key.into()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));

    let policy = Defaults { tls: Some(Arc::new(config)), is_short: false };
    let (_server, address, _) = start(policy, refuse()).await;
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        client.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    };
    let answer = upload_once(connect).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_on_after_its_answer_or_does_not_close_loses_its_place() {
    let (server, address, metrics) = start(Defaults { tls: None, is_short: true }, refuse()).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(UPLOAD).await.unwrap();
    let mut answer = Vec::new();
    timeout(IN_TIME, silent.read_to_end(&mut answer)).await.expect("our side is shut down").unwrap();

    let mut flood = TcpStream::connect(address).await.unwrap();
    flood.write_all(UPLOAD).await.unwrap();
    let send = async { while flood.write_all(&[b' '; 64 * 1024]).await.is_ok() {} };
    timeout(IN_TIME, send).await.expect("the connection is closed");
    timeout(IN_TIME, server.connections.none_open()).await.expect("the places are free");
    assert_eq!(ended(&metrics, EndReason::Closed), 2);
    drop(silent);
}

/// Returns routes that switch to another protocol once, and the result of `handler` then.
fn switch<F>(handler: fn(Upgraded) -> F) -> (Router, oneshot::Receiver<F::Output>)
where
    F: Future<Output: Send> + Send + 'static,
{
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let switch = async move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        let tell = tell.lock().expect("no panic").take().expect("the first request");
        tokio::spawn(async move { _ = tell.send(handler(upgrade.await.expect("an upgrade")).await) });
        (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "text")])
    };
    (Router::new().route("/", any(switch)), told)
}

#[tokio::test]
async fn a_handler_that_shuts_its_side_of_an_upgraded_connection_down_reads_on() {
    let (routes, told) = switch(|upgraded| async move {
        let mut io = TokioIo::new(upgraded);
        io.write_all(b"end").await.unwrap();
        io.shutdown().await.unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        text
    });
    let (server, address, metrics) = start(Defaults::default(), routes).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: text\r\n\r\n";
    stream.write_all(&[head.as_slice(), b"some "].concat()).await.unwrap();
    let mut answer = String::new();
    timeout(IN_TIME, stream.read_to_string(&mut answer)).await.expect("it is shut down").unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("end"), "{answer}");
    stream.write_all(b"text").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(IN_TIME, told).await.expect("in time").unwrap(), "some text");
    timeout(IN_TIME, server.connections.none_open()).await.expect("the handler has ended it");
    assert_eq!(ended(&metrics, EndReason::Upgraded), 1);
}

/// Connects over HTTP/2 as a client whose streams have a window of this many bytes.
async fn connect_http2(address: SocketAddr, window: u32) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (client, connection) = builder.initial_stream_window_size(window).handshake(io).await.expect("it is HTTP/2");
    (client, tokio::spawn(connection))
}

fn send(client: &mut SendRequest<Body>, path: &str) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
    client.send_request(Request::get(format!("http://a{path}")).body(Body::empty()).expect("a request"))
}

/// Returns the routes of a service behind a proxy. The response at `/` begins once `told`. The one at `/endless` cancels
/// `dropped` when it is dropped.
fn for_many(told: &Arc<Notify>, dropped: &CancellationToken) -> Router {
    let (told, dropped) = (told.clone(), dropped.clone());
    let endless = async move || {
        let guard = dropped.drop_guard();
        Body::from_stream(stream::repeat_with(move || {
            let _ = &guard;
            Ok::<_, Infallible>(Bytes::from_static(&[0; 1024]))
        }))
    };
    let router = Router::new().route("/", get(async move || told.notified().await));
    router.route("/endless", get(endless)).route("/short", get("a text"))
}

#[tokio::test]
async fn a_client_that_stops_reading_does_not_end_the_requests_of_others_on_its_connection() {
    let (told, dropped) = (Arc::new(Notify::new()), CancellationToken::new());
    let policy = Defaults { tls: None, is_short: true };
    let (_server, address, metrics) = start(policy, for_many(&told, &dropped)).await;
    let (mut client, _) = connect_http2(address, 65_535).await;
    let other = tokio::spawn(send(&mut client, "/"));
    let unread = timeout(IN_TIME, send(&mut client, "/endless")).await.expect("in time").unwrap();
    timeout(IN_TIME, dropped.cancelled()).await.expect("its stream is reset");
    told.notify_one();
    let other = timeout(IN_TIME, other).await.expect("in time").unwrap();
    assert_eq!(other.unwrap().status(), StatusCode::OK);
    let rest = timeout(IN_TIME, unread.into_body().collect()).await.expect("the client is told");
    rest.expect_err("it is not whole");
    assert_eq!(ended(&metrics, EndReason::Stalled), 0);
}

#[tokio::test]
async fn a_connection_ends_if_a_response_that_nobody_reads_cannot_be_ended_alone() {
    let (told, dropped) = (Arc::new(Notify::new()), CancellationToken::new());
    let policy = Defaults { tls: None, is_short: true };
    let (server, address, metrics) = start(policy, for_many(&told, &dropped)).await;
    // The task of a stream ends when h2 has all of its response.
    let (mut client, _) = connect_http2(address, 1).await;
    let other = tokio::spawn(send(&mut client, "/"));
    let _unread = timeout(IN_TIME, send(&mut client, "/short")).await.expect("in time").unwrap();
    timeout(IN_TIME, other).await.expect("its connection ends").unwrap().unwrap_err();
    timeout(IN_TIME, server.connections.none_open()).await.expect("its place is free");
    assert_eq!(ended(&metrics, EndReason::Stalled), 1);
}

/// Reads and writes in two tasks, and then shuts down. Returns the errors of all three.
async fn errors_of_a_cut(upgraded: Upgraded) -> [io::ErrorKind; 3] {
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let reading = tokio::spawn(async move { reader.read_u8().await });
    // Until the client takes no more.
    let written = tokio::io::copy(&mut tokio::io::repeat(0), &mut writer).await;
    let read = reading.await.expect("it does not panic");
    let shut_down = writer.shutdown().await;
    [read.map(drop), written.map(drop), shut_down].map(|result| result.expect_err("it is cut").kind())
}

#[tokio::test]
async fn a_cut_ends_the_reads_the_writes_and_the_shutdown_of_an_upgraded_connection() {
    let (routes, told) = switch(errors_of_a_cut);
    let (server, address, metrics) = start(Defaults::default(), routes).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: text\r\n\r\n").await.unwrap();
    read_head(&mut stream).await;
    server.connections.close(Duration::ZERO).await;
    let aborted = io::ErrorKind::ConnectionAborted;
    assert_eq!(timeout(IN_TIME, told).await.expect("it is woken").unwrap(), [aborted; 3]);
    timeout(IN_TIME, server.connections.none_open()).await.expect("the handler has ended it");
    assert_eq!(ended(&metrics, EndReason::Upgraded), 1);
}

/// Sends a request over HTTP/1. Returns `true` if its answer says that the connection ends.
async fn is_last(stream: &mut TcpStream) -> bool {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it is open");
    read_head(stream).await.contains("connection: close")
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(timeout(IN_TIME, stream.read_u8()).await.expect("in time").expect("more of the head")));
    }
    head
}

#[tokio::test]
async fn while_a_listener_lingers_connections_of_http_1_end_with_their_next_response() {
    let lingering = Arc::new(OnceLock::<Arc<Connections>>::new());
    let begins = lingering.clone();
    let route = async move || begins.get().map_or((), |connections| connections.linger());
    let (server, address, metrics) = start(Defaults::default(), Router::new().route("/", any(route))).await;
    let connect = async || TcpStream::connect(address).await.unwrap();
    let mut kept_alive = connect().await;
    assert!(!is_last(&mut kept_alive).await);
    lingering.get_or_init(|| server.connections.clone());
    assert!(is_last(&mut connect().await).await, "the linger began with its request");
    assert!(is_last(&mut kept_alive).await);
    assert!(is_last(&mut connect().await).await, "it came later");
    timeout(IN_TIME, server.connections.none_open()).await.expect("all were told");
    assert_eq!(ended(&metrics, EndReason::Stopping), 3);
}

#[tokio::test]
async fn while_a_listener_lingers_connections_of_http_2_end_when_their_requests_have() {
    let (server, address, metrics) = start(Defaults::default(), Router::new().route("/", any(async || ()))).await;
    let ask = async || {
        let (mut client, connection) = connect_http2(address, 65_535).await;
        let answer = timeout(IN_TIME, send(&mut client, "/")).await.expect("in time").unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        // It ends if the client is dropped.
        (client, connection)
    };
    let (_before, connection) = ask().await;
    server.linger();
    timeout(IN_TIME, connection).await.expect("it was told").unwrap().unwrap();
    let (_after, connection) = ask().await;
    timeout(IN_TIME, connection).await.expect("it was told").unwrap().unwrap();
    timeout(IN_TIME, server.connections.none_open()).await.expect("all were told");
    assert_eq!(ended(&metrics, EndReason::Stopping), 2);
}

/// A service whose handlers give each response a body.
struct Talkative;

impl Application for Talkative {
    const PACKAGE: Package = Package::new("talkative", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        let answer = async |Path(status): Path<u16>| (StatusCode::from_u16(status).expect("a status"), "a text");
        OpenApiRouter::new().route("/{status}", get(answer))
    }
}

#[tokio::test]
async fn a_response_that_must_have_no_content_has_none_over_http_1_and_http_2() {
    let started = Harness::<Talkative>::start(MemoryManager::new(), Config::default()).await;
    let door = Door::new(started.expect("it needs nothing").live());
    let (_server, address, _) = start(Defaults::default(), door).await;
    for is_http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http::<Body>();
        let ask = async |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
            let request = request.body(Body::empty()).expect("a request");
            let response = timeout(IN_TIME, client.request(request)).await.expect("in time").expect("a response");
            let (head, body) = response.into_parts();
            let text =
                timeout(IN_TIME, body.collect()).await.expect("in time").expect("it has the form of HTTP").to_bytes();
            let length = head.headers.get(header::CONTENT_LENGTH);
            (length.map(|length| length.to_str().expect("digits").to_owned()), text)
        };
        for path in ["/200", "/401", "/503", "/no/where"] {
            let (length, text) = ask("GET", path).await;
            assert!(!text.is_empty() && length == Some(text.len().to_string()), "{path}: {length:?} {text:?}");
            assert_eq!(ask("HEAD", path).await, (length, Bytes::new()), "{path}");
        }
        for (status, length) in [(204, None), (205, Some("0".to_owned())), (304, None)] {
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(method, &format!("/{status}")).await, (length.clone(), Bytes::new()), "{status}");
            }
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_because_a_body_of_the_service_fails_blames_nobody_else() {
    let broken = async || Body::from_stream(stream::iter([Ok("a piece"), Err(io::Error::other("broken"))]));
    let short = async || {
        let pieces = Body::from_stream(stream::iter([Ok::<_, Infallible>("a piece")]));
        ([(header::CONTENT_LENGTH, "100")], pieces)
    };
    let routes = Router::new().route("/broken", get(broken)).route("/short", get(short));
    let (server, address, metrics) = start(Defaults::default(), routes).await;
    for path in ["/broken", "/short"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        timeout(IN_TIME, stream.read_to_end(&mut Vec::new())).await.expect("it ends").unwrap();
    }
    timeout(IN_TIME, server.connections.none_open()).await.expect("both have ended");
    assert_eq!(ended(&metrics, EndReason::ResponseFailed), 2);
}

#[tokio::test]
async fn a_listener_fails_if_its_watchdog_panics() {
    let (mut server, ..) = start(PanicsInTheWatchdog, Router::new()).await;
    timeout(IN_TIME, server.failed()).await.expect("the process is told");
    assert!(!server.accepting.is_finished(), "it is the watchdog that failed");
}
