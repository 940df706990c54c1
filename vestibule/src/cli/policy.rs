//! `policy [--for COMMAND]`: prints the policy that gives a command the rights it needs, for exactly the configured ids.
//! Needs no credential, and asks nobody.

use super::{migrate, reload::fleet_signer};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, SecretsProvider, ServiceSettings, layers::Sources, settings::LogFormat},
    credentials::all_secrets::AllSecrets,
    exit::{Exit, Fault, Phase, Report},
    secrets::{
        aws::policy::{self as aws_policy, AwsAccount},
        rights::{Policy, Rights, RightsHolder, TokenLogIn},
        vault::policy as vault_policy,
    },
    telemetry::standard_error,
};

/// Prints the policy on standard output, and nothing else there. Remarks go to standard error.
pub(super) async fn run<A: Application>(
    sources: &Sources,
    manager: &impl ManagerSetup<A::Settings>,
    holder: RightsHolder,
    provider: Option<SecretsProvider>,
    account: &AwsAccount,
) -> Result<(), CommandError> {
    let config = bootstrap::configure::<A>(sources).await?;
    let failed = |report| CommandError { report, format: LogFormat::Pretty };
    let rights = match holder {
        RightsHolder::Serve => rights_to_serve::<A>(&config),
        RightsHolder::Migrate => migrate::rights(&A::PACKAGE, &config).map_err(failed)?,
        RightsHolder::Audit => rights_to_audit::<A>(&config),
        RightsHolder::Reload => {
            let (_, id) = fleet_signer::signing_key::<A>(&config).map_err(failed)?;
            Rights { values: [id].into(), ..rights_to_audit::<A>(&config) }
        }
    };
    let policy = policy(rights, manager.provider(&config), provider, account, &config);
    let Policy { document, remarks } = policy.map_err(|faults| failed(Report { phase: Phase::Command, faults }))?;
    for remark in remarks {
        standard_error::write_line(&format!("note: {remark}"));
    }
    if document.is_empty() {
        standard_error::write_line("note: no right is needed, so there is no policy");
    } else {
        say!("{document}");
    }
    Ok(())
}

/// Returns the rights to load what a generation is built from.
fn rights_to_serve<A: Application>(config: &Config<A::Settings>) -> Rights<'_> {
    let token_log_ins = config.iam_databases().map(|database| TokenLogIn {
        section: database.section(),
        region: database.config.region.as_deref(),
        user: database.config.username.as_deref().unwrap_or_default(),
    });
    Rights {
        values: AllSecrets::<A::Secrets>::to_fetch(config).map(|(_, id)| id).collect(),
        token_log_ins: token_log_ins.collect(),
        ..Rights::default()
    }
}

/// Returns the rights to compare what a generation is built from.
fn rights_to_audit<A: Application>(config: &Config<A::Settings>) -> Rights<'_> {
    Rights { versions: AllSecrets::<A::Secrets>::to_fetch(config).map(|(_, id)| id).collect(), ..Rights::default() }
}

/// Returns the policy at the provider that was asked for, or at that of the secrets.
fn policy<T: ServiceSettings>(
    mut rights: Rights<'_>,
    of_secrets: Option<SecretsProvider>,
    asked_for: Option<SecretsProvider>,
    account: &AwsAccount,
    config: &Config<T>,
) -> Result<Policy, Vec<Fault>> {
    let usage = |subject: &str, problem, remedy: &str| vec![Fault::new(Exit::Usage, subject, problem, remedy)];
    match asked_for.or(of_secrets) {
        Some(SecretsProvider::Aws) => {
            if of_secrets != Some(SecretsProvider::Aws) {
                (rights.values, rights.versions) = Default::default();
            }
            let sections: Vec<_> = config.iam_databases().map(|database| database.section()).collect();
            if let Some(unknown) = account.resource_ids.keys().find(|section| !sections.contains(section)) {
                let subject = format!("option --database-resource {unknown}=…");
                let problem = "no section of this name has auth = \"iam\"";
                return Err(usage(&subject, problem, "name a section with it: `database`, or `databases.NAME`"));
            }
            aws_policy::policy(&rights, &config.secrets.aws, account)
        }
        Some(SecretsProvider::Vault) if of_secrets == Some(SecretsProvider::Vault) => {
            if !account.is_empty() {
                let problem = "the policy is one of Vault, and these options are for AWS";
                let remedy = "leave them out; or add --provider aws, for the databases with auth = \"iam\"";
                return Err(usage("options --account, --kms-key and --database-resource", problem, remedy));
            }
            let mut policy = vault_policy::policy(&rights, &config.secrets.vault);
            if !rights.token_log_ins.is_empty() {
                policy.remarks.push(
                    "a database has auth = \"iam\": the role at AWS needs the policy that --provider aws prints".into(),
                );
            }
            Ok(policy)
        }
        Some(SecretsProvider::Vault) => {
            Err(usage("option --provider", "the secrets are not at Vault", "leave the option out"))
        }
        None => Err(usage(
            "the secrets manager",
            "this service brings a manager of its own, and this command does not know its policies",
            "read about it where the service makes it; for databases with auth = \"iam\", add --provider aws",
        )),
    }
}
