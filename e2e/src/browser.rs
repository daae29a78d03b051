//! A real browser without a window, driven over the `DevTools` protocol. Commands and events go through two pipes
//! (`--remote-debugging-pipe`), so there is no port and no WebSocket.

use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{PATIENCE, eventually};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A browser with one page. It ends with this.
pub struct Browser {
    _process: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: String,
    last_id: u64,
    /// What happened since the start.
    events: VecDeque<Value>,
    _profile: TempDir,
}

/// The browser of this machine, if it has one.
pub fn installed() -> Option<PathBuf> {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
    NAMES.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()))
}

impl Browser {
    /// Starts it, with an empty page.
    pub async fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        // The browser reads commands from its file 3 and writes to its file 4: the shell makes them of its input and output.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--disable-component-update", "--no-first-run"])
            .args(["--window-size=1280,1600", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let commands = process.stdin.take().expect("a pipe");
        let messages = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut browser = Self {
            _process: process,
            commands,
            messages,
            session: String::new(),
            last_id: 0,
            events: VecDeque::new(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Sends a command and returns its result.
    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            command["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).await.expect("the browser takes commands");
        loop {
            let message = self.message().await;
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.messages.read_until(0, &mut bytes)).await;
        read.expect("the browser answers in time").expect("the browser runs");
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Opens a page.
    pub async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{opened}");
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    pub async fn until(&mut self, expression: &str) {
        let browser = tokio::sync::Mutex::new(self);
        eventually(expression, || async { browser.lock().await.evaluate(expression).await == true }).await;
    }

    /// Shows pages as a screen of this width does, whose reader likes it light or dark.
    pub async fn show_as(&mut self, width: u32, scheme: &str) {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Writes into a field as a form has it.
    pub async fn fill(&mut self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        let written =
            self.evaluate(&format!("(document.querySelector({selector}).value = {text}) === {text}")).await;
        assert_eq!(written, true, "{selector}");
    }

    /// Follows a link, or presses a button, and waits until the page that it leads to is there.
    pub async fn press(&mut self, selector: &str) {
        let before = self.loaded();
        self.evaluate(&format!("void document.querySelector({}).click()", json!(selector))).await;
        self.wait_for_page(before).await;
    }

    /// Presses the key that moves the focus.
    pub async fn tab(&mut self) {
        for kind in ["rawKeyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }

    /// Opens a page and waits until it is there.
    pub async fn visit(&mut self, url: &str) {
        let before = self.loaded();
        self.open(url).await;
        self.wait_for_page(before).await;
    }

    /// How many pages have been there.
    fn loaded(&self) -> usize {
        self.events.iter().filter(|event| event["method"] == "Page.loadEventFired").count()
    }

    /// By its events: whoever evaluates something meanwhile may meet the page that goes.
    async fn wait_for_page(&mut self, before: usize) {
        while self.loaded() == before {
            let event = self.message().await;
            self.events.push_back(event);
        }
    }

    /// What the page looks like, as a PNG in `file`.
    pub async fn screenshot(&mut self, file: &Path) {
        let answer = self
            .call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}))
            .await;
        let picture = STANDARD.decode(answer["data"].as_str().expect("base64")).expect("base64");
        fs::write(file, picture).expect("written");
    }

    /// Everything that the page has complained about: errors and warnings of the console, exceptions, and what it was not
    /// allowed to load.
    pub fn complaints(&self) -> Vec<String> {
        let complaint = |event: &Value| {
            let parameters = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled"
                    if ["error", "warning", "assert"].iter().any(|kind| parameters["type"] == *kind) =>
                {
                    Some(parameters["args"].to_string())
                }
                "Log.entryAdded"
                    if ["error", "warning"].iter().any(|level| parameters["entry"]["level"] == *level) =>
                {
                    Some(parameters["entry"].to_string())
                }
                // What a page that is left has not read to its end, such as a stream, has not failed.
                "Network.loadingFailed" if parameters["canceled"] != true => Some(parameters.to_string()),
                _ => None,
            }
        };
        self.events.iter().filter_map(complaint).collect()
    }

    /// The addresses of everything that the page has asked for.
    pub fn requested(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }

    /// The statuses of the answers to requests for this address.
    pub fn statuses(&self, url: &str) -> Vec<u64> {
        let answers = self.events.iter().filter(|event| event["method"] == "Network.responseReceived");
        let answers = answers.map(|event| &event["params"]["response"]);
        answers.filter(|answer| answer["url"] == url).filter_map(|answer| answer["status"].as_u64()).collect()
    }
}
