//! Examples of values, made from their schemas.

use serde_json::{Map, Value, json};

/// The depth at which an example ends, because a schema may contain itself.
const DEEPEST: usize = 6;

/// Returns an example of a value: the schema's own, or one that is made from its type.
pub(super) fn of_schema(schema: &Value, document: &Value) -> Value {
    at_depth(schema, document, 0)
}

fn at_depth(schema: &Value, document: &Value, depth: usize) -> Value {
    if depth == DEEPEST {
        return Value::Null;
    }
    let own = [&schema["example"], &schema["examples"][0], &schema["default"], &schema["const"], &schema["enum"][0]];
    if let Some(own) = own.into_iter().find(|value| !value.is_null()) {
        return own.clone();
    }
    if schema["$ref"].is_string() {
        return at_depth(resolve(schema, document), document, depth + 1);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = Map::new();
        for part in parts {
            if let Value::Object(part) = at_depth(part, document, depth + 1) {
                whole.extend(part);
            }
        }
        return whole.into();
    }
    let alternatives = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    if let Some(one) = alternatives.into_iter().flatten().find(|one| one["type"] != "null") {
        return at_depth(one, document, depth + 1);
    }
    match types(schema).into_iter().find(|name| *name != "null") {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties.map(|(name, schema)| (name.clone(), at_depth(schema, document, depth + 1))).collect()
        }
        Some("array") => json!([at_depth(&schema["items"], document, depth + 1)]),
        Some("string") => text(schema["format"].as_str()).into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
        Some("boolean") => true.into(),
        _ => Value::Null,
    }
}

fn text(format: Option<&str>) -> &'static str {
    match format {
        Some("uuid") => "01890a5d-ac96-774b-bcce-b302099a8057",
        Some("date-time") => "2030-01-31T12:00:00Z",
        Some("date") => "2030-01-31",
        Some("uri" | "uri-reference") => "https://example.com/",
        _ => "text",
    }
}

/// Returns the names of a schema's types.
pub(super) fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    }
}

/// Returns the part of the document that a reference leads to. A part that is no reference is itself.
pub(super) fn resolve<'a>(part: &'a Value, document: &'a Value) -> &'a Value {
    match part["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(&Value::Null),
        None => part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_follows_the_schema_and_ends_if_the_schema_contains_itself() {
        let document = json!({ "components": { "schemas": {
            "Tree": { "type": "object", "properties": {
                "id": { "type": "string", "format": "uuid" },
                "size": { "type": ["integer", "null"], "minimum": 3 },
                "color": { "enum": ["red", "blue"] },
                "name": { "type": "string", "example": "oak" },
                "left": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Leaf" }] },
                "both": { "allOf": [{ "$ref": "#/components/schemas/Leaf" }] },
            } },
            "Leaf": { "type": "object", "properties": { "green": { "type": "boolean" } } },
            "Loop": { "type": "array", "items": { "$ref": "#/components/schemas/Loop" } },
        } } });
        let named = |name: &str| of_schema(&json!({ "$ref": format!("#/components/schemas/{name}") }), &document);
        let tree = json!({
            "id": text(Some("uuid")), "size": 3, "color": "red", "name": "oak",
            "left": { "green": true }, "both": { "green": true },
        });
        assert_eq!(named("Tree"), tree);
        assert_eq!(named("Loop"), json!([[[null]]]));
    }
}
