//! The services: their configuration files and how they are started.

use std::{
    collections::BTreeMap, ffi::OsStr, os::unix::process::CommandExt as _, path::PathBuf, process::Command,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    environment::{self, console_user, unprivileged},
    files::{self, Owner},
    layout::{
        CONSOLE, Extra, GATEWAY, Gateway, KAFKA, Layout, PARTICIPANTS, Participant, Replica, Replicas, Tls,
        service_names,
    },
    link::{Link, port_between},
    programs::{Program, says_in_its_help},
    remembered::Remembered,
};

/// The setting of a service that separates the owner of its tables from itself.
const OWNER_URL: &str = "HOLDFAST__DATABASE__OWNER_URL";

/// Accounts that exist from the first start, with their balances.
const DEMO_ACCOUNTS: [(&str, &str); 4] =
    [("user-123", "10000.00"), ("alice", "1000.00"), ("bob", "250.00"), ("carol", "0.00")];

/// Sections that the gateway does not have, and sections that only the gateway has.
const PARTICIPANT_SECTIONS: &[&str] = &["kafka", "database", "grpc"];
const GATEWAY_SECTIONS: &[&str] = &["auth", "cache", "limits", "redis", "upstream"];
/// Sections of the console that can be set: the others say where the services are, under the names that their own sections have.
const CONSOLE_SECTIONS: &[&str] = &["console", "service"];

#[derive(Serialize)]
struct Service {
    admin_listen: String,
    log: String,
}

#[derive(Serialize)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    trust_bundle: PathBuf,
    deny_list: PathBuf,
}

#[derive(Serialize)]
struct Listen {
    listen: String,
}

#[derive(Serialize)]
struct Kafka {
    brokers: String,
    instance_id: String,
    // As for the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsSection>,
}

#[derive(Serialize)]
struct Database {
    tls: TlsSection,
}

#[derive(Serialize)]
struct TlsSection {
    mode: &'static str,
}

impl TlsSection {
    /// Nothing for what is off: the default.
    fn of(tls: Tls) -> Option<Self> {
        (tls == Tls::On).then_some(Self { mode: "verify-full" })
    }
}

#[derive(Serialize)]
struct Payment {
    opening_balances: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct Delivery {
    step: String,
    fail_prefix: &'static str,
}

#[derive(Serialize)]
struct ParticipantFile {
    service: Service,
    identity: Identity,
    grpc: Listen,
    kafka: Kafka,
    // Only where it is asked for: programs from before it refuse the section.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<Database>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<Delivery>,
}

#[derive(Serialize)]
struct Destination {
    address: String,
    name: &'static str,
}

#[derive(Serialize)]
struct Auth {
    jwks_file: PathBuf,
}

#[derive(Serialize)]
struct Redis {
    address: String,
}

/// Several gateways without Redis don't know what the others have shown.
#[derive(Serialize)]
struct Cache {
    unfinished_time: &'static str,
}

#[derive(Serialize)]
struct GatewayFile {
    service: Service,
    identity: Identity,
    gateway: Listen,
    auth: Auth,
    // Only where they are asked for: programs from before them refuse the sections.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<Redis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Cache>,
    upstream: BTreeMap<&'static str, Destination>,
}

#[derive(Serialize)]
struct Pages {
    listen: String,
    tickets: PathBuf,
    allow_write: bool,
    command_options: String,
}

/// Where the replicas of a service are that is asked, separated by commas.
#[derive(Serialize)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    admin: String,
}

#[derive(Serialize)]
struct Brokers {
    brokers: String,
    // As for the services.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsSection>,
}

