//! Ports, folders and names of a stack.

use std::{
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

pub use holdfast_proto::{CONSOLE, OPERATOR};
use serde::{Deserialize, Serialize};

use crate::{
    link::{self, Link},
    postgres,
    state::StackReport,
};

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
    /// What gateways share.
    Redis,
}

/// A component that a stack can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Limits of clients that all gateways share.
    Redis,
    /// Pages for operators.
    Console,
}

/// Why a name of an [`Extra`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", Extra::ALL.map(Extra::name).join(", "))]
pub struct ExtraError;

impl FromStr for Extra {
    type Err = ExtraError;

    fn from_str(text: &str) -> Result<Self, ExtraError> {
        Self::ALL.into_iter().find(|extra| extra.name() == text).ok_or(ExtraError)
    }
}

impl Extra {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Redis, Self::Console];
    /// What a stack has that is not asked for either.
    pub const DEFAULT: [Self; 1] = [Self::Console];

    /// Its name, as a component too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis => REDIS,
            Self::Console => CONSOLE,
        }
    }
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

impl Participant {
    /// The role of the service in its database, where it has its rows; the certificate that goes with it has this name.
    #[must_use]
    pub const fn role(&self) -> &'static str {
        self.name
    }

    /// The role that owns the database and its tables, for migrations.
    #[must_use]
    pub fn owner_role(&self) -> String {
        format!("{}-owner", self.name)
    }

    /// What its server has in the folder of its stack's servers.
    pub(crate) fn server_files(&self, folder: &Path) -> [PathBuf; 3] {
        let cluster = folder.join(self.server);
        [cluster.with_extension("password.draft"), cluster.with_extension("password"), cluster]
    }
}

/// Most replicas of one service; their ports lie [`REPLICA_PORT_STEP`] apart.
pub const REPLICAS_MAX: u16 = 9;
pub(crate) const REPLICA_PORT_STEP: u16 = 10;

/// One replica of a service with a database.
#[derive(Debug, Clone, Copy)]
pub struct Replica {
    /// The service.
    pub participant: &'static Participant,
    /// From 0.
    pub number: u16,
}

impl Replica {
    /// `order` for the first, then `order-2`, `order-3`.
    #[must_use]
    pub fn name(self) -> String {
        name_of(self.participant.name, self.number)
    }
}

/// One replica of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// From 0.
    pub number: u16,
}

impl Gateway {
    /// The one that is always there.
    pub const FIRST: Self = Self { number: 0 };

    /// `gateway` for the first, then `gateway-2`, `gateway-3`.
    #[must_use]
    pub fn name(self) -> String {
        name_of(GATEWAY, self.number)
    }
}

fn name_of(service: &str, number: u16) -> String {
    match number {
        0 => service.to_owned(),
        number => format!("{service}-{}", number + 1),
    }
}

/// How many replicas each service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    participants: [u16; PARTICIPANTS.len()],
    gateways: u16,
}

impl Default for Replicas {
    fn default() -> Self {
        Self::of_each(1)
    }
}

/// Why a number of replicas is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicasError {
    /// Not `service=N`.
    #[error("must be service=N, such as order=2")]
    Form,
    /// Replicas of something else.
    #[error("only these have replicas here: {}", service_names().collect::<Vec<_>>().join(", "))]
    Service,
    /// Too few or too many.
    #[error("a service has 1 to {REPLICAS_MAX} replicas")]
    Number,
}

impl Replicas {
    pub(crate) const fn of_each(number: u16) -> Self {
        Self { participants: [number; PARTICIPANTS.len()], gateways: number }
    }

    /// Sets the number of one service from `service=N`.
    pub fn set(&mut self, text: &str) -> Result<(), ReplicasError> {
        let (service, number) = text.split_once('=').ok_or(ReplicasError::Form)?;
        let mut participants = PARTICIPANTS.iter().zip(&mut self.participants);
        let count = match participants.find(|(participant, _)| participant.name == service) {
            Some((_, count)) => count,
            None if service == GATEWAY => &mut self.gateways,
            None => return Err(ReplicasError::Service),
        };
        let number = number.parse().map_err(|_| ReplicasError::Form)?;
        if !(1..=REPLICAS_MAX).contains(&number) {
            return Err(ReplicasError::Number);
        }
        *count = number;
        Ok(())
    }

