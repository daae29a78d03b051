//! Configuration: one typed struct per service, read once before any port is bound.
//!
//! Layers: the TOML file named by `--config`, then the environment (`HOLDFAST__SECTION__KEY`). Secrets come from the
//! environment only, as themselves or as `HOLDFAST__SECTION__KEY_FILE`, the path of a file that holds
//! one of them. Unknown keys
//! are refused, because a misspelt limit is a limit that isn't there.

use std::{
    collections::HashMap,
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Config, Environment, File, FileFormat};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// Why a configuration is refused. The text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file named by a `*_FILE` variable can't be read.
    #[error("cannot read the file named by {variable}")]
    SecretFile {
        /// The environment variable.
        variable: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A variable of ours is not UTF-8.
    #[error("the variable {variable} is not text: it has bytes that are not UTF-8")]
    NotText {
        /// The environment variable.
        variable: String,
    },
    /// A key is unknown, missing, or has a bad value.
    #[error("configuration is not valid")]
    Invalid(#[source] Box<config::ConfigError>),
}

const ENVIRONMENT_PREFIX: &str = "HOLDFAST";
/// With what the name of each setting begins.
const OURS: &str = "HOLDFAST__";

/// Reads the layers into `C`.
pub fn load<C: DeserializeOwned>(file: Option<&Path>) -> Result<C, ConfigError> {
    let variables = secrets_from_files(ours(env::vars_os())?)?;
    load_from(file, variables)
}

/// Those of the variables that are ours. What is not text in others is nobody's business here.
fn ours(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, ConfigError> {
    let is_ours = |name: &OsStr| name.as_encoded_bytes().starts_with(OURS.as_bytes());
    let text = |(name, value): (OsString, OsString)| {
        // Its value may be a secret, so only the name is shown.
        let refused = ConfigError::NotText { variable: name.to_string_lossy().into_owned() };
        name.into_string().ok().zip(value.into_string().ok()).ok_or(refused)
    };
    variables.filter(|(name, _)| is_ours(name)).map(text).collect()
}

/// Like [`load`], with the environment as a parameter, so that tests can set it.
fn load_from<C: DeserializeOwned>(
    file: Option<&Path>,
    variables: HashMap<String, String>,
) -> Result<C, ConfigError> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
    };
    let text = file.map(read).transpose()?.unwrap_or_default();
    load_text(&text, variables)
}

/// Like [`load`], with the content of the file and the environment as parameters.
fn load_text<C: DeserializeOwned>(
    text: &str,
    mut variables: HashMap<String, String>,
) -> Result<C, ConfigError> {
    let mut lists = Config::builder();
    for (variable, key) in LISTS {
        let Some(value) = variables.remove(variable) else { continue };
        let items: Vec<&str> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        lists = lists.set_override(key, items).map_err(|error| ConfigError::Invalid(Box::new(error)))?;
    }
    lists
        .add_source(File::from_str(text, FileFormat::Toml))
        .add_source(
            Environment::with_prefix(ENVIRONMENT_PREFIX)
                .prefix_separator("__")
                .separator("__")
                .source(Some(variables)),
        )
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| ConfigError::Invalid(Box::new(error)))
}

/// Settings that are lists: in the environment their items are separated by commas. They are named, because guessing would turn a
/// password of digits into a number.
const LISTS: [(&str, &str); 4] = [
    ("HOLDFAST__CONSOLE__PROXY__WRITERS", "console.proxy.writers"),
    ("HOLDFAST__GATEWAY__CORS_ORIGINS", "gateway.cors_origins"),
    ("HOLDFAST__LIMITS__EXEMPT", "limits.exempt"),
    ("HOLDFAST__LIMITS__PROXIES__TRUSTED", "limits.proxies.trusted"),
];

/// Keys of the sections that services share, without a default, or whose default is "none".
const SHARED_KEYS: [&str; 8] =
    ["admin_listen", "certificate", "key", "trust_bundle", "deny_list", "listen", "brokers", "instance_id"];

