//! `migrate`: applies the migrations of each database with its own `migrator` credential, and grants the service's role
//! access.

mod owner;
mod schema;

use crate::{
    application::Application,
    blocking_reads::FileReads,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, ServiceSettings, layers::Sources, settings::DatabaseConfig},
    credentials::login::Login,
    exit::{Fault, Phase, Report},
    package::Package,
    resources::{
        database::{self, ConnectError, DatabaseSection, DatabaseSections, LogInOptions},
        rejection::{Rejection, token_rejected},
    },
    secrets::{
        credential::{Credential, Name},
        fetch::{self, FetchContext},
        held::HeldCredentials,
        regions::Regions,
        resolver::Resolver,
        rights::{Rights, TokenLogIn},
        set::{self, CredentialField, Resolved, SecretSet},
        spec::CredentialSpec,
    },
    signals::CommandSignals,
    telemetry::Telemetry,
};
use sqlx::{Connection, PgConnection, migrate::Migrator};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// The credential that owns the tables of `[database]`. Only this command reads it.
const MIGRATOR: Name = "migrator";

/// The longest time for the migrations of one database. On a large table one may take hours, and a server that is gone
/// without a word must not hold the command for ever.
const LONGEST_MIGRATIONS: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest wait until a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The set of credentials of one database's migration: the one that was fetched.
struct MigratorSecret {
    migrator: Credential<Login>,
}

impl SecretSet for MigratorSecret {
    fn specs() -> Vec<CredentialSpec> {
        vec![Credential::<Login>::spec(MIGRATOR)]
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        let name = resolver.names().next()?;
        Some(Self { migrator: CredentialField::resolve(name, resolver)? })
    }
}

/// Returns the credentials that this command reads: one for each database with migrations.
pub(super) fn specs(package: &Package) -> Vec<CredentialSpec> {
    let default = package.migrations.map(|_| MIGRATOR);
    let named = package.named_migrations.iter().map(|named| named.migrator);
    default.into_iter().chain(named).map(Credential::<Login>::spec).collect()
}

/// A database to migrate.
struct Target<'a> {
    section: DatabaseSection<'a>,
    migrations: &'static Migrator,
    migrator: CredentialSpec,
}

/// Returns the databases that have migrations, that of `[database]` first.
///
/// # Errors
/// A fault for each that has no section in the configuration.
fn targets<'a, T>(package: &'static Package, config: &'a Config<T>) -> Result<Vec<Target<'a>>, Report> {
    let sections = DatabaseSections::of(package, config);
    let target =
        |section, migrator, migrations| Target { section, migrations, migrator: Credential::<Login>::spec(migrator) };
    let mut targets = Vec::new();
    let mut faults = Vec::new();
    if let Some(migrations) = package.migrations {
        targets.push(target(sections.default(), MIGRATOR, migrations));
    }
    for named in package.named_migrations {
        match sections.named(named.database) {
            Ok(section) => targets.push(target(section, named.migrator, named.migrations)),
            Err(fault) => faults.push(fault),
        }
    }
    Report::unless_clean(Phase::Config, faults)?;
    Ok(targets)
}

/// Returns the rights that this command needs: what [`migrate_all`] logs in with.
///
/// # Errors
/// As [`targets`].
pub(super) fn rights<'a, T: ServiceSettings>(
    package: &'static Package,
    config: &'a Config<T>,
) -> Result<Rights<'a>, Report> {
    let (mut values, mut token_log_ins) = (BTreeSet::new(), Vec::new());
    for target in targets(package, config)? {
        let Target { section, migrator, .. } = &target;
        match token_user(&target) {
            Some(user) => token_log_ins.push(TokenLogIn {
                section: section.key(),
                region: section.config.region.as_deref(),
                user,
            }),
            None => values.extend(config.id(migrator)),
        }
    }
    Ok(Rights { values, token_log_ins, ..Rights::default() })
}

pub(super) async fn run<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    signals: &CommandSignals,
) -> Result<(), CommandError> {
    let config = bootstrap::configure::<A>(sources).await?;
    Telemetry::install(&config.telemetry, &A::PACKAGE).map_err(|error| bootstrap::start_error(&error))?;
    let format = config.telemetry.format;
    migrate::<A>(sources, manager, signals, &config).await.map_err(|report| CommandError { report, format })
}

/// Migrates one database after the other. The first failure ends the command; the log has the databases that are done.
async fn migrate<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    signals: &CommandSignals,
    config: &Config<A::Settings>,
) -> Result<(), Report> {
    let targets = targets(&A::PACKAGE, config)?;
    if targets.is_empty() {
        tracing::info!("there is nothing to migrate: this binary has no migrations");
        return Ok(());
    }
    let regions = bootstrap::regions(sources, manager, config, Instant::now() + config.secrets.deadline).await?;
    super::close_after(&regions, signals, migrate_all(&regions, config, sources.is_strict(), &targets)).await
}

