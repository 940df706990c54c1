//! Tests of every service that holds secrets: its start, a rotation and its migrations. The local stack has their steps.

use crate::{ROUTE, SERVICE};

#[tokio::test]
async fn a_start_without_a_credential_ends_with_66_and_names_it() {
    SERVICE.check_absent_credentials().await;
}

#[tokio::test]
async fn no_request_fails_while_the_password_of_the_database_is_rotated() {
    SERVICE.check_rotations("database", ROUTE).await;
}

#[tokio::test]
async fn a_service_starts_only_after_its_schema_is_migrated() {
    SERVICE.check_migrations().await;
}