/// For a test of each service: its sample has every setting with its default value. It is read as it is, once more with only
/// the keys that have no default (`own` are the service's), and once from the environment alone; all must give the same
/// configuration.
///
/// # Panics
///
/// If the sample is refused, lacks a setting, or differs from the defaults.
#[expect(clippy::panic, reason = "for tests")]
pub fn check_sample<C: DeserializeOwned + fmt::Debug>(sample: &str, own: &[&str]) {
    let key_of = |line: &str| line.split(" =").next().unwrap_or_default().to_owned();
    let read = |text: &str, mut variables: HashMap<String, String>| {
        if sample.contains("[database]") {
            variables.insert("HOLDFAST__DATABASE__URL".to_owned(), "postgres://u@h/d".to_owned());
        }
        match load_text::<C>(text, variables) {
            Ok(config) => format!("{config:#?}"),
            Err(error) => panic!("{}", crate::error::chain(&error)),
        }
    };
    let parsed = |text: &str| read(text, HashMap::new());
    let is_kept = |line: &&str| {
        let key = key_of(line);
        line.starts_with('[') || SHARED_KEYS.contains(&key.as_str()) || own.contains(&key.as_str())
    };
    let all = parsed(sample);
    assert_eq!(all, parsed(&sample.lines().filter(is_kept).collect::<Vec<_>>().join("\n")));
    assert_eq!(all, read("", variables_of(sample)), "from the environment alone");
    // The fields by their names, sections included. The URL is a secret: environment only.
    for field in all.lines().filter_map(|line| line.trim().split_once(": ")).map(|(field, _)| field) {
        let is_there = |line: &str| {
            // What has no default and need not be there is shown as a comment.
            let line = line.strip_prefix("# ").unwrap_or(line);
            let mut section = line.strip_prefix('[').unwrap_or_default().trim_end_matches(']').split('.');
            key_of(line) == field || section.any(|part| part == field)
        };
        assert!(field == "url" || sample.lines().any(is_there), "the sample says nothing of {field}");
    }
}

/// The settings of a sample as variables.
fn variables_of(sample: &str) -> HashMap<String, String> {
    let mut section = String::new();
    let mut variables = HashMap::new();
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').replace('.', "__");
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let value = value.trim_matches(['[', ']']).replace('"', "");
            variables.insert(format!("{ENVIRONMENT_PREFIX}__{section}__{key}").to_uppercase(), value);
        }
    }
    variables
}

/// Settings that can be in a file of their own. No other variable that ends in `_FILE` means a file with the value: there are
/// settings whose own name ends so, such as `auth.jwks_file` and `database.password_file`, which are followed when they change.
const SECRETS: [&str; 5] = [
    "HOLDFAST__CONSOLE__PROXY__SECRET",
    "HOLDFAST__DATABASE__URL",
    "HOLDFAST__DATABASE__DIRECT_URL",
    "HOLDFAST__DATABASE__OWNER_URL",
    "HOLDFAST__REDIS__PASSWORD",
];

/// Replaces each `HOLDFAST__…_FILE` of a secret by the content of the file that it names, without the final line break.
fn secrets_from_files(variables: HashMap<String, String>) -> Result<HashMap<String, String>, ConfigError> {
    let mut resolved = HashMap::new();
    for (variable, value) in variables {
        let setting = variable.strip_suffix("_FILE").filter(|setting| SECRETS.contains(setting));
        if let Some(setting) = setting {
            let content = fs::read_to_string(&value)
                .map_err(|source| ConfigError::SecretFile { variable: variable.clone(), source })?;
            resolved.insert(setting.to_owned(), content.trim_end_matches(['\r', '\n']).to_owned());
        } else {
            resolved.entry(variable).or_insert(value);
        }
    }
    Ok(resolved)
}

/// What every process has: an admin port, logs, a bounded stop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Address of the admin port (`/metrics`, `/healthz`, `/readyz`).
    pub admin_listen: SocketAddr,
    /// Log filter in the syntax of `tracing-subscriber`. Default `info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// Time to finish what is in progress after SIGTERM. Default 8 s; a supervisor kills after 10 s.
    #[serde(default = "default_drain", deserialize_with = "duration")]
    pub drain: Duration,
    /// Where spans go.
    #[serde(default)]
    pub traces: TracesConfig,
}

/// The export of traces (OTLP over gRPC).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT` of a collector. Default: none, nothing is recorded.
    pub endpoint: Option<String>,
    /// The share of traces that are recorded, of those that begin in this process; others were decided where they began.
    /// Default 1.
    pub sample_ratio: f64,
    /// Certificates of the authorities that may have signed the collector's. Default: none, needed for `https`.
    pub trust_bundle: Option<PathBuf>,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0, trust_bundle: None }
    }
}

fn default_log() -> String {
    "info".to_owned()
}

const fn default_drain() -> Duration {
    Duration::from_secs(8)
}

