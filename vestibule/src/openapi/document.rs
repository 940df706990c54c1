//! The OpenAPI 3.1 document of a service: its routes describe themselves, and the framework adds what it does itself.

use crate::package::Package;
use aws_lc_rs::digest::{self, SHA256};
use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};
use utoipa::openapi::{OpenApi, PathItem, security::SecurityRequirement};

/// The members of a path item that are operations.
pub(super) const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The problems that the framework itself answers with: the status, and the description of the response.
const COMMON_PROBLEMS: [(&str, Operations, &str); 11] = [
    ("400", Operations::WithInput, "The request is malformed."),
    ("401", Operations::WithToken, "The token is missing, or it is not valid."),
    ("403", Operations::WithToken, "The token does not allow this."),
    ("404", Operations::WithPathParameter, "There is nothing at this path."),
    ("408", Operations::WithBody, "The body of the request did not arrive in time."),
    ("413", Operations::WithBody, "The body of the request is too large."),
    ("415", Operations::WithBody, "The body of the request has another media type."),
    ("422", Operations::WithBody, "The body of the request has a wrong member or value."),
    ("429", Operations::WithToken, "The key of the token is not known yet. `Retry-After` says when to try again."),
    ("500", Operations::All, "The request failed on the side of the service."),
    ("503", Operations::All, "The service cannot answer now. If the client may try again, `Retry-After` says when."),
];

/// The operations that a problem belongs to.
enum Operations {
    All,
    /// Those with a parameter or a body.
    WithInput,
    WithPathParameter,
    WithBody,
    /// Those that need a token.
    WithToken,
}

/// The name of the security scheme.
const BEARER: &str = "bearer";

/// The document of a generation's routes. It is made when somebody first asks for it, so no load waits for it.
pub(crate) type LazyDocument = LazyLock<Value, Box<dyn FnOnce() -> Value + Send>>;

/// Says that each operation needs a token, unless its author has said what it needs.
pub(crate) fn require_token(routes: &mut OpenApi) {
    for item in routes.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
        for operation in [get, put, post, delete, options, head, patch, trace].into_iter().flatten() {
            let bearer = || vec![SecurityRequirement::new(BEARER, [""; 0])];
            operation.security.get_or_insert_with(bearer);
        }
    }
}

/// Completes the document of the routes: with the name of the service, and with the problems that each operation can
/// answer. Keeps what the routes say themselves.
pub(crate) fn complete(routes: OpenApi, package: &Package) -> Value {
    let mut document = serde_json::to_value(routes).expect("the keys of a document are text");
    document["info"] = json!({ "title": package.name, "version": package.version });
    if !package.description.is_empty() {
        document["info"]["description"] = package.description.into();
    }
    let items = std::mem::replace(&mut document["paths"], json!({}));
    let mut ids = BTreeSet::new();
    let mut is_guarded = false;
    for (path, mut item) in items.as_object().cloned().unwrap_or_default() {
        // A parameter of axum that takes the rest of the path, slashes too. OpenAPI has no sign for it.
        let path = path.replace("{*", "{");
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                is_guarded |= needs_token(operation);
                add_problems(&path, operation);
                exclude_null(operation);
                make_id_unique(method, &path, operation, &mut ids);
            }
        }
        document["paths"][path] = item;
    }
    if is_guarded {
        let scheme = json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" });
        document["components"]["securitySchemes"][BEARER] = scheme;
    }
    for (status, operations, description) in COMMON_PROBLEMS {
        if matches!(operations, Operations::WithToken) && !is_guarded {
            continue;
        }
        let response = &mut document["components"]["responses"][component(status)];
        *response = json!({ "description": description, "content": problem_content() });
        if matches!(status, "429" | "503") {
            response["headers"]["Retry-After"] = json!({
                "description": "The seconds after which the client may try again.",
                "schema": { "type": "integer", "minimum": 0 },
            });
        }
    }
    document["components"]["schemas"]["Problem"] = problem_schema();
    document
}

fn needs_token(operation: &Value) -> bool {
    operation["security"].as_array().is_some_and(|schemes| schemes.iter().any(|scheme| scheme.get(BEARER).is_some()))
}

/// Adds the problems that the framework answers for this operation.
fn add_problems(path: &str, operation: &mut Value) {
    let has_body = operation.get("requestBody").is_some();
    let has_path_parameter = path.contains('{');
    let has_input = has_body || operation.get("parameters").is_some();
    let needs_token = needs_token(operation);
    let responses = &mut operation["responses"];
    for (status, response) in responses.as_object_mut().into_iter().flatten() {
        if response.get("$ref").is_some() {
            continue;
        }
        if response.get("description").is_none() {
            response["description"] = reason(status).into();
        }
        // The frame makes a problem of each error without a body.
        if status.starts_with(['4', '5']) && response.get("content").is_none() {
            response["content"] = problem_content();
        }
    }
    for (status, operations, _) in COMMON_PROBLEMS {
        let applies = match operations {
            Operations::All => true,
            Operations::WithInput => has_input,
            Operations::WithPathParameter => has_path_parameter,
            Operations::WithBody => has_body,
            Operations::WithToken => needs_token,
        };
        if applies && responses.get(status).is_none() {
            responses[status] = json!({ "$ref": format!("#/components/responses/{}", component(status)) });
        }
    }
}

