//! Values that fit a schema, for whoever wants to see or send one.

use serde_json::{Value, json};

/// A value that fits `schema`: the example that it gives, else one made up. `schemas` are those that
/// it may refer to.
///
/// # Panics
/// When the schema has no type that is known here.
#[must_use]
pub fn sample(schema: &Value, schemas: &Value) -> Value {
    let named = schema["$ref"].as_str();
    if let Some(name) = named.and_then(|path| path.rsplit('/').next()) {
        return sample(&schemas[name], schemas);
    }
    let given = [
        &schema["example"],
        &schema["examples"][0],
        &schema["default"],
        &schema["enum"][0],
    ];
    if let Some(given) = given.into_iter().find(|given| !given.is_null()) {
        return given.clone();
    }
    let branches = [&schema["oneOf"], &schema["anyOf"]];
    let mut branches = branches.into_iter().filter_map(Value::as_array).flatten();
    if let Some(branch) = branches.find(|branch| branch["type"] != "null") {
        return sample(branch, schemas);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => &kinds[0],
        kind => kind,
    };
    match kind.as_str() {
        Some("object") => {
            let members = schema["properties"].as_object().into_iter().flatten();
            let samples = members.map(|(name, member)| (name.clone(), sample(member, schemas)));
            Value::Object(samples.collect())
        }
        Some("array") => json!([sample(&schema["items"], schemas)]),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("string") if schema["format"] == "date" => json!("2030-05-01"),
        Some("string") => json!("a long enough text"),
        _ => panic!("a schema of no known type: {schema}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fit() {
        let schemas = json!({ "Id": { "type": "string", "examples": ["1"] } });
        let schema = json!({ "type": "object", "properties": {
            "id": { "$ref": "#/components/schemas/Id", "description": "which" },
            "kind": { "type": "string", "enum": ["A", "B"] },
            "many": { "type": "array", "items": { "type": "integer", "minimum": 3 } },
            "maybe": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Id" }] },
            "on": { "type": ["string", "null"], "format": "date" },
        } });
        let expected = json!({ "id": "1", "kind": "A", "many": [3], "maybe": "1",
                               "on": "2030-05-01" });
        assert_eq!(sample(&schema, &schemas), expected);
    }
}
