//! A panic in any task ends the process: one that has lost a part must not look alive, and its supervisor restarts it.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    process,
};

use tracing::{Dispatch, dispatcher, subscriber::NoSubscriber};

/// The exit code of a Rust program that panicked.
const EXIT_PANICKED: i32 = 101;

thread_local! {
    static TOLERATED: Cell<bool> = const { Cell::new(false) };
}

/// Has every panic that is not [`tolerated`] end the process, with a line in the log like any other error that does. Where
/// there is no log, or it is the log that panicked, the usual message goes to standard error.
pub(crate) fn end_the_process() {
    let say = take_hook();
    set_hook(Box::new(move |panic| {
        if TOLERATED.get() {
            return;
        }
        if dispatcher::get_default(Dispatch::is::<NoSubscriber>) {
            say(panic);
        } else {
            let message = panic.payload_as_str().unwrap_or("a panic without a message");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(error = message, place, "stopped by a panic");
        }
        process::exit(EXIT_PANICKED);
    }));
}

/// Runs third-party code that panics on bad data; `None` if it did.
pub(crate) fn tolerated<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = TOLERATED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    TOLERATED.set(before);
    done
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Environment variable that makes a test the process that panics, and says how.
    const HOW: &str = "HOLDFAST_TEST_PANIC";
    const EXIT_LIVED: i32 = 7;

    /// The process that panics; run as a normal test it does nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_that_panics() {
        let Ok(how) = std::env::var(HOW) else { return };
        end_the_process();
        if how == "log" {
            crate::telemetry::install_log("test", tracing_subscriber::EnvFilter::new("error"));
        }
        match how.as_str() {
            // Nobody waits for it, so on its own tokio would hide the panic.
            "task" => drop(tokio::spawn(async { panic!("planted in a task") })),
            "thread" => drop(std::thread::spawn(|| panic!("planted in a thread"))),
            "log" => drop(tokio::spawn(async { panic!("planted {}", "where there is a log") })),
            "blocking" => drop(tokio::task::spawn_blocking(|| panic!("planted in blocking work"))),
            _ => {
                assert_eq!(tolerated(|| -> u8 { panic!("planted, and tolerated") }), None);
                assert_eq!(tolerated(|| 1), Some(1));
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        process::exit(EXIT_LIVED);
    }

    fn outcome(how: &str) -> (Option<i32>, String, String) {
        let own = std::env::current_exe().expect("there");
        let mut command = Command::new(own);
        command.args(["--exact", "panic::tests::a_process_that_panics", "--nocapture"]).env(HOW, how);
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// A panic anywhere ends the process and is printed, even where nobody waits for the task; one that is expected
    /// from third-party code is neither.
    #[test]
    fn a_panic_ends_the_process() {
        for how in ["task", "thread", "blocking"] {
            let (code, _, stderr) = outcome(how);
            assert_eq!(code, Some(EXIT_PANICKED), "{how}: {stderr}");
            assert!(stderr.contains("planted in"), "{stderr}");
        }
        let (code, stdout, stderr) = outcome("log");
        assert_eq!(code, Some(EXIT_PANICKED), "{stderr}");
        let line = stdout.lines().find(|line| line.starts_with('{')).expect("a line of the log");
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["error"], "planted where there is a log");
        assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"stopped by a panic".into()));
        assert!(line["place"].as_str().expect("where").contains("panic.rs"), "{line}");
        assert!(!stderr.contains("planted"), "once: {stderr}");

        let (code, _, stderr) = outcome("tolerated");
        assert_eq!(code, Some(EXIT_LIVED), "{stderr}");
        assert!(!stderr.contains("planted"), "{stderr}");
    }
}
