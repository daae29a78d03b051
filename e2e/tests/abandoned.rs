//! A stack whose folder lies below a closed home, and that loses its supervisor: it starts without trouble, what keeps
//! running can be seen and operated, and `down` stops and deletes all of it, wherever it is.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use holdfast_e2e::{World, eventually};
use holdfast_native::{control, layout::Scope};
use holdfast_testkit::stack::{TestStack, binary};
use serde_json::Value;

fn holdfast(data_dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    let output = command.args(arguments).env("HOLDFAST_DATA_DIR", data_dir).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Stops and deletes what is left when a test that has killed the supervisor fails.
struct Orphans<'a>(&'a Path);

impl Drop for Orphans<'_> {
    fn drop(&mut self) {
        if self.0.exists() {
            holdfast(self.0, &["down", "--delete-data", "--yes"]);
        }
    }
}

/// See the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_stack_without_its_supervisor_is_seen_and_stopped() {
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("allowed");
    let base = home.path().canonicalize().expect("there");
    let stack = tokio::task::spawn_blocking(move || TestStack::start_in(&base, Scope::Everything, &[], &[]));
    let stack: &'static TestStack = Box::leak(Box::new(stack.await.expect("it starts at the first time")));
    let world = World::of(stack);
    let data_dir = stack.layout.data_dir.as_path();
    let _orphans = Orphans(data_dir);
    let databases =
        Path::new("/var/lib/holdfast").join(data_dir.strip_prefix("/").expect("absolute")).join(".databases");
    // Only root's servers run as another user, who can't enter the home.
    let elsewhere = databases.exists();
    let is_root = Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n";
    assert_eq!(elsewhere, is_root, "where the databases are");
    eventually("all is ready", || async {
        world.status().await.values().all(|component| component["state"] == "ready")
    })
    .await;

    let supervisor = stack.supervisor_pid().to_string();
    assert!(Command::new("kill").args(["-9", &supervisor]).status().expect("kill runs").success());
    eventually("its lock is free", || async {
        matches!(control::find(data_dir), Ok(control::Found::Abandoned(_)))
    })
    .await;
    let (code, stdout, talk) = holdfast(data_dir, &["status", "-o", "json"]);
    assert!(talk.contains("is gone") && talk.contains(&supervisor), "{talk}");
    assert_eq!(code, Some(0), "all serve: {stdout}");
    let status: Value = serde_json::from_str(&stdout).expect("JSON");
    for component in status["components"].as_array().expect("a list") {
        assert!(component["state"] == "ready" && component["pid"].is_u64(), "{component}");
    }
    for arguments in [&["env"][..], &["positions"], &["dlq", "stats"], &["certs", "status"]] {
        let (code, _, talk) = holdfast(data_dir, arguments);
        assert!([Some(0), Some(3)].contains(&code), "{arguments:?}: {talk}");
    }
    // What dies now stays down, and status shows it.
    let pid = world.status().await["delivery"]["pid"].to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
    eventually("status says so", || async { world.status().await["delivery"]["state"] == "down" }).await;
    assert_eq!(holdfast(data_dir, &["status"]).0, Some(1));

    let (code, _, talk) = holdfast(data_dir, &["down", "--delete-data", "--yes"]);
    assert_eq!(code, Some(0), "{talk}");
    assert!(!data_dir.exists() && !databases.exists(), "{talk}");
    assert!(
        !Path::new("/var/lib/holdfast").join("tmp").join(home.path().file_name().expect("a name")).exists()
    );
}
