//! The command `audit`, which tells if a rotation is complete.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        launch_options::LaunchOptions,
        metrics_page::MetricsPage,
        reload_status::wait_until_drained,
        secrets::{current_version, scripted_manager},
        slow_request::SlowRequest,
        stand_in::StandIn,
        temporary_file::TemporaryFile,
    },
    webhook_setup::{launch_with_webhook, tenant_with_receiver, wait_for_outbox_rows},
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, ExitedProcess, FaultRule, RunningService, ScriptedAnswer, ScriptedFault, Tenant,
    TokenIssuer, Validity, free_port, reqwest::StatusCode,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Starts replicas of the service.
async fn start_replicas<'a, const N: usize>(tenant: &'a Tenant) -> [RunningService<'a>; N] {
    let mut replicas = Vec::new();
    for _ in 0..N {
        let launch = SERVICE.launch(tenant).env("APP_SERVER__REQUEST_TIMEOUT", "60s");
        replicas.push(RunningService::start(launch, tenant).await);
    }
    replicas.try_into().unwrap_or_else(|_| unreachable!("the loop has started N replicas"))
}

/// Runs `audit` with these arguments.
fn audit(tenant: &Tenant, arguments: &[&str]) -> ExitedProcess {
    SERVICE.launch(tenant).args([&["audit"], arguments].concat()).run()
}

/// Returns the cells in the row of a replica and a credential.
#[track_caller]
fn row<'a>(audit: &'a ExitedProcess, replica: &str, credential: &str) -> Vec<&'a str> {
    let url = format!("http://{replica}");
    let mut rows = audit.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = rows.find(|row| row.len() == 8 && row[0] == url && row[1] == credential);
    found.unwrap_or_else(|| panic!("{replica} has no {credential} in\n{}", audit.stdout))
}

fn last_line(audit: &ExitedProcess) -> &str {
    audit.stdout.trim_end().lines().last().unwrap_or_default()
}

#[tokio::test]
async fn an_audit_names_the_replicas_that_are_behind_until_none_is() {
    let tenant = SERVICE.migrated("audit").await;
    let [mut one, mut other] = start_replicas(&tenant).await;
    let urls = [format!("http://{}", one.at.admin), other.at.admin.clone()];
    let urls = urls.each_ref().map(String::as_str);
    let old = current_version(&tenant, "database").await;
    let clean = audit(&tenant, &urls);
    assert_eq!(clean.code, Some(0), "{}\n{}", clean.stdout, clean.stderr);
    let cells = row(&clean, &other.at.admin, "database");
    assert_eq!((cells[2..5].to_vec(), cells[6], cells[7]), (vec![old.as_str(), "current", &old], "-", "current"));
    let loaded = other.credential("database").await["loaded"].as_str().unwrap()[..19].to_owned();
    assert_eq!(cells[5], format!("{loaded}Z"));
    let now = other.status().await["now"].as_str().expect("the time of the answer")[..19].to_owned();
    assert!(now >= loaded, "{now}, {loaded}");
    let table: Vec<_> = clean.stdout.lines().take(5).collect();
    let columns = table.iter().map(|line| line.rfind("  ").unwrap());
    assert_eq!(columns.collect::<std::collections::BTreeSet<_>>().len(), 1, "not aligned:\n{}", clean.stdout);
    assert!(table[0].starts_with("REPLICA") && table[1].starts_with(&format!("http://{} ", one.at.admin)));
    assert!(
        last_line(&clean).starts_with("2 of 2 replicas hold the current version of every credential"),
        "{}",
        clean.stdout
    );

    let new = tenant.rotate("database").await.unwrap();
    one.reload().await;
    let half = audit(&tenant, &urls);
    assert_eq!(half.code, Some(69), "{}", half.stdout);
    assert_eq!(row(&half, &one.at.admin, "database")[7], "current");
    let behind = row(&half, &other.at.admin, "database");
    assert_eq!((behind[2], behind[4], behind[7]), (old.as_str(), new.as_str(), "behind"));
    assert_eq!(row(&half, &other.at.admin, "signing")[7], "current");
    let reason = format!("behind: http://{} (database)", other.at.admin);
    assert!(half.stderr.contains(&reason) && half.stderr.contains("reload --wait"), "{}", half.stderr);
    assert_eq!(
        last_line(&half),
        format!("1 of 2 replicas hold the current version of every credential, and nothing older; {reason}")
    );

    other.reload().await;
    assert_eq!(audit(&tenant, &urls).code, Some(0));
}

