//! The benchmarks work: each starts, measures every case, checks its answers, and says so in the
//! documented shape. How fast anything is, is no matter of a test.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

/// Nothing is wrong with a report but that it is of a debug build.
fn assert_only_slow(report: &Value, told: &str) {
    for fault in report["faults"].as_array().unwrap() {
        let kind = fault["kind"].as_str().unwrap();
        assert!(["speed", "build"].contains(&kind), "{fault}\n{told}");
    }
    assert_eq!(report["audit"]["ok"], true, "{told}");
    assert_eq!(report["postgresSettings"]["fsync"], "on");
    assert_eq!(report["postgresSettings"]["synchronous_commit"], "on");
    assert!(number(&report["machine"], "cores") >= 1.0);
    assert!(number(&report["echoAnswersPerS"], "256") > 0.0);
}

/// A benchmark has the machine for itself, as its users give it: beside another one, whoever is struck
/// would be slow for reasons of their own.
static MACHINE: Mutex<()> = Mutex::new(());

/// Runs a benchmark; its report, and what it said meanwhile.
fn bench(arguments: &[&str]) -> (Value, String) {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO_BIN_EXE_onsale"))
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("not one JSON object: {error}\n{told}"));
    (report, told)
}

#[test]
fn a_failover_run_strikes_measures_and_finds_every_hold() {
    let (report, told) = bench(&[
        "failover",
        "--kills=1",
        "--hangs=0",
        "--handovers=1",
        "--nats=1",
        "--postgres=1",
        "--rate=10",
        "--throughput=2",
        "--requests=500",
        "--runs=1",
    ]);
    for fault in report["faults"].as_array().unwrap() {
        assert!(
            fault.as_str().unwrap().contains("debug build"),
            "{fault}\n{told}"
        );
    }
    assert_eq!(report["audit"]["ok"], true, "{told}");
    let handover = &report["blows"]["hand-over"];
    for blow in ["kill", "hand-over", "nats", "postgres"].map(|name| &report["blows"][name]) {
        assert_eq!(number(blow, "count"), 1.0);
        assert!(number(blow, "gapMaxMs") > 0.0);
        // 150 of each of the 16 dates, at least.
        assert!(number(blow, "held") >= 2_400.0, "{blow}\n{told}");
    }
    assert_eq!(
        number(handover, "failedRequests"),
        0.0,
        "{handover}\n{told}"
    );
    let throughput = &report["throughput"][0];
    assert_eq!(number(throughput, "workers"), 2.0);
    assert_eq!(throughput["median"]["statuses"]["201"], 500);
}

#[test]
fn a_run_of_streams_tells_all_of_every_change_and_ends_them_in_good_order() {
    let (report, told) = bench(&["streams", "--streams=50", "--changes=3"]);
    for fault in report["faults"].as_array().unwrap() {
        assert!(
            fault.as_str().unwrap().contains("debug build"),
            "{fault}\n{told}"
        );
    }
    let (times, memory) = (&report["told"], &report["memory"]);
    assert_eq!(number(times, "count"), 150.0, "{told}");
    assert!(number(times, "p50Ms") > 0.0 && number(times, "p50Ms") <= number(times, "maxMs"));
    assert!(number(memory, "withStreamsBytes") > 0.0, "{memory}");
    assert_eq!(number(&report["shutdown"], "endedWhole"), 50.0, "{told}");
}

#[test]
fn a_run_of_queues_joins_polls_and_opens_rooms_and_finds_every_ticket() {
    let (report, told) = bench(&[
        "queue",
        "--tickets=5000",
        "--connections=32",
        "--joins=1000",
        "--polls=2000",
        "--runs=1",
    ]);
    for fault in report["faults"].as_array().unwrap() {
        assert_eq!(fault["kind"], "build", "{fault}\n{told}");
    }
    assert_eq!(report["audit"]["ok"], true, "{told}");
    for (aim, name) in
        report["aims"]
            .as_array()
            .unwrap()
            .iter()
            .zip(["p99Ratio", "openingMs", "queriesPerPoll"])
    {
        assert_eq!(aim["name"], name);
        let is_met = number(aim, "figure") <= number(aim, "most");
        assert_eq!(aim["met"], is_met, "{aim}");
    }
    assert_eq!(report["aims"].as_array().map(Vec::len), Some(3));
    let (run, medians) = (&report["runs"][0], &report["medians"]);
    assert_eq!(run["joins"]["statuses"]["201"], 1000, "{run}");
    assert_eq!(number(&run["joins"]["pipeline"], "deadLetters"), 0.0);
    for polls in ["pollsOfAThousand", "pollsOfAll"] {
        assert_eq!(run[polls]["statuses"]["200"], 2000, "{run}");
        let figures = &medians[polls];
        assert!(number(figures, "perIngressCoreS") > 0.0, "{medians}");
        assert!(number(figures, "p50Ms") <= number(figures, "p99Ms"));
    }
    assert!(number(&medians["joins"], "perS") > 0.0 && number(medians, "p99Ratio") > 0.0);
    // The warm-up's are in the lobby as well.
    assert_eq!(run["opening"]["lobby"], 1500);
    assert_eq!(report["opening"]["lobby"], 5000);
    for opening in [&run["opening"], &report["opening"]] {
        let told_ms = number(opening, "toldAfterMs");
        assert!(told_ms >= number(opening, "closedAfterMs"), "{opening}");
    }
    let (word, asked) = (&report["watermark"], &report["newIngress"]);
    assert!(number(word, "count") > 0.0 && number(word, "p99Ms") > 0.0);
    // None is told apart from what happens anyway; the polls that do not count are not counted.
    assert_eq!(number(asked, "polls"), 2000.0);
    assert!(number(asked, "queriesPerPoll") < 0.1, "{asked}");
    assert!(number(&report["memory"]["owner"], "withBytes") > 0.0);
}

