//! Logins with a lease: OpenBao makes a user in PostgreSQL for each process, and ends it.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        launch_options::LaunchOptions,
        leased::{Leased, stop, use_next_user, user_of},
        reload_status::assert_kept,
    },
};
use devstack::{DEFAULT_TIMEOUT, OpenBaoServer, RunningService, Signal, Stack, eventually, reqwest::StatusCode};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[tokio::test]
async fn a_lease_is_renewed_as_long_as_it_can_be_and_a_reload_makes_no_other_user() {
    let leased = Leased::new("lease_renewed", "9s", "1h").await;
    let mut running = leased.start().await;
    let user = user_of(&running).await;
    let first_end = running.credential("database").await["lease"]["end"].clone();
    eventually("three renewals", async || {
        let renewals = running.metric("vestibule_lease_renewals_total{name=\"database\",outcome=\"renewed\"}").await;
        if renewals >= 3.0 { Ok(()) } else { Err(renewals) }
    })
    .await;
    assert_ne!(running.credential("database").await["lease"]["end"], first_end);
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(user_of(&running).await, user);
    assert_eq!(leased.users().await, [user]);
}

#[tokio::test]
async fn a_lease_that_somebody_revokes_is_replaced_by_the_next_reload() {
    let leased = Leased::new("lease_revoked", "1h", "1h").await;
    let mut running = leased.start().await;
    let first = user_of(&running).await;
    leased.revoke_all().await;
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published", "{reload}");
    assert_ne!(user_of(&running).await, first);
    running.create_note("with the next user").await;
}

#[tokio::test]
async fn a_user_that_is_gone_is_replaced_although_nobody_asks_for_a_reload() {
    let leased = Leased::new("lease_user_gone", "1h", "1h").await;
    let running = leased.start().await;
    let first = user_of(&running).await;
    leased.revoke_all().await;
    use_next_user(&running, &first).await;
}

#[tokio::test]
async fn a_login_that_was_replaced_is_given_back_while_the_service_runs() {
    let leased = Leased::new("lease_back", "1h", "1h").await;
    let running = leased.start().await;
    let first = user_of(&running).await;
    reject(&leased, &first).await;
    use_next_user(&running, &first).await;
    leased.wait_for_users(1).await;
    assert_eq!(leased.users().await, [user_of(&running).await]);
}

/// Has the database reject a user.
async fn reject(leased: &Leased, user: &str) {
    let mut admin = leased.tenant.admin().await.expect("a connection");
    let statement = format!("ALTER ROLE \"{user}\" NOLOGIN");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.expect("the role changes");
    leased.tenant.kill_connections(user).await.expect("its sessions end");
}

#[tokio::test]
async fn a_token_that_is_lost_costs_one_reload_for_all_of_its_leases() {
    lose_the_token(&Leased::new("lease_token", "1h", "1h").await).await;

    // A token without the policy `default` may not ask about itself.
    let leased = Leased::new("lease_token_alone", "1h", "1h").await;
    let (api, role) = (leased.server.api(), format!("auth/jwt/role/{}", leased.tenant.name()));
    let mut alone = api.get(&role).await.unwrap()["data"].take();
    alone["token_no_default_policy"] = true.into();
    api.post(&role, alone).await.unwrap();
    leased.allow(&[("sys/leases/renew", "update"), ("auth/token/revoke-self", "update")]).await;
    lose_the_token(&leased).await;
}

async fn lose_the_token(leased: &Leased) {
    let mut running = leased.start().await;
    let first = user_of(&running).await;
    leased.revoke_tokens().await;
    assert_eq!(running.reload().await["outcome"], "published");
    let second = user_of(&running).await;
    assert_ne!(second, first);
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(leased.users().await, [second]);
}

