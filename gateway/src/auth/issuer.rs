//! One issuer of tokens: its keys, kept up to date, and the tokens that were checked with them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use holdfast_common::{
    backoff::Backoff,
    error::chain,
    health::{Component, Health, PeriodicTask},
    metric,
    reload::{self, Reload},
};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    keys::KeySet,
    source::{self, Fetcher, SourceError},
    token::{self, Caller, Refused, Rules},
    verified::VerifiedTokens,
};
use crate::config::IssuerConfig;

/// A token with an unknown key makes the keys be fetched at once, but never again within this time: whoever sends such tokens
/// must not be able to send the provider requests.
const WANTED_EVERY_MIN: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A withdrawn key that can't be noticed is a risk, so a provider that is away for this many intervals is said to be.
const MISSED_INTERVALS_MAX: u32 = 3;

/// One state of the keys, and what was checked with it.
#[derive(Default)]
struct Keys {
    set: KeySet,
    verified: VerifiedTokens,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(Box<Provider>),
}

/// An identity provider.
#[derive(Debug)]
struct Provider {
    fetcher: Mutex<Fetcher>,
    refresh_every: Duration,
    /// Told when there was a token with an unknown key.
    wanted: Notify,
    wanted_every_min: Duration,
}

/// An issuer.
pub(crate) struct Issuer {
    names: Names,
    rules: Rules,
    source: Source,
    keys: ArcSwap<Keys>,
}

/// How an issuer is called in `/readyz`: its keys, without which the gateway would refuse who has done nothing wrong, and the
/// task that keeps them up to date.
#[derive(Debug, Clone, Copy)]
struct Names {
    keys: &'static str,
    reload: &'static str,
}

