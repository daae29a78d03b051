//! The checker of chaos runs is proven by bugs that are planted for it. Three of them here, of those that need no fault;
//! `chaos/prove.sh` plants all, and `docs/chaos-proof.md` has what it found.

use std::{path::PathBuf, process::Command};

use holdfast_testkit::stack::binary;
use serde_json::Value;

/// The programs in which bugs can be planted, and the command beside them.
fn planted() -> PathBuf {
    let normal = binary();
    let target = normal.ancestors().nth(2).expect("holdfast is in a folder of the target folder");
    let planted = target.join("planted").join("holdfast");
    assert!(planted.is_file(), "{} is not there: scripts/planted.sh builds it", planted.display());
    planted
}

/// The invariants that a run with this bug violates.
fn violated(bug: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(planted());
    command
        .args(["chaos", "run", "--scenario", "proof-quiet", "--seed", "11", "--report"])
        .arg(folder.path());
    command.env("HOLDFAST_PLANTED_BUG", bug);
    let output = command.output().expect("it runs");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{bug}: {talk}");
    let report = std::fs::read(folder.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let verdicts = report["judgement"]["verdicts"].as_array().expect("verdicts").iter();
    let failed = verdicts.filter(|verdict| verdict["outcome"] == "fail");
    failed.map(|verdict| verdict["id"].as_str().expect("an id").to_owned()).collect()
}

/// Each bug is found, by the invariant that it breaks.
#[test]
fn planted_bugs_are_found() {
    for (bug, invariant) in
        [("dropped-refund", "I4"), ("status-goes-back", "I10"), ("delivery-without-payment", "I6")]
    {
        let found = violated(bug);
        assert!(found.iter().any(|id| id == invariant), "{bug}: {invariant} did not find it, {found:?} did");
    }
}
