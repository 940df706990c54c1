use std::time::{Duration, Instant};

use devstack::faults::{Fault, Manager, Rule};
use devstack::reqwest::{Client, Response};
use devstack::{Stack, Tenant};

use crate::Outcome;

async fn ask(manager: &Manager, secret: &str) -> Result<Response, devstack::reqwest::Error> {
    Client::new()
        .post(manager.endpoint())
        .header("x-amz-target", "secretsmanager.GetSecretValue")
        .header("content-type", "application/x-amz-json-1.1")
        .header("authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=0")
        .body(format!(r#"{{"SecretId":"{secret}"}}"#))
        .timeout(Duration::from_secs(1))
        .send()
        .await
}

async fn scripted(label: &str) -> Result<(Tenant, Manager), devstack::Error> {
    let stack = Stack::shared().await;
    Ok((stack.tenant(label).await?, Manager::before(stack.manager()).await?))
}

#[tokio::test]
async fn what_no_rule_matches_is_passed_on_and_counted() -> Outcome {
    let (tenant, manager) = scripted("pass").await?;
    manager.script([Rule::on(tenant.id("database"), Fault::Malformed)]);
    let answer = ask(&manager, &tenant.id("signing")).await?;
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
        Rule::on(&id, Fault::Status(400, "ThrottlingException")).times(1),
        Rule::all(Fault::Status(500, "InternalServiceError")).times(1),
    ]);
    let first = ask(&manager, &id).await?;
    assert_eq!(first.status(), 400);
    assert_eq!(first.headers()["x-amzn-errortype"], "ThrottlingException");
    assert!(first.text().await?.contains(r#""__type":"ThrottlingException""#));
    assert_eq!(ask(&manager, &id).await?.status(), 500);
    assert_eq!(ask(&manager, &id).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn an_answer_can_be_late_absent_cut_and_malformed() -> Outcome {
    let (tenant, manager) = scripted("late").await?;
    let id = tenant.id("database");

    manager.script([Rule::all(Fault::Delay(Duration::from_millis(200)))]);
    let asked = Instant::now();
    assert_eq!(ask(&manager, &id).await?.status(), 200);
    assert!(asked.elapsed() >= Duration::from_millis(200));

    manager.script([Rule::all(Fault::BlackHole)]);
    assert!(ask(&manager, &id).await.expect_err("nobody answers").is_timeout());

    manager.script([Rule::all(Fault::CutBody)]);
    let cut = ask(&manager, &id).await?;
    assert_eq!(cut.status(), 200);
    assert_eq!(cut.content_length(), Some(1000));
    cut.text().await.expect_err("the connection closes before the body is whole");

    manager.script([Rule::all(Fault::Malformed)]);
    let malformed = ask(&manager, &id).await?;
    assert_eq!(malformed.status(), 200);
    serde_json::from_str::<serde_json::Value>(&malformed.text().await?).expect_err("it is no JSON");

    manager.clear();
    assert_eq!(ask(&manager, &id).await?.status(), 200);
    assert_eq!(manager.requests(&id), 5);
    Ok(())
}
