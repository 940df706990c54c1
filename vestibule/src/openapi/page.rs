//! The page of the OpenAPI document for people. It needs no scripts, and nothing from other hosts.

use super::{document::METHODS, example};
use crate::{
    application::{Application, Live},
    config::settings::ServerConfig,
};
use axum::{
    Router,
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    routing::get,
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

const STYLE: &str = include_str!("page.css");

/// The words for the bounds of a value.
const BOUNDS: [(&str, &str); 6] = [
    ("minimum", "from"),
    ("maximum", "up to"),
    ("minLength", "length from"),
    ("maxLength", "length up to"),
    ("pattern", "pattern"),
    ("enum", "one of"),
];

/// Returns the route of the page, for the admin listener.
pub(crate) fn router<A: Application>(live: Live<A>) -> Router {
    let page = async move || {
        let generation = live.generation();
        let headers = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        ];
        (headers, Page { document: &generation.document, server: &generation.config.server }.render().into_string())
    };
    Router::new().route("/docs", get(page))
}

struct Page<'a> {
    document: &'a Value,
    server: &'a ServerConfig,
}

impl Page<'_> {
    fn render(&self) -> Markup {
        let info = &self.document["info"];
        let title = text(&info["title"]);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) " " (text(&info["version"])) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (title) " " small { (text(&info["version"])) } }
                    p { (text(&info["description"])) }
                    p { "The same as OpenAPI " (text(&self.document["openapi"])) ": " code { "GET /openapi.json" } " on the public \
                         listener, or the command " code { "openapi" } "." }
                    nav { ul {
                        @for (path, method, operation) in self.operations() {
                            li { a href={ "#" (anchor(method, path)) } { b { (method) } " " (path) } " " (text(&operation["summary"])) }
                        }
                    } }
                    @for (path, method, operation) in self.operations() { (self.operation(path, method, operation)) }
                    h2 { "Schemas" }
                    @for (name, schema) in members(&self.document["components"]["schemas"]) {
                        section id={ "schema-" (name) } {
                            h3 { (name) }
                            p { (text(&schema["description"])) }
                            (properties(schema))
                        }
                    }
                }
            }
        }
    }

    fn operations(&self) -> impl Iterator<Item = (&str, &'static str, &Value)> {
        members(&self.document["paths"])
            .flat_map(|(path, item)| METHODS.iter().filter_map(move |method| Some((path, *method, item.get(method)?))))
    }

    fn operation(&self, path: &str, method: &str, operation: &Value) -> Markup {
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let body = example::resolve(&operation["requestBody"], self.document);
        html! {
            section id=(anchor(method, path)) {
                h2 { b { (method) } " " (path) }
                p { (text(&operation["summary"])) }
                @let description = text(&operation["description"]);
                @if !description.is_empty() { p { (description) } }
                @if !parameters.is_empty() {
                    h3 { "Parameters" }
                    table {
                        @for parameter in parameters {
                            @let parameter = example::resolve(parameter, self.document);
                            tr {
                                th { (text(&parameter["name"])) (required(parameter["required"] == true)) }
                                td { (type_of(&parameter["schema"])) ", in the " (text(&parameter["in"])) }
                                td { (text(&parameter["description"])) }
                            }
                        }
                    }
                }
                @if !body.is_null() {
                    h3 { "Body" }
                    p { (text(&body["description"])) }
                    (content(body))
                }
                h3 { "Answers" }
                table {
                    @for (status, response) in members(&operation["responses"]) {
                        @let response = example::resolve(response, self.document);
                        tr {
                            th { (status) }
                            td { (text(&response["description"])) @for (name, _) in members(&response["headers"]) { br; "Header " code { (name) } } }
                            td { (content(response)) }
                        }
                    }
                }
                h3 { "Example" }
                pre { (self.command(path, method, operation)) }
            }
        }
    }

    /// Returns a command that sends an example of the request.
    fn command(&self, path: &str, method: &str, operation: &Value) -> String {
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let body = example::resolve(&operation["requestBody"], self.document);
        let (mut path, mut query) = (path.to_owned(), Vec::new());
        for parameter in parameters {
            let parameter = example::resolve(parameter, self.document);
            let name = text(&parameter["name"]);
            let value = match example::of_schema(&parameter["schema"], self.document) {
                Value::String(text) => text,
                value => value.to_string(),
            };
            if parameter["in"] == "path" {
                path = path.replace(&format!("{{{name}}}"), &value);
            } else if parameter["in"] == "query" && parameter["required"] == true {
                query.push(format!("{name}={value}"));
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let scheme = if self.server.tls { "https" } else { "http" };
        let mut words = vec!["curl -i".to_owned()];
        if method != "get" {
            words.push(format!("-X {}", method.to_uppercase()));
        }
        words.push(quoted(&format!("{scheme}://{}{path}", self.server.listen)));
        if operation.get("security").is_some() {
            words.push("-H \"authorization: Bearer $TOKEN\"".to_owned());
        }
        if let Some((media_type, content)) = members(&body["content"]).next() {
            let body = example::of_schema(&content["schema"], self.document);
            words.push(format!(
                "-H {} -d {}",
                quoted(&format!("content-type: {media_type}")),
                quoted(&body.to_string())
            ));
        }
        words.join(" ")
    }
}

/// Returns the text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn anchor(method: &str, path: &str) -> String {
    format!("{method}{path}")
}

