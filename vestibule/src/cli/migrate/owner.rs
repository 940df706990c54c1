//! The role that owns what migrations create, if that is not the login.

use crate::{
    credentials::login::PostgresName,
    exit::{Exit, Fault},
    resources::database,
};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, migrate::Migration};

/// Makes the session one of the owner. What the login creates from now on does not keep it from being dropped.
pub(super) async fn take_place(owner: &PostgresName, connection: &mut PgConnection) -> Result<(), Fault> {
    // Safe: the role is quoted.
    let set = sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {}", owner.quoted()))).execute(&mut *connection).await;
    set.map_err(|error| refused(owner, &error))?;
    let role = current_role(connection).await?;
    if role == **owner {
        return Ok(());
    }
    Err(Fault::new(
        Exit::Config,
        subject(owner),
        format!("after SET ROLE, the session has the role {role}"),
        "name a role that exists; if there is a pooler of transactions before the database, run `migrate` past it",
    ))
}

/// Makes each migration fail at its end if the session has another role by then (RESET ROLE, SET SESSION AUTHORIZATION),
/// before it commits. One that runs outside of a transaction stays as it is: it must be the only statement.
pub(super) fn guard(owner: &PostgresName, migrations: &mut [Migration]) {
    let guard = guard_of(owner);
    for migration in migrations.iter_mut().filter(|migration| !migration.no_tx) {
        // A comment may be the last line. The checksum stays that of the file.
        let sql = format!("{}\n;{guard}", migration.sql.as_str());
        migration.sql = AssertSqlSafe(sql).into_sql_str();
    }
}

fn guard_of(owner: &PostgresName) -> String {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let name = literal(owner);
    let body = format!(
        "BEGIN IF current_user <> {name} THEN \
         RAISE EXCEPTION 'it ends as the role %, and not as the owner %', current_user, {name}; END IF; END"
    );
    format!("DO {}", literal(&body))
}

/// Checks that the session still is one of the owner. A migration outside of a transaction may have changed that.
pub(super) async fn check(owner: &PostgresName, connection: &mut PgConnection) -> Result<(), Fault> {
    let role = current_role(connection).await?;
    if role == **owner {
        return Ok(());
    }
    Err(Fault::new(
        Exit::Bug,
        "migrations",
        format!("they are applied, but ended as the role {role}, and not as the owner {owner}"),
        format!(
            "find the migration that changes the role, and give the owner what belongs to the login: \
             REASSIGN OWNED BY … TO {}",
            owner.quoted()
        ),
    ))
}

async fn current_role(connection: &mut PgConnection) -> Result<String, Fault> {
    let asked = sqlx::query_scalar("SELECT current_user::text").fetch_one(connection).await;
    asked.map_err(|error| database::fault(&error))
}

/// Returns the fault of a SET ROLE that failed.
fn refused(owner: &PostgresName, error: &sqlx::Error) -> Fault {
    let (exit, problem, remedy) = match database::sqlstate(error).as_deref() {
        Some("22023" | "42704") => (
            Exit::Config,
            "the database has no such role",
            "create it (CREATE ROLE … NOLOGIN) as the owner of the database and of its tables, or remove the setting"
                .to_owned(),
        ),
        Some("42501") => (
            Exit::Denied,
            "the login of `migrate` is not a member of this role",
            format!("GRANT {} TO the login; or create the login IN ROLE {}", owner.quoted(), owner.quoted()),
        ),
        _ => return database::fault(error),
    };
    Fault::new(exit, subject(owner), problem, remedy)
}

fn subject(owner: &PostgresName) -> String {
    format!("database.owner_role = {owner}")
}