    /// `service=N` of each service that has more than one.
    pub fn arguments(self) -> impl Iterator<Item = String> {
        let counts = participant_names().zip(self.participants).chain([(GATEWAY, self.gateways)]);
        counts.filter(|(_, count)| *count > 1).map(|(service, count)| format!("{service}={count}"))
    }

    /// The larger number of each service.
    #[must_use]
    pub(crate) fn at_least(self, other: Self) -> Self {
        let mut larger = self;
        for (count, other) in larger.participants.iter_mut().zip(other.participants) {
            *count = (*count).max(other);
        }
        larger.gateways = larger.gateways.max(other.gateways);
        larger
    }

    /// Those that a report has, if it has services.
    #[must_use]
    pub fn of_report(report: &StackReport) -> Option<Self> {
        let count = |service: &str| {
            let of_service = |name: &str| service_of(name) == Some(service);
            let components = report.components.iter().filter(|component| of_service(&component.name));
            u16::try_from(components.count()).unwrap_or(REPLICAS_MAX)
        };
        let mut replicas = Self { participants: [0; PARTICIPANTS.len()], gateways: count(GATEWAY) };
        for (participant, number) in PARTICIPANTS.iter().zip(&mut replicas.participants) {
            *number = count(participant.name);
        }
        (replicas.gateways > 0 && !replicas.participants.contains(&0)).then_some(replicas)
    }

    /// Those of the gateway.
    pub fn gateways(self) -> impl Iterator<Item = Gateway> {
        (0..self.gateways).map(|number| Gateway { number })
    }

    /// Those of all services with a database.
    pub fn all(self) -> impl Iterator<Item = Replica> {
        let counts = PARTICIPANTS.iter().zip(self.participants);
        counts.flat_map(|(participant, count)| (0..count).map(move |number| Replica { participant, number }))
    }

    /// Those of one service.
    pub(crate) fn of(self, participant: &'static Participant) -> impl Iterator<Item = Replica> {
        self.all().filter(move |replica| std::ptr::eq(replica.participant, participant))
    }
}

/// The services with databases, as the contract numbers them. Whatever needs a list of services takes it from here.
pub static PARTICIPANTS: &[Participant] = &[
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

/// The broker, and its identity.
pub const KAFKA: &str = "kafka";
/// What gateways share, in a stack that has it.
pub const REDIS: &str = "redis";
/// The service that has no database.
pub const GATEWAY: &str = "gateway";

/// Names of the services that have a database.
pub fn participant_names() -> impl Iterator<Item = &'static str> {
    PARTICIPANTS.iter().map(|participant| participant.name)
}

/// Names of all services.
pub fn service_names() -> impl Iterator<Item = &'static str> {
    [GATEWAY].into_iter().chain(participant_names())
}

/// Identities that get a certificate: the services and the operator.
pub fn identities() -> impl Iterator<Item = &'static str> {
    service_names().chain([OPERATOR])
}

/// Of the first; those of its replicas follow, up to 8088, since 8090 is the console's.
const GATEWAY_PORT: u16 = 8080;
const GATEWAY_ADMIN_PORT: u16 = 9100;
const KAFKA_PORT: u16 = 9092;
const REDIS_PORT: u16 = 6379;
/// KRaft's own port; nobody else talks to it.
const KAFKA_CONTROLLER_PORT: u16 = 9093;
/// The console's.
const CONSOLE_PORT: u16 = 8090;
const CONSOLE_ADMIN_PORT: u16 = 9104;
/// The highest port is 50133, so this keeps all below 65536.
pub const PORT_OFFSET_MAX: u16 = 15_000;

/// Name of the superuser of each database server: for the supervisor and the operator's tools.
pub(crate) const DATABASE_ADMINISTRATOR: &str = "holdfast";

/// Whether connections to the databases, or to the broker, are encrypted, and both ends show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Only so.
    On,
    /// Not at all.
    Off,
}

/// Why a word for [`Tls`] is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be `on` or `off`")]
pub struct TlsError;

