//! The OpenAPI document of a service: on the public listener, by the command, and as a page.

use crate::SERVICE;
use devstack::{RunningService, problem, reqwest::StatusCode};
use serde_json::Value;

#[tokio::test]
async fn the_document_has_every_route_with_its_problems_and_needs_no_configuration() {
    let tenant = SERVICE.migrated("openapi").await;
    let running = SERVICE.start(&tenant).await;
    let answer = running.get("/openapi.json").await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let served = answer.text().await.unwrap();

    let printed = SERVICE.launch_without_tenant().await.args(["--config-dir", "/nonexistent/folder", "openapi"]).run();
    assert_eq!((printed.code, printed.stdout.trim()), (Some(0), served.as_str()), "{}", printed.stderr);

    let document: Value = serde_json::from_str(&served).unwrap();
    assert_eq!(document["info"]["title"], env!("CARGO_PKG_NAME"));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, methods) in [("/v1/notes", ["get", "post"]), ("/v1/notes/{id}", ["delete", "get"])] {
        let item = document["paths"][path].as_object().unwrap();
        assert!(item.keys().eq(methods), "{item:?}");
        for (method, operation) in item {
            for status in ["400", "500", "503"] {
                let response = &operation["responses"][status];
                let name = response["$ref"].as_str().unwrap_or_default().trim_start_matches('#');
                let schema = "/content/application~1problem+json/schema/$ref";
                let schema = document.pointer(name).and_then(|response| response.pointer(schema));
                assert_eq!(
                    schema,
                    Some(&"#/components/schemas/Problem".into()),
                    "{method} {path} {status}: {response}"
                );
            }
        }
    }

    let (_, _, page) = running.page("/docs").await;
    for part in ["/v1/notes/{id}", "The largest number of notes in the page.", "curl -i -X POST"] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(!page.contains("<script"), "{page}");
}

#[tokio::test]
async fn a_setting_hides_the_document_from_the_public() {
    let tenant = SERVICE.migrated("openapi_off").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__OPENAPI", "false");
    let running = RunningService::start(launch, &tenant).await;
    problem(running.get("/openapi.json").await, 404).await;
    assert_eq!(running.page("/docs").await.0, StatusCode::OK);
}