#[derive(Serialize)]
struct ConsoleFile {
    service: Service,
    identity: Identity,
    console: Pages,
    kafka: Brokers,
    #[serde(flatten)]
    services: BTreeMap<&'static str, Asked>,
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn identity(layout: &Layout, name: &str) -> Identity {
    let folder = layout.as_components_see(layout.pki_dir().join(name));
    Identity {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        trust_bundle: folder.join("ca.crt"),
        deny_list: folder.join("revoked"),
    }
}

fn service(port: u16) -> Service {
    Service { admin_listen: loopback(port), log: "info".to_owned() }
}

/// Writes the configuration of each service. Secrets are not in it; they are passed in the environment.
pub(crate) fn prepare(
    layout: &Layout,
    replicas: Replicas,
    extras: &[Extra],
    links: &[Link],
    command_options: &str,
) -> Result<()> {
    prepare_participants(layout, replicas, links)?;
    prepare_gateways(layout, replicas, replicas, extras, links)?;
    prepare_console(layout, replicas, extras, command_options)
}

/// That of the console, which asks these replicas, by their own ports; nothing for a stack without one. A console that runs reads it again.
pub(crate) fn prepare_console(
    layout: &Layout,
    replicas: Replicas,
    extras: &[Extra],
    command_options: &str,
) -> Result<()> {
    if !extras.contains(&Extra::Console) {
        return Ok(());
    }
    let of = |participant: &'static Participant| {
        let address = replicas.of(participant).map(|replica| layout.grpc_port(replica));
        let admin = replicas.of(participant).map(|replica| layout.admin_port(replica));
        (participant.name, Asked { address: Some(addresses(address)), admin: addresses(admin) })
    };
    let gateways = replicas.gateways().map(|gateway| layout.gateway_admin_port(gateway));
    let gateway = Asked { address: None, admin: addresses(gateways) };
    let file = ConsoleFile {
        service: service(layout.console_admin_port()),
        identity: identity(layout, CONSOLE),
        console: Pages {
            listen: loopback(layout.console_port()),
            tickets: layout.as_components_see(layout.console_tickets_dir()),
            // What somebody may do is said when they are let in.
            allow_write: true,
            command_options: command_options.to_owned(),
        },
        kafka: Brokers { brokers: layout.kafka_brokers(), tls: TlsSection::of(layout.kafka_tls()) },
        services: PARTICIPANTS.iter().map(of).chain([(GATEWAY, gateway)]).collect(),
    };
    write(layout, CONSOLE, &file, Owner::Console)
}

fn addresses(ports: impl Iterator<Item = u16>) -> String {
    ports.map(loopback).collect::<Vec<_>>().join(",")
}

/// Those of the services with databases.
pub(crate) fn prepare_participants(layout: &Layout, replicas: Replicas, links: &[Link]) -> Result<()> {
    for replica in replicas.all() {
        let participant = replica.participant;
        let brokers = loopback(port_between(links, &replica.name(), KAFKA, layout.kafka_port()));
        let file = ParticipantFile {
            service: service(layout.admin_port(replica)),
            identity: identity(layout, participant.name),
            grpc: Listen { listen: loopback(layout.grpc_port(replica)) },
            kafka: Kafka {
                brokers,
                instance_id: replica.number.to_string(),
                tls: TlsSection::of(layout.kafka_tls()),
            },
            database: TlsSection::of(layout.database_tls()).map(|tls| Database { tls }),
            payment: (participant.name == "payment")
                .then(|| Payment { opening_balances: DEMO_ACCOUNTS.into_iter().collect() }),
            delivery: (participant.name == "delivery")
                .then(|| Delivery { step: "2s".to_owned(), fail_prefix: "UNDELIVERABLE" }),
        };
        write(layout, &replica.name(), &file, Owner::Components)?;
    }
    Ok(())
}

/// Those of these gateways, which call `called`. A gateway that runs reads its file again.
pub(crate) fn prepare_gateways(
    layout: &Layout,
    gateways: Replicas,
    called: Replicas,
    extras: &[Extra],
    links: &[Link],
) -> Result<()> {
    let alone = gateways.gateways().count() == 1 || extras.contains(&Extra::Redis);
    for gateway in gateways.gateways() {
        let file = GatewayFile {
            service: service(layout.gateway_admin_port(gateway)),
            identity: identity(layout, GATEWAY),
            gateway: Listen { listen: loopback(layout.gateway_port(gateway)) },
            auth: Auth { jwks_file: layout.as_components_see(layout.pki_dir().join("jwks.json")) },
            redis: extras.contains(&Extra::Redis).then(|| Redis { address: loopback(layout.redis_port()) }),
            cache: (!alone).then_some(Cache { unfinished_time: "0s" }),
            upstream: upstream(layout, gateway, called, links),
        };
        write(layout, &gateway.name(), &file, Owner::Components)?;
    }
    Ok(())
}