#[tokio::test]
async fn an_audit_reads_no_secret_value() {
    let tenant = SERVICE.migrated("audit_values").await;
    let manager = scripted_manager(&tenant).await;
    let [replica] = start_replicas(&tenant).await;
    // The answer to a caller without the permission secretsmanager:GetSecretValue.
    manager.script([FaultRule::all(ScriptedFault::Status(400, "AccessDeniedException")).of("GetSecretValue")]);
    let before = manager.requests(&tenant.id("database"));
    let audited = SERVICE.launch(&tenant).args(["audit", &replica.at.admin]).with_manager(&manager);
    assert_eq!(audited.run().code, Some(0));
    assert_eq!(manager.requests(&tenant.id("database")) - before, 1);
}

#[tokio::test]
async fn an_audit_fails_if_a_replica_is_unreachable() {
    let tenant = SERVICE.migrated("audit_silent").await;
    let [replica] = start_replicas(&tenant).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    for (address, reason) in [(&nobody, "refused"), (&replica.at.public, "it answers 404")] {
        let audited = audit(&tenant, &[address, &replica.at.admin]);
        assert_eq!(audited.code, Some(69), "{}", audited.stdout);
        assert_eq!(row(&audited, address, "-")[7], "unreachable");
        assert_eq!(row(&audited, &replica.at.admin, "database")[7], "current");
        assert!(audited.stderr.contains(&format!("unreachable: http://{address} (")), "{}", audited.stderr);
        assert!(audited.stderr.contains(reason), "{}", audited.stderr);
        assert!(audited.stderr.contains("1 fault while"), "the report names one cause once: {}", audited.stderr);
    }
}

