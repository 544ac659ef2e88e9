//! Texts that come in a request and that we read by hand: cursors of pages and tokens of commands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onsale_ingress::page::PageQuery;
use onsale_ingress::token::Signer;
use std::sync::LazyLock;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let secrets = "a".repeat(64).parse().expect("a secret is 64 digits");
    Signer::new(&secrets)
});

fuzz_target!(|text: &str| {
    let query = |limit: &str| PageQuery {
        cursor: Some(text.to_owned()),
        limit: Some(limit.to_owned()),
    };
    drop(query("20").read());
    drop(query(text).read());
    assert!(SIGNER.read(text).is_none(), "nobody guesses a signature");
});