#[test]
fn a_quick_run_measures_everything_and_voids_nothing_but_its_speed() {
    let (report, told) = bench(&["seats", "--quick", "--rivals=cte,row-lock"]);
    assert_only_slow(&report, &told);

    let cases = report["cases"].as_array().unwrap();
    let expected = [
        ("all-win", 64, 2_000, 0),
        ("all-win", 256, 2_000, 0),
        ("hot", 64, 500, 1_500),
        ("hot", 256, 500, 1_500),
    ];
    assert_eq!(cases.len(), expected.len());
    for (case, (name, connections, wins, losses)) in cases.iter().zip(expected) {
        assert_eq!(case["case"], name);
        assert_eq!(case["connections"], connections);
        let ratio = number(&report["ratios"], &format!("{name}-{connections}"));
        assert!(ratio > 0.0);
        for design in ["pipeline", "cte", "row-lock", "lean-cte"] {
            let runs = case["designs"][design]["runs"].as_array().unwrap();
            assert_eq!(runs.len(), 1, "{design}");
            let median = &case["designs"][design]["median"];
            assert_eq!(median["statuses"]["201"], wins, "{design}: {median}");
            let lost = median["statuses"]["409"].as_i64().unwrap_or(0);
            assert_eq!(lost, losses, "{design}: {median}");
            assert!(number(median, "p50Ms") <= number(median, "p99Ms"));
            assert!(number(&median["cpuMsPer1000"], "postgres") > 0.0);
        }
        let times = &case["designs"]["pipeline"]["median"]["pipeline"];
        assert!(number(times, "commits") >= 1.0, "{times}");
        assert!(number(times, "commandsPerCommit") >= 1.0, "{times}");
        assert_eq!(number(times, "deadLetters"), 0.0, "{times}");
    }
}

#[test]
fn a_quick_run_of_money_measures_every_case_and_finds_every_transfer() {
    let (report, told) = bench(&["money", "--quick"]);
    assert_only_slow(&report, &told);
    assert_eq!(report["bench"], "money");
    let cases = report["cases"].as_array().unwrap();
    let names = ["charges", "hot-account", "payments"];
    let expected: Vec<_> = names
        .iter()
        .flat_map(|name| [(name, 64), (name, 256)])
        .collect();
    assert_eq!(cases.len(), expected.len());
    for (case, (name, connections)) in cases.iter().zip(expected) {
        assert_eq!(case["case"], *name);
        assert_eq!(case["connections"], connections);
        let ratio = number(&report["ratios"], &format!("{name}-{connections}"));
        assert!(ratio > 0.0);
        for design in ["pipeline", "row-lock", "lean-cte"] {
            let median = &case["designs"][design]["median"];
            assert_eq!(median["statuses"]["201"], 2_000, "{design}: {median}");
            assert_eq!(median["refusalsPerS"], 0.0);
            assert!(number(median, "winsPerS") > 0.0 && number(median, "commitsPerS") > 0.0);
            assert!(number(median, "p50Ms") <= number(median, "p99Ms"));
        }
        let times = &case["designs"]["pipeline"]["median"]["pipeline"];
        assert!(number(times, "commandsPerCommit") >= 1.0, "{times}");
        assert_eq!(number(times, "deadLetters"), 0.0, "{times}");
    }
    for connections in [64, 256] {
        let beside = &report["beside"][&format!("hot-account-{connections}")];
        assert_eq!(beside["case"], format!("charges-{connections}"));
        assert!(number(beside, "ratio") > 0.0);
    }
}