#[tokio::test]
async fn an_audit_tells_which_replica_still_has_a_user_from_before_all_were_revoked() {
    let leased = Leased::new("lease_audit", "1h", "1h").await;
    let [mut one, mut other] = [leased.start().await, leased.start().await];
    let (urls, users) = ([one.at.admin.clone(), other.at.admin.clone()], [user_of(&one).await, user_of(&other).await]);
    let launch = |options: &[&str]| leased.launch().args([&["audit", &urls[0], &urls[1]], options].concat());
    let clean = launch(&[]).run();
    assert_eq!(clean.code, Some(0), "{}{}", clean.stdout, clean.stderr);
    for (url, user) in urls.iter().zip(&users) {
        let row = clean.stdout.lines().find(|row| row.contains(url) && row.contains(" database ")).expect("a row");
        let row: Vec<_> = row.split_whitespace().collect();
        assert_eq!((&row[2..5], row[7]), (&[user.as_str(), "current", "own"][..], "current"), "{}", clean.stdout);
    }
    let revoked = launch(&[]).env("APP_SECRETS__REVOKED", &users[1]).run();
    assert_eq!(revoked.code, Some(69), "{}", revoked.stdout);
    assert!(revoked.stderr.contains(&format!("revoked: http://{} (database)", urls[1])), "{}", revoked.stderr);

    leased.revoke_all().await;
    let since = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    let since = ["--since", &since];
    one.reload().await;
    let half = launch(&since).run();
    assert_eq!(half.code, Some(69), "{}", half.stdout);
    let reason = format!("loaded before --since: http://{} (database)", urls[1]);
    assert!(half.stderr.contains(&reason) && half.stderr.contains("1 fault"), "{}", half.stderr);
    other.reload().await;
    let all = launch(&since).run();
    assert_eq!(all.code, Some(0), "{}{}", all.stdout, all.stderr);
}

#[tokio::test]
async fn an_audit_with_a_time_that_cannot_be_or_nothing_to_compare_is_no_success() {
    let tenant = SERVICE.migrated("lease_audit_none").await;
    let replica = SERVICE.start(&tenant).await;
    let audit = |since: &str| SERVICE.launch(&tenant).args(["audit", &replica.at.admin, "--since", since]).run();
    for (since, code, text) in [
        ("yesterday", 64, "such as 2026-11-29T03:04:05Z"),
        ("9999-01-01T00:00:00Z", 64, "in the future"),
        ("2026-01-01T00:00:00Z", 69, "no replica has one"),
    ] {
        let audited = audit(since);
        assert_eq!(audited.code, Some(code), "{}{}", audited.stdout, audited.stderr);
        assert!(audited.stderr.contains(text), "{}", audited.stderr);
    }
}

#[tokio::test]
async fn nothing_shows_the_id_of_a_lease_or_the_password_of_its_user() {
    let leased = Leased::new("lease_id", "1h", "1h").await;
    let (api, name, password) = (leased.server.api(), leased.tenant.name(), "Q".repeat(32));
    let policy = json!({ "policy": "length = 32\nrule \"charset\" { charset = \"Q\" }" });
    api.post(&format!("sys/policies/password/{name}"), policy).await.unwrap();
    api.post(&format!("database/config/{name}"), json!({ "password_policy": name })).await.unwrap();
    leased.tenant.remember("lease", &password);
    let mut running = leased.start().await;
    let leases = leased.server.api().get(&format!("sys/leases/lookup/{}?list=true", leased.id)).await.unwrap();
    let leases = leases["data"]["keys"].as_array().expect("a list");
    assert_eq!(leases.len(), 1, "{leases:?}");
    let user = user_of(&running).await;
    leased.tenant.connect(&user, &password).await.expect("the password is the one that is looked for");
    let id = leases[0].as_str().expect("an id");
    // Looked for in the output of the process too.
    leased.tenant.remember("lease", id);
    assert_eq!(running.reload().await["outcome"], "unchanged");
    for path in ["/", "/status", "/metrics"] {
        let (code, _, text) = running.page(path).await;
        assert_eq!(code, StatusCode::OK);
        assert!(text.contains("database"), "{path}: {text}");
        leased.tenant.assert_secret_free(path, &text);
    }
    stop(running).await;
}