/// Certificate, key and trust roots of this process, as PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key of the leaf; may be in the same file.
    pub key: PathBuf,
    /// Certificates of the authorities that peers are checked against.
    pub trust_bundle: PathBuf,
    /// Serials of certificates that are refused although they have not expired: one per line, lower-case hexadecimal,
    /// first word. Default: none.
    #[serde(default)]
    pub deny_list: Option<PathBuf>,
}

impl IdentityConfig {
    /// The files of one identity as `holdfast certs` lays them out.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            trust_bundle: folder.join("ca.crt"),
            deny_list: Some(folder.join("revoked")),
        }
    }
}

/// Where a service listens for gRPC.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// The service's own PostgreSQL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`. Secret: environment only.
    pub url: SecretString,
    /// Instead of one in `url`. Secret: environment only. Default: none.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// The file that has it, instead of `password`. It may change while the service runs. Default: none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The database itself, if `url` leads to a pooler that gives each transaction another connection: for locks that last as
    /// long as their connection, and for migrations. With the same password. Secret: environment only. Default: `url`.
    #[serde(default)]
    pub direct_url: Option<SecretString>,
    /// The login that owns the tables, at the database itself, for migrations only: the one of `url` is then granted its rows and needs
    /// nothing else. Secret: environment only. Default: `url` owns them.
    #[serde(default)]
    pub owner_url: Option<SecretString>,
    /// The file that has the password of `owner_url`. Default: none, it is in the URL.
    #[serde(default)]
    pub owner_password_file: Option<PathBuf>,
    /// Whether the process migrates the tables itself when it starts. If not, it waits until `--migrate` has, which another process with the
    /// owner's login does: this one need not have it. Default true.
    #[serde(default = "default_migrate")]
    pub migrate: bool,
    /// How connections are encrypted, and who is at their other end.
    #[serde(default)]
    pub tls: DatabaseTlsConfig,
    /// Largest number of connections of this process, not counting the relay's. Default 10; a caller waits up to 2 s
    /// for one.
    #[serde(default = "default_connections")]
    pub connections_max: u32,
}

/// TLS to PostgreSQL. The client's certificate is that of the section `identity`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseTlsConfig {
    /// Default `off`.
    #[serde(default)]
    pub mode: DatabaseTlsMode,
    /// Certificates of the authorities that may have signed the server's. Default: those of the section `identity`.
    #[serde(default)]
    pub trust_bundle: Option<PathBuf>,
}

/// Whether connections to PostgreSQL are encrypted. There is nothing in between: what is not verified protects against
/// nobody who can stand in the middle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseTlsMode {
    /// As the URL says (`sslmode` and so on); not at all if it says nothing.
    #[default]
    Off,
    /// The server's certificate must be of a trusted authority and for the host of the URL, and we show ours.
    VerifyFull,
}

const fn default_migrate() -> bool {
    true
}

const fn default_connections() -> u32 {
    10
}

/// The broker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Comma-separated `host:port` of bootstrap brokers.
    pub brokers: String,
    /// Static group membership: a replica that restarts under the same id within the session timeout (10 s) keeps its
    /// partitions. One id per replica; `@host` is the name of the host, which each container and each pod has of its own.
    /// Default: none, each start is a new member.
    #[serde(default, deserialize_with = "instance_id")]
    pub instance_id: Option<String>,
    /// Most events in one transaction. Default 100.
    #[serde(default = "default_batch")]
    pub batch_events_max: usize,
    /// Dead letters in a row that stop the consumer until one record can be handled again. Default 100.
    #[serde(default = "default_dead_letters_in_a_row")]
    pub dead_letters_in_a_row_max: u32,
    /// The consumer also stops when more than this share of the last 1,000 records was parked. Default 0.5.
    #[serde(default = "default_dead_letter_share")]
    pub dead_letter_share_max: f64,
    /// How long it stops before it tries a record; grows up to eightfold. Default 10 s.
    #[serde(default = "default_dead_letter_pause", deserialize_with = "duration")]
    pub dead_letter_pause: Duration,
    /// How connections are encrypted, and who is at their other end.
    #[serde(default)]
    pub tls: KafkaTlsConfig,
}

impl KafkaConfig {
    /// For a process that is in no group and has no outbox; what is about those has its default value.
    #[must_use]
    pub fn of_a_reader(brokers: String, tls: KafkaTlsConfig) -> Self {
        Self {
            brokers,
            instance_id: None,
            batch_events_max: default_batch(),
            dead_letters_in_a_row_max: default_dead_letters_in_a_row(),
            dead_letter_share_max: default_dead_letter_share(),
            dead_letter_pause: default_dead_letter_pause(),
            tls,
        }
    }
}

