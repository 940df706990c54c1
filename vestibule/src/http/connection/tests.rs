use super::*;

fn rules(is_short: bool) -> ConnectionRules {
    let exchange = ExchangeRules { now: Instant::now(), response_timeout: Duration::from_secs(60), is_short };
    ConnectionRules { limits: ConnectionsConfig::default(), exchange, is_short, authority: None }
}

fn taken(connection: &WatchedConnection) -> Option<Order> {
    connection.lock().order.take()
}

fn order(connection: &WatchedConnection, is_short: bool) -> Option<(Order, EndReason)> {
    connection.judge(&rules(is_short));
    let order = taken(connection)?;
    Some((order, connection.end_reason()))
}

#[tokio::test(start_paused = true)]
async fn a_handshake_and_the_first_head_have_limits_which_are_short_while_places_are() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    assert_eq!(order(&connection, true), None);
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(order(&connection, false), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::HandshakeTimeout)));

    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(order(&connection, false), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::HeadTimeout)));

    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(order(&connection, true), Some((Order::Cut, EndReason::Shortage)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_to_end_and_then_cut() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    let exchange = connection.begin(Version::HTTP_11);
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!(order(&connection, true), None, "it is not idle while there is a request");
    connection.finish(&exchange);
    tokio::time::advance(Duration::from_secs(74)).await;
    assert_eq!(order(&connection, false), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(order(&connection, false), Some((Order::Close, EndReason::Idle)));
    assert_eq!(order(&connection, false), None, "it is asked once");
    tokio::time::advance(CLOSING_GRACE).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::Idle)));
}

#[tokio::test(start_paused = true)]
async fn at_its_maximum_age_a_connection_is_asked_to_end_and_a_long_response_goes_on() {
    for (version, is_said) in [(Version::HTTP_11, true), (Version::HTTP_2, false)] {
        let connection = WatchedConnection::new(&ConnectionsConfig::default());
        connection.speaks_http(None);
        let long = connection.begin(version);
        assert!(!connection.ends_with_response());
        long.responds(true);
        long.asked_for_more();
        tokio::time::advance(Duration::from_secs(70 * 60)).await;
        let expected = if is_said { None } else { Some((Order::Close, EndReason::MaxAge)) };
        assert_eq!(order(&connection, false), expected, "HTTP/1 says it in its next response");
        connection.begin(version);
        assert_eq!(connection.ends_with_response(), is_said, "{version:?}");
        assert_eq!((taken(&connection), connection.end_reason()), (None, EndReason::MaxAge));
        tokio::time::advance(Duration::from_secs(60 * 60)).await;
        assert_eq!(order(&connection, false), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_replaced_authorities_ends_with_its_next_response_or_in_time() {
    let authority: Arc<dyn Any + Send + Sync> = Arc::new("an authority");
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(Some(Arc::downgrade(&authority)));
    let exchange = connection.begin(Version::HTTP_11);
    exchange.responds(true);
    let mut rules = rules(false);
    rules.authority = Some(Arc::downgrade(&authority));
    connection.judge(&rules);
    connection.begin(Version::HTTP_11);
    assert!(!connection.ends_with_response());
    let other: Arc<dyn Any + Send + Sync> = Arc::new("another");
    rules.authority = Some(Arc::downgrade(&other));
    connection.judge(&rules);
    assert!(connection.ends_with_response(), "also the one of a request that came before");
    tokio::time::advance(Duration::from_secs(60)).await;
    rules.exchange.now = Instant::now();
    connection.judge(&rules);
    assert_eq!((taken(&connection), connection.end_reason()), (Some(Order::Cut), EndReason::AuthorityChanged));
}

#[tokio::test(start_paused = true)]
async fn a_101_on_http_2_is_a_response_like_others() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    let exchange = connection.begin(Version::HTTP_2);
    connection.upgraded();
    exchange.responds(false);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::ResponseTimeout)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_among_others_loses_its_stream_and_the_connection_only_if_the_stream_stays() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    let [slow, other] = [(); 2].map(|()| connection.begin(Version::HTTP_2));
    slow.responds(false);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(order(&connection, false), None);
    assert_eq!((slow.cut_for(), other.cut_for()), (Some(EndReason::Stalled), None));
    // A piece that is dropped now is no progress.
    slow.went_out();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::Stalled)));

    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    connection.begin(Version::HTTP_2).responds(false);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::Stalled)), "it serves nobody else");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_while_an_idle_connection_is_asked_to_end_is_finished() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    let exchange = connection.begin(Version::HTTP_2);
    connection.finish(&exchange);
    tokio::time::advance(Duration::from_secs(75)).await;
    assert_eq!(order(&connection, false), Some((Order::Close, EndReason::Idle)));
    let exchange = connection.begin(Version::HTTP_2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(order(&connection, false), None, "its request is under way");
    connection.finish(&exchange);
    assert_eq!(order(&connection, false), None, "its response may be on the way");
    tokio::time::advance(CLOSING_GRACE).await;
    assert_eq!(order(&connection, false), Some((Order::Cut, EndReason::Idle)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_after_it_was_asked_to_end_is_cut_at_its_next_request() {
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    connection.speaks_http(None);
    let long = connection.begin(Version::HTTP_2);
    long.responds(true);
    long.asked_for_more();
    tokio::time::advance(Duration::from_secs(70 * 60)).await;
    assert_eq!(order(&connection, false), Some((Order::Close, EndReason::MaxAge)));
    let exchange = connection.begin(Version::HTTP_2);
    connection.finish(&exchange);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(order(&connection, false), None, "a long-lived response goes on");
    connection.begin(Version::HTTP_2);
    assert_eq!((taken(&connection), connection.end_reason()), (Some(Order::Cut), EndReason::MaxAge));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_certificate_ends_when_clients_need_one() {
    let authority: Arc<dyn Any + Send + Sync> = Arc::new("an authority");
    let connection = WatchedConnection::new(&ConnectionsConfig::default());
    let mut rules = rules(false);
    rules.authority = Some(Arc::downgrade(&authority));
    connection.judge(&rules);
    connection.speaks_http(Some(Arc::downgrade(&authority)));
    connection.judge(&rules);
    assert_eq!(taken(&connection), None, "during a handshake, its certificate is not known");

    let plain = WatchedConnection::new(&ConnectionsConfig::default());
    plain.speaks_http(None);
    plain.begin(Version::HTTP_2);
    plain.judge(&rules);
    assert_eq!((taken(&plain), plain.end_reason()), (Some(Order::Close), EndReason::AuthorityChanged));
}

#[tokio::test]
async fn an_order_is_not_lost_whoever_comes_first() {
    let connection = Arc::new(WatchedConnection::new(&ConnectionsConfig::default()));
    connection.cut(EndReason::Stopping);
    assert_eq!(connection.next_order().await, Order::Cut);
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { connection.next_order().await }
    });
    tokio::task::yield_now().await;
    connection.close(EndReason::Idle);
    assert_eq!(waiting.await.unwrap(), Order::Close);
    assert_eq!(connection.end_reason(), EndReason::Stopping, "the first reason counts");
}
