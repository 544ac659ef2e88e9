//! The dashboards ask for what is there: every query of every dashboard is run against a real
//! Prometheus that scrapes a real system with traffic on it.
//!
//! Without a Prometheus on this machine (Debian has it as a package) the queries stay untried, and
//! the test says so; the names are checked in any case.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use onsale::{demo, seed};
use onsale_platform::{metric, nats};
use onsale_schema::Lane;
use onsale_schema::subjects::Subjects;
use onsale_testkit::spawn::{Child, Signal, Tie, spawn};
use onsale_testkit::system::{System, SystemOptions};
use onsale_testkit::{Scratch, ports};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
/// Metrics that only trouble touches: a healthy system need not have a series of them.
const TROUBLE: &[&str] = &[
    metric::COMMIT_RETRIES,
    metric::INGRESS_OPEN,
    metric::NATS_DISCONNECTS,
    metric::EXPIRY_PUBLISHED,
    metric::SHOW_SET_ASIDE,
    // And these only somebody who subscribes.
    metric::WEBHOOK_DELIVERIES,
    metric::WEBHOOK_DURATION,
    metric::WEBHOOK_DEATHS,
    metric::WEBHOOK_MISSED,
];

/// One query of a dashboard.
struct Query {
    /// Dashboard and panel, for messages.
    place: String,
    expr: String,
    legend: String,
}

impl Query {
    /// The metrics that it asks for, as they are declared.
    fn metrics(&self) -> BTreeSet<String> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        self.expr
            .split(|c| !is_word(c))
            .filter(|word| word.starts_with("onsale_"))
            .map(|word| {
                let parts = ["_bucket", "_sum", "_count"];
                let histogram = parts.iter().find_map(|part| word.strip_suffix(part));
                histogram.unwrap_or(word).to_owned()
            })
            .collect()
    }

    /// The query with Grafana's variables filled in.
    fn filled(&self) -> String {
        let filled = self.expr.replace("$__rate_interval", "1m");
        assert!(!filled.contains('$'), "{}: {filled}", self.place);
        filled
    }

    /// The labels that its legend shows: each series must have them.
    fn legend_labels(&self) -> Vec<String> {
        let parts = self.legend.split("{{").skip(1);
        parts
            .map(|part| part.split("}}").next().unwrap().trim().to_owned())
            .collect()
    }
}

fn room() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

fn dashboards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(room().join("dashboards")).unwrap();
    let mut dashboards: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let json = serde_json::from_slice(&std::fs::read(&path).unwrap());
            (
                name,
                json.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            )
        })
        .collect();
    dashboards.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!dashboards.is_empty());
    dashboards
}

fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(Query {
                    place: format!("{name}, {}", panel["title"]),
                    expr: target["expr"].as_str().unwrap().to_owned(),
                    legend: target["legendFormat"].as_str().unwrap().to_owned(),
                });
            }
        }
    }
    assert!(queries.len() > 30);
    queries
}

/// The rules of `deploy/alerts.yml`.
fn alerts() -> Vec<Query> {
    let text = std::fs::read_to_string(room().join("../deploy/alerts.yml")).unwrap();
    let rules: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().unwrap());
    let alerts: Vec<Query> = rules
        .map(|rule| Query {
            place: rule["alert"].as_str().unwrap().to_owned(),
            expr: rule["expr"].as_str().unwrap().to_owned(),
            legend: String::new(),
        })
        .collect();
    assert!(alerts.len() > 5);
    alerts
}

/// Notes the names that are described, and the counters that are there.
#[derive(Default)]
struct Names {
    described: Mutex<BTreeSet<String>>,
    counters: Mutex<Vec<Key>>,
}

impl Names {
    fn note(&self, name: KeyName) {
        let mut described = self.described.lock().unwrap();
        described.insert(name.as_str().to_owned());
    }
}

impl Recorder for Names {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.note(name);
    }
    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.note(name);
    }
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        self.note(name);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.counters.lock().unwrap().push(key.clone());
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn declared() -> BTreeSet<String> {
    let names = Names::default();
    metrics::with_local_recorder(&names, metric::describe);
    names.described.into_inner().unwrap()
}

/// The counters that there are before anything has happened, with their labels.
fn begun() -> Vec<Key> {
    let names = Names::default();
    metrics::with_local_recorder(&names, metric::begin);
    names.counters.into_inner().unwrap()
}