impl FromStr for Tls {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(TlsError),
        }
    }
}

impl Tls {
    /// To the databases of a stack that is not asked for either: it costs less than can be measured (docs/measurements.md). To its
    /// broker there is none then.
    pub const DEFAULT: Self = Self::On;

    /// As it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Returns the canonical name of a folder, which need not exist yet: absolute, without `..` and symbolic links. What is kept
/// elsewhere for a stack is kept under this name, so one folder must not have two names, nor two folders one.
pub fn resolve(folder: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(folder)?.components() {
        match component {
            Component::ParentDir => {
                resolved.pop();
            }
            other => resolved.push(other),
        }
        // Links before a `..` must be resolved first: it goes up from where they lead.
        match resolved.canonicalize() {
            Ok(real) => resolved = real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(resolved)
}

/// Where a stack is: its folder and its ports.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The folder of all its data.
    pub data_dir: PathBuf,
    /// Added to each port.
    pub port_offset: u16,
}

impl Layout {
    /// A stack in `data_dir`, as [`resolve`] names it.
    #[must_use]
    pub const fn new(data_dir: PathBuf, port_offset: u16) -> Self {
        Self { data_dir, port_offset }
    }

    pub(crate) fn port(&self, base: u16) -> u16 {
        base + self.port_offset
    }

    /// REST.
    #[must_use]
    pub fn gateway_port(&self, gateway: Gateway) -> u16 {
        self.port(GATEWAY_PORT + gateway.number)
    }

    pub(crate) fn gateway_admin_port(&self, gateway: Gateway) -> u16 {
        self.port(GATEWAY_ADMIN_PORT + REPLICA_PORT_STEP * gateway.number)
    }

    /// The pages for operators.
    #[must_use]
    pub fn console_port(&self) -> u16 {
        self.port(CONSOLE_PORT)
    }

    /// The admin port of the console.
    #[must_use]
    pub fn console_admin_port(&self) -> u16 {
        self.port(CONSOLE_ADMIN_PORT)
    }

    /// The folder of what the console has beside its settings, its certificate and its log.
    pub(crate) fn console_dir(&self) -> PathBuf {
        self.data_dir.join("console")
    }

    /// Tickets of those who may come into the console.
    #[must_use]
    pub fn console_tickets_dir(&self) -> PathBuf {
        self.console_dir().join("tickets")
    }

    pub(crate) fn kafka_port(&self) -> u16 {
        self.port(KAFKA_PORT)
    }

    pub(crate) fn kafka_controller_port(&self) -> u16 {
        self.port(KAFKA_CONTROLLER_PORT)
    }

    pub(crate) fn redis_port(&self) -> u16 {
        self.port(REDIS_PORT)
    }

    /// Where a replica answers gRPC.
    #[must_use]
    pub fn grpc_port(&self, replica: Replica) -> u16 {
        self.port(replica.participant.grpc_port + REPLICA_PORT_STEP * replica.number)
    }

    /// Where a component answers `/healthz` and `/readyz`; databases and broker have no such port.
    #[must_use]
    pub fn component_admin_port(&self, component: &str) -> Option<u16> {
        if component == CONSOLE {
            return Some(self.console_admin_port());
        }
        let gateway = gateway_named(component).map(|gateway| self.gateway_admin_port(gateway));
        gateway.or_else(|| replica_named(component).map(|replica| self.admin_port(replica)))
    }

    pub(crate) fn admin_port(&self, replica: Replica) -> u16 {
        self.port(replica.participant.admin_port + REPLICA_PORT_STEP * replica.number)
    }

    /// Where a database answers.
    #[must_use]
    pub fn database_port(&self, participant: &Participant) -> u16 {
        self.port(participant.database_port)
    }

    /// The address of the REST interface, at the first gateway.
    #[must_use]
    pub fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway_port(Gateway::FIRST))
    }

    /// The address of the admin port of a component, as `holdfast status` names it: `order`, `order-2`; the gateway's
    /// if there is no such service.
    #[must_use]
    pub fn admin_url(&self, component: &str) -> String {
        let port =
            self.component_admin_port(component).unwrap_or_else(|| self.gateway_admin_port(Gateway::FIRST));
        format!("http://127.0.0.1:{port}")
    }