/// Where a gateway finds the replicas of each service.
fn upstream(
    layout: &Layout,
    gateway: Gateway,
    replicas: Replicas,
    links: &[Link],
) -> BTreeMap<&'static str, Destination> {
    let destinations = PARTICIPANTS.iter().map(|participant| {
        let addresses = replicas.of(participant).map(|replica| {
            let own = layout.grpc_port(replica);
            loopback(port_between(links, &gateway.name(), &replica.name(), own))
        });
        let address = addresses.collect::<Vec<_>>().join(",");
        (participant.name, Destination { address, name: participant.name })
    });
    destinations.collect()
}

fn write(layout: &Layout, name: &str, file: &impl Serialize, owner: Owner) -> Result<()> {
    let path = layout.config_file(name);
    let text = format!(
        "# Written at each start of the native stack; the environment takes precedence.\n{}",
        toml::to_string(file)?
    );
    files::write(&path, text.as_bytes(), owner)
}

/// The command that starts a replica of a service in the foreground.
pub(crate) fn participant_command(
    layout: &Layout,
    replica: Replica,
    program: &Program,
    links: &[Link],
    started: &Remembered,
) -> Result<Command> {
    let (name, participant) = (replica.name(), replica.participant);
    let mut command = service_command(layout, participant.name, &name, program, started)?;
    let port = port_between(links, &name, participant.server, layout.database_port(participant));
    let url = layout.service_database_url(participant, port).context("cannot read the database password")?;
    let owner =
        layout.owner_database_url(participant, port).context("cannot read the password of the owner")?;
    if says_in_its_help(program, OWNER_URL)? {
        command.env("HOLDFAST__DATABASE__URL", url).env(OWNER_URL, owner);
    } else {
        // From before owners: it can only do everything as one role.
        command.env("HOLDFAST__DATABASE__URL", owner);
    }
    Ok(command)
}

/// The command that starts a gateway in the foreground.
pub(crate) fn gateway_command(
    layout: &Layout,
    gateway: Gateway,
    program: &Program,
    extras: &[Extra],
    started: &Remembered,
) -> Result<Command> {
    let mut command = service_command(layout, GATEWAY, &gateway.name(), program, started)?;
    if extras.contains(&Extra::Redis) {
        let file = layout.as_components_see(layout.redis_password_file());
        command.env("HOLDFAST__REDIS__PASSWORD_FILE", file);
    }
    Ok(command)
}

/// The command that starts the console in the foreground.
pub(crate) fn console_command(layout: &Layout, program: &Program, started: &Remembered) -> Result<Command> {
    service_command(layout, CONSOLE, CONSOLE, program, started)
}