fn required(is_required: bool) -> Markup {
    html! { @if is_required { " " small { "required" } } }
}

/// Shows the media types of a body or an answer, with their schemas.
fn content(holder: &Value) -> Markup {
    html! {
        @for (media_type, content) in members(&holder["content"]) {
            div { code { (media_type) } " " (type_of(&content["schema"])) }
        }
    }
}

/// Shows the properties of an object, or the type of anything else.
fn properties(schema: &Value) -> Markup {
    let Some(properties) = schema["properties"].as_object() else {
        return html! { p { (type_of(schema)) } };
    };
    let is_required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    html! {
        table {
            @for (name, schema) in properties {
                tr {
                    th { (name) (required(is_required(name))) }
                    td { (type_of(schema)) }
                    td { (text(&schema["description"])) }
                }
            }
        }
    }
}

/// Shows the type of a value, with its bounds.
fn type_of(schema: &Value) -> Markup {
    if let Some(name) = text(&schema["$ref"]).strip_prefix("#/components/schemas/") {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    for (word, joint) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")] {
        if let Some(parts) = schema[word].as_array() {
            return html! { @for (index, part) in parts.iter().enumerate() { @if index > 0 { (joint) } (type_of(part)) } };
        }
    }
    let types = example::types(schema).join(" or ");
    html! {
        (types)
        @if schema.get("items").is_some() { " of " (type_of(&schema["items"])) }
        @if let Some(format) = schema["format"].as_str() { " (" (format) ")" }
        @for (word, bound) in BOUNDS {
            @if let Some(value) = schema.get(word) { ", " (bound) " " code { (value) } }
        }
        @if schema.get("properties").is_some() { (properties(schema)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(document: &Value) -> String {
        Page { document, server: &ServerConfig::default() }.render().into_string()
    }

    #[test]
    fn a_page_shows_an_operation_with_a_command_to_try_it() {
        let page = rendered(&json!({
            "info": { "title": "shop", "version": "1.2.3" },
            "paths": { "/orders/{id}": { "put": {
                "summary": "Changes an order.",
                "parameters": [
                    { "name": "id", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 7 } },
                    { "name": "dry", "in": "query", "schema": { "type": "boolean" } },
                ],
                "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Order" } } } },
                "responses": { "503": { "$ref": "#/components/responses/Busy" } },
            } } },
            "components": {
                "responses": { "Busy": { "description": "Try again.", "headers": { "Retry-After": {} } } },
                "schemas": { "Order": { "type": "object", "required": ["note"], "properties": {
                    "note": { "type": ["string", "null"], "maxLength": 9, "example": "it's" },
                } } },
            },
        }));
        for part in [
            "Changes an order.",
            "curl -i -X PUT &#39;http://127.0.0.1:8080/orders/7&#39;",
            "<code>Retry-After</code>",
            "<a href=\"#schema-Order\">Order</a>",
            "string or null, length up to <code>9</code>",
        ] {
            assert!(page.contains(part) || page.contains(&part.replace("&#39;", "'")), "{part} is missing in {page}");
        }
        assert!(page.contains(r"it'\''s"), "{page}");
    }

    #[test]
    fn a_page_escapes_hostile_text() {
        let hostile = "<script>alert(1)</script>\" onload=\"x";
        let schema = json!({ "type": hostile, "format": hostile, "description": hostile, "enum": [hostile] });
        let page = rendered(&json!({
            "openapi": hostile,
            "info": { "title": hostile, "version": hostile, "description": hostile },
            "paths": { hostile: { "post": {
                "summary": hostile,
                "description": hostile,
                "parameters": [{ "name": hostile, "in": hostile, "description": hostile, "schema": schema }],
                "requestBody": { "description": hostile, "content": { hostile: { "schema": schema } } },
                "responses": { hostile: { "description": hostile, "headers": { hostile: {} } } },
            } } },
            "components": { "schemas": { hostile: { "properties": { hostile: schema }, "description": hostile } } },
        }));
        assert!(!page.contains("<script") && !page.contains("\" onload"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 15, "{page}");
    }
}
