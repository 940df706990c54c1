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
async fn a_client_may_try_again_if_the_database_has_done_nothing_but_not_if_that_is_unknown_or_of_no_use() {
    let tenant = SERVICE.tenant("problems").await;
    let again = ["40001", "40P01", "08001", "28000", "53300", "57014", "57P03"].map(|code| (raise(code), 503, true));
    let unknown = ["08006", "08007", "08P01", "57P01", "57P02"].map(|code| (raise(code), 503, false));
    let of_no_use = [raise("40002"), "SELECT FROM no_such_table".into()].map(|sql| (sql, 500, false));
    for (sql, status, may_try_again) in again.into_iter().chain(unknown).chain(of_no_use) {
        let response = Problem::from(error_of(&sql, &tenant).await).into_response();
        assert_eq!(response.status(), status, "{sql}");
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), may_try_again, "{sql}");
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