    /// Bootstrap address of Kafka.
    #[must_use]
    pub fn kafka_brokers(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_port())
    }

    /// Connection URL of a participant's database for the operator's tools, password included.
    pub fn database_url(&self, participant: &Participant) -> io::Result<String> {
        self.database_url_of(participant, participant.database)
    }

    /// The same for another database of its server.
    pub fn database_url_of(&self, participant: &Participant, database: &str) -> io::Result<String> {
        let password = std::fs::read_to_string(self.administrator_password_file(participant))?;
        let port = self.database_port(participant);
        let url =
            format!("postgres://{DATABASE_ADMINISTRATOR}:{}@127.0.0.1:{port}/{database}", password.trim());
        Ok(match self.database_tls() {
            Tls::Off => url,
            Tls::On => format!("{url}?{}", self.tls_parameters(OPERATOR)),
        })
    }

    /// Connection URL of a participant's database for the service itself, by `port`, password included. Its certificate is not in
    /// it: it is a setting.
    pub(crate) fn service_database_url(&self, participant: &Participant, port: u16) -> io::Result<String> {
        let password = std::fs::read_to_string(self.role_password_file(participant))?;
        let (role, database) = (participant.role(), participant.database);
        Ok(format!("postgres://{role}:{}@127.0.0.1:{port}/{database}", password.trim()))
    }

    /// The same for its migrations.
    pub(crate) fn owner_database_url(&self, participant: &Participant, port: u16) -> io::Result<String> {
        let password = std::fs::read_to_string(self.owner_password_file(participant))?;
        let (role, database) = (participant.owner_role(), participant.database);
        Ok(format!("postgres://{role}:{}@127.0.0.1:{port}/{database}", password.trim()))
    }

    /// What a URL says of TLS and of the certificate of `identity`, for libpq and whoever reads URLs as it does.
    #[must_use]
    pub fn tls_parameters(&self, identity: &str) -> String {
        let folder = self.pki_dir().join(identity);
        let file = |name: &str| percent_encoded(&folder.join(name));
        let (root, certificate, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
        format!("sslmode=verify-full&sslrootcert={root}&sslcert={certificate}&sslkey={key}")
    }

    /// Whether this stack's broker has TLS: a start writes it down.
    #[must_use]
    pub fn kafka_tls(&self) -> Tls {
        if self.kafka_tls_file().exists() { Tls::On } else { Tls::Off }
    }

    /// Whether this stack's databases have TLS: a start writes it down.
    #[must_use]
    pub fn database_tls(&self) -> Tls {
        if self.database_tls_file().exists() { Tls::On } else { Tls::Off }
    }

    /// Connection URL of Redis, password included.
    pub fn redis_url(&self) -> io::Result<String> {
        let password = std::fs::read_to_string(self.redis_password_file())?;
        Ok(format!("redis://:{}@127.0.0.1:{}", password.trim(), self.redis_port()))
    }

    /// How components call a file of the stack: if their user can't get through the folders above it, from the folder in which they
    /// run, which is the stack's.
    pub(crate) fn as_components_see(&self, path: PathBuf) -> PathBuf {
        let is_closed = nix::unistd::geteuid().is_root() && closed_to_others(&self.data_dir).is_some();
        match path.strip_prefix(&self.data_dir) {
            Ok(inside) if is_closed => inside.to_owned(),
            _ => path,
        }
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

    /// Names the program of a component, if that is not the one beside the supervisor's.
    pub(crate) fn program_file(&self, component: &str) -> PathBuf {
        self.data_dir.join("config").join(format!("{component}.program"))
    }

    /// While it is there, a component that was left down is to be started.
    pub(crate) fn start_file(&self, component: &str) -> PathBuf {
        self.data_dir.join("config").join(format!("{component}.start"))
    }

    /// With what the stack was started last, or scaled to.
    pub(crate) fn remembered_file(&self) -> PathBuf {
        self.data_dir.join("config").join("remembered.json")
    }

    /// While it is there, the supervisor is asked for these replicas.
    pub(crate) fn scale_file(&self) -> PathBuf {
        self.data_dir.join("config").join("scale")
    }

    /// Why the supervisor could not do what it was asked for.
    pub(crate) fn scale_failure_file(&self) -> PathBuf {
        self.data_dir.join("config").join("scale-failure")
    }

    /// The password of all servers of a stack from before each had its own.
    pub(crate) fn common_password_file(&self) -> PathBuf {
        self.data_dir.join("config").join("database-password")
    }

    /// Each holds a password of a participant's database: that of the operator's tools, and that of the service.
    #[must_use]
    pub fn password_files(&self, participant: &Participant) -> [PathBuf; 2] {
        [self.administrator_password_file(participant), self.role_password_file(participant)]
    }

    /// The password of a server's superuser.
    pub(crate) fn administrator_password_file(&self, participant: &Participant) -> PathBuf {
        self.data_dir.join("config").join(format!("{}.password", participant.server))
    }

    /// The password of the role of a service.
    pub(crate) fn role_password_file(&self, participant: &Participant) -> PathBuf {
        self.data_dir.join("config").join(format!("{}.password", participant.name))
    }

    /// The password of the role that owns a service's tables.
    #[must_use]
    pub fn owner_password_file(&self, participant: &Participant) -> PathBuf {
        self.data_dir.join("config").join(format!("{}.password", participant.owner_role()))
    }

    /// There if the databases have TLS.
    pub(crate) fn database_tls_file(&self) -> PathBuf {
        self.data_dir.join("config").join("database-tls")
    }

    /// There if the broker has TLS.
    pub(crate) fn kafka_tls_file(&self) -> PathBuf {
        self.data_dir.join("config").join("kafka-tls")
    }

    pub(crate) fn redis_password_file(&self) -> PathBuf {
        self.data_dir.join("config").join("redis-password")
    }

    pub(crate) fn redis_config_file(&self) -> PathBuf {
        self.data_dir.join("config").join("redis.conf")
    }

    /// The broker's folder: configuration, and its logs in `logs`.
    #[must_use]
    pub fn kafka_dir(&self) -> PathBuf {
        self.data_dir.join("kafka")
    }

    /// The folders in which databases and broker keep their data, by component.
    #[must_use]
    pub fn data_folders(&self) -> Vec<(String, PathBuf)> {
        let servers = PARTICIPANTS
            .iter()
            .map(|participant| (participant.server.to_owned(), postgres::cluster_dir(self, participant)));
        servers.chain([(KAFKA.to_owned(), self.kafka_log_dir())]).collect()
    }

    pub(crate) fn kafka_log_dir(&self) -> PathBuf {
        self.kafka_dir().join("logs")
    }

    /// Written by a start. Only a folder that has it is a stack's, and may be deleted as one.
    #[must_use]
    pub fn marker_file(&self) -> PathBuf {
        self.data_dir.join("holdfast-stack")
    }

    /// The supervisor's report.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.data_dir.join("state.json")
    }

    /// The same while it is being written.
    pub(crate) fn state_draft_file(&self) -> PathBuf {
        self.state_file().with_extension("draft")
    }

    /// Locked while a supervisor runs here.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.data_dir.join("supervisor.lock")
    }

    /// Names of the components of a stack in the order of their start, the supervisor last; replicas and extras as far as
    /// they have run here.
    #[must_use]
    pub fn component_names(&self) -> Vec<String> {
        let replicas: Vec<String> = largest_names().collect();
        let is_first = |name: &String| service_names().any(|first| first == name);
        let is_extra = |name: &String| Extra::ALL.iter().any(|extra| extra.name() == name);
        let is_always_there = |name: &String| !is_extra(name) && (!replicas.contains(name) || is_first(name));
        let has_run = |name: &String| is_always_there(name) || self.log_file(name).exists();
        every_component_name().into_iter().filter(has_run).collect()
    }

    /// Every port with the component that will listen on it; `links` is empty for a stack without.
    #[must_use]
    pub fn ports(
        &self,
        scope: Scope,
        replicas: Replicas,
        extras: &[Extra],
        links: &[Link],
    ) -> Vec<(String, u16)> {
        let mut ports = vec![
            ("kafka".to_owned(), self.kafka_port()),
            ("kafka (controller)".to_owned(), self.kafka_controller_port()),
        ];
        for participant in PARTICIPANTS {
            ports.push((participant.server.to_owned(), self.database_port(participant)));
        }
        for extra in extras {
            match extra {
                Extra::Redis => ports.push((REDIS.to_owned(), self.redis_port())),
                Extra::Console => ports.extend([
                    (CONSOLE.to_owned(), self.console_port()),
                    (format!("{CONSOLE} (admin)"), self.console_admin_port()),
                ]),
            }
        }
        if scope == Scope::Everything {
            for gateway in replicas.gateways() {
                ports.push((gateway.name(), self.gateway_port(gateway)));
                ports.push((format!("{} (admin)", gateway.name()), self.gateway_admin_port(gateway)));
            }
            for replica in replicas.all() {
                ports.push((replica.name(), self.grpc_port(replica)));
                ports.push((format!("{} (admin)", replica.name()), self.admin_port(replica)));
            }
        }
        ports.extend(link::ports(links));
        ports
    }
}

