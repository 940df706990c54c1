//! `audit`: is the rotation complete?

use crate::{RunningService, SERVICE, SHORT, free_port, migrated, reload::async_body, scripted, service};
use devstack::{
    ExitedProcess, FaultRule, ScriptedFault, Tenant,
    reqwest::{Method, StatusCode},
};

/// Replicas that share a manager.
async fn replicas<'a, const N: usize>(tenant: &'a Tenant) -> [RunningService<'a>; N] {
    let mut replicas = Vec::new();
    for _ in 0..N {
        replicas.push(RunningService::start(service(tenant), tenant).await);
    }
    replicas.try_into().unwrap_or_else(|_| unreachable!("as many were started"))
}

fn audit(tenant: &Tenant, arguments: &[&str]) -> ExitedProcess {
    service(tenant).args([&["audit"], arguments].concat()).run()
}

/// The cells of the row of this replica and credential.
#[track_caller]
fn row<'a>(audit: &'a ExitedProcess, replica: &str, credential: &str) -> Vec<&'a str> {
    let rows = audit.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let wanted = |row: &Vec<&str>| row.len() == 8 && row[0] == format!("http://{replica}") && row[1] == credential;
    let mut found = rows.filter(wanted);
    found.next().unwrap_or_else(|| panic!("{replica} has no {credential} in\n{}", audit.stdout))
}

fn last_line(audit: &ExitedProcess) -> &str {
    audit.stdout.trim_end().lines().last().unwrap_or_default()
}

#[tokio::test]
async fn an_audit_tells_which_replica_is_behind_until_none_is() {
    let tenant = migrated("audit").await;
    let [mut one, mut other] = replicas(&tenant).await;
    let urls = [format!("http://{}", one.at.admin), other.at.admin.clone()];
    let urls = urls.each_ref().map(String::as_str);
    let old = tenant.version("database", "AWSCURRENT").await.unwrap().unwrap();
    let clean = audit(&tenant, &urls);
    assert_eq!(clean.code, Some(0), "{}\n{}", clean.stdout, clean.stderr);
    let held = row(&clean, &other.at.admin, "database");
    assert_eq!((held[2..5].to_vec(), held[6], held[7]), (vec![old.as_str(), "current", &old], "-", "current"));
    let loaded = other.credential("database").await["loaded"].as_str().unwrap()[..19].to_owned();
    assert_eq!(held[5], format!("{loaded}Z"));
    let table: Vec<_> = clean.stdout.lines().take(5).collect();
    let columns = table.iter().map(|line| line.rfind("  ").unwrap());
    assert_eq!(columns.collect::<std::collections::BTreeSet<_>>().len(), 1, "not aligned:\n{}", clean.stdout);
    assert!(table[0].starts_with("REPLICA") && table[1].starts_with(&format!("http://{} ", one.at.admin)));
    assert!(last_line(&clean).starts_with("2 of 2 replicas hold what is current"), "{}", clean.stdout);

    let new = tenant.rotate("database").await.unwrap();
    one.reload().await;
    let half = audit(&tenant, &urls);
    assert_eq!(half.code, Some(69), "{}", half.stdout);
    assert_eq!(row(&half, &one.at.admin, "database")[7], "current");
    let behind = row(&half, &other.at.admin, "database");
    assert_eq!((behind[2], behind[4], behind[7]), (old.as_str(), new.as_str(), "behind"));
    assert_eq!(row(&half, &other.at.admin, "signing")[7], "current");
    let named = format!("behind: http://{} (database)", other.at.admin);
    assert!(half.stderr.contains(&named) && half.stderr.contains("reload --wait"), "{}", half.stderr);
    assert_eq!(last_line(&half), format!("1 of 2 replicas hold what is current, and nothing older; {named}"));

    other.reload().await;
    assert_eq!(audit(&tenant, &urls).code, Some(0));
}

#[tokio::test]
async fn an_audit_reads_no_value() {
    let tenant = migrated("audit_values").await;
    let manager = scripted(&tenant).await;
    let [replica] = replicas(&tenant).await;
    // What a caller without secretsmanager:GetSecretValue gets.
    manager.script([FaultRule::all(ScriptedFault::Status(400, "AccessDeniedException")).of("GetSecretValue")]);
    let before = manager.requests(&tenant.id("database"));
    let audited = service(&tenant).args(["audit", &replica.at.admin]).env("AWS_ENDPOINT_URL", manager.endpoint());
    assert_eq!(audited.run().code, Some(0));
    assert_eq!(manager.requests(&tenant.id("database")) - before, 1);
}

#[tokio::test]
async fn an_audit_fails_when_a_replica_cannot_be_asked() {
    let tenant = migrated("audit_silent").await;
    let [replica] = replicas(&tenant).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    for (at, why) in [(&nobody, "refused"), (&replica.at.public, "it answers 404")] {
        let audited = audit(&tenant, &[at, &replica.at.admin]);
        assert_eq!(audited.code, Some(69), "{}", audited.stdout);
        assert_eq!(row(&audited, at, "-")[7], "unreachable");
        assert_eq!(row(&audited, &replica.at.admin, "database")[7], "current");
        assert!(audited.stderr.contains(&format!("unreachable: http://{at} (")), "{}", audited.stderr);
        assert!(audited.stderr.contains(why), "{}", audited.stderr);
        assert!(audited.stderr.contains("1 fault while"), "one cause is told once: {}", audited.stderr);
    }
}

#[tokio::test]
async fn an_audit_counts_instances_and_not_urls() {
    let tenant = migrated("audit_instances").await;
    let [one, other] = replicas(&tenant).await;
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
        assert!(other_number.stderr.contains(&format!("where {expect} are expected")), "{}", other_number.stderr);
    }
}

