//! What handlers share.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use holdfast_common::{
    config::KafkaConfig,
    error::{BoxError, chain},
    identity::Identity,
    kafka::Brokers,
    reload::Reload,
};
use holdfast_operator::{
    service::{Caller, Hints, Patience, Service},
    ticket::{Author, May},
};

use crate::{
    admin::Ports,
    config::{Config, KafkaReaderConfig},
    examine::Examiner,
    job::Jobs,
    live::Live,
    pace::Pace,
    payloads::Payloads,
    proxy::Proxy,
    session::Sessions,
    topics::Topics,
    view::escaped,
};

/// How long a page waits for a service. One that takes longer is shown as not asked; the rest of the page is there.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_secs(1);
/// Of calls that have a longer deadline of their own, because they work.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);

/// The services that have dead letters, in the order in which pages name them.
pub(crate) const PARTICIPANTS: [&str; 3] = ["order", "payment", "delivery"];

/// Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Console(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) services: Vec<Service>,
    admin: RwLock<Vec<Ports>>,
    pub(crate) sessions: Sessions,
    pub(crate) pace: Pace,
    pub(crate) jobs: Jobs,
    pub(crate) examiner: Examiner,
    pub(crate) live: Live,
    pub(crate) topics: Topics,
    pub(crate) tickets: PathBuf,
    pub(crate) allow_write: bool,
    pub(crate) payloads: Payloads,
    /// The values of `Host` that are ours, each with its origin. Others reach us by a name that somebody has pointed here (DNS
    /// rebinding).
    pub(crate) origins: BTreeMap<String, String>,
    /// Who signs people in that come by its name.
    pub(crate) proxy: Option<Proxy>,
    /// Cookies know no ports: consoles of several stacks must not take each other's.
    pub(crate) cookie: String,
    command: String,
    command_options: String,
    ticket_command: String,
}

impl std::ops::Deref for Console {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Console {
    /// With `brokers` that can be read, or why they can't.
    pub(crate) fn new(
        config: &Config,
        identity: &Identity,
        brokers: Result<Brokers, String>,
    ) -> Result<Self, BoxError> {
        let console = &config.console;
        let port = console.published()?.port();
        let hints = Hints {
            caller: Caller::Console,
            status: format!("`{}`", console.command_of("status")),
            certificates: format!("`{}`", console.command_of("certs status")),
        };
        let patience = Patience { call_time_max: CALL_TIME_MAX, attempt_time_max: ATTEMPT_TIME_MAX };
        let mut services = Vec::new();
        for (name, participant) in PARTICIPANTS.into_iter().zip(config.participants()) {
            services.push(Service::new(name, &participant.address, identity, patience, hints.clone())?);
        }
        let proxy = console.proxy.as_ref().map(Proxy::new).transpose()?;
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        let mut origins: BTreeMap<_, _> = hosts.map(|host| (host.clone(), format!("http://{host}"))).into();
        origins.extend(proxy.iter().map(|proxy| (proxy.host().to_owned(), proxy.origin().to_owned())));
        Ok(Self(Arc::new(Shared {
            services,
            admin: RwLock::new(admin_ports(config)),
            sessions: Sessions::default(),
            pace: Pace::new(console.pages_per_second),
            jobs: Jobs::default(),
            examiner: Examiner::default(),
            live: Live::default(),
            topics: Topics::new(brokers),
            tickets: console.tickets.clone(),
            allow_write: console.allow_write,
            payloads: console.payloads,
            origins,
            proxy,
            cookie: format!("holdfast-console-{port}"),
            command: escaped(&console.command),
            command_options: escaped(&console.command_options),
            ticket_command: escaped(
                console.ticket_command.as_ref().unwrap_or(&console.command_of("console")),
            ),
        })))
    }

    /// Where the services show themselves.
    pub(crate) fn admin(&self) -> Vec<Ports> {
        self.admin.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the services where `config` says from now on; all else of it was read at the start. An address that is none changes nothing
    /// at all.
    pub(crate) fn take(&self, config: &Config) -> Result<Reload, BoxError> {
        let participants = self.services.iter().zip(config.participants());
        let wanted: Vec<_> = participants
            .map(|(service, participant)| Ok((service, service.addresses_at(&participant.address)?)))
            .collect::<Result<_, BoxError>>()?;
        // All of them, whatever the first one says.
        let moved: Vec<bool> = wanted.iter().map(|(service, addresses)| service.move_to(addresses)).collect();
        let ports = admin_ports(config);
        let mut admin = self.admin.write().unwrap_or_else(PoisonError::into_inner);
        let changed = moved.contains(&true) || *admin != ports;
        *admin = ports;
        Ok(if changed { Reload::Swapped } else { Reload::Unchanged })
    }

    /// Whether whoever is signed in as `author` may change anything.
    pub(crate) fn may_change(&self, author: &Author) -> bool {
        self.allow_write && author.may == May::Change
    }

    /// A service by its name.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// A command to type that does what a page does.
    pub(crate) fn command(&self, words: &str) -> String {
        format!("{} {}{}", self.command, escaped(words), self.command_options)
    }

    /// The command that prints an address with which a browser may do that.
    pub(crate) fn ticket_command(&self, may: May) -> String {
        let more = match may {
            May::Look => "",
            May::Change => " --allow-write",
        };
        format!("{}{more}", self.ticket_command)
    }
}

/// The brokers of these settings, or why their topics can't be shown. Nothing else of the console needs them, so it starts without.
pub(crate) fn brokers(config: Option<&KafkaReaderConfig>, identity: &Identity) -> Result<Brokers, String> {
    let Some(KafkaReaderConfig { brokers, tls }) = config else {
        return Err("topics can't be shown: the console's settings have no section kafka".to_owned());
    };
    let config = KafkaConfig::of_a_reader(brokers.clone(), tls.clone());
    Brokers::new(&config, identity).map_err(|error| format!("topics can't be shown: {}", chain(&error)))
}

/// The gateway's first, as pages name them.
fn admin_ports(config: &Config) -> Vec<Ports> {
    let participants = PARTICIPANTS.into_iter().zip(config.participants());
    let participants = participants.map(|(name, participant)| Ports::new(name, &participant.admin));
    [Ports::new("gateway", &config.gateway.admin)].into_iter().chain(participants).collect()
}