/// TLS to Kafka. Needs a program with the feature `kafka-tls`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTlsConfig {
    /// Default `off`.
    #[serde(default)]
    pub mode: KafkaTlsMode,
    /// Certificates of the authorities that may have signed the brokers'. Default: those of the section `identity`.
    #[serde(default)]
    pub trust_bundle: Option<PathBuf>,
    /// What the brokers are shown, in PEM, where an authority of their own signs for their clients. Default: that of the section `identity`.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`. Default: it is in the same file.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// Whether connections to Kafka are encrypted. As with the database there is nothing in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaTlsMode {
    /// In the clear, and nobody shows who he is.
    #[default]
    Off,
    /// The broker's certificate must be of a trusted authority and for the host that it is reached by, and we show ours.
    VerifyFull,
}

/// Where Linux says the name of the host; a container has one of its own.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

fn instance_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let id = String::deserialize(deserializer)?;
    let id = if id == "@host" {
        let name = fs::read_to_string(HOST_NAME_FILE);
        let refuse = |error| serde::de::Error::custom(format!("cannot read {HOST_NAME_FILE}: {error}"));
        name.map_err(refuse)?.trim().to_owned()
    } else {
        id
    };
    // Replicas that all have no id would share it, and fence each other without end.
    if id.is_empty() { Err(serde::de::Error::custom("the instance id is empty")) } else { Ok(Some(id)) }
}

const fn default_dead_letters_in_a_row() -> u32 {
    100
}

const fn default_dead_letter_share() -> f64 {
    0.5
}

const fn default_dead_letter_pause() -> Duration {
    Duration::from_secs(10)
}

const fn default_batch() -> usize {
    100
}

