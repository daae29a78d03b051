//! Ports, folders and names of a stack.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One of ours.
    Service,
    /// A database server.
    Postgres,
    /// The broker.
    Kafka,
}

/// A service and its database.
#[derive(Debug, Clone, Copy)]
pub struct Participant {
    /// The service's name.
    pub name: &'static str,
    /// Its gRPC port.
    pub grpc_port: u16,
    /// Its admin port.
    pub admin_port: u16,
    /// The name of its database server.
    pub server: &'static str,
    /// The port of that server.
    pub database_port: u16,
    /// The name of the database in it.
    pub database: &'static str,
}

/// The three services with databases, as the contract numbers them.
pub const PARTICIPANTS: [Participant; 3] = [
    Participant {
        name: "order",
        grpc_port: 50051,
        admin_port: 9101,
        server: "orders-db",
        database_port: 5432,
        database: "orders",
    },
    Participant {
        name: "payment",
        grpc_port: 50052,
        admin_port: 9102,
        server: "payments-db",
        database_port: 5433,
        database: "payments",
    },
    Participant {
        name: "delivery",
        grpc_port: 50053,
        admin_port: 9103,
        server: "deliveries-db",
        database_port: 5434,
        database: "deliveries",
    },
];

const GATEWAY_PORT: u16 = 8080;
const GATEWAY_ADMIN_PORT: u16 = 9100;
const KAFKA_PORT: u16 = 9092;
/// KRaft's own port; nobody else talks to it.
const KAFKA_CONTROLLER_PORT: u16 = 9093;
/// The highest port is 50053, so this keeps all below 65536.
pub const PORT_OFFSET_MAX: u16 = 15_000;

/// Name of the PostgreSQL role that owns each database.
pub(crate) const DATABASE_USER: &str = "holdfast";

/// Where a stack is: its folder and its ports.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The folder of all its data.
    pub data_dir: PathBuf,
    /// Added to each port.
    pub port_offset: u16,
}

impl Layout {
    /// A stack in `data_dir`, which must be absolute.
    #[must_use]
    pub const fn new(data_dir: PathBuf, port_offset: u16) -> Self {
        Self { data_dir, port_offset }
    }

    fn port(&self, base: u16) -> u16 {
        base + self.port_offset
    }

    /// REST.
    #[must_use]
    pub fn gateway_port(&self) -> u16 {
        self.port(GATEWAY_PORT)
    }

    pub(crate) fn gateway_admin_port(&self) -> u16 {
        self.port(GATEWAY_ADMIN_PORT)
    }

    pub(crate) fn kafka_port(&self) -> u16 {
        self.port(KAFKA_PORT)
    }

    pub(crate) fn kafka_controller_port(&self) -> u16 {
        self.port(KAFKA_CONTROLLER_PORT)
    }

    pub(crate) fn grpc_port(&self, participant: &Participant) -> u16 {
        self.port(participant.grpc_port)
    }

    pub(crate) fn admin_port(&self, participant: &Participant) -> u16 {
        self.port(participant.admin_port)
    }

    pub(crate) fn database_port(&self, participant: &Participant) -> u16 {
        self.port(participant.database_port)
    }

    /// The address of the REST interface.
    #[must_use]
    pub fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway_port())
    }

    /// The address of a service's admin port; `gateway` is a service too.
    #[must_use]
    pub fn admin_url(&self, service: &str) -> String {
        let port = PARTICIPANTS
            .iter()
            .find(|participant| participant.name == service)
            .map_or_else(|| self.gateway_admin_port(), |participant| self.admin_port(participant));
        format!("http://127.0.0.1:{port}")
    }

    /// Bootstrap address of Kafka.
    #[must_use]
    pub fn kafka_brokers(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port())
    }

    /// Connection URL of a participant's database, password included.
    pub fn database_url(&self, participant: &Participant) -> std::io::Result<String> {
        let password = std::fs::read_to_string(self.password_file())?;
        let (port, database) = (self.database_port(participant), participant.database);
        Ok(format!("postgres://{DATABASE_USER}:{}@127.0.0.1:{port}/{database}", password.trim()))
    }

    /// Certificates and token keys.
    #[must_use]
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// Logs, one file per component.
    #[must_use]
    pub fn log_file(&self, component: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{component}.log"))
    }

    pub(crate) fn config_file(&self, component: &str) -> PathBuf {
        self.data_dir.join("config").join(format!("{component}.toml"))
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.data_dir.join("config").join("database-password")
    }

    pub(crate) fn kafka_dir(&self) -> PathBuf {
        self.data_dir.join("kafka")
    }

    /// What the supervisor tells of its components.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.data_dir.join("state.json")
    }

    /// Locked while a supervisor runs here.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.data_dir.join("supervisor.lock")
    }

    /// Every port with the component that will listen on it.
    #[must_use]
    pub fn ports(&self, scope: Scope) -> Vec<(&'static str, u16)> {
        let mut ports =
            vec![("kafka", self.kafka_port()), ("kafka (controller)", self.kafka_controller_port())];
        for participant in &PARTICIPANTS {
            ports.push((participant.server, self.database_port(participant)));
        }
        if scope == Scope::Everything {
            ports.push(("gateway", self.gateway_port()));
            ports.push(("gateway (admin)", self.gateway_admin_port()));
            for participant in &PARTICIPANTS {
                ports.push((participant.name, self.grpc_port(participant)));
                ports.push((participant.name, self.admin_port(participant)));
            }
        }
        ports
    }
}

/// How much of the stack is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Databases, broker and services.
    Everything,
    /// Databases and broker: for tests that bring their own code.
    Infrastructure,
}

/// The first folder from `path` upwards that another user can't enter.
pub(crate) fn closed_to_others(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    path.ancestors()
        .find(|folder| {
            std::fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
        })
        .map(Path::to_owned)
}
