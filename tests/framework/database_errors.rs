//! Errors of a real PostgreSQL, and what `?` makes of them: in a handler, and in `build`.

use crate::SERVICE;
use axum::{http::header, response::IntoResponse};
use devstack::Tenant;
use sqlx::AssertSqlSafe;
use vestibule::{
    BuildError, Problem,
    exit::{Exit, Fault},
};

/// Runs SQL that fails, in a database without tables. Returns the error.
async fn error_of(sql: &str, tenant: &Tenant) -> sqlx::Error {
    let mut connection = tenant.admin().await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect_err("it fails")
}

fn raise(sqlstate: &str) -> String {
    format!("DO $$ BEGIN RAISE EXCEPTION 'raised' USING ERRCODE = '{sqlstate}'; END $$")
}

#[tokio::test]
async fn a_client_may_try_again_after_a_serialization_failure_or_a_deadlock_but_not_after_a_wrong_query() {
    let tenant = SERVICE.tenant("problems").await;
    for (sql, status) in
        [(raise("40001"), 503), (raise("40P01"), 503), (raise("40002"), 500), ("SELECT FROM no_such_table".into(), 500)]
    {
        let response = Problem::from(error_of(&sql, &tenant).await).into_response();
        assert_eq!(response.status(), status, "{sql}");
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{sql}");
    }
}

#[tokio::test]
async fn a_query_that_fails_in_build_is_a_fault_with_the_exit_code_that_fits() {
    let tenant = SERVICE.tenant("faults").await;
    for (sql, expected, problem) in [
        ("SELECT FROM no_such_table".into(), Exit::Bug, "no_such_table"),
        (raise("57P03"), Exit::Unavailable, "raised"),
        (raise("42501"), Exit::Denied, "raised"),
    ] {
        let BuildError::Fault(fault) = error_of(&sql, &tenant).await.into() else { panic!("nobody rejects a login") };
        let Fault { exit, subject, problem: text, .. } = &fault;
        assert_eq!(*exit, expected, "{fault:?}");
        assert!(subject.contains("a database query in Application::build") && text.contains(problem), "{fault:?}");
    }
}
