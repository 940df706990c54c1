//! Leases, and the tokens that they end with.

use super::*;

#[tokio::test]
async fn a_lost_token_is_noticed_although_it_may_not_ask_about_itself() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), ..FakeServer::default() });
    let vault = server.start().await;
    let lease = lease_of(&vault).await;
    assert!(matches!(lease.renew().await, Ok(Renewal::For(_))), "a token that may not renew itself is not lost");
    pass(10).await;
    assert!(matches!(lease.renew().await, Ok(Renewal::For(_))));
    assert_eq!(server.logins.load(Ordering::SeqCst), 1);
    server.is_first_lost.store(true, Ordering::SeqCst);
    assert!(matches!(lease.renew().await, Ok(Renewal::Ended)));
    assert_eq!(server.logins.load(Ordering::SeqCst), 2, "another token asks for the lease");
    vault.close().await;
    assert_eq!(server.revoked.load(Ordering::SeqCst), 1, "the other token: this one has ended");
}

#[tokio::test]
async fn a_lost_token_that_may_ask_about_itself_is_noticed_without_another_login() {
    for (has_default_policy, is_renewing_tokens) in [(true, false), (false, true)] {
        let answered = AtomicUsize::new(1);
        let server = FakeServer { answered, has_default_policy, is_renewing_tokens, ..FakeServer::default() };
        let server = Arc::new(server);
        let vault = server.start().await;
        let lease = lease_of(&vault).await;
        assert!(matches!(lease.renew().await, Ok(Renewal::For(_))));
        server.is_first_lost.store(true, Ordering::SeqCst);
        assert!(matches!(lease.renew().await, Ok(Renewal::Ended)));
        assert_eq!(server.logins.load(Ordering::SeqCst), 1);
        vault.close().await;
        assert_eq!(server.revoked.load(Ordering::SeqCst), 0, "it has ended");
    }
}

#[tokio::test]
async fn a_login_for_a_renewal_for_which_nobody_waits_any_more_is_given_back_at_the_end() {
    let gate = Notify::new();
    // For the first login.
    gate.notify_one();
    let (answered, gate) = (AtomicUsize::new(2), Some(gate));
    let server = Arc::new(FakeServer { answered, gate, is_denying_renewals: true, ..FakeServer::default() });
    let vault = server.start().await;
    let lease = lease_of(&vault).await;
    server.has_login.notified().await;
    tokio::select! {
        _ = lease.renew() => panic!("the login is not answered"),
        () = server.has_login.notified() => (),
    }
    server.gate.as_ref().unwrap().notify_one();
    vault.close().await;
    assert_eq!(server.revoked.load(Ordering::SeqCst), 2, "both tokens");
}

#[tokio::test]
async fn a_policy_that_denies_renewals_loses_no_token_and_causes_one_login() {
    let server =
        Arc::new(FakeServer { answered: AtomicUsize::new(9), is_denying_renewals: true, ..FakeServer::default() });
    let vault = server.start().await;
    let lease = lease_of(&vault).await;
    for seconds in [0, 10, 60, 600] {
        pass(seconds).await;
        assert!(matches!(lease.renew().await, Err(SourceError::Denied(_))));
        assert_eq!(server.logins.load(Ordering::SeqCst), 2, "after {seconds} s more");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_forward_keeps_no_token_and_no_lease_from_being_given_back() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), ..FakeServer::default() });
    let vault = server.start().await;
    fetch(&vault).await.map(drop).unwrap();
    let VaultInner { sessions, .. } = &*vault.inner;
    let session = sessions.current(SessionUse::Read, None, Instant::now() + ATTEMPT).await.unwrap();
    let hour = Duration::from_secs(3600);
    session.lasts_until(Moment::now().plus(hour).before_a_jump(time::Duration::hours(2)));
    assert!(session.has_ended(), "by the wall clock");
    let lease = VaultLease::new("id".into(), hour, session, sessions.clone());
    lease.give_back().await;
    assert_eq!(server.revoked.load(Ordering::SeqCst), 1, "the lease");
    vault.close().await;
    assert_eq!(server.revoked.load(Ordering::SeqCst), 2, "the token");
}

#[tokio::test]
async fn a_lease_that_cannot_be_given_back_does_not_keep_its_token() {
    for of_leases in [LeaseAnswer::Denied, LeaseAnswer::Silence] {
        let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), of_leases, ..FakeServer::default() });
        let vault = server.start().await;
        fetch(&vault).await.map(drop).unwrap();
        let VaultInner { sessions, leases, .. } = &*vault.inner;
        let session = sessions.current(SessionUse::Read, None, Instant::now() + ATTEMPT).await.unwrap();
        let hour = Duration::from_secs(3600);
        let lease = Arc::new(VaultLease::new("id".into(), hour, session, sessions.clone()));
        leases.lock().unwrap().push(Arc::downgrade(&lease));
        // Three tries with their pauses take longer. A stop waits for 2 s.
        timeout(Duration::from_secs(5), vault.close()).await.expect("it waits for no lease");
        assert_eq!(server.revoked.load(Ordering::SeqCst), 1, "the token");
    }
}

#[tokio::test]
async fn a_lease_is_given_back_once_its_database_is_there_again() {
    let is_database_away = AtomicBool::new(true);
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), is_database_away, ..FakeServer::default() });
    let vault = server.start().await;
    let lease = lease_of(&vault).await;
    let database = async {
        for (pause, is_away) in [(1, true), (5, true), (30, true), (120, false)] {
            server.has_lease.notified().await;
            // Free as soon as the pause begins.
            drop(lease.is_given_back.lock().await);
            server.is_database_away.store(is_away, Ordering::SeqCst);
            pass(pause).await;
        }
        pending::<()>().await;
    };
    tokio::select! {
        () = lease.give_back() => (),
        () = database => (),
    }
    assert_eq!(server.revoked.load(Ordering::SeqCst), 1);
}