/// Names of the components of the largest stack, the supervisor last.
#[must_use]
pub fn every_component_name() -> Vec<String> {
    let servers = PARTICIPANTS.iter().map(|participant| participant.server.to_owned());
    servers
        .chain([KAFKA, REDIS].map(str::to_owned))
        .chain(largest_names())
        .chain([CONSOLE, "supervisor"].map(str::to_owned))
        .collect()
}

/// The program of ours that a component runs: that of its service, or the console's; `None` for databases, broker and Redis.
#[must_use]
pub fn program_of(component: &str) -> Option<&'static str> {
    service_of(component).or_else(|| (component == CONSOLE).then_some(CONSOLE))
}

/// Returns the service that a component is a replica of: `order` for `order` and `order-2`; `None` for databases, broker and what a stack
/// can do without.
#[must_use]
pub fn service_of(component: &str) -> Option<&'static str> {
    let gateway = gateway_named(component).map(|_| GATEWAY);
    gateway.or_else(|| replica_named(component).map(|replica| replica.participant.name))
}

fn gateway_named(component: &str) -> Option<Gateway> {
    LARGEST.gateways().find(|gateway| gateway.name() == component)
}

fn replica_named(component: &str) -> Option<Replica> {
    LARGEST.all().find(|replica| replica.name() == component)
}

