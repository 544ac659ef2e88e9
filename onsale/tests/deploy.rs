//! What `deploy/` starts agrees with the programs: settings that exist, files that are there, a
//! configuration that each server accepts. Where Docker's compose is installed, it checks too; no
//! engine is needed.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{Args, CommandFactory};
use onsale::nats_users;
use onsale_platform::nats_users::User;
use onsale_testkit::Tools;
use serde_yaml_ng::Value;

/// Names of variables, each with a value that will do.
const SECRETS: [&str; 10] = [
    "ONSALE_TOKEN_SECRET",
    "POSTGRES_PASSWORD",
    "GRAFANA_PASSWORD",
    "INGRESS_ROLE_PASSWORD",
    "WORKERS_ROLE_PASSWORD",
    "READER_ROLE_PASSWORD",
    "NATS_INGRESS_PASSWORD",
    "NATS_WORKERS_PASSWORD",
    "NATS_OPERATOR_PASSWORD",
    "NATS_CONSUMER_PASSWORD",
];

fn room() -> PathBuf {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    room.canonicalize().unwrap()
}

fn compose() -> Value {
    let text = std::fs::read_to_string(room().join("compose.yaml")).unwrap();
    let mut compose: Value = serde_yaml_ng::from_str(&text).unwrap();
    compose.apply_merge().unwrap();
    compose
}

fn services(compose: &Value) -> Vec<(&str, &Value)> {
    let services = compose["services"].as_mapping().unwrap();
    services
        .iter()
        .map(|(name, service)| (name.as_str().unwrap(), service))
        .collect()
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_sequence().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|item| item.as_str().unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    let mapping = value.as_mapping().into_iter().flatten();
    mapping.map(|(key, _)| key.as_str().unwrap()).collect()
}

/// The variables that a program reads, and those that it can't do without.
fn settings(program: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let command = match program {
        "onsale-ingress" => onsale_ingress::Config::command(),
        "onsale-workers" => onsale_workers::Config::command(),
        other => panic!("{other} is no program of ours"),
    };
    let name = |arg: &clap::Arg| arg.get_env().map(|env| env.to_string_lossy().into_owned());
    let known = command.get_arguments().filter_map(name).collect();
    let needed = command.get_arguments().filter(|arg| arg.is_required_set());
    (known, needed.filter_map(name).collect())
}

#[test]
fn every_service_can_start_with_what_is_there() {
    let compose = compose();
    let services = services(&compose);
    let names: BTreeSet<&str> = services.iter().map(|(name, _)| *name).collect();
    for name in [
        "postgres",
        "nats",
        "migrate",
        "ingress",
        "workers",
        "gateway",
        "prometheus",
        "grafana",
    ] {
        assert!(names.contains(name), "{name}");
    }
    let volumes = keys(&compose["volumes"]);
    for (name, service) in &services {
        let image = service["image"].as_str().unwrap();
        assert!(
            image.contains(':') && !image.ends_with(":latest"),
            "{name}: {image} is not pinned"
        );
        for other in keys(&service["depends_on"])
            .iter()
            .chain(&texts(&service["depends_on"]))
        {
            assert!(names.contains(other), "{name} depends on {other}");
        }
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            let is_there = match source.starts_with('.') {
                true => room().join(source).exists(),
                false => volumes.contains(&source),
            };
            assert!(is_there, "{name}: {volume}");
        }
        for port in texts(&service["ports"]) {
            assert!(
                port.starts_with("127.0.0.1:"),
                "{name}: {port} is open to the world"
            );
        }
    }
    assert_eq!(
        compose["services"]["workers"]["deploy"]["replicas"],
        Value::from(2)
    );
}

#[test]
fn every_setting_is_one_of_its_program() {
    let compose = compose();
    for name in ["ingress", "workers"] {
        let service = &compose["services"][name];
        let program = texts(&service["command"])[0];
        let (known, needed) = settings(program);
        let given = keys(&service["environment"]);
        for variable in &given {
            assert!(known.contains(*variable), "{program} has no {variable}");
        }
        for variable in needed {
            assert!(
                given.contains(&variable.as_str()),
                "{program} needs {variable}"
            );
        }
    }
    // What the image sets for both.
    let dockerfile = std::fs::read_to_string(room().join("Dockerfile")).unwrap();
    let (ingress, _) = settings("onsale-ingress");
    let variables = dockerfile
        .split([' ', '\n', '\\'])
        .filter_map(|word| word.split_once('='));
    let ours: Vec<&str> = variables
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("ONSALE_"))
        .collect();
    assert_eq!(
        ours,
        [
            "ONSALE_HTTP_ADDR",
            "ONSALE_METRICS_ADDR",
            "ONSALE_LOG_FORMAT"
        ]
    );
    for variable in ours {
        assert!(ingress.contains(variable), "there is no {variable}");
    }
    for program in ["onsale", "onsale-ingress", "onsale-workers"] {
        assert!(
            dockerfile.contains(&format!("-p {program}")),
            "{program} is not built"
        );
        assert!(
            dockerfile.contains(&format!("target/release/{program}")),
            "nor copied"
        );
    }
}

