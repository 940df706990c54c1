//! The database of a tenant: its connections, its locks and the password of the service.

use super::{secrets::login_with_password, time_waits::let_time_pass};
use devstack::{Rotation, Tenant, eventually};
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;

/// Waits until the service has at least this many connections.
#[track_caller]
pub(crate) fn wait_for_connections(tenant: &Tenant, at_least: usize) -> impl Future<Output = ()> {
    eventually("connections of the service", async move || {
        let count = tenant.connections(&tenant.app_role()).await.expect("a count");
        if count >= at_least { Ok(()) } else { Err(format!("{count}, and not {at_least}")) }
    })
}

/// Waits until the service has exactly this many connections.
#[track_caller]
pub(crate) fn wait_until_connections_are(tenant: &Tenant, wanted: usize) -> impl Future<Output = ()> {
    eventually("connections of the service", async move || {
        let count = tenant.connections(&tenant.app_role()).await.expect("a count");
        if count == wanted { Ok(()) } else { Err(format!("{count}, and not {wanted}")) }
    })
}

/// Waits until exactly this many statements of the service wait for a lock.
#[track_caller]
pub(crate) fn wait_for_blocked_statements(tenant: &Tenant, wanted: usize) -> impl Future<Output = ()> {
    eventually("statements that wait for a lock", async move || {
        let mut admin = tenant.admin().await.expect("a connection");
        let blocked = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'";
        let count: i64 =
            sqlx::query_scalar(blocked).bind(tenant.app_role()).fetch_one(&mut admin).await.expect("a count");
        if count == wanted as i64 { Ok(()) } else { Err(format!("{count}, and not {wanted}")) }
    })
}

/// Ends the connections of the service, and waits until it will notice: the pool checks a connection before it uses it
/// only if the connection was idle for half a second.
pub(crate) async fn cut_connections(tenant: &Tenant) {
    tenant.kill_connections(&tenant.app_role()).await.expect("PostgreSQL ends them");
    let_time_pass("connections must be idle for 500 ms", Duration::from_millis(600)).await;
}

/// Checks that PostgreSQL has rejected one or two logins of the service: two logins run at a time.
#[track_caller]
pub(crate) fn assert_few_rejected_logins(tenant: &Tenant) {
    let count = tenant.rejected_logins(&tenant.app_role()).expect("PostgreSQL writes a log");
    assert!((1..=2).contains(&count), "PostgreSQL has rejected {count} logins");
}

/// Runs statements in the database of the tenant as the superuser.
pub(crate) async fn run_as_superuser(tenant: &Tenant, statements: String) {
    let mut admin = tenant.admin().await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut admin).await.expect("PostgreSQL does it");
}

/// A lock on a table. A request that needs the table waits in the database until the lock is released or dropped.
pub(crate) struct TableLock(PgConnection);

impl TableLock {
    /// Locks a table.
    pub(crate) async fn on(tenant: &Tenant, table: &str) -> Self {
        let mut admin = tenant.admin().await.expect("a connection");
        let lock = format!("BEGIN; LOCK TABLE {table}");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut admin).await.expect("nobody else locks it");
        Self(admin)
    }

    /// Releases the lock.
    pub(crate) async fn release(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await.expect("the transaction has done nothing");
    }
}

/// Brings the login of the service between the steps 2 and 3 of a rotation: the database accepts AWSPENDING, and rejects
/// AWSCURRENT.
pub(crate) async fn open_rotation_window(tenant: &Tenant) -> Rotation {
    let rotation = tenant.rotation("database");
    rotation.create_pending().await.expect("step 1");
    rotation.set().await.expect("step 2");
    rotation
}

/// Changes the password of the service in the database and at the manager. Unlike a rotation, it does not log in.
pub(crate) async fn replace_password(tenant: &Tenant) {
    let password = devstack::random_password();
    tenant.set_password(&tenant.app_role(), &password).await.expect("the role exists");
    tenant.put("database", &login_with_password(tenant, &password)).await.expect("the manager stores it");
}