async fn migrate_all<T: ServiceSettings>(
    regions: &Regions,
    config: &Config<T>,
    is_strict: bool,
    targets: &[Target<'_>],
) -> Result<(), Report> {
    for target in targets {
        let deadline = Instant::now() + config.secrets.deadline;
        let of_database = |fault| Report::of(Phase::Command, target.section.name_in(fault));
        // A leased login is given back when it is dropped, so it must outlive its connection.
        let (mut connection, _login) = if let Some(user) = token_user(target) {
            let connection = log_in_with_token(user, config, is_strict, target, deadline).await;
            (connection.map_err(of_database)?, None)
        } else {
            let (connection, login) = log_in(regions, config, target, deadline).await?;
            (connection, Some(login))
        };
        apply(target, &mut connection, deadline, config.secrets.deadline).await.map_err(of_database)?;
        let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
        tracing::info!(
            database = target.section.key(),
            db.namespace = target.section.config.name(),
            access_role = target.section.config.access_role.as_deref(),
            owner_role = target.section.config.owner_role.as_deref(),
            "all migrations of this binary are applied"
        );
    }
    Ok(())
}

/// Applies the migrations, and then grants the service its rights, within `time_to_grant`.
async fn apply(
    target: &Target<'_>,
    connection: &mut PgConnection,
    deadline: Instant,
    time_to_grant: Duration,
) -> Result<(), Fault> {
    let DatabaseConfig { owner_role, access_role, .. } = target.section.config;
    within(deadline, schema::limit_lock_waits(connection, deadline)).await?;
    let mut migrations = target.migrations.migrations.clone();
    if let Some(owner) = owner_role {
        within(deadline, owner::take_place(owner, connection)).await?;
        owner::guard(owner, migrations.to_mut());
    }
    within(Instant::now() + LONGEST_MIGRATIONS, schema::apply(migrations, connection)).await?;
    if let Some(owner) = owner_role {
        within(Instant::now() + time_to_grant, owner::check(owner, connection)).await?;
    }
    if let Some(role) = access_role {
        within(Instant::now() + time_to_grant, schema::grant(role, connection)).await?;
    }
    Ok(())
}

/// Waits for a step until the deadline. The server itself limits waits for locks, but it may be gone.
async fn within(deadline: Instant, step: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    timeout_at(deadline, step).await.unwrap_or_else(|_| Err(database::unanswered()))
}

/// Returns the user as which the migrations of a database log in with a token.
fn token_user<'a>(target: &Target<'a>) -> Option<&'a str> {
    let config = target.section.config;
    if config.is_iam() { config.migrator_username.as_deref() } else { None }
}

/// Logs in with a token that is signed here.
async fn log_in_with_token<T>(
    user: &str,
    config: &Config<T>,
    is_strict: bool,
    target: &Target<'_>,
    deadline: Instant,
) -> Result<PgConnection, Fault> {
    let (aws, files) = (&config.secrets.aws, FileReads::default());
    let options = LogInOptions::with_tokens(Some(user), target.section, aws, is_strict, &files).await?;
    match database::connect(&options, deadline, None, true, None).await {
        Ok((connection, _)) => Ok(connection),
        Err(ConnectError::Rejected(error)) => Err(token_rejected("database", &database::reason(&error))),
        Err(ConnectError::Fault(fault)) => Err(fault),
    }
}

/// Logs in as the migrator. If the current version is rejected, logs in with the pending one.
async fn log_in<T: ServiceSettings>(
    regions: &Regions,
    config: &Config<T>,
    target: &Target<'_>,
    deadline: Instant,
) -> Result<(PgConnection, Credential<Login>), Report> {
    let of_command = |fault| Report::of(Phase::Command, fault);
    let nothing = HeldCredentials::default();
    let context =
        FetchContext::of_first_load(regions, &config.secrets.revoked, &nothing, config.server.drain, deadline);
    let mut specs = Vec::new();
    if let Some(id) = config.id(&target.migrator) {
        specs.push((target.migrator, id));
    }
    let fetched = fetch::all(&context, &specs).await;
    let resolver = Resolver::new(fetched, &nothing);
    let mut resolved: Resolved<MigratorSecret> = set::resolve(resolver, &nothing).map_err(|error| error.report)?;
    let files = FileReads::default();
    loop {
        let login = &resolved.secrets.migrator;
        let options = LogInOptions::with_password(login, target.section, &files).await.map_err(of_command)?;
        let rejected = match database::connect(&options, deadline, None, true, None).await {
            Ok((connection, _)) => return Ok((connection, resolved.secrets.migrator)),
            Err(ConnectError::Rejected(error)) => Rejection::of(login, database::reason(&error)),
            Err(ConnectError::Fault(fault)) => return Err(of_command(target.section.name_in(fault))),
        };
        match set::resolve_with_pending(&resolved, target.migrator.name, &context, deadline).await {
            Some(with_pending) => resolved = with_pending,
            None => return Err(of_command(rejected.into_fault())),
        }
    }
}
