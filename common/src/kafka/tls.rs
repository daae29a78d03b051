//! TLS to Kafka, with the identity of this process.
//!
//! librdkafka takes certificates when a client is created, and a client keeps them for its life. So files that have changed mean new
//! clients: each holder of one keeps a [`Renewal`] with it, and replaces it when that is due. What librdkafka gets is the content of
//! files that [`Identity`] has checked, never their paths: between the two writes of a rotation it would read a certificate and the
//! key of another one. Where the brokers have an authority of their own for their clients, it is the content of `kafka.tls.certificate`.
//! It needs OpenSSL, so all of this is an opt-in feature (`docs/adr/0016-tls-to-kafka.md`).

use std::sync::Arc;

use rdkafka::ClientConfig;
use tokio::sync::watch;

use crate::{
    config::{KafkaTlsConfig, KafkaTlsMode},
    identity::{Identity, IdentityError, Pem, certificates, read},
    reload::Reload,
};

/// Why there can be no connections as they are configured.
#[derive(Debug, thiserror::Error)]
pub enum KafkaTlsError {
    /// The program lacks what it takes. It does not start, because the alternative would be to say everything in the clear.
    #[error(
        "kafka.tls is configured, and this program was built without it: build it with the feature kafka-tls"
    )]
    NotBuilt,
    /// The certificates of the brokers' authorities can't be used.
    #[error("kafka.tls.trust_bundle cannot be used")]
    TrustBundle(#[source] IdentityError),
    /// What the brokers are to be shown can't be used.
    #[error("kafka.tls.certificate and its key cannot be used")]
    Certificate(#[source] IdentityError),
    /// A key is configured, and no certificate.
    #[error("kafka.tls.key is configured without kafka.tls.certificate, which it is the key of")]
    KeyAlone,
}

/// What the clients of this process show and trust.
pub(super) struct Tls {
    identity: Identity,
    config: KafkaTlsConfig,
    current: watch::Sender<Arc<Shown>>,
}

/// The content of the files that new clients get.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    own: Arc<Pem>,
    /// Of the brokers' authorities.
    trust_bundle: Vec<u8>,
}

impl Tls {
    /// `None` if it is switched off.
    pub(super) fn load(config: &KafkaTlsConfig, identity: &Identity) -> Result<Option<Self>, KafkaTlsError> {
        match config.mode {
            KafkaTlsMode::Off => return Ok(None),
            KafkaTlsMode::VerifyFull if cfg!(not(feature = "kafka-tls")) => {
                return Err(KafkaTlsError::NotBuilt);
            }
            KafkaTlsMode::VerifyFull => {}
        }
        let shown = Shown::read(identity, config)?;
        let (identity, config) = (identity.clone(), config.clone());
        Ok(Some(Self { identity, config, current: watch::Sender::new(Arc::new(shown)) }))
    }

    /// Takes what the files have now, for clients from now on.
    pub(super) fn reload(&self) -> Result<Reload, KafkaTlsError> {
        let shown = Shown::read(&self.identity, &self.config)?;
        if **self.current.borrow() == shown {
            return Ok(Reload::Unchanged);
        }
        self.current.send_replace(Arc::new(shown));
        Ok(Reload::Swapped)
    }

    pub(super) fn renewal(&self, client: ClientKind) -> Renewal {
        let shown = self.current.subscribe();
        let fingerprint = shown.borrow().own.fingerprint.clone();
        let kept = Kept { client, fingerprint, shown };
        kept.gauge().increment(1.0);
        Renewal(Some(kept))
    }

    /// Has a client encrypt, show our certificate, and verify the broker's and for which host it is.
    pub(super) fn apply(&self, client: &mut ClientConfig) {
        let shown = self.current.borrow().clone();
        let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
        client
            .set("security.protocol", "ssl")
            .set("ssl.certificate.pem", text(&shown.own.certificate))
            .set("ssl.key.pem", text(&shown.own.key))
            .set("ssl.ca.pem", text(&shown.trust_bundle))
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
    }
}

