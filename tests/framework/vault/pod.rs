//! The login of a pod: with the token of its service account, which the cluster reviews.

use super::{assert_fails, serves};
use crate::SERVICE;
use axum::{Json, Router};
use devstack::OpenBaoServer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The audience of the tokens of a Kubernetes cluster.
const CLUSTER: &str = "https://kubernetes.default.svc";

#[tokio::test]
async fn a_pod_logs_in_with_the_token_of_its_service_account() {
    let tenant = SERVICE.migrated_at_openbao("bao_kubernetes").await;
    let (server, name) = (OpenBaoServer::shared().await, tenant.name());
    let account = "system:serviceaccount:payments:notes";
    let claims = json!({
        "sub": account,
        "aud": [CLUSTER],
        "nbf": 0,
        "kubernetes.io": { "namespace": "payments", "serviceaccount": { "name": "notes", "uid": "1" } },
    });
    let jwt = server.issuer().token_with(claims);
    let cluster = token_review_server(jwt.clone(), account).await;
    let mount = format!("kubernetes-{name}");
    let bao = server.api();
    bao.post(&format!("sys/auth/{mount}"), json!({ "type": "kubernetes" })).await.unwrap();
    let config = json!({
        "kubernetes_host": cluster,
        "kubernetes_ca_cert": tenant.authority().certificate(),
        "disable_local_ca_jwt": true,
        "token_reviewer_jwt": jwt,
    });
    bao.post(&format!("auth/{mount}/config"), config).await.unwrap();
    let role = json!({
        "bound_service_account_names": ["notes"],
        "bound_service_account_namespaces": ["payments"],
        "token_policies": [name],
    });
    bao.post(&format!("auth/{mount}/role/{name}"), role).await.unwrap();
    let launch = || {
        let launch = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__AUTH", "kubernetes");
        let launch = launch.env("APP_SECRETS__VAULT__AUTH_MOUNT", &mount);
        launch.env("APP_SECRETS__VAULT__JWT_FILE", server.write_file(&format!("account-{name}"), &jwt).unwrap())
    };
    serves(launch(), &tenant).await;
    let other = launch().env("APP_SECRETS__VAULT__ROLE", "another");
    assert_fails(other, 77, &[&format!("the login at auth/{mount}/login is denied"), "TokenReview"]).await;
}

/// Starts the TokenReview of a Kubernetes cluster that knows one token. Returns the cluster's address.
async fn token_review_server(token: String, account: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let review = async move |Json(request): Json<Value>| {
        let is_known = request["spec"]["token"] == *token;
        let user = json!({ "username": account, "uid": "1", "groups": ["system:serviceaccounts"] });
        Json(json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "status": { "authenticated": is_known, "user": user, "audiences": [CLUSTER] },
        }))
    };
    tokio::spawn(axum::serve(listener, Router::new().fallback(review)).into_future());
    address
}
