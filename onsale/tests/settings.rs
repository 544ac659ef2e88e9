//! What processes say of their settings: all that is wrong at once, and never a secret.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const CANARY: &str = "c4n4ry";

/// A program of ours with nothing but these variables.
fn run(
    program: &Path,
    args: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let output: Output = Command::new(program)
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(
        !out.contains(CANARY) && !error.contains(CANARY),
        "{out}{error}"
    );
    (output.status.code(), out, error)
}

fn onsale() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_onsale"))
}

#[test]
fn the_page_of_settings_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/SETTINGS.md");
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == onsale::config::reference(),
        "deploy/SETTINGS.md is old; renew it: cargo run -p onsale -- config --reference > \
         deploy/SETTINGS.md"
    );
}

#[test]
fn every_setting_says_what_it_means() {
    let page = onsale::config::reference();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert!(rows.len() > 30, "{page}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "{row}");
        assert!(cells[4].trim().len() > 20, "{row}");
    }
}

#[test]
fn a_process_says_all_that_is_wrong_at_once() {
    let bad = [
        ("ONSALE_TOKEN_SECRET", CANARY),
        ("ONSALE_PARTITIONS", "0"),
        ("ONSALE_HTTP_THREADS", "many"),
        ("ONSALE_CORS_ORIGINS", "https://shop.example/"),
        ("ONSALE_LOG_FORMAT", "pretty"),
    ];
    let (status, out, error) = run(&onsale().with_file_name("onsale-ingress"), &[], &bad);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    for expected in [
        "onsale-ingress: 6 settings are wrong",
        "DATABASE_URL (--database-url): must be set",
        "ONSALE_TOKEN_SECRET (--token-secret): must be 64 or more hexadecimal digits",
        "ONSALE_PARTITIONS=0 (--partitions): 0 is not in 1..=1024",
        "ONSALE_HTTP_THREADS=many (--threads)",
        "ONSALE_CORS_ORIGINS=https://shop.example/ (--cors-origins): must be * or origins such as",
        "ONSALE_LOG_FORMAT=pretty (--log-format): must be one of text, json",
    ] {
        assert!(error.contains(expected), "{expected} is not in: {error}");
    }

    let bad = [("ONSALE_ROLES", "seats,cook"), ("ONSALE_LEASE_MS", "1")];
    let (status, _, error) = run(&onsale().with_file_name("onsale-workers"), &[], &bad);
    assert_eq!(status, Some(2));
    assert!(error.contains("3 settings are wrong"), "{error}");
}

#[test]
fn the_effective_settings_are_shown_without_secrets() {
    let secret = "ab".repeat(32);
    let url = format!("postgres://user:{CANARY}@db.example:5432/onsale");
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("ONSALE_TOKEN_SECRET", secret.as_str()),
        ("ONSALE_TICK_MS", "100"),
    ];
    let (status, out, _) = run(&onsale(), &["config"], &environment);
    assert_eq!(status, Some(0), "{out}");
    assert!(
        out.contains("db.example:5432/onsale") && !out.contains(&secret),
        "{out}"
    );
    assert!(out.contains("ONSALE_HTTP_THREADS"), "{out}");

    let (status, out, _) = run(&onsale(), &["config", "--json", "--changed"], &environment);
    assert_eq!(status, Some(0), "{out}");
    let document: Value = serde_json::from_str(&out).unwrap();
    let workers = &document["workers"]["settings"];
    assert_eq!(workers["ONSALE_TICK_MS"]["value"], "100");
    assert_eq!(workers["ONSALE_TICK_MS"]["source"], "environment");
    assert!(workers["ONSALE_LEASE_MS"].is_null(), "{document}");

    let (status, out, _) = run(
        &onsale(),
        &["config", "workers"],
        &[("ONSALE_TICK_MS", "x")],
    );
    assert_eq!(status, Some(1));
    assert!(out.contains("WRONG") && !out.contains("ingress"), "{out}");
}
