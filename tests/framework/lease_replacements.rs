//! Users of the database that come and go: no request fails, and none is left behind.

use crate::support::{
    configuration_folder::ConfigurationFolder,
    leased::{Leased, stop, user_of},
    load::Load,
};
use devstack::{RunningService, eventually};
use std::{collections::BTreeSet, env};

/// Returns the number of replacements that a test waits for: that of a variable, for a longer run by hand, or this one.
#[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
fn replacements(variable: &str, default: usize) -> usize {
    match env::var(variable) {
        Ok(text) => text.parse().expect("a number of replacements"),
        Err(_) => default,
    }
}

// A replacement takes 7 s. LEASES_UNDER_LOAD=18 makes it two minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_replaced_before_its_lease_ends_and_no_request_fails() {
    let leased = Leased::new("lease_load", "10s", "10s").await;
    let running = leased.start().await;
    let load = Load::on(&running, 16);
    let mut users = BTreeSet::from([user_of(&running).await]);
    for _ in 0..replacements("LEASES_UNDER_LOAD", 3) {
        eventually("the next user", async || users.insert(user_of(&running).await)).await;
    }
    let answers = load.stop().await;
    println!("{} users, {} answers", users.len(), answers.served);
    assert_eq!(answers.failed, Vec::<String>::new());
    assert!(answers.served > 200, "{} requests are not many", answers.served);
    let status = running.status().await;
    assert_eq!(status["last_reload"]["trigger"], "lease", "{status}");
    stop(running).await;
    leased.wait_for_users(0).await;
}

// LEASES_IN_A_ROW=500 takes minutes.
#[tokio::test]
async fn many_replacements_leave_one_user_and_a_stop_leaves_none() {
    let leased = Leased::new("lease_many", "1h", "1h").await;
    let folder = ConfigurationFolder::new();
    let launch = folder.launch(&leased.tenant).env("APP_SECRETS__IDS__DATABASE", &leased.id);
    let mut running = RunningService::start(launch, &leased.tenant).await;
    let mut user = user_of(&running).await;
    for number in 1..=replacements("LEASES_IN_A_ROW", 20) {
        // Nothing ends the user but the service, which gives it back.
        folder.write(&format!("[secrets]\nrevoked = [\"{user}\"]\n"));
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "published", "{reload}");
        let next = user_of(&running).await;
        assert_ne!(next, user);
        user = next;
        // A user that was replaced has its idle connections for up to a second.
        if number % 10 == 0 {
            leased.wait_for_users(1).await;
            assert_eq!(leased.users().await, [user.as_str()], "after {number} replacements");
        }
    }
    stop(running).await;
    leased.wait_for_users(0).await;
}