/// Reads a time, as [`crate::duration`] says.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::duration::parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        service: ServiceConfig,
        database: DatabaseConfig,
    }

    /// What is not text in somebody else's variable is nobody's business; in ours it is an error that names the variable and keeps
    /// its value.
    #[test]
    fn only_our_variables_must_be_text() {
        use std::os::unix::ffi::OsStringExt as _;
        let pair = |name: &[u8], value: &[u8]| {
            (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()))
        };
        let foreign = [pair(b"LC_\xff", b"x"), pair(b"PWD", b"/\xe4"), pair(b"HOLDFAST_DATA_DIR", b"/\xe4")];
        let own = pair(b"HOLDFAST__SERVICE__LOG", b"debug");
        let read = ours(foreign.iter().cloned().chain([own])).expect("text");
        assert_eq!(read, HashMap::from([("HOLDFAST__SERVICE__LOG".to_owned(), "debug".to_owned())]));
        let refused =
            ours([pair(b"HOLDFAST__DATABASE__URL", b"secret\xff")].into_iter()).expect_err("not text");
        let refused = refused.to_string();
        assert!(refused.contains("HOLDFAST__DATABASE__URL") && !refused.contains("secret"), "{refused}");
    }

    const FILE: &str = r#"
        [service]
        admin_listen = "127.0.0.1:9101"
        drain = "5s"
        [database]
        connections_max = 4
    "#;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let mut handle = tempfile::NamedTempFile::new().expect("a temporary file");
        handle.write_all(file.as_bytes()).expect("written");
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load_from(Some(handle.path()), secrets_from_files(variables)?)
    }

    const URL: (&str, &str) = ("HOLDFAST__DATABASE__URL", "postgres://u:secret@h/d");

    /// The environment wins over the file, and units are read.
    #[test]
    fn environment_wins_over_file() {
        let sample = read(FILE, &[URL, ("HOLDFAST__SERVICE__LOG", "debug")]).expect("valid");
        assert_eq!(sample.service.log, "debug");
        assert_eq!(sample.service.drain, Duration::from_secs(5));
        assert_eq!(sample.database.connections_max, 4);
    }

    /// A misspelt key, a bad value and a missing secret are refused, and the error names it.
    #[test]
    fn mistakes_are_refused_by_name() {
        let misspelt = FILE.replace("drain", "drian");
        for (file, variables, named) in [
            (misspelt.as_str(), &[URL][..], "drian"),
            (&FILE.replace("5s", "5 weeks"), &[URL], "5 weeks"),
            (FILE, &[], "url"),
            (FILE, &[URL, ("HOLDFAST__SERVICE__COLOUR", "red")], "colour"),
        ] {
            let error = read(file, variables).expect_err(named);
            let text = format!("{error}: {}", std::error::Error::source(&error).expect("has a cause"));
            assert!(text.contains(named), "{text}");
        }
    }

    /// A setting whose name ends like that of a file with a secret is a setting like any other.
    #[test]
    fn a_setting_may_be_called_a_file() {
        #[derive(Debug, Deserialize)]
        struct Auth {
            jwks_file: String,
        }
        #[derive(Debug, Deserialize)]
        struct Sample {
            auth: Auth,
        }
        let variable = ("HOLDFAST__AUTH__JWKS_FILE".to_owned(), "/no/such/file".to_owned());
        let variables = secrets_from_files([variable].into()).expect("nothing is read");
        let sample: Sample = load_from(None, variables).expect("valid");
        assert_eq!(sample.auth.jwks_file, "/no/such/file");
    }

    /// A secret can be in a file of its own, and never shows in a debug print.
    #[test]
    fn secrets_come_from_files_and_stay_hidden() {
        let mut secret = tempfile::NamedTempFile::new().expect("a temporary file");
        secret.write_all(b"postgres://u:hush@h/d\n").expect("written");
        let path = secret.path().display().to_string();
        let files = ["URL", "DIRECT_URL", "OWNER_URL"].map(|key| format!("HOLDFAST__DATABASE__{key}_FILE"));
        let sample = read(FILE, &files.each_ref().map(|file| (file.as_str(), path.as_str()))).expect("valid");
        let database = &sample.database;
        for url in [Some(&database.url), database.direct_url.as_ref(), database.owner_url.as_ref()] {
            assert_eq!(url.expect("set").expose_secret(), "postgres://u:hush@h/d");
        }
        assert!(!format!("{sample:?}").contains("hush"));
    }

    /// A console behind a proxy is set up by variables alone: its secret in a file, groups separated by commas.
    #[test]
    fn a_proxy_is_set_up_by_variables() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            console: Console,
        }
        #[derive(Debug, Deserialize)]
        struct Console {
            proxy: Proxy,
        }
        #[derive(Debug, Deserialize)]
        struct Proxy {
            secret: SecretString,
            writers: Vec<String>,
        }
        let mut secret = tempfile::NamedTempFile::new().expect("a temporary file");
        secret.write_all(b"hush\n").expect("written");
        let file = secret.path().display().to_string();
        let variables = [("SECRET_FILE", file.as_str()), ("WRITERS", "operators, 0123")];
        let named =
            variables.map(|(key, value)| (format!("HOLDFAST__CONSOLE__PROXY__{key}"), value.to_owned()));
        let sample: Sample = load_from(None, secrets_from_files(named.into()).expect("read")).expect("valid");
        assert_eq!(sample.console.proxy.secret.expose_secret(), "hush");
        assert_eq!(sample.console.proxy.writers, ["operators", "0123"]);
    }

    /// A list is written with commas, and a text of digits stays a text.
    #[test]
    fn lists_have_commas() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            limits: Limits,
        }
        #[derive(Debug, Deserialize)]
        struct Limits {
            exempt: Vec<String>,
            name: String,
        }
        let read = |exempt: &str| {
            let variables = [("HOLDFAST__LIMITS__EXEMPT", exempt), ("HOLDFAST__LIMITS__NAME", "0123")];
            let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            load_text::<Sample>("[limits]\nexempt = [\"::1/128\"]", variables).expect("valid").limits
        };
        assert_eq!(read("10.0.0.0/8, 127.0.0.0/8").exempt, ["10.0.0.0/8", "127.0.0.0/8"]);
        assert_eq!(read("").exempt, [""; 0], "an empty list, not the file's");
        assert_eq!(read("").name, "0123");
    }

    /// The id of a replica is what is set, or the name of its host; none is none, and an empty one is a mistake.
    #[test]
    fn a_replica_has_an_id_of_its_own() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            kafka: KafkaConfig,
        }
        let read = |id: &str| {
            let text = format!("[kafka]\nbrokers = \"b:1\"\n{id}");
            load_text::<Sample>(&text, HashMap::new()).map(|sample| sample.kafka.instance_id)
        };
        let host = fs::read_to_string(HOST_NAME_FILE).expect("Linux has it").trim().to_owned();
        assert_eq!(read("instance_id = \"@host\"").expect("valid"), Some(host));
        assert_eq!(read("instance_id = \"0\"").expect("valid").as_deref(), Some("0"));
        assert_eq!(read("").expect("valid"), None);
        assert!(read("instance_id = \"\"").is_err());
    }
}