impl Shown {
    fn read(identity: &Identity, config: &KafkaTlsConfig) -> Result<Self, KafkaTlsError> {
        let identity = identity.pem();
        let trust_bundle = match &config.trust_bundle {
            Some(path) => {
                let content = read(path).map_err(KafkaTlsError::TrustBundle)?;
                certificates(path, &content).map_err(KafkaTlsError::TrustBundle)?;
                content
            }
            None => identity.trust_bundle.clone(),
        };
        let own = match (&config.certificate, &config.key) {
            (Some(certificate), key) => {
                let key = key.as_ref().unwrap_or(certificate);
                Arc::new(Pem::read(certificate, key, &trust_bundle).map_err(KafkaTlsError::Certificate)?)
            }
            (None, Some(_)) => return Err(KafkaTlsError::KeyAlone),
            (None, None) => identity,
        };
        Ok(Self { own, trust_bundle })
    }
}

/// What a client is for; the label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// Reads events.
    Consumer,
    /// Looks at the consumer's group.
    Observer,
    /// Publishes events.
    Producer,
    /// Reads for people, in no group.
    Reader,
}

impl ClientKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Observer => "observer",
            Self::Producer => "producer",
            Self::Reader => "reader",
        }
    }
}

/// Whether what a client has shown since it was created is still what it should show. Made before the client, so that nothing is
/// missed in between, and dropped with it: `holdfast_kafka_clients` counts them by what they show.
#[derive(Debug)]
pub struct Renewal(Option<Kept>);

#[derive(Debug)]
struct Kept {
    client: ClientKind,
    fingerprint: String,
    shown: watch::Receiver<Arc<Shown>>,
}

impl Renewal {
    /// For clients that show nothing.
    pub(super) const NEVER: Self = Self(None);

    /// Whether the client should be replaced.
    #[must_use]
    pub fn is_due(&self) -> bool {
        // An error would mean that there is nobody left who could renew anything.
        self.0.as_ref().is_some_and(|kept| kept.shown.has_changed().unwrap_or(false))
    }

    /// To be called when the client was replaced because it was due.
    pub(crate) fn count(&self) {
        if let Some(kept) = &self.0 {
            metrics::counter!(crate::metric::KAFKA_CLIENTS_RENEWED_TOTAL, "client" => kept.client.name())
                .increment(1);
        }
    }
}

impl Kept {
    fn gauge(&self) -> metrics::Gauge {
        let (client, fingerprint) = (self.client.name(), self.fingerprint.clone());
        metrics::gauge!(crate::metric::KAFKA_CLIENTS, "client" => client, "fingerprint" => fingerprint)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.gauge().decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use holdfast_certs::{LEAF_LIFE_MAX, Pki};

    use super::*;
    use crate::{
        config::{IdentityConfig, KafkaConfig},
        kafka::Brokers,
    };

    fn order(pki: &Path) -> Identity {
        Identity::load(IdentityConfig::in_folder(&pki.join("order"))).expect("it was issued")
    }

    fn config(mode: KafkaTlsMode, trust_bundle: Option<PathBuf>) -> KafkaConfig {
        let tls = KafkaTlsConfig { mode, trust_bundle, ..KafkaTlsConfig::default() };
        KafkaConfig { tls, ..crate::kafka::tests::config() }
    }

    /// TLS that is asked for and not there is an error, never a connection in the clear.
    #[test]
    fn tls_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        let identity = order(folder.path());
        let brokers = Brokers::new(&config(KafkaTlsMode::VerifyFull, None), &identity);
        if cfg!(feature = "kafka-tls") {
            let client = brokers.expect("built").consumer_config("test");
            assert_eq!(client.get("security.protocol"), Some("ssl"));
            assert_eq!(client.get("enable.ssl.certificate.verification"), Some("true"));
            let missing = Some(folder.path().join("missing"));
            let refused = Brokers::new(&config(KafkaTlsMode::VerifyFull, missing), &identity);
            assert!(matches!(refused, Err(KafkaTlsError::TrustBundle(_))), "{refused:?}");
        } else {
            assert!(matches!(brokers, Err(KafkaTlsError::NotBuilt)), "{brokers:?}");
        }
        let plain = Brokers::new(&config(KafkaTlsMode::Off, None), &identity).expect("nothing is asked for");
        assert_eq!(plain.consumer_config("test").get("security.protocol"), None);
        assert!(!plain.renewal(ClientKind::Consumer).is_due());
    }

