//! A front end is written against types that are made from the description of the API: they are made
//! here as a front end would make them, and a small client in `deploy/typescript` is compiled with
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;

use onsale_testkit::Scratch;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program to its end.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{told}{complained}");
    told
}

#[test]
fn a_client_compiles_with_the_types_of_the_document() {
    if Command::new("npm").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: there is no `npm` on this machine, so no TypeScript client is compiled; \
             installing Node.js changes that"
        );
        return;
    }
    let root = root();
    let modules = run(Command::new(root.join("deploy/tools/fetch.sh")).arg("typescript"));
    let modules = Path::new(modules.trim()).join("node_modules");
    let work = Scratch::new("typescript").expect("a folder");
    for file in ["client.ts", "package.json", "tsconfig.json"] {
        let from = root.join("deploy/typescript").join(file);
        std::fs::copy(from, work.path().join(file)).expect("a copy");
    }
    std::os::unix::fs::symlink(&modules, work.path().join("node_modules")).expect("a link");
    run(Command::new("node")
        .arg(modules.join("openapi-typescript/bin/cli.js"))
        .arg(root.join("ingress/openapi.json"))
        .args(["--output", "api.d.ts"])
        .current_dir(work.path()));
    run(Command::new("node")
        .arg(modules.join("typescript/bin/tsc"))
        .args(["--project", "."])
        .current_dir(work.path()));
}
