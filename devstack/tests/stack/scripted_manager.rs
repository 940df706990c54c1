//! The scripted manager and its faults.

use std::time::{Duration, Instant, SystemTime};

use devstack::reqwest::{Client, Response};
use devstack::{FaultRule, ScriptedFault, ScriptedManager, Stack, Tenant, eventually};

use crate::Outcome;

/// The time of each request: 1,767,225,600 seconds after 1970.
const SIGNED_AT: &str = "20260101T000000Z";

async fn get_secret(manager: &ScriptedManager, secret: &str) -> Result<Response, devstack::reqwest::Error> {
    get_secret_in("eu-west-1", manager, secret).await
}

async fn get_secret_in(
    region: &str,
    manager: &ScriptedManager,
    secret: &str,
) -> Result<Response, devstack::reqwest::Error> {
    let scope = format!("Credential=test/20260101/{region}/secretsmanager/aws4_request");
    Client::new()
        .post(manager.endpoint())
        .header("x-amz-target", "secretsmanager.GetSecretValue")
        .header("x-amz-date", SIGNED_AT)
        .header("content-type", "application/x-amz-json-1.1")
        .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))
        .body(format!(r#"{{"SecretId":"{secret}","VersionStage":"AWSCURRENT"}}"#))
        .timeout(Duration::from_secs(60))
        .send()
        .await
}

async fn scripted(label: &str) -> Result<(Tenant, ScriptedManager), devstack::Error> {
    let stack = Stack::shared().await;
    Ok((stack.tenant(label).await?, ScriptedManager::before(stack.emulator())?))
}

#[tokio::test]
async fn a_request_that_no_rule_matches_is_forwarded_and_counted() -> Outcome {
    let (tenant, manager) = scripted("pass").await?;
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Malformed)]);
    let answer = get_secret(&manager, &tenant.id("signing")).await?;
    assert_eq!(answer.status(), 200);
    let body: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
    assert_eq!(body["SecretString"], tenant.value("signing", "AWSCURRENT").await?);
    assert_eq!(manager.requests(&tenant.id("signing")), 1);
    assert_eq!(manager.requests(&tenant.id("database")), 0);
    Ok(())
}

#[tokio::test]
async fn an_error_comes_as_often_as_the_script_says() -> Outcome {
    let (tenant, manager) = scripted("error").await?;
    let id = tenant.id("database");
    manager.script([
        FaultRule::on(&id, ScriptedFault::Status(400, "ThrottlingException")).times(1),
        FaultRule::all(ScriptedFault::Status(500, "InternalServiceError")).times(1),
    ]);
    let first = get_secret(&manager, &id).await?;
    assert_eq!(first.status(), 400);
    assert_eq!(first.headers()["x-amzn-errortype"], "ThrottlingException");
    assert!(first.text().await?.contains(r#""__type":"ThrottlingException""#));
    assert_eq!(get_secret(&manager, &id).await?.status(), 500);
    assert_eq!(get_secret(&manager, &id).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn an_answer_can_be_late_absent_cut_and_malformed() -> Outcome {
    let (tenant, manager) = scripted("late").await?;
    let id = tenant.id("database");

    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(200)))]);
    let asked = Instant::now();
    assert_eq!(get_secret(&manager, &id).await?.status(), 200);
    assert!(asked.elapsed() >= Duration::from_millis(200));

    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    let answer = tokio::time::timeout(Duration::from_secs(1), get_secret(&manager, &id)).await;
    answer.expect_err("there is no answer");
    eventually("the request", async || manager.requests(&id) == 2).await;

    manager.script([FaultRule::all(ScriptedFault::CutBody)]);
    let cut = get_secret(&manager, &id).await?;
    assert_eq!(cut.status(), 200);
    assert_eq!(cut.content_length(), Some(1000));
    cut.text().await.expect_err("the connection closes before the body is whole");

    manager.script([FaultRule::all(ScriptedFault::Malformed)]);
    let malformed = get_secret(&manager, &id).await?;
    assert_eq!(malformed.status(), 200);
    serde_json::from_str::<serde_json::Value>(&malformed.text().await?).expect_err("it is not JSON");

    manager.clear();
    assert_eq!(get_secret(&manager, &id).await?.status(), 200);
    assert_eq!(manager.requests(&id), 5);
    Ok(())
}