/// The simulated gateway is there on demand only, and what is unsafe is said by nobody else.
#[test]
fn the_simulated_gateway_is_no_part_of_what_starts_by_itself() {
    let compose = compose();
    let gateway = &compose["services"]["gateway"];
    assert_eq!(texts(&gateway["profiles"]), ["simulated-gateway"]);
    assert_eq!(texts(&gateway["command"]), ["onsale", "gateway"]);
    let command = onsale::gateway::Args::augment_args(clap::Command::new("gateway"));
    let known: Vec<_> = command
        .get_arguments()
        .filter_map(clap::Arg::get_env)
        .collect();
    let given = keys(&gateway["environment"]);
    for variable in &given {
        let is_there = known.iter().any(|env| env == variable);
        assert!(is_there, "the gateway has no {variable}");
    }
    for needed in command.get_arguments().filter(|arg| arg.is_required_set()) {
        let variable = needed.get_env().unwrap().to_str().unwrap();
        assert!(given.contains(&variable), "the gateway needs {variable}");
    }
    const UNSAFE: &str = "ONSALE_GATEWAY_UNSAFE_PLAIN_HTTP";
    assert_eq!(gateway["environment"][UNSAFE].as_str(), Some("true"));
    // Those that would use it have it from the environment, if it is there.
    for (service, variables) in [
        (
            "workers",
            &[
                "ONSALE_GATEWAY_URL",
                "ONSALE_GATEWAY_SECRET",
                "ONSALE_CARDS",
                "ONSALE_CASH",
                UNSAFE,
            ][..],
        ),
        ("ingress", &["ONSALE_GATEWAY_WEBHOOK_SECRETS"]),
        (
            "look",
            &["ONSALE_GATEWAY_URL", "ONSALE_GATEWAY_SECRET", UNSAFE],
        ),
    ] {
        let environment = &compose["services"][service]["environment"];
        for variable in variables {
            let given = environment.get(variable);
            assert!(given.is_some_and(Value::is_null), "{service}: {variable}");
        }
    }
}

fn succeeds(output: &Output, what: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}:\n{error}\n{out}");
}

#[test]
fn nats_takes_its_configuration() {
    let tools = Tools::locate().unwrap();
    let mut command = Command::new(tools.nats_server);
    let output = command
        .arg("-t")
        .arg("--config")
        .arg(room().join("nats.conf"))
        .envs(User::ALL.map(|user| (nats_users::password_variable(user), "0123456789abcdef")))
        .output()
        .unwrap();
    succeeds(&output, "nats-server");
}

#[test]
fn the_users_of_nats_are_those_of_the_programs() {
    let text = std::fs::read_to_string(room().join("nats-users.conf")).unwrap();
    let mend = "onsale nats-users > deploy/nats-users.conf";
    assert_eq!(text, nats_users::page("").unwrap(), "{mend}");
    assert!(nats_users::page("a.b").is_err());
}

#[test]
fn every_service_comes_as_its_own_role_and_user() {
    let compose = compose();
    for (service, role, user) in [
        ("ingress", "onsale_ingress", "ingress"),
        ("workers", "onsale_workers", "workers"),
        ("look", "onsale_reader", "operator"),
        ("migrate", "onsale", "operator"),
        ("seed", "onsale", "operator"),
    ] {
        let environment = &compose["services"][service]["environment"];
        for (variable, name) in [("DATABASE_URL", role), ("NATS_URL", user)] {
            let url = environment[variable].as_str().unwrap();
            let (_, rest) = url.split_once("://").unwrap();
            assert_eq!(
                rest.split_once(':').unwrap().0,
                name,
                "{service}: {variable}"
            );
        }
    }
    let given = keys(&compose["services"]["nats"]["environment"]);
    assert_eq!(given, User::ALL.map(nats_users::password_variable));
    let (known, given) = (
        onsale::migrate::Args::augment_args(clap::Command::new("migrate")),
        keys(&compose["services"]["migrate"]["environment"]),
    );
    let known: Vec<_> = known
        .get_arguments()
        .filter_map(clap::Arg::get_env)
        .collect();
    for variable in given {
        assert!(
            known.iter().any(|env| *env == variable),
            "migrate has no {variable}"
        );
    }
}

/// What promtool says of a file here, or that there is none on this machine.
fn promtool(arguments: [&str; 2], file: &str) {
    let mut command = Command::new("promtool");
    match command.args(arguments).arg(room().join(file)).output() {
        Ok(output) => succeeds(&output, "promtool"),
        Err(error) => eprintln!("SKIPPED: no promtool on this machine ({error})"),
    }
}

#[test]
fn prometheus_takes_its_configuration() {
    promtool(["check", "config"], "prometheus.yml");
}

#[test]
fn alerts_fire_when_they_should() {
    promtool(["test", "rules"], "alerts_test.yml");
}

#[test]
fn compose_takes_its_configuration() {
    let is_there = Command::new("docker").args(["compose", "version"]).output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no `docker compose` on this machine; the file is checked as YAML only");
        return;
    }
    let config = |secrets: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["compose", "--env-file", "/dev/null", "--file"]);
        command
            .arg(room().join("compose.yaml"))
            .args(["config", "--quiet"]);
        for name in SECRETS {
            command.env_remove(name);
        }
        command.envs(secrets.iter().map(|name| (name, "0123456789abcdef")));
        command.output().unwrap()
    };
    succeeds(&config(&SECRETS), "docker compose config");
    assert!(
        !config(&SECRETS[1..]).status.success(),
        "without a secret nothing starts"
    );
}
