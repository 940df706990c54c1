//! Tests of keys that the other side rejects.

use super::*;

#[tokio::test]
async fn a_401_brings_the_new_key_and_the_call_is_made_again() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let client = process.client();
    client.send(request("GET", "/")).await.unwrap();
    process.manager.rotate(KEY_ID, "key-two");
    remote.reject("key-one");
    // Also a plain POST: the other side has done nothing for a request that it rejected.
    let calls = (0..5).map(|_| client.send(request("POST", "/")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(process.reloads(), 1);
}

#[tokio::test]
async fn a_401_adds_one_attempt_and_no_more() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(Settings { attempts: NonZeroU32::new(3), ..at(&url) }).await;
    process.manager.rotate(KEY_ID, "key-two");
    remote.respond_with([503, 503, 401, 503, 503, 503].map(|status| StatusCode::from_u16(status).unwrap()));
    assert_eq!(process.client().send(request("GET", "/")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((remote.calls(), process.reloads()), (4, 1));
}

#[tokio::test]
async fn a_rejected_key_costs_one_reload_and_later_401s_are_returned_at_once() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(Settings { timeout_ms: Some(60_000), ..at(&url) }).await;
    let client = process.client();
    remote.reject("key-one");
    let calls = (0..5).map(|_| client.send(request("GET", "/")));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let start = Instant::now();
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!((process.reloads(), remote.calls()), (1, 6), "none was made again with the same key");
    // If another version is rejected, too, that requests another reload.
    process.manager.rotate(KEY_ID, "key-one");
    process.reload(process.config.clone()).await;
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(process.reloads(), 2);
}

#[tokio::test]
async fn a_rejection_of_long_ago_is_shown_until_the_key_is_replaced() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let client = process.client();
    assert!(!Resource::is_rejected(&client));
    remote.reject("key-one");
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60 * 60)).await;
    tokio::time::resume();
    assert_eq!(Resource::rejection(&client), None, "a reload looks for no other version");
    assert!(Resource::is_rejected(&client));
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    assert!(!Resource::is_rejected(&process.client()));
}

#[tokio::test]
async fn a_rejected_version_that_comes_back_counts_as_rejected_only_once_it_was_sent_again() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let in_use = || process.live.borrow().credentials.named("remote").unwrap().in_use().clone();
    let first = in_use();
    remote.reject("key-one");
    assert_eq!(process.client().send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(Resource::is_rejected(&process.client()));
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    process.manager.move_label(KEY_ID, Stage::Current, &first);
    process.reload(process.config.clone()).await;
    assert_eq!(in_use(), first);
    let client = process.client();
    assert!(!Resource::is_rejected(&client), "nobody has sent it since");
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(Resource::is_rejected(&client));
}

#[tokio::test]
async fn an_answer_to_a_version_that_was_replaced_meanwhile_says_nothing() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let before = process.client();
    let key = before.0.key.as_ref().expect("it has a key");
    let sent = key.current();
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    remote.reject("key-two");
    let client = process.client();
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(key.answered(&sent, StatusCode::UNAUTHORIZED), "it is made again with the version in service");
    assert!(Resource::is_rejected(&client) && !Resource::is_rejected(&before));
}

#[tokio::test]
async fn a_401_is_returned_in_time_if_no_reload_ends() {
    let (remote, url) = remote_api().await;
    let manager = MemoryManager::with([(KEY_ID, "key-one")]);
    let loader = Loader::<CallingService>::new(manager);
    let settings = Settings { timeout_ms: Some(6000), ..at(&url) };
    let config = Arc::new(Config { service: settings, ..Config::default() });
    let first = loader.first_load(config, Instant::now() + Duration::from_secs(5)).await.unwrap();
    let client = first.service.0.clone();
    remote.reject("key-one");
    let time_of_call = async || {
        let start = Instant::now();
        assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
        start.elapsed()
    };
    assert!(time_of_call().await < Duration::from_millis(2500), "a client that is not in service does not wait");
    first.resources.publish();
    let waited = time_of_call().await;
    assert!((Duration::from_millis(2500)..Duration::from_millis(6000)).contains(&waited), "{waited:?}");
    loader.reload_requests.close();
    assert!(time_of_call().await < Duration::from_millis(2500), "a call does not wait for an actor that has gone");
}