#[tokio::test]
async fn an_audit_names_an_answer_that_is_too_long() {
    let tenant = SERVICE.migrated("audit_long").await;
    let endless = StandIn::start(async |mut connection: TcpStream| {
        let _ = connection.read(&mut [0; 4096]).await;
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while connection.write_all(&[b' '; 64 * 1024]).await.is_ok() {}
    })
    .await;
    let url = format!("http://127.0.0.1:{}", endless.port());
    let audit = SERVICE.launch(&tenant).args(["audit", &url]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(audit.code, Some(69), "{}", audit.stderr);
    assert!(audit.stderr.contains("its answer has more than 1048576 bytes"), "{}", audit.stderr);
}

#[tokio::test]
async fn an_audit_counts_instances_and_not_urls() {
    let tenant = SERVICE.migrated("audit_instances").await;
    let [one, other] = start_replicas(&tenant).await;
    let twice = audit(&tenant, &[&one.at.admin, &one.at.admin]);
    assert_eq!(twice.code, Some(69), "{}", twice.stdout);
    let same = format!("the same instance: http://{at}, http://{at}", at = one.at.admin);
    assert!(twice.stderr.contains(&same) && twice.stderr.contains("load balancer"), "{}", twice.stderr);
    assert!(last_line(&twice).contains(&same), "{}", twice.stdout);

    assert_eq!(audit(&tenant, &[&one.at.admin, &one.at.admin, "--expect", "1"]).code, Some(0));
    assert_eq!(audit(&tenant, &[&one.at.admin, &other.at.admin, &one.at.admin, "--expect", "2"]).code, Some(0));
    for (expect, arguments) in [("2", vec![&one.at.admin]), ("1", vec![&one.at.admin, &other.at.admin])] {
        let arguments: Vec<&str> = arguments.into_iter().map(String::as_str).chain(["--expect", expect]).collect();
        let other_number = audit(&tenant, &arguments);
        assert_eq!(other_number.code, Some(69), "{}", other_number.stdout);
        assert!(other_number.stderr.contains(&format!("but {expect} are expected")), "{}", other_number.stderr);
    }
}

#[tokio::test]
async fn an_audit_fails_while_an_older_generation_drains() {
    let tenant = SERVICE.migrated("audit_draining").await;
    let [mut replica] = start_replicas(&tenant).await;
    let slow = SlowRequest::start(&replica).await;
    tenant.rotate("database").await.unwrap();
    replica.reload().await;
    let draining = audit(&tenant, &[&replica.at.admin]);
    assert_eq!(draining.code, Some(69), "{}", draining.stdout);
    let database = row(&draining, &replica.at.admin, "database");
    assert_eq!((database[6], database[7]), ("1", "draining"));
    let reason = format!("draining: http://{} (generation 1: 1 request; versions held: `database` ", replica.at.admin);
    assert!(draining.stderr.contains(&reason), "{}", draining.stderr);

    assert_eq!(slow.finish().await, StatusCode::CREATED);
    wait_until_drained(&replica).await;
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
}

#[tokio::test]
async fn an_audit_fails_while_a_piece_of_work_uses_an_older_generation() {
    let (tenant, receiver) = tenant_with_receiver("audit_work").await;
    receiver.script([AnswerRule::all(ScriptedAnswer::BlackHole).times(1)]);
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVICE__WEBHOOK_TIMEOUT", "20s");
    let mut replica = RunningService::start(launch, &tenant).await;
    replica.create_note("its webhook hangs").await;
    wait_for_outbox_rows(&tenant, "claim IS NOT NULL", 1).await;
    tenant.rotate("database").await.unwrap();
    replica.reload().await;

    // The reload lets go of what it has replaced a moment after its report.
    let only_work = |status: &Value| {
        let draining = &status["draining"][0];
        draining["work"] == json!({ "webhook": 1 }) && draining["requests"] == 0 && draining["handles"] == 0
    };
    replica.wait_until("work alone in the old generation", only_work).await;
    let page = MetricsPage::of(&replica).await;
    assert_eq!(page.get("vestibule_draining_holders{generation=\"1\",holder=\"work\",name=\"webhook\"}"), 1.0);
    assert!(page.get("vestibule_oldest_generation_age_seconds") > 0.0);
    let audited = audit_with_webhook(&tenant, &replica);
    assert_eq!(audited.code, Some(69), "{}", audited.stdout);
    assert!(audited.stderr.contains("(generation 1: 1 piece of work of `webhook`"), "{}", audited.stderr);

    // The delivery ends by its timeout.
    wait_until_drained(&replica).await;
    assert_eq!(audit_with_webhook(&tenant, &replica).code, Some(0));
    assert_eq!(MetricsPage::of(&replica).await.get("vestibule_oldest_generation_age_seconds"), 0.0);
}

/// Runs `audit` for a replica with a webhook.
fn audit_with_webhook(tenant: &Tenant, replica: &RunningService<'_>) -> ExitedProcess {
    let launch = SERVICE.launch(tenant).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    launch.args(["audit", &replica.at.admin]).run()
}

#[tokio::test]
async fn a_version_that_is_only_pending_is_not_current() {
    let tenant = SERVICE.migrated("audit_pending").await;
    let [replica] = start_replicas(&tenant).await;
    let loaded = current_version(&tenant, "signing").await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    let label = tenant.client().update_secret_version_stage().secret_id(tenant.id("signing"));
    label.version_stage("AWSPENDING").move_to_version_id(&loaded).send().await.unwrap();
    let pending = audit(&tenant, &[&replica.at.admin]);
    assert_eq!(pending.code, Some(69), "{}", pending.stdout);
    assert_eq!(row(&pending, &replica.at.admin, "signing")[7], "pending");
    assert!(pending.stderr.contains("a rotation that has not ended"), "{}", pending.stderr);
}

#[tokio::test]
async fn an_audit_without_a_manager_has_the_exit_code_of_a_start() {
    let tenant = SERVICE.migrated("audit_manager").await;
    let manager = scripted_manager(&tenant).await;
    let [replica] = start_replicas(&tenant).await;
    let run_audit = || {
        let audit = SERVICE.launch(&tenant).args(["audit", &replica.at.admin]).with_manager(&manager);
        audit.with_short_deadline().run()
    };
    for (fault, code, text) in [
        (ScriptedFault::Status(400, "AccessDeniedException"), 77, "secretsmanager:DescribeSecret"),
        (ScriptedFault::Status(400, "ResourceNotFoundException"), 66, "no such secret"),
        (ScriptedFault::Status(500, "InternalServiceError"), 69, "unavailable"),
        (ScriptedFault::BlackHole, 75, "did not answer"),
    ] {
        manager.script([FaultRule::on(tenant.id("database"), fault)]);
        let audited = run_audit();
        assert_eq!(audited.code, Some(code), "{}", audited.stderr);
        assert!(audited.stderr.contains(text), "{}", audited.stderr);
        let database = row(&audited, &replica.at.admin, "database");
        assert_eq!((database[4], database[7]), ("?", "unknown"));
        assert_eq!(row(&audited, &replica.at.admin, "signing")[7], "current");
        assert!(last_line(&audited).contains(&tenant.id("database")), "{}", audited.stdout);
    }
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError")).times(2)]);
    assert_eq!(run_audit().code, Some(0), "it tries again");
    tenant.client().delete_secret().secret_id(tenant.id("signing")).send().await.unwrap();
    let scheduled = run_audit();
    assert_eq!(scheduled.code, Some(66), "{}", scheduled.stderr);
    assert!(scheduled.stderr.contains("deletion is scheduled"), "{}", scheduled.stderr);
}

#[tokio::test]
async fn an_audit_finds_a_replica_that_still_accepts_a_revoked_key() {
    let tenant = SERVICE.migrated("audit_revoked").await;
    let [mut replica] = start_replicas(&tenant).await;
    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(replica.reload().await["outcome"], "published");
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
    let revoked = SERVICE.launch(&tenant).args(["audit", &replica.at.admin]).env("APP_SECRETS__REVOKED", &leaked).run();
    assert_eq!(revoked.code, Some(69), "{}", revoked.stdout);
    assert_eq!(row(&revoked, &replica.at.admin, "signing").last(), Some(&"revoked"));
    assert_eq!(row(&revoked, &replica.at.admin, "database").last(), Some(&"current"));
    assert!(revoked.stderr.contains("secrets.revoked"), "{}", revoked.stderr);
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(replica.reload().await["outcome"], "published");
    let rotated = SERVICE.launch(&tenant).args(["audit", &replica.at.admin]).env("APP_SECRETS__REVOKED", &leaked).run();
    assert_eq!(rotated.code, Some(0), "{}", rotated.stdout);
}

#[tokio::test]
async fn an_audit_names_the_replicas_that_take_a_credential_from_another_secret() {
    let tenant = SERVICE.migrated("audit_ids").await;
    let [one] = start_replicas(&tenant).await;
    tenant.put("former", &devstack::random_key()).await.unwrap();
    let former = SERVICE.launch(&tenant).env("APP_SECRETS__IDS__SIGNING", tenant.id("former"));
    let other = RunningService::start(former, &tenant).await;
    let urls = [one.at.admin.as_str(), other.at.admin.as_str()];
    let mixed = audit(&tenant, &urls);
    assert_eq!(mixed.code, Some(69), "{}", mixed.stdout);
    assert_eq!(row(&mixed, &other.at.admin, "signing")[7], "current", "of its own secret");
    let each = [(tenant.id("former"), &other.at.admin), (tenant.id("signing"), &one.at.admin)];
    let [former, present] = each.map(|(id, at)| format!("{id} at http://{at}"));
    let reason = format!("different ids: signing ({former}; {present})");
    assert!(mixed.stderr.contains(&reason) && mixed.stderr.contains("[secrets.ids]"), "{}", mixed.stderr);
    assert!(last_line(&mixed).contains(&reason), "{}", mixed.stdout);
    assert_eq!(audit(&tenant, &urls[1..]).code, Some(0));
}

#[tokio::test]
async fn an_audit_names_a_replica_that_verifies_with_a_key_which_the_manager_has_dropped() {
    let tenant = SERVICE.migrated("audit_dropped").await;
    let dropped = current_version(&tenant, "signing").await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    let [mut replica] = start_replicas(&tenant).await;
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
    let label = tenant.client().update_secret_version_stage().secret_id(tenant.id("signing"));
    label.version_stage("AWSPREVIOUS").remove_from_version_id(&dropped).send().await.unwrap();
    let behind = audit(&tenant, &[&replica.at.admin]);
    assert_eq!(behind.code, Some(69), "{}", behind.stdout);
    assert_eq!(row(&behind, &replica.at.admin, "signing")[7], "dropped");
    let reason = format!("dropped versions: http://{} (signing {dropped})", replica.at.admin);
    assert!(behind.stderr.contains(&reason), "{}", behind.stderr);
    assert_eq!(replica.reload().await["outcome"], "published");
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
}

#[tokio::test]
async fn an_audit_needs_only_urls_and_the_configuration_of_the_manager() {
    for arguments in [
        vec!["audit"],
        vec!["audit", "127.0.0.1:9090", "--expect", "0"],
        vec!["audit", "127.0.0.1:9090", "--expect", "some"],
        vec!["audit", "ftp://127.0.0.1:9090"],
        vec!["audit", "127.0.0.1:9090", "http://me:sentinel@127.0.0.1:9090"],
    ] {
        let rejected = SERVICE.launch_without_tenant().await.args(arguments.clone()).run();
        assert_eq!(rejected.code, Some(64), "{arguments:?}: {}", rejected.stderr);
        assert!(!rejected.stderr.contains("sentinel"), "{}", rejected.stderr);
    }
    let tenant = SERVICE.migrated("audit_needs").await;
    let [replica] = start_replicas(&tenant).await;
    let audit_with_broken =
        |name: &str| SERVICE.launch(&tenant).args(["audit", &replica.at.admin]).env(name, "soon").run();
    let unrelated = audit_with_broken("APP_SERVER__DRAIN");
    assert_eq!(unrelated.code, Some(0), "{}", unrelated.stderr);
    assert_eq!(audit_with_broken("APP_SECRETS__DEADLINE").code, Some(78));
}

#[tokio::test]
async fn an_audit_names_a_replica_that_trusts_a_key_which_the_issuer_has_dropped() {
    let tenant = SERVICE.migrated("audit_issuer").await;
    let authority = tenant.authority();
    let issuer = TokenIssuer::with_tls(&authority.local(Validity::days(1))).expect("a port");
    let roots = TemporaryFile::new(authority.certificate());
    let start = async || {
        let launch = SERVICE.launch(&tenant).env("SSL_CERT_FILE", roots.path());
        let launch = issuer.env().into_iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        RunningService::start(launch, &tenant).await
    };
    let (one, other, open) = (start().await, start().await, SERVICE.start(&tenant).await);
    let urls = [one.at.admin.as_str(), other.at.admin.as_str()];
    let clean = audit(&tenant, &urls);
    assert_eq!(clean.code, Some(0), "{}\n{}", clean.stdout, clean.stderr);
    assert_eq!(row(&clean, &other.at.admin, "[auth]")[7], "current");

    let dropped = one.status().await["authentication"]["key_ids"][0].as_str().expect("a key").to_owned();
    issuer.rotate();
    let list = async |running: &RunningService<'_>| {
        let request = running.request(devstack::reqwest::Method::GET, "/v1/notes");
        request.bearer_auth(issuer.token("ada", "")).send().await.expect("an answer").status()
    };
    assert_eq!(list(&one).await, StatusCode::OK);
    let half = audit(&tenant, &urls);
    assert_eq!(half.code, Some(69), "{}", half.stdout);
    let (newest, behind) = (row(&half, &one.at.admin, "[auth]"), row(&half, &other.at.admin, "[auth]"));
    assert_eq!((newest[7], behind[7], behind[4]), ("current", "behind", newest[2]));
    let reason = format!("other keys of the issuer: http://{} (still trusts {dropped}, has not ", other.at.admin);
    assert!(half.stderr.contains(&reason), "{}", half.stderr);
    assert!(last_line(&half).starts_with("1 of 2 replicas"), "{}", half.stdout);

    assert_eq!(list(&other).await, StatusCode::OK);
    assert_eq!(audit(&tenant, &urls).code, Some(0));
    let mixed = audit(&tenant, &[&one.at.admin, &open.at.admin]);
    assert_eq!(mixed.code, Some(69), "{}", mixed.stdout);
    assert!(mixed.stderr.contains(&format!("http://{} (every route is open)", open.at.admin)), "{}", mixed.stderr);
}
