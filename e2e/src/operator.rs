//! Runs `holdfast dlq` and `holdfast reconcile` as an operator, and looks at the console.

use std::process::{Command, Output};

use holdfast_chaos::rest::Answer;
use holdfast_native::layout::{OPERATOR, Replicas, service_names};
use holdfast_testkit::stack::binary;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::World;

impl World {
    pub fn dlq_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("dlq").args(arguments).arg("--data-dir").arg(&self.stack.layout.data_dir);
        command.env("USER", "tester");
        command
    }

    /// A command for the services of this stack by their addresses, that has nothing else to find them by.
    pub fn command_by_address(&self, arguments: &[&str]) -> Command {
        let layout = &self.stack.layout;
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("USER", "tester").current_dir("/");
        if arguments.first() == Some(&"status") {
            for name in service_names() {
                let port = layout.component_admin_port(name).expect("a service has one");
                command.arg(format!("--{name}-admin-address")).arg(format!("localhost:{port}"));
            }
            return command;
        }
        for replica in Replicas::default().all() {
            let address = format!("https://localhost:{}", layout.grpc_port(replica));
            command.arg(format!("--{}-address", replica.name())).arg(address);
        }
        command.arg("--identity-dir").arg(layout.pki_dir().join(OPERATOR));
        command
    }

    pub async fn dlq(&self, arguments: &[&str]) -> Output {
        let mut command = self.dlq_command(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("holdfast runs")
    }

    /// What a command of the operator prints as JSON, and its exit code.
    pub async fn command_json(&self, arguments: &[&str]) -> (Value, i32) {
        let mut command = Command::new(binary());
        command.args(arguments).args(["-o", "json", "--data-dir"]);
        command.arg(&self.stack.layout.data_dir).env("USER", "tester");
        let output = tokio::task::spawn_blocking(move || command.output());
        json_of(&output.await.expect("no panic").expect("holdfast runs"), arguments)
    }

    /// The same of `holdfast reconcile`.
    pub async fn reconcile(&self, arguments: &[&str]) -> (Value, i32) {
        self.command_json(&[&["reconcile"], arguments].concat()).await
    }

    /// The same of `holdfast orders`.
    pub async fn orders(&self, arguments: &[&str]) -> (Value, i32) {
        self.command_json(&[&["orders"], arguments].concat()).await
    }

    /// What the console answers whoever has this cookie.
    pub async fn console_page(&self, url: &str, cookie: &str) -> Answer {
        let request = Request::get(url).header("cookie", cookie).body(Full::default()).expect("a request");
        self.rest.send(request).await.expect("answered")
    }

    /// Lets somebody into the console, to look. Returns the address, which is used then, and the cookie.
    pub async fn signed_in(&self) -> (String, String) {
        let (document, code) = self.command_json(&["console"]).await;
        let expected = (&json!("tester"), &json!(false), 0);
        assert_eq!((&document["author"], &document["allow_write"], code), expected);
        let url = document["url"].as_str().expect("an address").to_owned();
        let answer = self.console_page(&url, "").await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.headers["set-cookie"].to_str().expect("text").split(';').next();
        (url, cookie.expect("a cookie").to_owned())
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
