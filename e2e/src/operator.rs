//! Runs `holdfast dlq` and `holdfast reconcile` as an operator.

use std::process::{Command, Output};

use holdfast_testkit::stack::binary;
use serde_json::Value;

use crate::World;

impl World {
    pub fn dlq_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("dlq").args(arguments).arg("--data-dir").arg(&self.stack.layout.data_dir);
        command.env("USER", "tester");
        command
    }

    pub async fn dlq(&self, arguments: &[&str]) -> Output {
        let mut command = self.dlq_command(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("holdfast runs")
    }

    /// What `holdfast reconcile` prints as JSON, and its exit code.
    pub async fn reconcile(&self, arguments: &[&str]) -> (Value, i32) {
        let mut command = Command::new(binary());
        command.arg("reconcile").args(arguments).args(["-o", "json", "--data-dir"]);
        command.arg(&self.stack.layout.data_dir).env("USER", "tester");
        let output = tokio::task::spawn_blocking(move || command.output());
        json_of(&output.await.expect("no panic").expect("holdfast runs"), arguments)
    }

    /// The JSON that a command prints, and its exit code.
    pub async fn dlq_json(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.dlq(&[arguments, &["-o", "json"]].concat()).await;
        json_of(&output, arguments)
    }
}

fn json_of(output: &Output, arguments: &[&str]) -> (Value, i32) {
    let json = serde_json::from_slice(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    (
        json.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {talk}")),
        output.status.code().unwrap_or(-1),
    )
}
