//! A policy of IAM, evaluated. The emulator does not do it: it takes `*` for the resource of every call.

use serde_json::Value;

/// A policy whose statements allow one action each.
pub(crate) struct IamPolicy(Value);

impl IamPolicy {
    /// Reads the document that the service prints.
    pub(crate) fn parse(document: &str) -> Self {
        let policy: Value = serde_json::from_str(document).expect("the document is JSON");
        assert_eq!(policy["Version"], "2012-10-17");
        Self(policy)
    }

    /// Returns each action that it allows, with the pattern of each resource.
    pub(crate) fn grants(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut grants = Vec::new();
        for statement in self.0["Statement"].as_array().expect("statements") {
            assert_eq!(statement["Effect"], "Allow");
            assert!(statement.get("Condition").is_none(), "no test has a key of KMS");
            for resource in statement["Resource"].as_array().expect("resources") {
                grants.push((text(&statement["Action"]), text(resource)));
            }
        }
        grants
    }
}

/// Returns `true` if a pattern with `*` and `?` matches a whole text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.split_at_checked(1), text.split_at_checked(1)) {
        (None, None) => true,
        (Some(("*", rest)), None) => matches(rest, text),
        (Some(("*", rest)), Some((_, after))) => matches(rest, text) || matches(pattern, after),
        (Some((one, rest)), Some((c, after))) => (one == "?" || one == c) && matches(rest, after),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
