//! Makes a list that fails shorter, and prints it as a test.

use std::fmt::Write as _;

use crate::{bug::Bug, operation::Operation, world::run};

/// Takes out what is not needed for the list to fail: halves first, then smaller and smaller parts.
#[must_use]
pub fn shrink(operations: &[Operation], bug: Option<Bug>) -> Vec<Operation> {
    let mut operations = operations.to_vec();
    let mut size = operations.len().div_ceil(2);
    while size > 0 {
        let before = operations.len();
        let mut begin = 0;
        while begin < operations.len() {
            let end = operations.len().min(begin + size);
            let without = [&operations[..begin], &operations[end..]].concat();
            if run(&without, bug).is_err() {
                operations = without;
            } else {
                begin = end;
            }
        }
        // Single operations are tried until none can be taken out any more.
        size = if size == 1 && operations.len() < before { 1 } else { size / 2 };
    }
    operations
}

/// The list as a test for `tests/reproductions.rs`.
#[must_use]
pub fn as_test(operations: &[Operation], seed: u64, found: &str) -> String {
    let mut code =
        format!("/// Found by seed {seed}: {found}.\n#[test]\nfn name_what_happens() {{\n    holds(&[\n");
    for operation in operations {
        // Writing to a string can't fail.
        let _ = writeln!(code, "        {operation:?},");
    }
    code.push_str("    ]);\n}\n");
    code
}
