//! Shell commands of the documents.

use crate::SERVICE;
use devstack::{OpenBaoServer, Tenant, workspace};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes a folder of programs, for a path: the service has the name of its tenant there.
pub(crate) fn install_programs(tenant: &Tenant, folder: &Path) -> PathBuf {
    let programs = folder.join(format!("programs-{}", tenant.name()));
    fs::create_dir_all(&programs).expect("a folder");
    symlink(SERVICE.path(), programs.join(tenant.name())).expect("a link");
    programs
}

/// Runs commands as somebody who may do everything at the server. `"$SERVICE"` is the service, with the configuration of the
/// tenant and these variables. They run in the folder of the server's files.
pub(crate) async fn run_at_openbao(tenant: &Tenant, commands: &str, variables: &[(&str, &str)]) {
    let server = OpenBaoServer::shared().await;
    let database = tenant.database();
    let folder = server.authority_file().parent().expect("a folder").to_owned();
    let programs = install_programs(tenant, &folder);
    let path =
        [programs.as_path(), server.program().parent().expect("a folder")].map(|folder| folder.display().to_string());
    let settings = [
        ("APP_SECRETS__PROVIDER", "vault"),
        ("APP_SECRETS__VAULT__ADDRESSES", server.api().address()),
        ("APP_SECRETS__VAULT__AUTH", "approle"),
        ("APP_SECRETS__VAULT__ROLE_ID_FILE", "role-id"),
        ("APP_SECRETS__VAULT__SECRET_ID_FILE", "secret-id"),
    ];
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(folder)
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", path.join(":")))
        .env("SERVICE", tenant.name())
        .env("DATABASE", format!("{}:{}", database.host, database.port))
        .env("APP_CONFIG_DIR", workspace().join("config"))
        .envs(tenant.env())
        .envs(settings)
        .envs(variables.iter().copied())
        .envs(server.environment())
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{}", tenant.redact(&String::from_utf8_lossy(&output.stderr)));
}
