//! `migrate`: applies `migrations/` with the `migrator` credential, and grants the service's role access.

mod schema;

use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, ServiceSettings, layers::Sources},
    credentials::login::Login,
    exit::{Phase, Report},
    resources::{
        database::{self, ConnectError},
        rejection::Rejection,
    },
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
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;
use tokio::time::Instant;

/// The credential that owns the tables. Only this command reads it.
pub(super) const MIGRATOR: CredentialSpec =
    CredentialSpec { name: "migrator", kind: Login::NAME, stages: Login::STAGES, optional: false };

/// The set of credentials of this command.
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

pub(super) async fn run<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
) -> Result<(), CommandError> {
    let config = bootstrap::configure::<A>(sources)?;
    Telemetry::install(&config.telemetry);
    let format = config.telemetry.format;
    migrate::<A>(sources, manager, &config).await.map_err(|report| CommandError { report, format })
}

async fn migrate<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    config: &Config<A::Settings>,
) -> Result<(), Report> {
    let deadline = Instant::now() + config.secrets.deadline;
    let regions = bootstrap::regions(sources, manager, config, deadline).await?;
    let of_command = |fault| Report::of(Phase::Command, fault);
    let mut connection = log_in(&regions, config, deadline).await?;

    schema::limit_lock_waits(&mut connection, deadline).await.map_err(of_command)?;
    schema::apply(A::PACKAGE.migrations, &mut connection).await.map_err(of_command)?;
    let role = &config.database.access_role;
    if !role.is_empty() {
        schema::grant(role, &mut connection).await.map_err(of_command)?;
    }
    let _ = connection.close().await;
    tracing::info!(
        db.namespace = config.database.name,
        access_role = role,
        "all migrations of this binary are applied"
    );
    Ok(())
}

/// Logs in as the migrator. If the current version is rejected, logs in with the pending one.
async fn log_in<T: ServiceSettings>(
    regions: &Regions,
    config: &Config<T>,
    deadline: Instant,
) -> Result<PgConnection, Report> {
    let of_command = |fault| Report::of(Phase::Command, fault);
    let nothing = HeldCredentials::default();
    let context = FetchContext {
        regions,
        revoked: &config.secrets.revoked,
        held: &nothing,
        doubted: BTreeSet::new(),
        deadline_of_others: deadline,
        deadline,
        is_start: true,
    };
    let mut specs = Vec::new();
    if let Some(id) = config.id(&MIGRATOR) {
        specs.push((MIGRATOR, id));
    }
    let fetched = fetch::all(&context, &specs).await;
    let resolver = Resolver::new(fetched, &nothing);
    let mut resolved: Resolved<MigratorSecret> = set::resolve(resolver, &nothing).map_err(|error| error.report)?;
    loop {
        let login = &resolved.secrets.migrator;
        let options = database::options(login, &config.database).map_err(of_command)?;
        let rejected = match database::connect(&options, deadline, None).await {
            Ok(connection) => return Ok(connection),
            Err(ConnectError::Rejected(error)) => Rejection::of(login, database::reason(&error)),
            Err(ConnectError::Fault(fault)) => return Err(of_command(fault)),
        };
        match set::resolve_with_pending(&resolved, MIGRATOR.name, &context).await {
            Some(with_pending) => resolved = with_pending,
            None => return Err(of_command(rejected.into_fault())),
        }
    }
}