/// Returns the name of a common problem among the components of a document.
fn component(status: &str) -> String {
    format!("Problem{status}")
}

/// Returns the phrase of a status.
fn reason(status: &str) -> &'static str {
    status.parse().ok().and_then(|status: StatusCode| status.canonical_reason()).unwrap_or_default()
}

/// Takes `null` out of the types of parameters. utoipa adds it for an `Option`, but no text of a URL or a header is null.
fn exclude_null(operation: &mut Value) {
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let Some(Value::Array(types)) = parameter.pointer_mut("/schema/type") else { continue };
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            parameter["schema"]["type"] = only.clone();
        }
    }
}

/// Gives the operation an id of its method and path, if another one has its id. It is the name of the handler, unless the
/// author chose another one, and handlers in two modules may have one name.
fn make_id_unique(method: &str, path: &str, operation: &mut Value, ids: &mut BTreeSet<String>) {
    let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
    if !ids.insert(id) {
        let unique = format!("{method}{path}").replace(|char: char| !char.is_alphanumeric(), "_");
        ids.insert(unique.clone());
        operation["operationId"] = unique.into();
    }
}

fn problem_content() -> Value {
    json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error (RFC 9457). It may have further members, which its type defines.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {
                "type": "string",
                "format": "uri-reference",
                "description": "The type of the problem, for programs. `about:blank` says no more than the status.",
            },
            "title": { "type": "string", "description": "The summary of the type." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599, "description": "The status of the response." },
            "detail": { "type": "string", "description": "What is wrong with this request, and what to change." },
            "instance": {
                "type": "string",
                "format": "uri-reference",
                "description": "The name of this occurrence, which the log has too.",
            },
            "errors": {
                "type": "array",
                "description": "Each fault of the body.",
                "items": {
                    "type": "object",
                    "required": ["detail"],
                    "properties": {
                        "detail": { "type": "string", "description": "What is wrong." },
                        "pointer": { "type": "string", "description": "The place in the body: a JSON pointer." },
                    },
                },
            },
        },
    })
}

/// Returns the text of a document, as `openapi` prints it and `/openapi.json` answers it.
pub(crate) fn text(document: &Value) -> String {
    format!("{document:#}")
}

/// Returns the handler of `GET /openapi.json`.
pub(crate) fn route<S: Clone + Send + Sync + 'static>(document: Arc<LazyDocument>) -> MethodRouter<S> {
    let tagged = Arc::new(LazyLock::new(move || {
        let text = Bytes::from(text(&document));
        let hash = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, &text));
        // Weak, so that the document may be compressed.
        let tag = HeaderValue::from_str(&format!("W/\"{hash}\"")).expect("base64 is ASCII");
        (text, tag)
    }));
    get(async move |request: HeaderMap| {
        let (text, tag) = &**tagged;
        respond(text.clone(), tag.clone(), &request)
    })
}

/// Answers with the document, or with 304 if the client has it.
fn respond(text: Bytes, tag: HeaderValue, request: &HeaderMap) -> Response {
    let known = is_known(&tag, request);
    let headers: [(HeaderName, HeaderValue); 2] = [(ETAG, tag), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(CONTENT_TYPE, "application/json")], text).into_response()
}

