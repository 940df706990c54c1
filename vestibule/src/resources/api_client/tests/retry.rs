//! What is tried again, how often, and when.

use super::*;

#[tokio::test]
async fn what_does_no_harm_twice_is_tried_again() {
    let (other, url) = other().await;
    let client = Process::start(at(&url)).await.client();
    for (call, status, calls) in [
        (request("GET", "/"), 503, 2),
        (request("PUT", "/"), 429, 2),
        (idempotent_post(), 502, 2),
        (request("POST", "/"), 503, 1),
        (request("PATCH", "/"), 429, 1),
        (request("GET", "/"), 500, 1),
        (request("GET", "/"), 404, 1),
    ] {
        let before = other.calls();
        let what = format!("{} {status}", call.method());
        other.answers([StatusCode::from_u16(status).unwrap()]);
        let answer = client.send(call).await.unwrap();
        assert_eq!(other.calls() - before, calls, "{what}");
        assert_eq!(answer.status().as_u16(), if calls == 2 { 200 } else { status }, "{what}");
    }
}

#[tokio::test]
async fn attempts_end_and_the_last_answer_is_returned() {
    let (other, url) = other().await;
    let client = Process::start(Settings { attempts: NonZeroU32::new(4), ..at(&url) }).await.client();
    other.answers([StatusCode::SERVICE_UNAVAILABLE; 9]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(other.calls(), 4);
}

#[tokio::test]
async fn retry_after_is_kept_to_unless_it_is_past_the_deadline() {
    let (other, url) = other().await;
    let client = Process::start(Settings { timeout_ms: Some(30_000), ..at(&url) }).await.client();
    let busy = |seconds: &'static str| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds)]);
    other.answers([busy("1")]);
    let start = Instant::now();
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    for seconds in ["60", "4294967295"] {
        other.answers([busy(seconds)]);
        let start = Instant::now();
        assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    other.answers([busy("90")]);
    let not_delivered = client.deliver(request("GET", "/")).await.unwrap_err();
    assert_eq!((not_delivered.pause(1), not_delivered.permanent), (Duration::from_secs(90), false));
}

#[tokio::test]
async fn what_was_not_sent_is_tried_again_whatever_it_is() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let settings = Settings { attempts: NonZeroU32::new(100), ..at(&format!("http://{address}/?")) };
    assert!(settings.url.is_none(), "not even an empty query");
    let settings = Settings { url: BaseUrl::parse(&format!("http://{address}")), ..settings };
    let client = Process::start(settings.clone()).await.client();
    let calling = tokio::spawn(async move { client.send(request("POST", "/")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let router = Router::new().fallback(async || "here");
    tokio::spawn(axum::serve(listener, router).into_future());
    assert_eq!(calling.await.unwrap().unwrap().body(), "here");
}

#[tokio::test]
async fn a_connection_that_breaks_is_no_reason_to_do_harm_twice() {
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
    let client = Process::start(at(&url)).await.client();
    for (call, calls) in [(request("POST", "/"), 1), (request("PUT", "/"), 3), (idempotent_post(), 3)] {
        let what = format!("{call:?}");
        let error = client.send(call).await.unwrap_err();
        assert!(matches!(error, CallError::Broken { .. }), "{what}: {error:?}");
        assert_eq!(std::mem::take(&mut *taken.lock().unwrap()), calls, "{what}");
    }
}