    /// A client is due once the files that it shows, or those that it trusts, have changed; its successor is not.
    #[cfg(feature = "kafka-tls")]
    #[test]
    fn new_files_mean_new_clients() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        let (identity, bundle) = (order(folder.path()), folder.path().join("brokers.crt"));
        std::fs::copy(folder.path().join("ca.crt"), &bundle).expect("copied");
        let config = config(KafkaTlsMode::VerifyFull, Some(bundle.clone()));
        let brokers = Brokers::new(&config, &identity).expect("built");
        let renewal = brokers.renewal(ClientKind::Producer);
        let reload = || {
            identity.reload().expect("they fit");
            brokers.reload().expect("they fit")
        };
        assert_eq!(reload(), Reload::Unchanged);
        assert!(!renewal.is_due());
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        assert_eq!(reload(), Reload::Swapped);
        assert!(renewal.is_due());
        let renewal = brokers.renewal(ClientKind::Producer);
        assert!(!renewal.is_due());
        // What clients don't show is no reason.
        pki.issue("another", LEAF_LIFE_MAX).expect("issued");
        pki.revoke("another", "a test").expect("revoked");
        assert_eq!(reload(), Reload::Unchanged);
        pki.begin_rotation().expect("begun");
        let both = std::fs::read(folder.path().join("order").join("ca.crt")).expect("there");
        std::fs::write(&bundle, both).expect("written");
        assert_eq!(reload(), Reload::Swapped);
        assert!(renewal.is_due());
        std::fs::write(&bundle, "nothing").expect("written");
        assert!(matches!(brokers.reload(), Err(KafkaTlsError::TrustBundle(_))));
    }

    /// Brokers are shown what is configured for them, and new clients are due when that is renewed, not when the identity is. A key of
    /// another certificate is never shown.
    #[cfg(feature = "kafka-tls")]
    #[test]
    fn brokers_may_be_shown_another_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        pki.issue("user", LEAF_LIFE_MAX).expect("issued");
        let identity = order(folder.path());
        let file = |identity: &str, name: &str| Some(folder.path().join(identity).join(name));
        let brokers = |certificate: Option<PathBuf>, key: Option<PathBuf>| {
            let mut config = config(KafkaTlsMode::VerifyFull, None);
            config.tls = KafkaTlsConfig { certificate, key, ..config.tls };
            Brokers::new(&config, &identity)
        };
        let shown = brokers(file("user", "tls.crt"), file("user", "tls.key")).expect("they fit");
        let content = std::fs::read_to_string(folder.path().join("user/tls.crt")).expect("there");
        assert_eq!(shown.consumer_config("test").get("ssl.certificate.pem"), Some(content.as_str()));
        let renewal = shown.renewal(ClientKind::Consumer);
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        identity.reload().expect("they fit");
        assert_eq!(shown.reload().expect("they fit"), Reload::Unchanged);
        pki.issue("user", LEAF_LIFE_MAX).expect("issued");
        assert_eq!(shown.reload().expect("they fit"), Reload::Swapped);
        assert!(renewal.is_due());

        let both = folder.path().join("user.pem");
        let parts = ["tls.key", "tls.crt"]
            .map(|name| std::fs::read(folder.path().join("user").join(name)).expect("there"));
        std::fs::write(&both, parts.concat()).expect("written");
        brokers(Some(both), None).expect("one file has both");
        let foreign = brokers(file("user", "tls.crt"), file("order", "tls.key"));
        assert!(matches!(foreign, Err(KafkaTlsError::Certificate(_))), "{foreign:?}");
        let alone = brokers(None, file("user", "tls.key"));
        assert!(matches!(alone, Err(KafkaTlsError::KeyAlone)), "{alone:?}");
    }
}
