//! Tests of the retry policy.

use super::*;

#[tokio::test]
async fn only_idempotent_requests_are_tried_again_after_a_transient_status() {
    let (remote, url) = remote_api().await;
    let client = ReloadingProcess::start(at(&url)).await.client();
    for (call, status, calls) in [
        (request("GET", "/"), 503, 2),
        (request("PUT", "/"), 429, 2),
        (idempotent_post(), 502, 2),
        (request("POST", "/"), 503, 1),
        (request("PATCH", "/"), 429, 1),
        (request("GET", "/"), 500, 1),
        (request("GET", "/"), 404, 1),
    ] {
        let before = remote.calls();
        let what = format!("{} {status}", call.method());
        remote.respond_with([StatusCode::from_u16(status).unwrap()]);
        let answer = client.send(call).await.unwrap();
        assert_eq!(remote.calls() - before, calls, "{what}");
        assert_eq!(answer.status().as_u16(), if calls == 2 { 200 } else { status }, "{what}");
    }
}

#[tokio::test]
async fn the_last_response_is_returned_after_all_attempts() {
    let (remote, url) = remote_api().await;
    let client = ReloadingProcess::start(Settings { attempts: NonZeroU32::new(4), ..at(&url) }).await.client();
    remote.respond_with([StatusCode::SERVICE_UNAVAILABLE; 9]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(remote.calls(), 4);
}

#[tokio::test]
async fn retry_after_is_obeyed_unless_it_is_past_the_deadline() {
    let (remote, url) = remote_api().await;
    let client = ReloadingProcess::start(Settings { timeout_ms: Some(30_000), ..at(&url) }).await.client();
    let busy = |seconds: &'static str| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds)]);
    remote.respond_with([busy("1")]);
    let start = Instant::now();
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    for seconds in ["60", "4294967295"] {
        remote.respond_with([busy(seconds)]);
        let start = Instant::now();
        assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    remote.respond_with([busy("90")]);
    let not_delivered = client.deliver(request("GET", "/")).await.unwrap_err();
    assert_eq!((not_delivered.pause(1), not_delivered.permanent), (Duration::from_secs(90), false));
}

#[tokio::test]
async fn a_request_that_was_not_sent_is_always_tried_again() {
    // It has the port, and refuses connections until it listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let settings = Settings { attempts: NonZeroU32::new(100), ..at(&format!("http://{address}/?")) };
    assert!(settings.url.is_none(), "not even an empty query");
    let settings = Settings { url: BaseUrl::parse(&format!("http://{address}")), ..settings };
    let client = ReloadingProcess::start(settings.clone()).await.client();
    let calling = tokio::spawn(async move { client.send(request("POST", "/")).await });
    // Time for some attempts that fail. Without any, the call would succeed all the same.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let listener = socket.listen(16).unwrap();
    let router = Router::new().fallback(async || "here");
    tokio::spawn(axum::serve(listener, router).into_future());
    assert_eq!(calling.await.unwrap().unwrap().body(), "here");
}

#[tokio::test]
async fn only_idempotent_requests_are_tried_again_after_a_broken_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(Mutex::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let read = connection.read(&mut [0; 1024]).await.expect("a request comes");
            *count.lock().unwrap() += usize::from(read > 0);
        }
    });
    let client = ReloadingProcess::start(at(&url)).await.client();
    for (call, calls) in [(request("POST", "/"), 1), (request("PUT", "/"), 3), (idempotent_post(), 3)] {
        let what = format!("{call:?}");
        let error = client.send(call).await.unwrap_err();
        assert!(matches!(error, CallError::ConnectionBroken { .. }), "{what}: {error:?}");
        assert_eq!(std::mem::take(&mut *taken.lock().unwrap()), calls, "{what}");
    }
}