#[tokio::test]
async fn an_audit_fails_while_an_older_generation_drains() {
    let tenant = migrated("audit_draining").await;
    let [mut replica] = replicas(&tenant).await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = replica.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let slow = tokio::spawn(slow.body(async_body("{\"body\": \"slow", wait, "\"}")).send());
    // Until the request holds its generation.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    tenant.rotate("database").await.unwrap();
    replica.reload().await;
    let draining = audit(&tenant, &[&replica.at.admin]);
    assert_eq!(draining.code, Some(69), "{}", draining.stdout);
    let database = row(&draining, &replica.at.admin, "database");
    assert_eq!((database[6], database[7]), ("1", "draining"));
    let named = format!("draining: http://{} (generation 1)", replica.at.admin);
    assert!(draining.stderr.contains(&named), "{}", draining.stderr);

    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
    replica.wait_until("the end of draining", |status| status["draining"].as_array().unwrap().is_empty()).await;
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
}

#[tokio::test]
async fn a_version_that_is_only_pending_is_not_current() {
    let tenant = migrated("audit_pending").await;
    let [replica] = replicas(&tenant).await;
    let held = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    let label = tenant.client().update_secret_version_stage().secret_id(tenant.id("signing"));
    label.version_stage("AWSPENDING").move_to_version_id(&held).send().await.unwrap();
    let pending = audit(&tenant, &[&replica.at.admin]);
    assert_eq!(pending.code, Some(69), "{}", pending.stdout);
    assert_eq!(row(&pending, &replica.at.admin, "signing")[7], "pending");
    assert!(pending.stderr.contains("a rotation that has not ended"), "{}", pending.stderr);
}

#[tokio::test]
async fn an_audit_without_the_manager_ends_as_a_start_would() {
    let tenant = migrated("audit_manager").await;
    let manager = scripted(&tenant).await;
    let [replica] = replicas(&tenant).await;
    let ask = || {
        let audit = service(&tenant).args(["audit", &replica.at.admin]).env("AWS_ENDPOINT_URL", manager.endpoint());
        audit.env("APP_SECRETS__DEADLINE", SHORT).run()
    };
    for (fault, code, told) in [
        (ScriptedFault::Status(400, "AccessDeniedException"), 77, "secretsmanager:DescribeSecret"),
        (ScriptedFault::Status(400, "ResourceNotFoundException"), 66, "no such secret"),
        (ScriptedFault::Status(500, "InternalServiceError"), 69, "unavailable"),
        (ScriptedFault::BlackHole, 75, "did not answer"),
    ] {
        manager.script([FaultRule::on(tenant.id("database"), fault)]);
        let audited = ask();
        assert_eq!(audited.code, Some(code), "{}", audited.stderr);
        assert!(audited.stderr.contains(told), "{}", audited.stderr);
        let database = row(&audited, &replica.at.admin, "database");
        assert_eq!((database[4], database[7]), ("?", "unknown"));
        assert_eq!(row(&audited, &replica.at.admin, "signing")[7], "current");
        assert!(last_line(&audited).contains(&tenant.id("database")), "{}", audited.stdout);
    }
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError")).times(2)]);
    assert_eq!(ask().code, Some(0), "it tries again");
    tenant.client().delete_secret().secret_id(tenant.id("signing")).send().await.unwrap();
    let scheduled = ask();
    assert_eq!(scheduled.code, Some(66), "{}", scheduled.stderr);
    assert!(scheduled.stderr.contains("deletion is scheduled"), "{}", scheduled.stderr);
}

#[tokio::test]
async fn an_audit_finds_who_still_takes_what_a_revoked_key_has_signed() {
    let tenant = migrated("audit_revoked").await;
    let [mut replica] = replicas(&tenant).await;
    let leaked = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(replica.reload().await["outcome"], "published");
    assert_eq!(audit(&tenant, &[&replica.at.admin]).code, Some(0));
    let revoked = service(&tenant).args(["audit", &replica.at.admin]).env("APP_SECRETS__REVOKED", &leaked).run();
    assert_eq!(revoked.code, Some(69), "{}", revoked.stdout);
    assert_eq!(row(&revoked, &replica.at.admin, "signing").last(), Some(&"revoked"));
    assert_eq!(row(&revoked, &replica.at.admin, "database").last(), Some(&"current"));
    assert!(revoked.stderr.contains("secrets.revoked"), "{}", revoked.stderr);
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(replica.reload().await["outcome"], "published");
    let over = service(&tenant).args(["audit", &replica.at.admin]).env("APP_SECRETS__REVOKED", &leaked).run();
    assert_eq!(over.code, Some(0), "{}", over.stdout);
}

#[tokio::test]
async fn an_audit_needs_nothing_but_urls_and_the_way_to_the_manager() {
    for arguments in [
        vec!["audit"],
        vec!["audit", "127.0.0.1:9090", "--expect", "0"],
        vec!["audit", "127.0.0.1:9090", "--expect", "some"],
        vec!["audit", "ftp://127.0.0.1:9090"],
        vec!["audit", "127.0.0.1:9090", "http://me:sentinel@127.0.0.1:9090"],
    ] {
        let refused = SERVICE.launch_without_tenant().await.args(arguments.clone()).run();
        assert_eq!(refused.code, Some(64), "{arguments:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("sentinel"), "{}", refused.stderr);
    }
    let tenant = migrated("audit_needs").await;
    let [replica] = replicas(&tenant).await;
    let ask = |name: &str| service(&tenant).args(["audit", &replica.at.admin]).env(name, "soon").run();
    let elsewhere = ask("APP_SERVER__DRAIN");
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.stderr);
    assert_eq!(ask("APP_SECRETS__DEADLINE").code, Some(78));
}
