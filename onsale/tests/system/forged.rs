//! Access tokens that we never issued, made from one that we did. Each says that it is an
//! administrator's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use onsale_testkit::system::TOKEN_SECRET;
use serde_json::{Value, json};
use sha2::Sha256;

/// The same token, signed here: what is taken, so that a forged one is refused for what is forged.
pub fn signed_again(token: &str) -> String {
    let (header, claims, _) = read(token);
    signed(&header, &claims, &secret())
}

fn read(token: &str) -> (Value, Value, &str) {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        panic!("three parts: {token}");
    };
    let value = |part: &str| {
        let bytes = BASE64.decode(part).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    (value(header), value(claims), signature)
}

/// What each is, and the token.
pub fn forged(token: &str) -> Vec<(&'static str, String)> {
    let (header, mut claims, signature) = read(token);
    claims["role"] = json!("admin");
    let with = |base: &Value, name: &str, value: Value| {
        let mut edited = base.clone();
        edited[name] = value;
        edited
    };
    let ours = secret();
    let stranger = [7; 32];
    let unsigned = |alg: &str| {
        let header = with(&header, "alg", json!(alg));
        format!("{}.", signing_input(&header, &claims))
    };
    let jwk = json!({ "kty": "oct", "k": BASE64.encode(stranger) });
    vec![
        (
            "an edited token",
            format!("{}.{signature}", signing_input(&header, &claims)),
        ),
        (
            "a token without a signature",
            signing_input(&header, &claims) + ".",
        ),
        ("a none-algorithm token", unsigned("none")),
        ("a NoNe-algorithm token", unsigned("NoNe")),
        (
            "a token for others",
            signed(&header, &with(&claims, "aud", json!("other")), &ours),
        ),
        (
            "a token by others",
            signed(&header, &with(&claims, "iss", json!("other")), &ours),
        ),
        (
            "a token of another kind",
            signed(&with(&header, "typ", json!("JWT")), &claims, &ours),
        ),
        (
            "a token under a stranger's key",
            signed(&header, &claims, &stranger),
        ),
        ("a token under no key", signed(&header, &claims, b"")),
        // A key of one algorithm taken for one of another.
        (
            "a token that says RS256",
            signed(&with(&header, "alg", json!("RS256")), &claims, &ours),
        ),
        (
            "a token that says HS512",
            signed(&with(&header, "alg", json!("HS512")), &claims, &ours),
        ),
        // A key that the token brings along, or says where to find.
        (
            "a token with its own key",
            signed(&with(&header, "jwk", jwk), &claims, &stranger),
        ),
        (
            "a token that names another key",
            signed(&with(&header, "kid", json!("/dev/null")), &claims, b""),
        ),
    ]
}

fn secret() -> Vec<u8> {
    let digits = TOKEN_SECRET.as_bytes().chunks(2);
    digits
        .map(|two| {
            let two = std::str::from_utf8(two).expect("ASCII");
            u8::from_str_radix(two, 16).expect("hexadecimal")
        })
        .collect()
}

fn signing_input(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// Signed with HMAC-SHA256, whatever the header says.
fn signed(header: &Value, claims: &Value, key: &[u8]) -> String {
    let input = signing_input(header, claims);
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let mac = mac.chain_update(&input).finalize().into_bytes();
    format!("{input}.{}", BASE64.encode(mac))
}