/// Returns `true` if the client has a document with this tag. The comparison is weak.
fn is_known(tag: &HeaderValue, request: &HeaderMap) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let tag = tag.to_str().map(opaque).unwrap_or_default();
    let lists = request.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let mut known = lists.flat_map(|list| list.split(',')).map(str::trim);
    known.any(|known| known == "*" || opaque(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::{OpenApiRouter, routes};
    use axum::{
        Json,
        extract::{Path, Query},
        http::Request,
    };
    use tower::ServiceExt;
    use utoipa::ToSchema;

    #[derive(serde::Serialize, serde::Deserialize, ToSchema)]
    struct Order {
        count: u32,
    }

    #[derive(serde::Deserialize, utoipa::IntoParams)]
    #[expect(dead_code, reason = "only the document knows it")]
    struct Above {
        above: Option<u32>,
    }

    /// Lists the orders.
    #[utoipa::path(
        get,
        path = "/orders",
        params(Above),
        responses((status = OK, body = [Order])),
    )]
    async fn list(_: Query<Above>) -> Json<Vec<Order>> {
        Json(Vec::new())
    }

    #[utoipa::path(
        post,
        path = "/orders",
        request_body = Order,
        responses(
            (status = CREATED),
            (status = CONFLICT, description = "there is such an order"),
            (status = 422, description = "too many", body = Order),
        )
    )]
    async fn create(_: Json<Order>) {}

    #[utoipa::path(get, path = "/hours", responses((status = OK)))]
    async fn hours() {}

    mod files {
        #[utoipa::path(get, path = "/files/{*rest}", params(("rest" = String, Path)), responses((status = OK)))]
        pub(super) async fn list(_: super::Path<String>) {}
    }

    fn shop() -> Value {
        let router: OpenApiRouter =
            OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(files::list)).routes(routes!(hours));
        let package = Package { description: "Sells.", ..Package::new("shop", "1.2.3") };
        complete(router.into_openapi(), &package)
    }

    fn statuses(operation: &Value) -> Vec<&str> {
        operation["responses"].as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_document_has_the_name_of_the_service_and_its_operations() {
        let shop = shop();
        assert!(shop["openapi"].as_str().unwrap().starts_with("3.1."), "{}", shop["openapi"]);
        assert_eq!(shop["info"], json!({ "title": "shop", "version": "1.2.3", "description": "Sells." }));
        assert_eq!(shop["paths"]["/orders"]["get"]["summary"], "Lists the orders.");
        assert_eq!(shop["paths"]["/files/{rest}"]["get"]["parameters"][0]["name"], "rest");
        assert_eq!(shop["paths"]["/orders"]["get"]["parameters"][0]["schema"]["type"], "integer");
    }

    #[test]
    fn each_operation_has_the_problems_that_it_can_answer() {
        let shop = shop();
        assert_eq!(statuses(&shop["paths"]["/hours"]["get"]), ["200", "500", "503"]);
        assert_eq!(statuses(&shop["paths"]["/orders"]["get"]), ["200", "400", "500", "503"]);
        assert_eq!(statuses(&shop["paths"]["/files/{rest}"]["get"]), ["200", "400", "404", "500", "503"]);
        let create = &shop["paths"]["/orders"]["post"];
        assert_eq!(statuses(create), ["201", "400", "408", "409", "413", "415", "422", "500", "503"]);
        for (_, response) in create["responses"].as_object().unwrap() {
            let Some(name) = response["$ref"].as_str() else { continue };
            let response = shop.pointer(name.strip_prefix('#').unwrap()).expect(name);
            assert_eq!(response["content"], problem_content());
        }
        let busy = &shop["components"]["responses"]["Problem503"];
        assert_eq!(busy["headers"]["Retry-After"]["schema"]["type"], "integer");
        assert_eq!(shop["components"]["schemas"]["Problem"], problem_schema());
    }

    #[test]
    fn the_framework_overwrites_nothing_that_the_author_wrote() {
        let shop = shop();
        let responses = &shop["paths"]["/orders"]["post"]["responses"];
        assert_eq!(responses["422"]["description"], "too many");
        assert_eq!(responses["422"]["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/Order");
        assert_eq!(responses["409"]["description"], "there is such an order");
        assert_eq!(responses["409"]["content"], problem_content());
        assert_eq!((responses["201"].get("content"), &responses["201"]["description"]), (None, &"Created".into()));
    }

    #[test]
    fn no_two_operations_have_the_same_id() {
        let shop = shop();
        let ids = ["/files/{rest}", "/orders"].map(|path| &shop["paths"][path]["get"]["operationId"]);
        assert_eq!(ids, ["list", "get_orders"]);
    }

    #[test]
    fn operations_that_need_a_token_say_so() {
        let (mut guarded, public): (OpenApiRouter, OpenApiRouter) =
            (OpenApiRouter::new().routes(routes!(list, create)), OpenApiRouter::new().routes(routes!(hours)));
        require_token(guarded.get_openapi_mut());
        let shop = complete(guarded.merge(public).into_openapi(), &Package::new("shop", "1.2.3"));
        for method in ["get", "post"] {
            let operation = &shop["paths"]["/orders"][method];
            assert_eq!(operation["security"], json!([{ "bearer": [] }]), "{method}");
            assert!(["401", "403", "429"].iter().all(|status| statuses(operation).contains(status)), "{operation}");
        }
        assert_eq!(statuses(&shop["paths"]["/hours"]["get"]), ["200", "500", "503"]);
        assert_eq!(shop["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        assert_eq!(shop["components"]["responses"][component("403")]["content"], problem_content());
        assert_eq!(self::shop()["components"].get("securitySchemes"), None);
    }

    #[tokio::test]
    async fn a_client_that_has_the_document_gets_304() {
        let document = Arc::new(LazyDocument::new(Box::new(shop)));
        let router: axum::Router = axum::Router::new().route("/openapi.json", route(document));
        let ask = async |known: &str| {
            let request = Request::get("/openapi.json").header(IF_NONE_MATCH, known);
            router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap()
        };
        let first = ask("\"other\"").await;
        assert_eq!(
            (first.status(), &first.headers()[CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static("application/json"))
        );
        let tag = first.headers()[ETAG].to_str().unwrap().strip_prefix("W/").unwrap();
        for known in [tag, "*", &format!("W/{tag}"), &format!("\"other\", {tag}"), &format!("\"other\",W/{tag}")] {
            assert_eq!(ask(known).await.status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(ask("W/\"other\"").await.status(), StatusCode::OK);
    }
}
