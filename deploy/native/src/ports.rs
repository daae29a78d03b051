//! Ports of this machine: which of those that are wanted are taken, and by whom.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, TcpListener},
};

/// A port on which a component can't listen.
#[derive(Debug)]
pub struct Taken {
    /// The port.
    pub port: u16,
    /// Who would listen.
    pub component: String,
    holder: Holder,
}

#[derive(Debug)]
enum Holder {
    /// A process listens on it; which one can be seen of one's own processes only, unless one is root.
    Listener(Option<Process>),
    /// The kernel gave it to a connection to somewhere else, which keeps it for at most a minute after its end.
    Connection,
    /// Nobody that can be found.
    Unknown(io::Error),
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    name: String,
}

impl Taken {
    /// Whether it becomes free by itself.
    pub(crate) const fn is_temporary(&self) -> bool {
        matches!(self.holder, Holder::Connection)
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} of {}: ", self.port, self.component)?;
        match &self.holder {
            Holder::Listener(Some(Process { pid, name })) => {
                write!(f, "process {pid} ({name}) listens there")
            }
            Holder::Listener(None) => f.write_str("another user's process listens there"),
            Holder::Connection => {
                f.write_str("an outgoing connection has it, which keeps it for a minute after its end")
            }
            // The number of the error says nothing more.
            Holder::Unknown(error) if error.kind() == ErrorKind::AddrInUse => f.write_str("it is in use"),
            Holder::Unknown(error) => write!(f, "{error}"),
        }
    }
}

/// All of the ports that are taken.
#[must_use]
pub fn taken(ports: &[(String, u16)]) -> Vec<Taken> {
    let refused = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err();
    let look = |(component, port): &(String, u16)| {
        let holder = match holder(*port, refused(*port)?) {
            // Whoever had it may have ended before it was looked for.
            Holder::Unknown(_) => Holder::Unknown(refused(*port)?),
            found => found,
        };
        Some(Taken { port: *port, component: component.clone(), holder })
    };
    ports.iter().filter_map(look).collect()
}

fn holder(port: u16, error: io::Error) -> Holder {
    if error.kind() != ErrorKind::AddrInUse {
        return Holder::Unknown(error);
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap_or_default());
    let sockets: Vec<Socket> =
        tables.iter().flat_map(|table| table.lines().filter_map(Socket::read)).collect();
    let of_port: Vec<&Socket> = sockets.iter().filter(|socket| socket.port == port).collect();
    match of_port.iter().find(|socket| socket.listens) {
        Some(listener) => Holder::Listener(owner(listener.inode)),
        None if of_port.is_empty() => Holder::Unknown(error),
        None => Holder::Connection,
    }
}

/// A row of `/proc/net/tcp` (proc(5)).
struct Socket {
    port: u16,
    listens: bool,
    inode: u64,
}

/// `TCP_LISTEN`.
const LISTENS: &str = "0A";

impl Socket {
    fn read(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        Some(Self {
            port: u16::from_str_radix(port, 16).ok()?,
            listens: *fields.get(3)? == LISTENS,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
}

/// The process that has a socket, as far as we may look.
fn owner(inode: u64) -> Option<Process> {
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Process { pid, name: name.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// A listener is named; what only a connection to somewhere else has becomes free by itself; all that are taken are said at once.
    #[test]
    fn who_has_a_port_is_said() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
        let listens = listener.local_addr().expect("bound").port();
        let connection = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let connects = connection.local_addr().expect("bound").port();
        let ports =
            [("kafka".to_owned(), listens), ("order".to_owned(), connects), ("gateway".to_owned(), 0)];
        let taken = taken(&ports);
        let shown: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2, "{shown:?}");
        let process = format!("port {listens} of kafka: process {} (", std::process::id());
        assert!(shown[0].starts_with(&process) && shown[0].ends_with(") listens there"), "{shown:?}");
        assert!(
            shown[1].starts_with(&format!("port {connects} of order: an outgoing connection")),
            "{shown:?}"
        );
        assert!(!taken[0].is_temporary() && taken[1].is_temporary());
    }
}
