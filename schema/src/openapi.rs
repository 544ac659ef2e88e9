//! How ids, money, times and closed sets look over HTTP, for the OpenAPI document.

use crate::{Money, Timestamp};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A version 7 UUID.
pub(crate) fn uuid(description: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .description(Some(description.trim()))
        .examples(["01980f5e-7c1a-7d3b-9f60-2b8a4c1d7e55"])
        .into()
}

/// One of a closed set of texts; `known` are the texts, each with what it means.
pub(crate) fn one_of(description: &str, known: &[(&str, &str)]) -> RefOr<Schema> {
    let meanings = known
        .iter()
        .map(|(text, meaning)| format!("\n- `{text}`: {}", meaning.trim()));
    let description = format!("{}\n{}", description.trim(), meanings.collect::<String>());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .enum_values(Some(known.iter().map(|(text, _)| *text)))
        .into()
}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        let amount = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .description(Some("Whole won; never a fraction."));
        let currency = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("ISO 4217; one for now."))
            .enum_values(Some(["KRW"]));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("An amount of money."))
            .property("amount", amount)
            .required("amount")
            .property("currency", currency)
            .required("currency")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .examples([serde_json::json!({ "amount": 99_000, "currency": "KRW" })])
            .into()
    }
}

impl ToSchema for Money {}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some(
                "A point in time: RFC 3339, in UTC, with milliseconds.",
            ))
            .examples(["2027-05-01T10:00:00.000Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}