fn service_command(
    layout: &Layout,
    name: &str,
    component: &str,
    program: &Program,
    started: &Remembered,
) -> Result<Command> {
    let mut command = program.command();
    let config = layout.as_components_see(layout.config_file(component));
    if config.is_relative() {
        // By its command the process is recognised as this stack's.
        command.arg0(layout.data_dir.join(component));
    }
    command.arg("--config").arg(config);
    // A setting of one service is an unknown key for the others, which refuse it.
    command.envs(environment::ours().filter(|(variable, _)| is_for(name, variable)));
    // What was asked for by an option goes before the environment.
    command.envs(started.variables().filter(|(variable, _)| is_for(name, OsStr::new(variable))));
    if let Some((uid, gid)) = if name == CONSOLE { console_user()? } else { unprivileged()? } {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// Whether a service knows a variable of ours.
fn is_for(service: &str, variable: &OsStr) -> bool {
    let Some(setting) = variable.to_str().and_then(|variable| variable.strip_prefix("HOLDFAST__")) else {
        return true;
    };
    let section = setting.split("__").next().unwrap_or_default().to_lowercase();
    if service == CONSOLE {
        return CONSOLE_SECTIONS.contains(&section.as_str());
    }
    // A service's own section has its name.
    let foreign = section != service && service_names().chain([CONSOLE]).any(|name| name == section);
    let sections_of_others = if service == GATEWAY { PARTICIPANT_SECTIONS } else { GATEWAY_SECTIONS };
    !foreign && !sections_of_others.contains(&section.as_str())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A stack without Redis says nothing of it: programs from before Redis can read its configuration.
    #[test]
    fn only_a_stack_with_redis_says_so() {
        let folder = std::env::temp_dir().join(format!("holdfast-services-{}", std::process::id()));
        fs::create_dir_all(folder.join("config")).expect("created");
        let layout = Layout::new(folder.clone(), 0);
        let says_so = |extras: &[Extra]| {
            prepare(&layout, Replicas::default(), extras, &[], "").expect("written");
            let text = fs::read_to_string(layout.config_file(GATEWAY)).expect("there");
            text.contains("redis")
        };
        assert!(!says_so(&[]));
        assert!(says_so(&[Extra::Redis]));
        assert!(!says_so(&[]), "it is written at each start");

        // Several gateways don't know what the others have shown, and each calls whom it is told to.
        let (mut gateways, mut called) = (Replicas::default(), Replicas::default());
        gateways.set("gateway=2").expect("two gateways");
        called.set("order=2").expect("two orders");
        prepare_gateways(&layout, gateways, called, &[], &[]).expect("written");
        for gateway in gateways.gateways() {
            let text = fs::read_to_string(layout.config_file(&gateway.name())).expect("there");
            assert!(text.contains("\"127.0.0.1:50051,127.0.0.1:50061\""), "{text}");
            assert!(text.contains("unfinished_time = \"0s\""), "{text}");
        }
        fs::remove_dir_all(folder).expect("gone");
    }

    /// The console asks every replica by its own port, has a certificate of its own, and is not there if nobody wants it.
    #[test]
    fn the_console_knows_every_replica() {
        let folder = std::env::temp_dir().join(format!("holdfast-console-{}", std::process::id()));
        fs::create_dir_all(folder.join("config")).expect("created");
        let layout = Layout::new(folder.clone(), 1_000);
        let mut replicas = Replicas::default();
        replicas.set("order=2").expect("two orders");
        replicas.set("gateway=2").expect("two gateways");
        prepare(&layout, replicas, &[Extra::Redis], &[], "").expect("written");
        assert!(!layout.config_file(CONSOLE).exists());
        let options = " --data-dir '/x y'";
        prepare(&layout, replicas, &Extra::ALL, &layout.links(replicas), options).expect("written");
        let text = fs::read_to_string(layout.config_file(CONSOLE)).expect("there");
        let file: toml::Table = text.parse().expect("settings");
        assert_eq!(file["order"]["address"].as_str(), Some("127.0.0.1:51051,127.0.0.1:51061"));
        assert_eq!(file["order"]["admin"].as_str(), Some("127.0.0.1:10101,127.0.0.1:10111"));
        assert_eq!(file["gateway"]["admin"].as_str(), Some("127.0.0.1:10100,127.0.0.1:10110"));
        assert!(file["gateway"].get("address").is_none());
        assert_eq!(file["console"]["listen"].as_str(), Some("127.0.0.1:9090"));
        assert_eq!(file["console"]["command_options"].as_str(), Some(options));
        let certificate = file["identity"]["certificate"].as_str().expect("a path");
        assert!(certificate.ends_with("pki/console/tls.crt"), "{certificate}");
        assert!(file["kafka"].get("tls").is_none(), "{text}");
        let encrypted = layout.kafka_tls_file();
        fs::create_dir_all(encrypted.parent().expect("a folder")).expect("created");
        fs::write(encrypted, "").expect("written");
        prepare(&layout, replicas, &Extra::ALL, &layout.links(replicas), options).expect("written");
        let text = fs::read_to_string(layout.config_file(CONSOLE)).expect("there");
        let file: toml::Table = text.parse().expect("settings");
        assert_eq!(file["kafka"]["tls"]["mode"].as_str(), Some("verify-full"));
        fs::remove_dir_all(folder).expect("gone");
    }

    /// The console gets the settings that are its own or everybody's, and nobody else gets those that are its own.
    #[test]
    fn a_setting_reaches_those_that_know_it() {
        for (variable, expected) in [
            ("HOLDFAST__CONSOLE__PAYLOADS", &[CONSOLE][..]),
            ("HOLDFAST__SERVICE__LOG", &[CONSOLE, GATEWAY, "order"]),
            ("HOLDFAST__ORDER__STUCK_AFTER", &["order"]),
            ("HOLDFAST__LIMITS__ENABLED", &[GATEWAY]),
            ("HOLDFAST__KAFKA__TLS__MODE", &["order"]),
            ("HOLDFAST_DATA_DIR", &[CONSOLE, GATEWAY, "order"]),
        ] {
            let all = [CONSOLE, GATEWAY, "order"].into_iter();
            let reached: Vec<_> = all.filter(|service| is_for(service, OsStr::new(variable))).collect();
            assert_eq!(reached, expected, "{variable}");
        }
    }
}
