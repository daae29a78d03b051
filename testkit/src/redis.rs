//! A Redis for a test, on a port of its own; it ends with the value.
#![expect(clippy::panic, reason = "a test that has no Redis can only fail")]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const START_TIME_MAX: Duration = Duration::from_secs(30);
const START_ATTEMPTS_MAX: u32 = 20;
/// Above those of stacks, and below those that the kernel takes for outgoing connections: a port is still free after a kill.
const PORTS: Range<u16> = 25_000..32_000;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct TestRedis {
    port: u16,
    process: Child,
}

impl TestRedis {
    /// What it asks for.
    pub const PASSWORD: &str = "of-a-test";

    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    #[must_use]
    pub fn start() -> Self {
        for _ in 0..START_ATTEMPTS_MAX {
            let port = fastrand::u16(PORTS);
            if let Some(process) = launch(port) {
                return Self { port, process };
            }
        }
        panic!("no free port was found for a Redis");
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again after [`TestRedis::kill`].
    ///
    /// # Panics
    ///
    /// If another process took its port.
    pub fn start_again(&mut self) {
        self.process =
            launch(self.port).unwrap_or_else(|| panic!("port {} is somebody else's now", self.port));
    }

    /// Stops it where it is: its port still takes connections, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`TestRedis::pause`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot send {signal}: {error}"));
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `None`: another process took the port first.
fn launch(port: u16) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.arg("-").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut process = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start redis-server ({error}): `make deps` installs it"));
    let password = TestRedis::PASSWORD;
    let configuration =
        format!("bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly no\n");
    if let Some(mut stdin) = process.stdin.take() {
        // Fails only if it has ended, which the loop finds.
        let _ = stdin.write_all(configuration.as_bytes());
    }
    let until = Instant::now() + START_TIME_MAX;
    loop {
        if let Ok(Some(_)) = process.try_wait() {
            return None;
        }
        if answers(port, process.id()).is_some() {
            return Some(process);
        }
        assert!(Instant::now() < until, "redis-server does not listen");
        #[expect(clippy::disallowed_methods, reason = "its test waits for nothing else")]
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether this very process answers on the port.
fn answers(port: u16, pid: u32) -> Option<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).ok()?;
    stream.write_all(format!("AUTH {}\r\nINFO server\r\nQUIT\r\n", TestRedis::PASSWORD).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().any(|line| line == format!("process_id:{pid}")).then_some(())
}
