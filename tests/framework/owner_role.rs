//! `migrate` with a login that the manager drops later: a role without a login owns the tables.

use crate::{SERVICE, note_client::NoteClient, support::database::run_as_superuser};
use devstack::{ExitedProcess, Launch, Tenant, random_password};
use serde_json::json;
use sqlx::AssertSqlSafe;

/// A tenant with a role that owns its database. Each name needs quotes in SQL.
struct OwnedTenant {
    tenant: Tenant,
    owner: String,
}

impl OwnedTenant {
    async fn new(label: &str) -> Self {
        let tenant = SERVICE.tenant(label).await;
        let owner = format!("{}-o'w\"ner", tenant.name());
        let owned = Self { tenant, owner };
        let (role, database) = (quoted(&owned.owner), quoted(owned.tenant.name()));
        owned.sql(format!("CREATE ROLE {role} NOLOGIN; ALTER DATABASE {database} OWNER TO {role}")).await;
        owned
    }

    /// Runs statements as the superuser.
    async fn sql(&self, statements: String) {
        run_as_superuser(&self.tenant, statements).await;
    }

    /// Returns the answer to a query as a text.
    async fn ask(&self, query: &str) -> Option<String> {
        let mut admin = self.tenant.admin().await.expect("a connection");
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut admin).await.expect("an answer")
    }

    /// Creates a login as Vault does for a lease, and puts it at the manager for `migrate`. Returns the user's name.
    async fn lease(&self, number: u32) -> String {
        let (user, password) = (format!("{}-lease-{number}", self.tenant.name()), random_password());
        self.sql(format!("CREATE ROLE {} LOGIN IN ROLE {}", quoted(&user), quoted(&self.owner))).await;
        self.tenant.set_password(&user, &password).await.expect("the role exists");
        let login = json!({ "username": user, "password": password });
        self.tenant.put("migrator", &login.to_string()).await.expect("the manager stores it");
        user
    }

    /// Drops a user with the statements of OPERATIONS.md.
    async fn revoke(&self, user: &str) {
        let role = quoted(user);
        self.sql(format!("SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = '{user}'"))
            .await;
        self.sql(format!("DROP ROLE {role}")).await;
    }

    fn launch(&self) -> Launch {
        SERVICE.launch(&self.tenant).args(["migrate"]).env("APP_DATABASE__OWNER_ROLE", &self.owner)
    }

    /// Checks that `migrate` ends with this code, and that its report has these texts.
    #[track_caller]
    fn assert_fails(&self, launch: Launch, code: i32, texts: &[&str]) {
        let ExitedProcess { code: ended, stderr, .. } = launch.run();
        assert_eq!(ended, Some(code), "{stderr}");
        for text in texts {
            assert!(stderr.contains(text), "{text:?} is missing in:\n{stderr}");
        }
    }

    #[track_caller]
    fn assert_migrates(&self) {
        self.assert_fails(self.launch(), 0, &[]);
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[tokio::test]
async fn a_login_that_has_migrated_can_be_dropped() {
    let owned = OwnedTenant::new("owner_role").await;
    for number in 1..=2 {
        let user = owned.lease(number).await;
        owned.assert_migrates();
        owned.revoke(&user).await;
    }
    let owners =
        owned.ask("SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = 'public'").await;
    assert_eq!(owners.as_deref(), Some(owned.owner.as_str()));
    let running = SERVICE.start(&owned.tenant).await;
    running.create_note("access_role has its grants").await;
}

#[tokio::test]
async fn a_database_that_the_login_owned_gets_an_owner() {
    let owned = OwnedTenant::new("new_owner").await;
    let (before, owner) = (owned.tenant.migrator_role(), quoted(&owned.owner));
    owned.sql(format!("ALTER DATABASE {} OWNER TO {before}", quoted(owned.tenant.name()))).await;
    assert_eq!(SERVICE.launch(&owned.tenant).args(["migrate"]).run().code, Some(0));
    owned.sql(format!("REASSIGN OWNED BY {before} TO {owner}")).await;
    owned.lease(1).await;
    owned.assert_migrates();
}

#[tokio::test]
async fn migrate_says_why_it_cannot_be_the_owner_and_creates_nothing() {
    let owned = OwnedTenant::new("no_owner").await;
    owned.sql(format!("GRANT CONNECT ON DATABASE {} TO {}", owned.tenant.name(), owned.tenant.migrator_role())).await;
    let as_role = |role: &str| owned.launch().env("APP_DATABASE__OWNER_ROLE", role);
    owned.assert_fails(
        as_role("nobody_knows"),
        78,
        &["database.owner_role = nobody_knows", "no such role", "CREATE ROLE"],
    );
    // PostgreSQL takes this as the login's own role.
    owned.assert_fails(
        as_role("none"),
        78,
        &["after SET ROLE, the session has the role", &owned.tenant.migrator_role()],
    );
    let grant = format!("GRANT {} TO", quoted(&owned.owner));
    owned.assert_fails(owned.launch(), 77, &["is not a member of this role", &grant]);
    assert_eq!(owned.ask("SELECT to_regclass('_sqlx_migrations')::text").await, None);
}

#[tokio::test]
async fn a_migration_that_gives_the_role_up_is_rolled_back() {
    let owned = OwnedTenant::new("gives_up").await;
    owned.lease(1).await;
    // Stands in for a migration with RESET ROLE.
    let reset = "CREATE FUNCTION give_up() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.notes') THEN \
        RESET ROLE; END IF; END $$; \
        CREATE EVENT TRIGGER give_up ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION give_up()";
    owned.sql(reset.into()).await;
    let role = format!("it ends as the role {}-lease-1, and not as the owner {}", owned.tenant.name(), owned.owner);
    owned.assert_fails(owned.launch(), 70, &["migration 1", &role, "rolled back"]);
    assert_eq!(owned.ask("SELECT to_regclass('notes')::text").await, None);
    owned.sql("DROP EVENT TRIGGER give_up".into()).await;
    owned.assert_migrates();
}

#[tokio::test]
async fn a_role_that_is_given_up_outside_of_a_transaction_is_reported() {
    let owned = OwnedTenant::new("reported").await;
    owned.lease(1).await;
    owned.assert_migrates();
    // The last statement for a migration comes after its transaction.
    let reset = "DELETE FROM _sqlx_migrations WHERE version = 3; ALTER TABLE notes DROP COLUMN created_by; \
        CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN NEW; END $$; \
        CREATE TRIGGER give_up AFTER UPDATE ON _sqlx_migrations FOR EACH ROW EXECUTE FUNCTION give_up()";
    owned.sql(reset.into()).await;
    let reassign = format!("REASSIGN OWNED BY … TO {}", quoted(&owned.owner));
    owned.assert_fails(owned.launch(), 70, &["ended as the role", "-lease-1", &reassign]);
}