#[tokio::test]
async fn a_manager_can_close_a_connection_and_answer_the_next() -> Outcome {
    let (tenant, manager) = scripted("dead").await?;
    manager.script([FaultRule::all(ScriptedFault::Reset).times(1)]);
    let error = get_secret(&manager, &tenant.id("database")).await.expect_err("the connection closes");
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    assert_eq!(get_secret(&manager, &tenant.id("database")).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_clock_can_be_wrong() -> Outcome {
    let (tenant, manager) = scripted("clock").await?;
    let signed_at = 1_767_225_600;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
    for (manager_is_ahead, status) in [(240, 200), (-240, 200), (600, 400), (-600, 400)] {
        manager.script([FaultRule::all(ScriptedFault::ClockAhead(signed_at + manager_is_ahead - now))]);
        let answer = get_secret(&manager, &tenant.id("database")).await?;
        assert_eq!(answer.status(), status);
        let date = answer.headers()["date"].to_str()?;
        assert!(date.contains("Dec 2025") || date.contains("01 Jan 2026"), "{date}");
        assert_eq!(answer.headers().get("x-amzn-errortype").is_some(), status == 400);
    }
    Ok(())
}

#[tokio::test]
async fn a_fault_can_hit_one_region() -> Outcome {
    let (tenant, manager) = scripted("one region").await?;
    tenant.replicate_to(tenant.emulator(), "eu-west-2").await?;
    let id = tenant.id("database");
    manager.script([FaultRule::region("eu-west-1", ScriptedFault::Status(500, "InternalServiceError")).times(1)]);
    assert_eq!(get_secret_in("eu-west-2", &manager, &id).await?.status(), 200);
    assert_eq!(get_secret_in("eu-west-1", &manager, &id).await?.status(), 500);
    assert_eq!(get_secret_in("eu-west-1", &manager, &id).await?.status(), 200);
    assert_eq!((manager.requests_in("eu-west-1"), manager.requests_in("eu-west-2")), (2, 1));
    assert_eq!(manager.requests_in("eu-west-3"), 0);
    Ok(())
}

#[tokio::test]
async fn each_region_can_have_an_emulator_of_its_own() -> Outcome {
    let stack = Stack::shared().await;
    let (tenant, second) = tokio::try_join!(stack.tenant("two emulators"), stack.second_region())?;
    let manager = ScriptedManager::regions([("eu-west-1", stack.emulator()), ("eu-west-2", second.emulator())])?;
    let id = tenant.id("database");
    assert_eq!(get_secret_in("eu-west-2", &manager, &id).await?.status(), 404, "its store is empty");

    tenant.replicate_to(second.emulator(), "eu-west-2").await?;
    let replicated = tenant.version("database", "AWSCURRENT").await?.expect("it is there");
    let current = tenant.rotate("database").await?;
    for (region, version) in [("eu-west-1", current), ("eu-west-2", replicated)] {
        let answer: serde_json::Value =
            serde_json::from_str(&get_secret_in(region, &manager, &id).await?.text().await?)?;
        assert_eq!(answer["VersionId"], version, "{region}");
    }
    assert_eq!(get_secret_in("eu-west-3", &manager, &id).await?.status(), 502);

    drop(second);
    assert_eq!(get_secret_in("eu-west-2", &manager, &id).await?.status(), 502, "it ended");
    assert_eq!(get_secret_in("eu-west-1", &manager, &id).await?.status(), 200);
    Ok(())
}
