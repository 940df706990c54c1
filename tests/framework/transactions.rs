//! Transactions that collide with others on a real PostgreSQL, and are repeated.

use crate::SERVICE;
use axum::response::IntoResponse;
use devstack::{DEFAULT_TIMEOUT, Tenant, reqwest::StatusCode};
use sqlx::{AssertSqlSafe, Connection as _};
use std::{num::NonZeroU16, sync::Arc, time::Duration};
use tokio::sync::Barrier;
use vestibule::{
    Application, Build, BuildError, Credential, Database, OpenApiRouter, Package, Problem, SecretSet, Session,
    config::{Config, DatabaseConfig, TlsMode},
    credentials::{Host, Login, PostgresName},
    testing::{Harness, MemoryManager},
};

#[derive(SecretSet)]
struct Secrets {
    database: Credential<Login>,
}

struct Accounts {
    database: Database,
}

impl Application for Accounts {
    const PACKAGE: Package = Package::new("accounts", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { database: cx.database(&cx.secrets.database).await? })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// Returns a tenant whose database has two accounts with a balance of 1, and a service that uses it. Its transactions are
/// repeated for as long as `patience`.
async fn accounts(label: &str, patience: Duration) -> (Tenant, Harness<Accounts>) {
    let tenant = SERVICE.tenant(label).await;
    let mut admin = tenant.admin().await.expect("a connection");
    let sql = "CREATE TABLE accounts AS SELECT id, 1 AS balance FROM generate_series(1, 2) id; \
               GRANT ALL ON accounts TO PUBLIC";
    sqlx::raw_sql(sql).execute(&mut admin).await.expect("the table is new");
    admin.close().await.expect("it closes");
    let address = tenant.database();
    let database = DatabaseConfig {
        host: Host::parse(&address.host).expect("a host"),
        port: NonZeroU16::new(address.port).expect("a port"),
        name: PostgresName::parse(&address.name),
        acquire_timeout: patience,
        tls: TlsMode::Disable,
        ..DatabaseConfig::default()
    };
    let login = tenant.value("database", "AWSCURRENT").await.expect("a login");
    let manager = MemoryManager::with([("database", login.as_str())]);
    let service = Harness::start(manager, Config { database, ..Config::default() }).await;
    (tenant, service.expect("the login is accepted"))
}

async fn balances(database: &Database) -> Vec<i32> {
    sqlx::query_scalar("SELECT balance FROM accounts ORDER BY id").fetch_all(database).await.expect("two rows")
}

async fn add_one(account: i32, session: &mut Session) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id = $1").bind(account).execute(session).await?;
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_is_not_serializable_is_repeated_until_it_is() {
    let (_tenant, service) = accounts("serializable", DEFAULT_TIMEOUT).await;
    let database = &service.live().service().database;
    let both_have_read = Barrier::new(2);
    // Sets one account to the sum of both.
    let sum_up = async |account: i32| {
        let mut runs = 0;
        let summed_up = database.retry_transaction(async |session| {
            runs += 1;
            sqlx::query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").execute(&mut *session).await?;
            let sum: i64 = sqlx::query_scalar("SELECT sum(balance) FROM accounts").fetch_one(&mut *session).await?;
            if runs == 1 {
                both_have_read.wait().await;
            }
            let update = sqlx::query("UPDATE accounts SET balance = $2 WHERE id = $1").bind(account).bind(sum);
            update.execute(session).await
        });
        summed_up.await.expect("the second run is alone");
        runs
    };
    let (first, second) = tokio::join!(sum_up(1), sum_up(2));
    assert!(first + second > 2, "one of them runs again");
    let mut balances = balances(database).await;
    balances.sort_unstable();
    assert_eq!(balances, [2, 3], "as if one had run after the other");
}

#[tokio::test]
async fn a_transaction_that_ends_a_deadlock_is_repeated_also_if_its_error_is_a_problem() {
    let (_tenant, service) = accounts("deadlock", DEFAULT_TIMEOUT).await;
    let database = &service.live().service().database;
    let both_have_a_lock = Barrier::new(2);
    let add_to_both = async |first: i32, second: i32| {
        let mut runs = 0;
        let added = database.retry_transaction(async |session| {
            runs += 1;
            add_one(first, session).await?;
            if runs == 1 {
                both_have_a_lock.wait().await;
            }
            add_one(second, session).await?;
            Ok::<_, Problem>(())
        });
        added.await.expect("the second run is alone");
        runs
    };
    let (one, other) = tokio::join!(add_to_both(1, 2), add_to_both(2, 1));
    assert!(one + other > 2, "one of them runs again");
    assert_eq!(balances(database).await, [3, 3]);
}

#[tokio::test]
async fn a_transaction_is_not_repeated_after_another_error_nor_for_ever() {
    let (_tenant, service) = accounts("not_repeated", Duration::from_secs(3)).await;
    let database = &service.live().service().database;
    for (sqlstate, status, is_repeated) in
        [("40001", StatusCode::SERVICE_UNAVAILABLE, true), ("23505", StatusCode::INTERNAL_SERVER_ERROR, false)]
    {
        let mut runs = 0;
        let failed = database.retry_transaction(async |session| {
            runs += 1;
            add_one(1, session).await?;
            let raise = format!("DO $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '{sqlstate}'; END $$");
            sqlx::raw_sql(AssertSqlSafe(raise)).execute(session).await?;
            Ok::<_, Problem>(())
        });
        assert_eq!(failed.await.unwrap_err().into_response().status(), status);
        assert_eq!(runs > 1, is_repeated, "{sqlstate}: {runs} runs");
    }
    assert_eq!(balances(database).await, [1, 1]);
}

#[tokio::test]
async fn a_transaction_that_has_failed_does_not_commit_in_silence() {
    let (_tenant, service) = accounts("silence", DEFAULT_TIMEOUT).await;
    let database = &service.live().service().database;
    let fail = "INSERT INTO accounts VALUES ('no number')";
    let mut transaction = database.begin().await.unwrap();
    add_one(1, &mut transaction).await.unwrap();
    sqlx::raw_sql(fail).execute(&mut *transaction).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("25P02"), "{error}");
    assert_eq!(balances(database).await, [1, 1]);

    let mut transaction = database.begin().await.unwrap();
    add_one(1, &mut transaction).await.unwrap();
    sqlx::raw_sql("SAVEPOINT before").execute(&mut *transaction).await.unwrap();
    sqlx::raw_sql(fail).execute(&mut *transaction).await.unwrap_err();
    sqlx::raw_sql("ROLLBACK TO before").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(balances(database).await, [2, 1]);
}
