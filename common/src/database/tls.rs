//! Connections to PostgreSQL by TLS, with the identity of this process.
//!
//! The database client makes its own configuration of rustls for each connection, from PEM. It is given the content of
//! the files that [`Identity`] has checked, never their paths: between the two writes of a rotation it would read a
//! certificate and the key of another one. It also trusts the public authorities, which can't be switched off
//! (`docs/adr/0014-tls-to-postgresql.md`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Database, bounded};
use crate::{
    backoff::Backoff,
    config::{DatabaseTlsConfig, DatabaseTlsMode},
    identity::Identity,
};

/// When other files were last in use; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Renewed(Arc<Mutex<Option<Instant>>>);

impl Renewed {
    /// Whether a connection of this age shows an earlier certificate.
    pub(super) fn is_younger_than(&self, age: Duration) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() <= age)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Without a word about TLS in the URL the client would encrypt whenever the server can, and verify nothing: that costs, and
/// protects against nobody who can stand in the middle.
pub(super) fn only_what_is_asked_for(options: PgConnectOptions) -> PgConnectOptions {
    match options.get_ssl_mode() {
        PgSslMode::Prefer => options.ssl_mode(PgSslMode::Disable),
        _ => options,
    }
}

impl Database {
    /// Has connections from now on show the certificate of `identity` and verify the server's, if `config` says so.
    pub fn identify(&self, config: &DatabaseTlsConfig, identity: &Identity) {
        if config.mode == DatabaseTlsMode::Off {
            return;
        }
        self.change_options_of_all(|options| identified(options, config, identity));
    }

    /// [`Database::identify`] whenever `identity` uses other files, until `stop`. Open connections are replaced when they are used next,
    /// but not before a new one is there: files that the database refuses cost no connection that works.
    pub(crate) async fn identify_on_swap(
        self,
        config: DatabaseTlsConfig,
        identity: Identity,
        mut swaps: watch::Receiver<()>,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::for_infrastructure();
        let mut is_tried = true;
        loop {
            let pause = if is_tried { Duration::MAX } else { backoff.next_pause() };
            tokio::select! {
                () = stop.cancelled() => return,
                // The sender lives as long as `identity`.
                Ok(()) = swaps.changed() => {
                    self.identify(&config, &identity);
                    backoff.reset();
                }
                () = tokio::time::sleep(pause) => {}
            }
            is_tried = config.mode == DatabaseTlsMode::Off || self.is_accepted().await;
            if is_tried {
                self.renewed.now();
            }
        }
    }

    /// Whether the database lets us in with what we show now.
    async fn is_accepted(&self) -> bool {
        let Ok(connection) = self.connect().await else { return false };
        // It was let in, whatever comes of its end.
        let _ = bounded(connection.close()).await;
        true
    }
}

fn identified(
    options: PgConnectOptions,
    config: &DatabaseTlsConfig,
    identity: &Identity,
) -> PgConnectOptions {
    let pem = identity.pem();
    let options = options
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_client_cert_from_pem(&pem.certificate)
        .ssl_client_key_from_pem(&pem.key);
    match &config.trust_bundle {
        // One file, so it is never read between two writes; read for each connection, so a new one is in use at once.
        Some(path) => options.ssl_root_cert(path),
        None => options.ssl_root_cert_from_pem(pem.trust_bundle.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is encrypted without being verified unless somebody asks for exactly that.
    #[test]
    fn nothing_is_encrypted_by_chance() {
        for (url, mode) in [
            ("postgres://u@h/d", PgSslMode::Disable),
            ("postgres://u@h/d?sslmode=prefer", PgSslMode::Disable),
            ("postgres://u@h/d?sslmode=require", PgSslMode::Require),
            ("postgres://u@h/d?sslmode=verify-full", PgSslMode::VerifyFull),
        ] {
            let options = only_what_is_asked_for(url.parse().expect("a URL"));
            assert_eq!(format!("{:?}", options.get_ssl_mode()), format!("{mode:?}"), "{url}");
        }
    }

    /// Only connections from before a renewal are replaced.
    #[test]
    fn connections_from_before_a_renewal_are_replaced() {
        let renewed = Renewed::default();
        assert!(!renewed.is_younger_than(Duration::from_secs(3600)), "nothing was renewed");
        renewed.now();
        assert!(renewed.is_younger_than(Duration::from_secs(1)));
        assert!(!renewed.is_younger_than(Duration::ZERO));
    }
}