/// What a stack can have at most.
pub(crate) const LARGEST: Replicas = Replicas::of_each(REPLICAS_MAX);

fn largest_names() -> impl Iterator<Item = String> {
    LARGEST.all().map(Replica::name).chain(LARGEST.gateways().map(Gateway::name))
}

/// How much of the stack is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Databases, broker and services.
    Everything,
    /// Databases and broker: for tests that bring their own code.
    Infrastructure,
}

/// Of a path, for the value of a parameter in a URL.
fn percent_encoded(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let bytes = path.as_os_str().as_bytes().iter();
    bytes
        .map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// No two components of the largest stack share a port, and all ports exist.
    #[test]
    fn no_two_components_share_a_port() {
        let layout = Layout::new(PathBuf::from("/"), PORT_OFFSET_MAX);
        let ports = layout.ports(Scope::Everything, LARGEST, &Extra::ALL, &layout.links(LARGEST));
        let distinct: HashSet<u16> = ports.iter().map(|(_, port)| *port).collect();
        assert_eq!(distinct.len(), ports.len(), "{ports:?}");
    }

    /// What a URL says of files is read back as their paths, whatever is in them.
    #[test]
    fn paths_survive_in_a_url() {
        assert_eq!(percent_encoded(Path::new("/a-b/c_d/.x")), "/a-b/c_d/.x");
        assert_eq!(percent_encoded(Path::new("/a b&c=d#e%f+\u{e4}")), "/a%20b%26c%3Dd%23e%25f%2B%C3%A4");
    }

    /// A replica belongs to its service; a database, a broker and an unknown name belong to none.
    #[test]
    fn a_replica_belongs_to_its_service() {
        for (component, service) in [
            ("order", Some("order")),
            ("payment-9", Some("payment")),
            ("gateway", Some("gateway")),
            ("gateway-2", Some("gateway")),
            ("orders-db", None),
            ("kafka", None),
            ("redis", None),
            ("console", None),
            ("order-10", None),
            ("", None),
        ] {
            assert_eq!(service_of(component), service, "{component}");
            let program = if component == CONSOLE { Some(CONSOLE) } else { service };
            assert_eq!(program_of(component), program, "{component}");
        }
    }

    /// The console is a component with ports of its own, which a stack has unless it does without; its log is there once it has run.
    #[test]
    fn the_console_is_a_component() {
        let folder = std::env::temp_dir().join(format!("holdfast-layout-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("logs")).expect("created");
        let layout = Layout::new(folder.clone(), 1_000);
        assert_eq!(layout.component_admin_port(CONSOLE), Some(10_104));
        let ports = |extras: &[Extra]| layout.ports(Scope::Everything, Replicas::default(), extras, &[]);
        let of_console: Vec<_> =
            ports(&Extra::DEFAULT).into_iter().filter(|port| !ports(&[]).contains(port)).collect();
        let expected = [("console", 9_090), ("console (admin)", 10_104)];
        assert_eq!(of_console, expected.map(|(name, port)| (name.to_owned(), port)));
        let is_known = || layout.component_names().contains(&CONSOLE.to_owned());
        assert!(!is_known());
        std::fs::write(layout.log_file(CONSOLE), "").expect("written");
        assert!(is_known());
        std::fs::remove_dir_all(folder).expect("gone");
    }

    /// What a stack can do without is asked for by its name.
    #[test]
    fn what_a_stack_can_do_without_has_a_name() {
        for extra in Extra::ALL {
            assert_eq!(extra.name().parse(), Ok(extra));
        }
        for wrong in ["", " ", "kafka", "Console"] {
            assert_eq!(wrong.parse::<Extra>(), Err(ExtraError), "{wrong:?}");
        }
        assert_eq!(ExtraError.to_string(), "must be one of redis, console");
    }

    /// A folder has one name, whichever path leads to it: over `..`, over a link, or not there yet.
    #[test]
    fn a_folder_has_one_name() {
        let base = std::env::temp_dir().join(format!("holdfast-resolve-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/x")).expect("created");
        std::fs::create_dir_all(base.join("b")).expect("created");
        let base = base.canonicalize().expect("there");
        let _ = std::os::unix::fs::symlink(base.join("a/x"), base.join("link"));
        for (called, is) in [
            ("b", "b"),
            ("a/../b", "b"),
            ("a/x/../../b/.", "b"),
            ("link", "a/x"),
            // Up from where the link leads, as the system does.
            ("link/../y", "a/y"),
            ("new/../b", "b"),
            ("new/deep", "new/deep"),
        ] {
            assert_eq!(resolve(&base.join(called)).expect("resolved"), base.join(is), "{called}");
        }
        std::fs::remove_dir_all(base).expect("gone");
    }

    /// Replicas are asked for by name and number, and anything else is refused with its reason.
    #[test]
    fn replicas_are_asked_for_by_name_and_number() {
        let mut replicas = Replicas::default();
        replicas.set("order=2").expect("two orders");
        let names: Vec<String> = replicas.all().map(Replica::name).collect();
        assert_eq!(names[..3], ["order", "order-2", "payment"]);
        replicas.set("gateway=2").expect("two gateways");
        assert_eq!(replicas.arguments().collect::<Vec<_>>(), ["order=2", "gateway=2"]);
        assert_eq!(replicas.gateways().map(Gateway::name).collect::<Vec<_>>(), ["gateway", "gateway-2"]);
        for (wrong, error) in [
            ("order", ReplicasError::Form),
            ("order=two", ReplicasError::Form),
            ("order=0", ReplicasError::Number),
            ("order=10", ReplicasError::Number),
            ("kafka=2", ReplicasError::Service),
        ] {
            assert_eq!(replicas.set(wrong), Err(error), "{wrong}");
        }
    }
}
