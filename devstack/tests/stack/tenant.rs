//! The database, the roles and the secrets of a tenant.

use devstack::{Stack, eventually, random_password};
use sqlx::{Connection, Executor};

use crate::Outcome;

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

#[tokio::test]
async fn a_wrong_password_is_rejected_and_counted() -> Outcome {
    let tenant = Stack::shared().await.tenant("wrong password").await?;
    for rejected in 1..=2 {
        let error = tenant.connect(&tenant.app_role(), "wrong").await.expect_err("the password is wrong");
        assert_eq!(code(&error).as_deref(), Some("28P01"));
        assert_eq!(tenant.rejected_logins(&tenant.app_role())?, rejected);
    }
    assert_eq!(tenant.rejected_logins(&tenant.migrator_role())?, 0);
    tenant.log_in("database", "AWSCURRENT").await?.close().await?;
    assert_eq!(tenant.rejected_logins(&tenant.app_role())?, 2, "a login that succeeds does not count");
    Ok(())
}

#[tokio::test]
async fn the_old_password_is_rejected_in_the_window_of_a_rotation() -> Outcome {
    let tenant = Stack::shared().await.tenant("window").await?;
    let old = tenant.value("database", "AWSCURRENT").await?;
    let open = tenant.log_in("database", "AWSCURRENT").await?;
    let rotation = tenant.rotation("database");

    rotation.create_pending().await?;
    tenant.log_in("database", "AWSCURRENT").await?.close().await?;
    rotation.test().await.expect_err("the database does not know the new password yet");

    rotation.set().await?;
    tenant.log_in("database", "AWSCURRENT").await.expect_err("the database has the new password already");
    rotation.test().await?;
    // The sessions of the steps end a moment after their clients have closed them.
    let is_alone = async || matches!(tenant.connections(&tenant.app_role()).await, Ok(1));
    eventually("the open connection alone", is_alone).await;

    rotation.finish().await?;
    tenant.log_in("database", "AWSCURRENT").await?.close().await?;
    tenant.log_in("database", "AWSPREVIOUS").await.expect_err("the old password is no longer valid");
    assert_eq!(tenant.value("database", "AWSPREVIOUS").await?, old);
    assert_eq!(tenant.version("database", "AWSCURRENT").await?.as_deref(), Some(rotation.version()));
    open.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_rotation_can_be_repeated_and_remembers_every_password() -> Outcome {
    let tenant = Stack::shared().await.tenant("twice").await?;
    let before = tenant.secret_values().len();
    let (first, second) = (tenant.rotate("database").await?, tenant.rotate("database").await?);
    assert_eq!(tenant.version("database", "AWSPREVIOUS").await?, Some(first));
    assert_eq!(tenant.version("database", "AWSCURRENT").await?, Some(second));
    let secret: serde_json::Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await?)?;
    assert!(tenant.secret_values().iter().any(|value| secret["password"] == *value));
    assert!(tenant.secret_values().len() > before + 1);
    Ok(())
}

#[tokio::test]
async fn a_tenant_cannot_use_the_database_of_another() -> Outcome {
    let stack = Stack::shared().await;
    let (one, other) = tokio::try_join!(stack.tenant("apart"), stack.tenant("apart"))?;
    assert_ne!(one.name(), other.name());
    let password = random_password();
    one.set_password(&one.app_role(), &password).await?;
    let error = other.connect(&one.app_role(), &password).await.expect_err("the database is another tenant's");
    assert_eq!(code(&error).as_deref(), Some("42501"));
    assert_ne!(one.value("signing", "AWSCURRENT").await?, other.value("signing", "AWSCURRENT").await?);
    Ok(())
}

