//! A panic in any task ends the process: one that has lost a part must not look alive, and a supervisor starts it again.

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

/// Has every panic that is not [`tolerated`] end the process, after the usual words on standard error.
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

/// Runs code of somebody else that panics on data; `None` if it did.
pub(crate) fn tolerated<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = TOLERATED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    TOLERATED.set(before);
    done
}
