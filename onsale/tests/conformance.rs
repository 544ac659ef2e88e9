//! schemathesis calls everything that the served document describes, as it describes it and not: no
//! fault of ours, and no answer that the document does not promise.
//!
//! A test program of its own, because programs run one after the other: it takes the whole machine.

#[allow(dead_code, reason = "the system tests use the rest of it")]
#[path = "system/hall.rs"]
mod hall;

use crate::hall::{Hall, reservation};
use onsale_testkit::Buyer;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Requests per operation and phase, about.
const EXAMPLES: &str = "--max-examples=12";
const CHECKS: &str = "--checks=not_a_server_error,status_code_conformance,\
                      content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Ids that there are; without them nearly everything is just not found.
fn known(date: Uuid, concert: Uuid, reservation: Uuid) -> String {
    format!(
        "[parameters]\n\
         \"path.scheduleId\" = \"{date}\"\n\
         \"path.concertId\" = \"{concert}\"\n\
         \"path.reservationId\" = \"{reservation}\"\n"
    )
}

async fn conforms(hall: &Hall, by: &Buyer, settings: Option<&str>) {
    let url = hall.system.url(0);
    let folder = root().join("target/conformance");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(format!("{}.toml", Uuid::now_v7().simple()));
    std::fs::write(&file, settings.unwrap_or_default()).expect("a file");
    let output = tokio::process::Command::new(root().join("deploy/tools/schemathesis.sh"))
        .arg("--config-file")
        .arg(&file)
        .args(["run", &format!("{url}/openapi.json"), "--url", &url])
        .args([
            EXAMPLES,
            CHECKS,
            "--phases=examples,coverage,fuzzing",
            "--workers=2",
        ])
        .args([
            "--request-timeout=20",
            "--generation-database=none",
            "--no-color",
        ])
        .args([
            "--suppress-health-check=all",
            "--warnings=off",
            "--max-failures=20",
        ])
        // It would end the session that all other requests belong to.
        .args(["--exclude-operation-id", "deleteSession"])
        .args(["--header", &format!("Authorization: Bearer {}", by.token)])
        .current_dir(&folder)
        .output()
        .await
        .expect("schemathesis runs");
    std::fs::remove_file(&file).expect("the file is there");
    let told = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{told}");
    assert!(
        output.status.success(),
        "{told}{complained}\n{}",
        hall.logs()
    );
    assert!(told.contains("No issues found"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let mut hall = Hall::open().await;
    let date = hall.date(100).await;
    let buyer = hall.buyer();
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let detail = hall.api.get(None, &format!("/schedules/{date}")).await;
    let concert = onsale_testkit::api::id(&detail.expect(200).body["concertId"]);
    let settings = known(date, concert, reservation(&held.body));
    conforms(&hall, &buyer, Some(&settings)).await;
    conforms(&hall, &buyer, None).await;
    hall.assert_sound().await;
}