impl Names {
    fn of(issuer: Option<&str>) -> Self {
        let Some(name) = issuer else { return Self { keys: "keys", reload: "key-set-reload" } };
        // Kept for as long as the process lives, like the issuer.
        let [keys, reload] = [format!("keys-{name}"), format!("key-set-reload-{name}")].map(String::leak);
        Self { keys, reload }
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("rules", &self.rules)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Reads the keys, if they are in a file; those at a URL are fetched by [`Issuer::keep_up_to_date`].
    pub(super) fn new(name: Option<&str>, config: &IssuerConfig, rules: Rules) -> Result<Self, SourceError> {
        let (source, set) = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), None) => (Source::File(path.clone()), source::read(path)?),
            (None, Some(url)) => {
                let provider = Provider {
                    fetcher: Mutex::new(Fetcher::new(url, config.jwks_trust_bundle.as_deref())?),
                    refresh_every: config.jwks_refresh,
                    wanted: Notify::new(),
                    wanted_every_min: WANTED_EVERY_MIN,
                };
                (Source::Url(Box::new(provider)), KeySet::default())
            }
            _ => return Err(SourceError::NotOneSource { issuer: config.issuer.clone() }),
        };
        Ok(Self {
            names: Names::of(name),
            rules,
            source,
            keys: ArcSwap::from_pointee(Keys { set, ..Keys::default() }),
        })
    }

    /// Checks a token.
    pub(super) fn check(&self, text: &str) -> Result<Arc<Caller>, Refused> {
        let keys = self.keys.load();
        if let Some(caller) = keys.verified.get(text) {
            return Ok(caller);
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let checked = token::check(text, &keys.set, &self.rules, now_s).map(Arc::new);
        match (&checked, &self.source) {
            (Ok(caller), _) => keys.verified.put(text, caller.clone()),
            (Err(Refused::UnknownKey), Source::Url(provider)) => provider.wanted.notify_one(),
            (Err(_), _) => {}
        }
        checked
    }

    /// Keeps the keys up to date until `stop`. What can't be used is refused, and the old keys stay: a provider that is away
    /// changes nothing while its keys are known. The process is not ready before there are keys.
    pub(crate) fn keep_up_to_date(
        self: Arc<Self>,
        health: &Health,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let ready = health.required(self.names.keys);
        let success_every_max = match &self.source {
            Source::File(_) => reload::SUCCESS_EVERY_MAX,
            Source::Url(provider) => provider.refresh_every * MISSED_INTERVALS_MAX,
        };
        let task = health.periodic(self.names.reload, success_every_max);
        async move {
            match &self.source {
                Source::File(path) => {
                    ready.ready();
                    let failures = metric::JWKS_RELOAD_FAILURES_TOTAL;
                    let reload = || source::read(path).map(|set| self.swap(set));
                    reload::reload_on_change("token keys", failures, reload, task, stop).await;
                }
                Source::Url(provider) => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.keep_fetching(provider, &ready, &task) => {}
                    }
                }
            }
        }
    }

    async fn keep_fetching(&self, provider: &Provider, ready: &Component, task: &PeriodicTask) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let begin = Instant::now();
            let pause = match provider.fetcher.lock().await.fetch().await {
                Ok(fetched) => {
                    if fetched.is_some_and(|set| self.swap(set) == Reload::Swapped) {
                        tracing::info!(issuer = self.rules.issuer, "token keys fetched");
                    }
                    backoff.reset();
                    task.succeeded();
                    ready.ready();
                    provider.refresh_every
                }
                Err(error) => {
                    metrics::counter!(metric::JWKS_RELOAD_FAILURES_TOTAL).increment(1);
                    task.failed(chain(&error));
                    tracing::warn!(
                        issuer = self.rules.issuer,
                        error = chain(&error),
                        "token keys not fetched"
                    );
                    if self.keys.load().set.is_empty() {
                        ready.waiting("there are no token keys yet");
                    }
                    backoff.next_pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = provider.wanted.notified() => {
                    tokio::time::sleep_until(begin + provider.wanted_every_min).await;
                }
            }
        }
    }

    fn swap(&self, set: KeySet) -> Reload {
        if set.is_same(&self.keys.load().set) {
            return Reload::Unchanged;
        }
        self.keys.store(Arc::new(Keys { set, ..Keys::default() }));
        Reload::Swapped
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        path::Path,
        sync::{Mutex as StdMutex, PoisonError},
    };

    use axum::{
        Router,
        extract::State,
        http::{HeaderMap, StatusCode, header},
        response::{IntoResponse as _, Response},
        routing::get,
    };
    use holdfast_certs::{Authority, Claims, LeafRequest, TokenIssuer};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, server::TlsStream};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// What the provider of a test answers, and what it was asked.
    #[derive(Debug, Default)]
    struct Answers {
        keys: String,
        is_away: bool,
        sent: u32,
        not_modified: u32,
    }

    type Shared = Arc<StdMutex<Answers>>;

    fn lock(answers: &Shared) -> std::sync::MutexGuard<'_, Answers> {
        answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(State(answers): State<Shared>, headers: HeaderMap) -> Response {
        let mut answers = lock(&answers);
        let etag = format!(
            "\"{:x}\"",
            answers.keys.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()))
        );
        if answers.is_away {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        if headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag) {
            answers.not_modified += 1;
            return StatusCode::NOT_MODIFIED.into_response();
        }
        answers.sent += 1;
        ([(header::ETAG, etag)], answers.keys.clone()).into_response()
    }

    /// Accepts TLS connections for `axum::serve`.
    struct TlsListener(TcpListener, TlsAcceptor);

    impl axum::serve::Listener for TlsListener {
        type Io = TlsStream<TcpStream>;
        type Addr = SocketAddr;

        async fn accept(&mut self) -> (Self::Io, SocketAddr) {
            loop {
                let (tcp, client) = self.0.accept().await.expect("accepted");
                if let Ok(tls) = self.1.accept(tcp).await {
                    return (tls, client);
                }
            }
        }

        fn local_addr(&self) -> std::io::Result<SocketAddr> {
            self.0.local_addr()
        }
    }

    /// A provider with TLS; returns its URL.
    async fn provider(answers: Shared, authority: &Authority) -> String {
        let leaf =
            authority.leaf(&LeafRequest::service("localhost", time::Duration::hours(1))).expect("issued");
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they match");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let router = Router::new().route("/jwks", get(answer)).with_state(answers);
        let listener = TlsListener(listener, TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("https://localhost:{port}/jwks")
    }

    fn token(signer: &TokenIssuer) -> String {
        signer
            .sign(&Claims::new("alice", "orders:read", Duration::from_secs(3_600)).expect("claims"))
            .expect("signed")
    }

    fn issuer(url: String, trust_bundle: &Path, refresh_every: Duration) -> Issuer {
        let config = IssuerConfig {
            issuer: "https://auth.holdfast.internal".to_owned(),
            jwks_file: None,
            jwks_url: Some(url),
            jwks_trust_bundle: Some(trust_bundle.to_owned()),
            jwks_refresh: refresh_every,
        };
        let rules = Rules {
            issuer: config.issuer.clone(),
            audience: "holdfast-api".to_owned(),
            lifetime_max: Duration::from_secs(24 * 3600),
        };
        let mut issuer = Issuer::new(None, &config, rules).expect("a provider");
        if let Source::Url(provider) = &mut issuer.source {
            provider.wanted_every_min = Duration::from_millis(20);
        }
        issuer
    }

    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < until, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        answers: Shared,
        old: TokenIssuer,
        new: TokenIssuer,
        new_keys: String,
        issuer: Arc<Issuer>,
        health: Health,
        stop: CancellationToken,
    }

    async fn world(refresh_every: Duration) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let signer = |name: &str| TokenIssuer::load_or_create(&folder.path().join(name)).expect("created");
        let keys = |name: &str| {
            std::fs::read_to_string(folder.path().join(name).join("jwks.json")).expect("written")
        };
        let (old, new) = (signer("old"), signer("new"));
        let answers: Shared = Arc::default();
        lock(&answers).keys = keys("old");
        let authority = Authority::generate(time::Duration::days(1)).expect("generated");
        let bundle = folder.path().join("ca.crt");
        std::fs::write(&bundle, authority.certificate()).expect("written");
        let url = provider(answers.clone(), &authority).await;
        let issuer = Arc::new(issuer(url, &bundle, refresh_every));
        let (health, stop, new_keys) = (Health::default(), CancellationToken::new(), keys("new"));
        tokio::spawn(issuer.clone().keep_up_to_date(&health, stop.clone()));
        World { _folder: folder, answers, old, new, new_keys, issuer, health, stop }
    }

    impl World {
        fn accepts(&self, token: &str) -> bool {
            self.issuer.check(token).is_ok()
        }

        fn detail(&self, part: &str) -> String {
            self.health.components().get(part).map(|state| state.detail.clone()).unwrap_or_default()
        }
    }

    /// A provider that is away changes nothing while its keys are known, and is said to be away; an unchanged set is not sent
    /// again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_provider_that_is_away_changes_nothing() {
        let world = world(Duration::from_millis(20)).await;
        let token = token(&world.old);
        eventually("the keys are fetched", || world.accepts(&token)).await;
        eventually("they are not sent again", || lock(&world.answers).not_modified > 2).await;
        assert_eq!(lock(&world.answers).sent, 1);

        lock(&world.answers).is_away = true;
        eventually("that is said", || world.detail("key-set-reload").contains("502")).await;
        assert!(world.accepts(&token));
        assert!(world.health.components()["keys"].ready);
        lock(&world.answers).is_away = false;
        eventually("it is back", || world.detail("key-set-reload").is_empty()).await;
        world.stop.cancel();
    }

    /// A token with an unknown key makes the keys be fetched at once; a withdrawn key takes its tokens with it, also those
    /// that were checked before.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_unknown_key_is_fetched_and_a_withdrawn_one_forgotten() {
        let world = world(Duration::from_secs(3_600)).await;
        let (old, new) = (token(&world.old), token(&world.new));
        eventually("the keys are fetched", || world.accepts(&old)).await;
        assert!(!world.accepts(&new));
        lock(&world.answers).keys = world.new_keys.clone();
        eventually("the new key is fetched", || world.accepts(&new)).await;
        assert!(!world.accepts(&old), "its key was withdrawn");
        world.stop.cancel();
    }
}
