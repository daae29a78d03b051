//! What handlers share.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use holdfast_common::{
    config::KafkaConfig,
    error::{BoxError, chain},
    identity::Identity,
    kafka::Brokers,
};
use holdfast_operator::service::{Hints, Patience, Service};

use crate::{
    admin::Ports,
    config::{Config, KafkaReaderConfig},
    job::Jobs,
    live::Live,
    payloads::Payloads,
    proxy::Proxy,
    session::{Session, Sessions},
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
    pub(crate) admin: Vec<Ports>,
    pub(crate) sessions: Sessions,
    pub(crate) jobs: Jobs,
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
    command_options: String,
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
        if !console.listen.ip().is_loopback() {
            return Err(
                "console.listen must be an address of loopback: the console has no TLS. A proxy beside it has".into(),
            );
        }
        let options = &console.command_options;
        let hints = Hints {
            status: format!("`holdfast status{options}`"),
            certificates: format!("`holdfast certs status{options}`"),
        };
        let patience = Patience { call_time_max: CALL_TIME_MAX, attempt_time_max: ATTEMPT_TIME_MAX };
        let participants = [&config.order, &config.payment, &config.delivery];
        let mut services = Vec::new();
        for (name, participant) in PARTICIPANTS.into_iter().zip(participants) {
            services.push(Service::new(name, &participant.address, identity, patience, hints.clone())?);
        }
        let admin = PARTICIPANTS.into_iter().zip(participants.map(|participant| participant.admin.as_str()));
        let admin = [("gateway", config.gateway.admin.as_str())].into_iter().chain(admin);
        let port = console.listen.port();
        let proxy = console.proxy.as_ref().map(Proxy::new).transpose()?;
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        let mut origins: BTreeMap<_, _> = hosts.map(|host| (host.clone(), format!("http://{host}"))).into();
        origins.extend(proxy.iter().map(|proxy| (proxy.host().to_owned(), proxy.origin().to_owned())));
        Ok(Self(Arc::new(Shared {
            services,
            admin: admin.map(|(service, addresses)| Ports::new(service, addresses)).collect(),
            sessions: Sessions::default(),
            jobs: Jobs::default(),
            live: Live::default(),
            topics: Topics::new(brokers),
            tickets: console.tickets.clone(),
            allow_write: console.allow_write,
            payloads: console.payloads,
            origins,
            proxy,
            cookie: format!("holdfast-console-{port}"),
            command_options: escaped(options),
        })))
    }

    /// Why this person changes nothing; empty if they may.
    pub(crate) fn read_only(&self, session: &Session) -> &'static str {
        match (self.allow_write, session.may_write) {
            (false, _) => "This console was started without --allow-write.",
            (true, false) => "You are in none of the groups that may change anything.",
            (true, true) => "",
        }
    }

    /// A service by its name.
    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// A command to type that does what a page does.
    pub(crate) fn command(&self, words: &str) -> String {
        format!("holdfast {}{}", escaped(words), self.command_options)
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
