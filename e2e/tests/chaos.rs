//! A chaos run as an operator starts it: three minutes of everything.

use std::process::Command;

use holdfast_testkit::stack::binary;
use serde_json::Value;

/// Faults that must land in the three minutes.
const FAULTS_MIN: u64 = 15;

/// Whatever is killed, terminated, stalled, cut off, rotated or poisoned: no invariant is violated, and enough was checked to know. On
/// a machine that fails calls before the first fault, liveness of calls is not known, and that is the only thing that may be.
#[test]
fn everything_is_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("run");
    let seed = fastrand::u32(..).to_string();
    let mut command = Command::new(binary());
    command.args(["chaos", "run", "--scenario", "everything", "--rate", "10", "--seed", &seed]);
    command.arg("--report").arg(&report);
    let output = command.output().expect("it runs");
    let talk = String::from_utf8_lossy(&output.stderr);
    let words = String::from_utf8_lossy(&output.stdout);
    let json = std::fs::read(report.join("report.json")).unwrap_or_else(|error| panic!("{error}: {talk}"));
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let landed = json["statistics"]["landed"].as_u64().expect("a number");
    assert!(landed >= FAULTS_MIN, "{landed} faults landed\n{words}\n{talk}");
    let unproven = json["judgement"]["unproven"].as_array().expect("a list");
    let slow =
        unproven.iter().all(|reason| reason.as_str().is_some_and(|reason| reason.contains("too slow")));
    match output.status.code() {
        Some(0) => {}
        Some(5) if slow => eprintln!("{words}"),
        other => {
            let kept = folder.keep();
            panic!("seed {seed} ended with {other:?}, see {}\n{words}\n{talk}", kept.display())
        }
    }
}
