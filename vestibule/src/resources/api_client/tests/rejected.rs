//! Keys that the other side refuses.

use super::*;

#[tokio::test]
async fn a_401_brings_the_new_key_and_the_call_is_made_again() {
    let (other, url) = other().await;
    let process = Process::start(at(&url)).await;
    let client = process.client();
    client.send(request("GET", "/")).await.unwrap();
    process.manager.put("v2", "key-two");
    *other.refuses.lock().unwrap() = Some("key-one");
    // A plain POST too: what was refused was not done.
    let calls = (0..5).map(|_| client.send(request("POST", "/")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(process.trips(), 1);
}

#[tokio::test]
async fn a_401_adds_one_attempt_and_no_more() {
    let (other, url) = other().await;
    let process = Process::start(Settings { attempts: NonZeroU32::new(3), ..at(&url) }).await;
    process.manager.put("v2", "key-two");
    other.answers([503, 503, 401, 503, 503, 503].map(|status| StatusCode::from_u16(status).unwrap()));
    assert_eq!(process.client().send(request("GET", "/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((other.calls(), process.trips()), (4, 1));
}

#[tokio::test]
async fn a_dead_key_costs_one_trip_and_its_401s_come_back_at_once() {
    let (other, url) = other().await;
    let process = Process::start(Settings { timeout_ms: Some(60_000), ..at(&url) }).await;
    let client = process.client();
    *other.refuses.lock().unwrap() = Some("key-one");
    let calls = (0..5).map(|_| client.send(request("GET", "/")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let start = Instant::now();
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!((process.trips(), other.calls()), (1, 6), "none was made again with the same key");
    // Another version of it may be refused too: that is news.
    process.manager.put("v2", "key-one");
    process.reload(process.config.clone()).await;
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(process.trips(), 2);
}

#[tokio::test]
async fn a_401_is_returned_in_time_when_no_trip_ends() {
    let (other, url) = other().await;
    let manager = Arc::new(Manager::default());
    manager.put("v1", "key-one");
    let loader = Loader::<Caller>::new(manager);
    let settings = Settings { timeout_ms: Some(6000), ..at(&url) };
    let config = Arc::new(Config { service: settings, ..Config::default() });
    let first = loader.first_load(config, Instant::now() + Duration::from_secs(5)).await.unwrap();
    let client = first.service.0.clone();
    *other.refuses.lock().unwrap() = Some("key-one");
    let timed = async || {
        let start = Instant::now();
        assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
        start.elapsed()
    };
    assert!(timed().await < Duration::from_millis(2500), "before it is in service nobody waits");
    first.resources.publish();
    let waited = timed().await;
    assert!((Duration::from_millis(2500)..Duration::from_millis(6000)).contains(&waited), "{waited:?}");
    loader.reload_requests.close();
    assert!(timed().await < Duration::from_millis(2500), "nobody waits for an actor that has gone");
}
