//! A panic in any task ends the process: one that has lost a part must not look alive, and its supervisor restarts it.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    process,
};

/// The exit code of a Rust program that panicked.
const EXIT_PANICKED: i32 = 101;

thread_local! {
    static TOLERATED: Cell<bool> = const { Cell::new(false) };
}

/// Has every panic that is not [`tolerated`] end the process, after the usual message on standard error.
pub(crate) fn end_the_process() {
    let say = take_hook();
    set_hook(Box::new(move |panic| {
        if TOLERATED.get() {
            return;
        }
        say(panic);
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
        match how.as_str() {
            // Nobody waits for it, so on its own tokio would hide the panic.
            "task" => drop(tokio::spawn(async { panic!("planted in a task") })),
            "thread" => drop(std::thread::spawn(|| panic!("planted in a thread"))),
            "blocking" => drop(tokio::task::spawn_blocking(|| panic!("planted in blocking work"))),
            _ => {
                assert_eq!(tolerated(|| -> u8 { panic!("planted, and tolerated") }), None);
                assert_eq!(tolerated(|| 1), Some(1));
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        process::exit(EXIT_LIVED);
    }

    fn outcome(how: &str) -> (Option<i32>, String) {
        let own = std::env::current_exe().expect("there");
        let mut command = Command::new(own);
        command.args(["--exact", "panic::tests::a_process_that_panics", "--nocapture"]).env(HOW, how);
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A panic anywhere ends the process and is printed, even where nobody waits for the task; one that is expected
    /// from third-party code is neither.
    #[test]
    fn a_panic_ends_the_process() {
        for how in ["task", "thread", "blocking"] {
            let (code, stderr) = outcome(how);
            assert_eq!(code, Some(EXIT_PANICKED), "{how}: {stderr}");
            assert!(stderr.contains("planted in"), "{stderr}");
        }
        let (code, stderr) = outcome("tolerated");
        assert_eq!(code, Some(EXIT_LIVED), "{stderr}");
        assert!(!stderr.contains("planted"), "{stderr}");
    }
}
