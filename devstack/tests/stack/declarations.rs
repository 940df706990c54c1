//! The secrets and the databases of a tenant, by the declarations of a service.

use std::collections::BTreeMap;

use devstack::Binary;
use sqlx::Executor;

use crate::Outcome;
use crate::workspace::SECTIONS;

const SERVICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stack/fake_service.py");

const PUBLIC: (&str, &str) = ("FAKE_PUBLIC", "127.0.0.1:1");
const ADMIN: (&str, &str) = ("FAKE_ADMIN", "127.0.0.1:1");

#[tokio::test]
async fn the_secrets_of_a_tenant_have_the_ids_that_the_service_declares() -> Outcome {
    let service = Binary::with_variables(SERVICE, &[PUBLIC, ADMIN]);
    let [one, other] = [service.tenant("ids").await, service.tenant("ids").await];
    assert_eq!(
        one.id("webhook"),
        format!("{}/hooks/webhook", one.name()),
        "the declared one is {{prefix}}/hooks/webhook"
    );
    assert_ne!(
        one.id("database"),
        other.id("database"),
        "the declared one has no prefix, and each tenant has its role"
    );
    for tenant in [one, other] {
        let audited = service.launch(&tenant).args(["audit", "--of", "here"]).run();
        assert!(audited.stdout.contains("audited here True\n"), "{}{}", audited.stdout, audited.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn sections_with_one_address_and_replicas_share_a_database() -> Outcome {
    let migrators = ("FAKE_MIGRATORS", "migrator migrator_writer migrator_elsewhere");
    let variables = vec![PUBLIC, ADMIN, migrators, ("FAKE_DATABASES", SECTIONS)].leak();
    let tenant = Binary::with_variables(SERVICE, variables).tenant("sections").await;
    let environment: BTreeMap<_, _> = tenant.env().into_iter().collect();
    for (section, added) in
        [("READER", ""), ("REPLICA", ""), ("WRITER", ""), ("ELSEWHERE", "_elsewhere"), ("REPORTS", "_reports")]
    {
        let name = &environment[&format!("APP_DATABASES__{section}__NAME")];
        assert_eq!(*name, format!("{}{added}", tenant.name()), "{section}");
    }

    tenant.log_in("migrator", "AWSCURRENT").await?.execute("CREATE TABLE things (name text)").await?;
    let mut writer = tenant.log_in("migrator_writer", "AWSCURRENT").await?;
    writer.execute("ALTER TABLE things ADD COLUMN size int; CREATE TABLE more ()").await?;
    Ok(())
}