#[tokio::test]
async fn no_user_is_made_for_a_start_that_another_credential_ends() {
    let leased = Leased::new("lease_last", "1h", "1h").await;
    leased.tenant.put("signing", "\"not a key\"").await.unwrap();
    // A read of the login would wait for the deadline.
    leased.server.set_lease_role(&leased.tenant, "1h", "1h", "NO_SUCH_WORD").await.unwrap();
    let exited = leased.launch().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(65), "{}", exited.stderr);
    assert!(!exited.stderr.contains("credential `database`"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_user_that_was_made_for_a_failed_reload_is_used_by_the_next_one() {
    let leased = Leased::new("lease_candidate", "1h", "1h").await;
    let mut running = leased.start().await;
    leased.server.set_lease_role(&leased.tenant, "1h", "1h", "NOLOGIN").await.unwrap();
    leased.revoke_all().await;
    assert_kept(&running.reload().await, 77);
    let made = leased.users().await;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_kept(&running.reload().await, 77);
    assert_eq!(leased.users().await, made);

    let admit = format!("ALTER ROLE \"{}\" LOGIN", made[0]);
    let mut admin = leased.tenant.admin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(admit)).execute(&mut admin).await.unwrap();
    eventually("the retry", async || user_of(&running).await == made[0]).await;
    running.create_note("with the user of the failed reload").await;
}

#[tokio::test]
async fn every_way_out_gives_its_user_back() {
    let leased = Leased::new("lease_gives_back", "1h", "1h").await;
    let exited = leased.launch().args(["check", "--live"]).run();
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    leased.wait_for_users(0).await;
    // Another process has the port, so this start fails after it has loaded everything.
    let running = leased.start().await;
    let second = leased.launch().with_short_deadline().env("APP_SERVER__LISTEN", &running.at.public);
    let exited = second.start().exited(DEFAULT_TIMEOUT).await;
    assert_ne!(exited.code, Some(0));
    leased.wait_for_users(1).await;
    stop(running).await;
    leased.wait_for_users(0).await;
}

#[tokio::test]
async fn a_service_with_the_token_of_an_agent_gives_its_user_back_and_not_the_token() {
    let leased = Leased::new("lease_agent", "1h", "1h").await;
    let (launch, token) = leased.with_token_of_agent(leased.launch()).await;
    let running = RunningService::start(launch, &leased.tenant).await;
    running.create_note("with the agent's token").await;
    leased.wait_for_users(1).await;
    stop(running).await;
    leased.wait_for_users(0).await;
    leased.server.api().with_token(token).get("auth/token/lookup-self").await.expect("the token lives on");
}

#[tokio::test]
async fn a_manager_that_is_away_for_longer_than_a_lease_costs_503_and_heals_by_itself() {
    let server = Stack::shared().await.openbao(&|_| ()).await.expect("an OpenBao");
    let server: &'static OpenBaoServer = Box::leak(Box::new(server));
    let tenant = SERVICE.migrated_at_openbao("lease_away").await;
    let access = server.admit(tenant.name(), &format!("{}/", tenant.name())).await.unwrap();
    let shared = OpenBaoServer::shared().await.api();
    let (key, _) = shared.secret(&tenant.id("signing")).await.unwrap().expect("a secret");
    server.api().post(&tenant.id("signing"), json!({ "data": key })).await.unwrap();
    let tenant = tenant.at_openbao(access);
    let id = server.lease_logins(&tenant, "6s", "6s").await.unwrap();
    let leased = Leased { tenant, id, server };
    let running = leased.start().await;
    leased.server.signal(Signal::STOP);
    eventually("an answer that says that there is no login", async || {
        let answer = running.get("/v1/notes").await;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE { Ok(()) } else { Err(answer.status()) }
    })
    .await;
    assert_eq!(running.admin("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    leased.server.signal(Signal::CONT);
    eventually("the next login", async || {
        let answer = running.get("/v1/notes").await;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status()) }
    })
    .await;
}
