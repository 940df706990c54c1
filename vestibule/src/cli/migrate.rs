//! `migrate`: applies `migrations/` with a credential of its own, and grants the service what it needs.

use crate::{
    application::Application,
    bootstrap::{self, Failed},
    config,
    credentials::login::Login,
    exit::{Exit, Fault, Phase, Report},
    resources::{build_error::BuildError, database},
    secrets::{
        credential::{Credential, Name},
        fetch::{self, FetchContext},
        held::HeldCredentials,
        kind::Kind,
        regions::Regions,
        resolver::Resolver,
        set::{self, CredentialField, Resolved, SecretSet},
        spec::CredentialSpec,
    },
    telemetry::Telemetry,
};
use config::Sources;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    migrate::{MigrateError, Migrator},
};
use std::collections::BTreeSet;
use tokio::time::Instant;

/// The credential that owns the tables. Only this command reads it.
pub(super) const MIGRATOR: CredentialSpec =
    CredentialSpec { name: "migrator", kind: Login::NAME, stages: Login::STAGES, optional: false };

struct MigratorSecret {
    migrator: Credential<Login>,
}

impl SecretSet for MigratorSecret {
    fn specs() -> Vec<CredentialSpec> {
        vec![MIGRATOR]
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let name: Name = MIGRATOR.name;
        Some(Self { migrator: CredentialField::resolve(name, resolver)? })
    }
}

pub(super) async fn run<A: Application>(sources: &Sources) -> Result<(), Failed> {
    let config = bootstrap::configure::<A>(sources)?;
    Telemetry::install(&config.telemetry);
    let format = config.telemetry.format;
    migrate::<A>(sources, &config).await.map_err(|report| Failed { report, format })
}

async fn migrate<A: Application>(sources: &Sources, config: &config::Config<A::Settings>) -> Result<(), Report> {
    let deadline = Instant::now() + config.secrets.deadline;
    let regions = bootstrap::regions(sources, config, deadline).await?;
    let of_command = |fault| Report::of(Phase::Command, fault);
    let mut connection = log_in(&regions, config, deadline).await?;

    bound_waiting(&mut connection, deadline).await.map_err(of_command)?;
    apply(A::PACKAGE.migrations, &mut connection).await.map_err(of_command)?;
    let role = &config.database.access_role;
    if !role.is_empty() {
        grant(role, &mut connection).await.map_err(of_command)?;
    }
    let _ = connection.close().await;
    tracing::info!(db.namespace = config.database.name, access_role = role, "the schema is what this binary needs");
    Ok(())
}

/// Logs in as the migrator. If the current version is rejected, logs in with the pending one.
async fn log_in<T: config::Settings>(
    regions: &Regions,
    config: &config::Config<T>,
    deadline: Instant,
) -> Result<PgConnection, Report> {
    let of_command = |fault| Report::of(Phase::Command, fault);
    let nothing = HeldCredentials::default();
    let context = FetchContext {
        regions,
        revoked: &config.secrets.revoked,
        held: &nothing,
        to_replace: BTreeSet::new(),
        sibling_deadline: deadline,
        deadline,
    };
    let wanted: Vec<_> = config.id(&MIGRATOR).map(|id| (MIGRATOR, id)).into_iter().collect();
    let fetched = fetch::all(&context, &wanted).await;
    let resolver = Resolver::new(fetched, &nothing, &context.to_replace);
    let mut resolved: Resolved<MigratorSecret> = set::resolve(resolver, &nothing).map_err(|error| error.report)?;
    loop {
        let login = &resolved.secrets.migrator;
        let options = database::options(login, &config.database).map_err(of_command)?;
        let rejected = match database::connect(login, &options, &config.database, deadline, None, &mut None).await {
            Ok(connection) => return Ok(connection),
            Err(rejected @ BuildError::Rejected(_)) => rejected,
            Err(fault) => return Err(of_command(fault.into_fault())),
        };
        match set::with_pending(&resolved, MIGRATOR.name, &context).await {
            Some(with_pending) => resolved = with_pending,
            None => return Err(of_command(rejected.into_fault())),
        }
    }
}

/// A migration may take as long as it needs, but not wait for a lock past the deadline: neither for another `migrate`
/// nor for a table.
async fn bound_waiting(connection: &mut PgConnection, deadline: Instant) -> Result<(), Fault> {
    // 0 would mean no limit, and PostgreSQL takes no more than an int of milliseconds.
    let left = deadline.saturating_duration_since(Instant::now()).as_millis().clamp(1, i32::MAX as u128);
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(left.to_string())
        .execute(connection)
        .await
        .map_err(|error| database::fault(&error))?;
    Ok(())
}

/// Applies what is missing, under PostgreSQL's advisory lock. A schema that is newer is left as it is: during a
/// rollout, or after a rollback, the older binary's `migrate` may run too.
async fn apply(migrations: &Migrator, connection: &mut PgConnection) -> Result<(), Fault> {
    let mut migrator = Migrator { migrations: migrations.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_ignore_missing(true);
    migrator.run(connection).await.map_err(|error| match error {
        MigrateError::Execute(error) => database::fault(&error),
        MigrateError::ExecuteMigration(error, version) => {
            let fault = Fault { subject: format!("migration {version}"), ..database::fault(&error) };
            match error.as_database_error() {
                Some(said) if fault.exit == Exit::Unavailable && !database::transient(&error) => Fault {
                    exit: Exit::Bug,
                    problem: said.message().to_owned(),
                    remedy: "correct its SQL; what it did was rolled back, unless it runs outside of a transaction"
                        .into(),
                    ..fault
                },
                _ => fault,
            }
        }
        MigrateError::VersionMismatch(version) => broken(
            version,
            "it was changed after it was applied to this database",
            "restore its file, and put the change into a new migration",
        ),
        MigrateError::Dirty(version) => broken(
            version,
            "it was applied in part",
            "repair the schema by hand, then delete or correct its row in _sqlx_migrations",
        ),
        error => Fault::new(Exit::Bug, "migrations", error.to_string(), "correct the files in migrations/"),
    })
}

fn broken(version: i64, problem: &str, remedy: &str) -> Fault {
    Fault::new(Exit::Bug, format!("migration {version}"), problem, remedy)
}

/// Lets the group role read and write, in tables that exist and in those to come. Logins are members of it: their names
/// change, with Vault and with alternating users.
async fn grant(role: &str, connection: &mut PgConnection) -> Result<(), Fault> {
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(role)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| database::fault(&error))?;
    if !known {
        return Err(Fault::new(
            Exit::Config,
            format!("database.access_role = {role}"),
            "the database has no such role",
            "create it (CREATE ROLE … NOLOGIN) and make the service's login a member, or leave the setting empty",
        ));
    }
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    let statements = [
        "GRANT USAGE ON SCHEMA public TO",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO",
        "REVOKE INSERT, UPDATE, DELETE ON _sqlx_migrations FROM",
    ]
    .map(|grant| format!("{grant} {quoted};"))
    .concat();
    // Quoted above, as PostgreSQL's quote_ident does.
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.map_err(|error| database::fault(&error))?;
    Ok(())
}
