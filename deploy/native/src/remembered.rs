//! With what a stack was started last, or scaled to: a later start is the same unless it is told otherwise.

use std::{collections::BTreeMap, fmt, fs, io::ErrorKind, str::FromStr};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    files::{self, Owner},
    layout::{Layout, Replicas},
};

/// What is remembered; the default of a stack that was never started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// Added to each port.
    pub port_offset: u16,
    /// `service=N` of each service that has more than one replica.
    pub replicas: Vec<String>,
    /// Settings of services, by `section.key`.
    pub settings: BTreeMap<String, String>,
}

impl Remembered {
    /// As options of `up`; empty for the default.
    #[must_use]
    pub fn options(&self) -> String {
        let offset = (self.port_offset > 0).then(|| format!("--port-offset {}", self.port_offset));
        let replicas = self.replicas.iter().map(|replicas| format!("--replicas {replicas}"));
        let settings = self.settings.iter().map(|(key, value)| format!("--set {key}={value}"));
        offset.into_iter().chain(replicas).chain(settings).collect::<Vec<_>>().join(" ")
    }

    /// The settings as variables of the services.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, &str)> {
        self.settings.iter().map(|(key, value)| {
            (format!("HOLDFAST__{}", key.to_uppercase().replace('.', "__")), value.as_str())
        })
    }
}

/// A setting of services and its value; without one it is as if it had never been said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `kafka.dead_letters_in_a_row_max`.
    pub key: String,
    /// `None` takes it back.
    pub value: Option<String>,
}

/// A text that is no [`Setting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be SECTION.KEY=VALUE, such as kafka.dead_letters_in_a_row_max=9")]
pub struct SettingError;

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let (key, value) = text.split_once('=').ok_or(SettingError)?;
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        if !key.contains('.') || !key.split('.').all(is_name) {
            return Err(SettingError);
        }
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        Ok(Self { key: key.to_owned(), value })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value.as_deref().unwrap_or_default())
    }
}

/// What is remembered of a stack. An error if the file can't be read.
pub fn recall(layout: &Layout) -> Result<Remembered> {
    let path = layout.remembered_file();
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Remembered::default()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    serde_json::from_slice(&text)
        .with_context(|| format!("{} does not say how the stack was started: delete it", path.display()))
}

/// Remembers how a stack is started.
pub(crate) fn remember(layout: &Layout, remembered: &Remembered) -> Result<()> {
    files::write(&layout.remembered_file(), &serde_json::to_vec(remembered)?, Owner::Supervisor)
}

/// Remembers another number of replicas of a stack that was started like this.
pub(crate) fn remember_replicas(layout: &Layout, started: &Remembered, replicas: Replicas) -> Result<()> {
    remember(layout, &Remembered { replicas: replicas.arguments().collect(), ..started.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is remembered is recalled, and a file that is not ours is named.
    #[test]
    fn what_is_remembered_is_recalled() {
        let folder = std::env::temp_dir().join(format!("holdfast-remembered-{}", std::process::id()));
        fs::create_dir_all(folder.join("config")).expect("created");
        let layout = Layout::new(folder.clone(), 700);
        assert_eq!(recall(&layout).expect("read"), Remembered::default());
        assert_eq!(Remembered::default().options(), "");
        let settings = BTreeMap::from([("kafka.tls.mode".to_owned(), "off".to_owned())]);
        let remembered = Remembered { port_offset: 700, replicas: Vec::new(), settings };
        remember(&layout, &remembered).expect("written");
        assert_eq!(recall(&layout).expect("read"), remembered);
        assert_eq!(
            remembered.variables().collect::<Vec<_>>(),
            [("HOLDFAST__KAFKA__TLS__MODE".to_owned(), "off")]
        );
        let mut replicas = Replicas::default();
        replicas.set("order=2").expect("known");
        remember_replicas(&layout, &remembered, replicas).expect("written");
        let options = "--port-offset 700 --replicas order=2 --set kafka.tls.mode=off";
        assert_eq!(recall(&layout).expect("read").options(), options);
        fs::write(layout.remembered_file(), "x").expect("written");
        assert!(recall(&layout).expect_err("no JSON").to_string().contains("remembered.json"));
        fs::remove_dir_all(folder).expect("gone");
    }

    /// A setting is a name with its section, and a value or none.
    #[test]
    fn settings_are_read() {
        let setting = |key: &str, value: Option<&str>| {
            Ok(Setting { key: key.to_owned(), value: value.map(str::to_owned) })
        };
        assert_eq!("kafka.x_max=9".parse(), setting("kafka.x_max", Some("9")));
        assert_eq!(
            "limits.proxies.trusted=10.0.0.0/8,a=b".parse(),
            setting("limits.proxies.trusted", Some("10.0.0.0/8,a=b"))
        );
        assert_eq!("kafka.x=".parse(), setting("kafka.x", None));
        for wrong in ["", "kafka", "kafka=1", "kafka.=1", ".x=1", "KAFKA.X=1", "kafka.x y=1", "kafka..x=1"] {
            assert_eq!(wrong.parse::<Setting>(), Err(SettingError), "{wrong}");
        }
    }
}