/// What a rule looks for a rise of: the series of `increase(…[…])` and `rate(…[…])`, each as a name and
/// the labels that it must have.
fn rises(expr: &str) -> Vec<(String, Vec<(String, String)>)> {
    let asked = ["increase(", "rate("]
        .iter()
        .flat_map(|f| expr.split(f).skip(1));
    let series = asked.map(|rest| rest.split('[').next().unwrap().trim());
    series
        .map(|series| {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split(',');
            let labels = labels.filter_map(|label| label.split_once('='));
            let labels = labels.map(|(label, value)| {
                let value = value.trim_matches('"');
                (label.trim().to_owned(), value.to_owned())
            });
            (name.to_owned(), labels.collect())
        })
        .collect()
}

#[test]
fn every_metric_of_a_dashboard_is_declared() {
    let declared = declared();
    assert!(declared.contains(metric::HTTP_DURATION));
    for query in queries() {
        let asked = query.metrics();
        assert!(
            !asked.is_empty(),
            "{}: {} asks for nothing of ours",
            query.place,
            query.expr
        );
        for name in asked {
            assert!(
                declared.contains(&name),
                "{}: {name} is not declared",
                query.place
            );
        }
    }
}

#[test]
fn every_metric_of_an_alert_is_declared() {
    let declared = declared();
    for alert in alerts() {
        let asked = alert.metrics();
        // Whether a process is there at all is Prometheus' own metric.
        assert!(
            !asked.is_empty() || alert.expr.starts_with("up"),
            "{}",
            alert.place
        );
        let unknown: Vec<&String> = asked.difference(&declared).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", alert.place);
    }
}

/// There is no rise where the first that is seen of a counter is 1.
#[test]
fn counters_whose_rise_wakes_somebody_begin_at_0() {
    let begun = begun();
    let mut counters = 0;
    for alert in alerts() {
        for (name, labels) in rises(&alert.expr) {
            // A share of what was timed: how many that were before does not matter.
            if name.ends_with("_bucket") {
                continue;
            }
            counters += 1;
            let is_begun = begun.iter().any(|key| {
                let has = |(label, value): &(String, String)| {
                    key.labels()
                        .any(|of| of.key() == label && of.value() == value)
                };
                key.name() == name && labels.iter().all(has)
            });
            assert!(
                is_begun,
                "{}: {name} {labels:?} does not begin at 0",
                alert.place
            );
        }
    }
    assert!(counters > 3, "{counters}");
}

#[test]
fn panels_have_places_of_their_own_and_the_provisioned_source() {
    for (name, dashboard) in dashboards() {
        assert!(
            dashboard["uid"].is_string() && dashboard["title"].is_string(),
            "{name}"
        );
        let mut ids = BTreeSet::new();
        let mut taken = BTreeMap::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: id"
            );
            let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: {title} is too wide");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    let other = taken.insert((x, y), title);
                    assert_eq!(other, None, "{name}: {title} lies on another panel");
                }
            }
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], "prometheus", "{name}: {title}");
            }
        }
    }
    let source = room().join("provisioning/datasources/prometheus.yaml");
    let source = std::fs::read_to_string(source).unwrap();
    assert!(source.contains("uid: prometheus\n"));
}

fn prometheus_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .map(|folder| folder.join("prometheus"))
        .find(|program| program.is_file())
}

/// A Prometheus that scrapes a system several times a second.
struct Prometheus {
    url: String,
    _child: Child,
    _scratch: Scratch,
}

impl Prometheus {
    async fn start(program: &Path, targets: &[String]) -> Self {
        let scratch = Scratch::new("prometheus").unwrap();
        let config = scratch.path().join("prometheus.yml");
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let text = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 200ms}}\n\
             scrape_configs:\n\
             - job_name: onsale\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        );
        std::fs::write(&config, text).unwrap();
        let port = ports::free().unwrap();
        let mut command = Tie::new(Signal::SIGKILL).command(program);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                scratch.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = spawn(command).await.unwrap();
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _child: child,
            _scratch: scratch,
        }
    }

    /// The series that a query finds, or what is wrong with it.
    async fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let request = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = request
            .get(format!("{}/api/v1/query", self.url))
            .query(&[("query", query)]);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().unwrap().clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    async fn until(&self, query: &str, what: &str) {
        let found = async {
            while !self.ask(query).await.is_ok_and(|series| !series.is_empty()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("{what}: {query}"));
    }
}

/// Cancels the show in the hall, for which the journeys have bought, as the demo's administrator.
async fn cancel_the_show(system: &System) {
    let admin = seed::accounts::accounts().admin;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let credentials = serde_json::json!({ "email": admin.email, "password": admin.password });
    let session = http.post(format!("{}/api/v1/sessions", system.url(0)));
    let session = session.json(&credentials).send().await.unwrap();
    let session: Value = session.json().await.unwrap();
    let hall = seed::catalogue::HALL;
    let path = format!("/api/v1/admin/schedules/{hall}/cancellation");
    let answer = http
        .post(format!("{}{path}", system.url(0)))
        .bearer_auth(session["accessToken"].as_str().unwrap())
        .header("idempotency-key", "the-show-is-off")
        .json(&serde_json::json!({ "reason": "The singer is ill" }))
        .send();
    assert_eq!(answer.await.unwrap().status(), 202);
}