#[tokio::test]
async fn the_migrator_owns_the_tables_and_the_service_has_only_its_grants() -> Outcome {
    let tenant = Stack::shared().await.tenant("roles").await?;
    let mut migrator = tenant.log_in("migrator", "AWSCURRENT").await?;
    migrator.execute("CREATE TABLE things (name text)").await?;
    let grant = format!("GRANT SELECT, INSERT ON things TO {}", tenant.access_role());
    migrator.execute(sqlx::AssertSqlSafe(grant)).await?;

    let mut app = tenant.log_in("database", "AWSCURRENT").await?;
    app.execute("INSERT INTO things VALUES ('one')").await?;
    for forbidden in ["DROP TABLE things", "CREATE TABLE more ()", "DELETE FROM things"] {
        let error = app.execute(forbidden).await.expect_err(forbidden);
        assert_eq!(code(&error).as_deref(), Some("42501"), "{forbidden}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_are_counted_and_killed_by_role() -> Outcome {
    let tenant = Stack::shared().await.tenant("kill").await?;
    let mut held = tenant.log_in("database", "AWSCURRENT").await?;
    let _other = tenant.log_in("migrator", "AWSCURRENT").await?;
    assert_eq!(tenant.connections(&tenant.app_role()).await?, 1);
    assert_eq!(tenant.kill_connections(&tenant.app_role()).await?, 1);
    held.ping().await.expect_err("the server closed it");
    assert_eq!(tenant.connections(&tenant.migrator_role()).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_secret_can_be_put_emptied_deleted_and_binary() -> Outcome {
    let tenant = Stack::shared().await.tenant("secrets").await?;
    let first = tenant.put("webhook", "first value").await?;
    let second = tenant.put("webhook", "second value").await?;
    assert_eq!(tenant.version("webhook", "AWSCURRENT").await?, Some(second));
    assert_eq!(tenant.version("webhook", "AWSPREVIOUS").await?, Some(first));
    assert_eq!(tenant.value("webhook", "AWSCURRENT").await?, "second value");

    tenant.put_binary("webhook", b"\xff\x00").await?;
    assert!(tenant.value("webhook", "AWSCURRENT").await.expect_err("it is binary").to_string().contains("not text"));

    tenant.create_empty("webhook").await?;
    let error = tenant.value("webhook", "AWSCURRENT").await.expect_err("it has no value");
    assert!(error.to_string().contains("ResourceNotFoundException"), "{error}");
    tenant.put("webhook", "third value").await?;

    tenant.delete("webhook").await?;
    tenant.delete("webhook").await?;
    let error = tenant.value("webhook", "AWSCURRENT").await.expect_err("it is gone");
    assert!(error.to_string().contains("ResourceNotFoundException"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_value_put_after_a_rotation_is_the_only_current_one() -> Outcome {
    let tenant = Stack::shared().await.tenant("put after").await?;
    let rotated = tenant.rotate("database").await?;
    let put = tenant.put("database", "malformed, on purpose").await?;
    assert_eq!(tenant.value("database", "AWSCURRENT").await?, "malformed, on purpose");
    assert_eq!(tenant.version("database", "AWSCURRENT").await?, Some(put));
    assert_eq!(tenant.version("database", "AWSPREVIOUS").await?, Some(rotated));
    Ok(())
}

#[tokio::test]
async fn a_pending_version_is_beside_the_current_one_and_remembered() -> Outcome {
    let tenant = Stack::shared().await.tenant("pending").await?;
    let current = tenant.version("signing", "AWSCURRENT").await?;
    let key = devstack::random_key();
    let pending = tenant.put_pending("signing", &key).await?;
    assert_eq!(tenant.version("signing", "AWSPENDING").await?, Some(pending));
    assert_eq!(tenant.version("signing", "AWSCURRENT").await?, current);
    assert_eq!(tenant.value("signing", "AWSPENDING").await?, key);
    assert!(tenant.secret_values().contains(&key));
    Ok(())
}

#[tokio::test]
async fn alternating_users_are_never_rejected() -> Outcome {
    let tenant = Stack::shared().await.tenant("users").await?;
    let mut migrator = tenant.log_in("migrator", "AWSCURRENT").await?;
    migrator.execute("CREATE TABLE things (name text)").await?;
    migrator.execute(sqlx::AssertSqlSafe(format!("GRANT INSERT ON things TO {}", tenant.access_role()))).await?;

    let clone = format!("{}_clone", tenant.app_role());
    let mut passwords = vec![];
    for user in [&clone, &tenant.app_role(), &clone] {
        let before = tenant.version("database", "AWSCURRENT").await?;
        let version = tenant.rotate_users("database").await?;
        assert_eq!(tenant.version("database", "AWSCURRENT").await?, Some(version));
        assert_eq!(tenant.version("database", "AWSPREVIOUS").await?, before);
        let mut next = tenant.log_in("database", "AWSCURRENT").await?;
        assert_eq!(sqlx::query_scalar::<_, String>("SELECT current_user").fetch_one(&mut next).await?, *user);
        next.execute("INSERT INTO things VALUES ('one')").await?;
        tenant.log_in("database", "AWSPREVIOUS").await?.close().await?;
        passwords.push(tenant.value("database", "AWSCURRENT").await?);
    }
    assert_ne!(passwords[0], passwords[2], "a user gets a new password each time it becomes current");
    Ok(())
}

#[tokio::test]
async fn the_sessions_of_a_role_can_be_limited() -> Outcome {
    let tenant = Stack::shared().await.tenant("limited").await?;
    let first = tenant.log_in("database", "AWSCURRENT").await?;
    tenant.limit_connections(&tenant.app_role(), 1).await?;
    let secret: serde_json::Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await?)?;
    let password = secret["password"].as_str().expect("text");
    let error = tenant.connect(&tenant.app_role(), password).await.expect_err("there is one already");
    assert_eq!(code(&error).as_deref(), Some("53300"));
    tenant.limit_connections(&tenant.app_role(), -1).await?;
    tenant.connect(&tenant.app_role(), password).await?.close().await?;
    first.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_replica_has_the_same_versions_under_the_same_labels() -> Outcome {
    const STAGES: [&str; 3] = ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"];
    let tenant = Stack::shared().await.tenant("replica").await?;
    let other = Stack::shared().await.tenant("replica").await?;
    let replica = tenant.emulator().client_in("eu-west-2");
    let same = async || -> Outcome {
        tenant.replicate_to(tenant.emulator(), "eu-west-2").await?;
        let pairs = ["database", "migrator", "signing"].into_iter().flat_map(|name| STAGES.map(|stage| (name, stage)));
        for (credential, stage) in pairs {
            let asked = replica.get_secret_value().secret_id(tenant.id(credential)).version_stage(stage).send().await;
            let (here, there) = (tenant.version(credential, stage).await?, asked.ok());
            let version = there.as_ref().and_then(|answer| answer.version_id.clone());
            assert_eq!(here, version, "{stage} of {credential}");
            if let Some(answer) = there {
                let value = tenant.value(credential, stage).await?;
                assert!(answer.secret_string == Some(value), "{stage} of {credential} is another value");
            }
        }
        Ok(())
    };
    same().await?;
    let rotation = tenant.rotation("database");
    rotation.create_pending().await?;
    same().await?;
    rotation.set().await?;
    rotation.finish().await?;
    same().await?;
    tenant.rotate("database").await?;
    tenant.put("database", "another value").await?;
    same().await?;
    let foreign = replica.describe_secret().secret_id(other.id("database")).send().await;
    assert!(foreign.is_err(), "the secret is another tenant's");
    Ok(())
}