/// A healthy system wakes nobody, and the first event of a process does; what is wrong about that.
async fn who_would_be_woken(system: &System, prometheus: &Prometheus) -> Vec<String> {
    let mut wrong = Vec::new();
    for alert in alerts() {
        match prometheus.ask(&alert.expr).await {
            Ok(firing) if firing.is_empty() => {}
            Ok(firing) => wrong.push(format!("{} would fire: {firing:?}", alert.place)),
            Err(error) => wrong.push(format!("{}: {error}", alert.place)),
        }
    }
    let client = nats::connect(&system.nats_url, "test").await.unwrap();
    let subjects = Subjects::new(&system.prefix).unwrap();
    let jetstream = nats::jetstream(client);
    let stored = jetstream.publish(subjects.queue(Lane::Ledger), "no command".into());
    stored.await.unwrap().await.unwrap();
    let alerts = alerts();
    let letters = alerts.iter().find(|alert| alert.place == "DeadLetters");
    let expr = &letters.unwrap().expr;
    prometheus.until(expr, "the first dead letter").await;
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_a_dashboard_finds_what_is_there() {
    let Some(program) = prometheus_program() else {
        eprintln!(
            "SKIPPED: there is no `prometheus` on this machine, so the queries of the dashboards \
             stay untried; `apt-get install prometheus` changes that"
        );
        return;
    };
    let system = System::start(SystemOptions::default().workers(2).gateway())
        .await
        .unwrap();
    seed::seed(system.db.url(), |_| {}).await.unwrap();
    let processes = system.ingresses.iter().chain(&system.workers);
    let targets: Vec<String> = processes
        .map(|process| process.metrics_addr.to_string())
        .collect();
    let prometheus = Prometheus::start(&program, &targets).await;
    prometheus
        .until(&format!("sum(up) == {}", targets.len()), "all are scraped")
        .await;

    let guest = reqwest::Client::builder().no_proxy().build().unwrap();
    let club = format!(
        "{}/api/v1/schedules/{}",
        system.url(0),
        seed::catalogue::CLUB
    );
    let served = async {
        while guest.get(&club).send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("the demo's dates are served");
    let journey = demo::Options {
        api: system.url(0),
        gateway: system.gateway_url(),
        audit: None,
    };
    for _ in 0..2 {
        demo::play(&journey).await.unwrap();
    }
    cancel_the_show(&system).await;
    // Two scrapes after the last of the journey, so that every rate has what it needs.
    let held = format!(
        "{}{{kind=\"hold\",outcome=\"accepted\"}}",
        metric::COMMANDS_DECIDED
    );
    // Of other outcomes there is a series before there is a refund.
    let refunded = format!("{}{{outcome=\"done\"}}", metric::REFUNDS);
    for last in [&held, &refunded, metric::SHOW_CANCELLED] {
        let scraped = format!("count_over_time({last}[1m]) > 2");
        prometheus.until(&scraped, "the journey is scraped").await;
    }

    let mut touched = BTreeMap::new();
    for name in declared() {
        let series = format!("{{__name__=~\"{name}(_bucket)?\"}}");
        touched.insert(name, !prometheus.ask(&series).await.unwrap().is_empty());
    }
    let mut wrong = Vec::new();
    for query in queries() {
        let Query { place, .. } = &query;
        let filled = query.filled();
        match prometheus.ask(&filled).await {
            Err(error) => wrong.push(format!("{place}: {filled}\n    {error}")),
            Ok(series) => {
                if series.is_empty() && query.metrics().iter().all(|name| touched[name]) {
                    wrong.push(format!("{place}: {filled}\n    finds nothing"));
                }
                for (label, one) in query
                    .legend_labels()
                    .iter()
                    .flat_map(|label| series.iter().map(move |one| (label, one)))
                {
                    if one["metric"][label].as_str().is_none_or(str::is_empty) {
                        wrong.push(format!("{place}: {filled}\n    has no {label}: {one}"));
                    }
                }
            }
        }
    }
    wrong.extend(who_would_be_woken(&system, &prometheus).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let untouched: Vec<&String> = touched
        .iter()
        .filter(|(name, touched)| !**touched && !TROUBLE.contains(&name.as_str()))
        .map(|(name, _)| name)
        .collect();
    assert!(
        untouched.is_empty(),
        "declared, but no process tells them: {untouched:?}"
    );
}
