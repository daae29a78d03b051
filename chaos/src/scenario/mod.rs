//! Scenarios: what load, which faults, how often. Each is a small file beside this one.

mod upgrade;

use std::{num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    fault::{
        Fault,
        certificate::Flaw,
        links::matches,
        network::{Condition, Direction},
        syscalls::Injection,
    },
    watch::MARKS,
};

/// The scenarios that are built in, by name.
const BUILT_IN: [(&str, &str); 22] = [
    ("certificates", include_str!("certificates.toml")),
    ("control", include_str!("control.toml")),
    ("deploy", include_str!("deploy.toml")),
    ("disk", include_str!("disk.toml")),
    ("everything", include_str!("everything.toml")),
    ("kill-databases", include_str!("kill-databases.toml")),
    ("kill-kafka", include_str!("kill-kafka.toml")),
    ("kill-services", include_str!("kill-services.toml")),
    ("lost-tail", include_str!("lost-tail.toml")),
    ("network", include_str!("network.toml")),
    ("pause-kafka", include_str!("pause-kafka.toml")),
    ("poison", include_str!("poison.toml")),
    ("proof-breaker", include_str!("proof-breaker.toml")),
    ("proof-crash", include_str!("proof-crash.toml")),
    ("proof-databases", include_str!("proof-databases.toml")),
    ("proof-kill", include_str!("proof-kill.toml")),
    ("proof-pause", include_str!("proof-pause.toml")),
    ("proof-poison", include_str!("proof-poison.toml")),
    ("proof-quiet", include_str!("proof-quiet.toml")),
    ("rotation", include_str!("rotation.toml")),
    ("soak", include_str!("soak.toml")),
    ("upgrade", include_str!("upgrade.toml")),
];

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Killed with -9.
    Kill,
    /// Asked to end (SIGTERM, or what PostgreSQL takes for it).
    Terminate,
    /// Stopped with SIGSTOP for a while.
    Stall,
    /// Killed again and again for a while: away for longer than a restart takes.
    Hold,
    /// Bytes of a link arrive later, by 20 to 50 ms.
    Latency,
    /// Connections of a link are reset, old ones and new ones.
    Reset,
    /// Nothing passes a link, and nobody is told.
    BlackHole,
    /// What the client of a link sends does not arrive.
    OneWay,
    /// The connections of a link that exist are forgotten by its server, without a word to the client.
    HalfOpen,
    /// Bytes of a link trickle: 30 kB a second.
    Throttle,
    /// A bit is flipped every few kilobytes. Only for links with TLS.
    Corrupt,
    /// The broker comes back with the disk that it had a while before: what it acknowledged meanwhile is gone.
    LoseTail,
    /// The disk of its data has no space left for a while.
    DiskFull,
    /// What it makes sure of with `fsync` fails for a while, as on a disk that is broken.
    FsyncError,
    /// Each `fsync` takes 100 ms longer for a while.
    SlowDisk,
    /// The certificate of an identity expires, and is renewed only a while later.
    ExpiredCertificate,
    /// An identity has the certificate of an authority that nobody else knows, for a while.
    WrongCertificate,
    /// All certificates are renewed.
    RotateCertificates,
    /// The authority is replaced, with its overlap.
    RotateAuthority,
    /// Records that can never be handled are sent, of every class.
    Poison,
    /// Ends by itself at a durable step; only a build with planted bugs does.
    Crash,
    /// A service of an earlier build gets its program of this build.
    Upgrade,
    /// A service gets its program of the earlier build back.
    RollBack,
}

impl Action {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::Stall => "stall",
            Self::Hold => "hold",
            Self::Latency => "latency",
            Self::Reset => "reset",
            Self::BlackHole => "black-hole",
            Self::OneWay => "one-way",
            Self::HalfOpen => "half-open",
            Self::Throttle => "throttle",
            Self::Corrupt => "corrupt",
            Self::LoseTail => "lose-tail",
            Self::DiskFull => "disk-full",
            Self::FsyncError => "fsync-error",
            Self::SlowDisk => "slow-disk",
            Self::ExpiredCertificate => "expired-certificate",
            Self::WrongCertificate => "wrong-certificate",
            Self::RotateCertificates => "rotate-certificates",
            Self::RotateAuthority => "rotate-authority",
            Self::Poison => "poison",
            Self::Crash => "crash",
            Self::Upgrade => "upgrade",
            Self::RollBack => "roll-back",
        }
    }

    /// What happens to a process, if anything does.
    #[must_use]
    pub const fn on_process(self) -> Option<Fault> {
        match self {
            Self::Kill | Self::Hold | Self::LoseTail | Self::Crash => Some(Fault::Kill),
            Self::Terminate | Self::Upgrade | Self::RollBack => Some(Fault::Terminate),
            Self::Stall => Some(Fault::Stall),
            _ => None,
        }
    }

    /// What happens to a link, if anything does.
    #[must_use]
    pub const fn on_link(self) -> Option<Condition> {
        const DELAY: Duration = Duration::from_millis(20);
        const JITTER: Duration = Duration::from_millis(30);
        const TRICKLE: NonZeroU64 = NonZeroU64::new(30_000).expect("not 0");
        Some(match self {
            Self::Latency => Condition::Latency { delay: DELAY, jitter: JITTER },
            Self::Reset => Condition::Reset,
            Self::BlackHole => Condition::BlackHole,
            Self::OneWay => Condition::OneWay(Direction::ToServer),
            Self::HalfOpen => Condition::HalfOpen,
            Self::Throttle => Condition::Throttle { bytes_per_second: TRICKLE },
            Self::Corrupt => Condition::Corrupt,
            _ => return None,
        })
    }

    /// Whether it replaces a program.
    #[must_use]
    pub const fn is_roll(self) -> bool {
        matches!(self, Self::Upgrade | Self::RollBack)
    }

    /// What happens to the calls by which a component makes sure that its data is on the disk, if anything does.
    #[must_use]
    pub const fn on_syscalls(self) -> Option<Injection> {
        const DELAY: Duration = Duration::from_millis(100);
        match self {
            Self::FsyncError => Some(Injection::Error),
            Self::SlowDisk => Some(Injection::Delay(DELAY)),
            _ => None,
        }
    }

    /// What is wrong with the certificate of an identity, if anything is.
    #[must_use]
    pub const fn on_identity(self) -> Option<Flaw> {
        match self {
            Self::ExpiredCertificate => Some(Flaw::Expires),
            Self::WrongCertificate => Some(Flaw::Foreign),
            _ => None,
        }
    }

    /// Whether the component that it is done to may not work meanwhile.
    #[must_use]
    pub const fn on_component(self) -> bool {
        self.on_process().is_some() || self.on_syscalls().is_some() || matches!(self, Self::DiskFull)
    }

    /// Whether it needs the links of a stack: as a fault of its own, or to make peers connect again.
    #[must_use]
    pub const fn needs_links(self) -> bool {
        self.on_link().is_some() || self.on_identity().is_some()
    }

    /// Whether it lasts until it is healed.
    #[must_use]
    pub const fn lasts(self) -> bool {
        self.needs_links()
            || self.on_syscalls().is_some()
            || matches!(self, Self::Stall | Self::Hold | Self::LoseTail | Self::DiskFull)
    }
}

/// Faults of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultKind {
    /// What is done.
    pub action: Action,
    /// To which components, as `holdfast status` names them, or to which links, as `gateway->order` or `*->kafka`; those that
    /// the stack does not have are left out.
    pub targets: Vec<String>,
    /// Shortest and longest time that it lasts, in milliseconds; of no use to what ends by itself.
    #[serde(default)]
    pub length_ms: Option<[u64; 2]>,
}

/// A scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows.
    pub about: String,
    /// How long faults are injected, in seconds.
    pub storm_seconds: u64,
    /// The same load without faults before them, in seconds: the control phase.
    pub control_seconds: u64,
    /// The same load without faults after them, in seconds.
    pub calm_seconds: u64,
    /// Orders per second.
    pub orders_per_second: f64,
    /// `service=N`, for those that have more than one replica.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// From the beginning of a fault to the next, in milliseconds, if it is over by then; upgrades are spread over the time.
    #[serde(default)]
    pub every_ms: u64,
    /// Faults that must land; fewer prove nothing.
    #[serde(default)]
    pub faults_min: usize,
    /// Rare places that must be reached, as [`MARKS`] calls them; a run that misses one proves less than it was to prove.
    #[serde(default)]
    pub marks: Vec<String>,
    /// The kinds of faults; each (action, target) comes before one comes again.
    #[serde(default)]
    pub faults: Vec<FaultKind>,
}

impl Scenario {
    /// A built-in one.
    pub fn named(name: &str) -> Result<Self> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name).with_context(|| {
            let names: Vec<_> = Self::names().collect();
            format!("there is no scenario {name}; there are {}", names.join(", "))
        })?;
        Self::parse(text)
    }

    /// From the text of a file.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        ensure!(scenario.orders_per_second > 0.0, "orders_per_second must be above 0");
        let is_drawn = !scenario.faults.is_empty() && !scenario.needs_earlier();
        ensure!(!is_drawn || scenario.every_ms > 0, "every_ms must be above 0");
        ensure!(
            is_drawn || scenario.faults.iter().all(|kind| kind.action.is_roll()),
            "a scenario of upgrades has no other faults"
        );
        for mark in &scenario.marks {
            ensure!(MARKS.iter().any(|known| known.name == mark), "there is no mark {mark:?}");
        }
        for kind in &scenario.faults {
            ensure!(!kind.targets.is_empty(), "{}: no targets", kind.action.name());
            ensure!(
                kind.length_ms.is_none_or(|[least, most]| least <= most),
                "{}: the shortest length is above the longest",
                kind.action.name()
            );
        }
        ensure!(
            !(scenario.has(Action::LoseTail) && scenario.has(Action::DiskFull)),
            "lose-tail and disk-full cannot be in one scenario: both replace the broker's disk"
        );
        Ok(scenario)
    }

    /// Whether there is a fault in it that needs links: then the stack must be started with them.
    #[must_use]
    pub fn needs_links(&self) -> bool {
        self.faults.iter().any(|kind| kind.action.needs_links())
    }

    /// Whether there are faults of this kind in it.
    #[must_use]
    pub fn has(&self, action: Action) -> bool {
        self.faults.iter().any(|kind| kind.action == action)
    }

    /// Whether it begins with the programs of an earlier build.
    #[must_use]
    pub fn needs_earlier(&self) -> bool {
        self.faults.iter().any(|kind| kind.action.is_roll())
    }

    /// Names of the built-in ones.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }
}

/// One fault of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// When it is due, in milliseconds after the control phase.
    pub at_ms: u64,
    /// What is done.
    pub action: Action,
    /// To what.
    pub target: String,
    /// How long it lasts, in milliseconds; 0 for what ends by itself.
    pub length_ms: u64,
}

/// Everything that a run will do, drawn from one seed before it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The scenario's name, or its file.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The source of all randomness of the run.
    pub seed: u64,
    /// The faults in the order of their times.
    pub faults: Vec<PlannedFault>,
}

/// When a fault lasts and the scenario does not say how long.
const LENGTH_MS: [u64; 2] = [500, 3_000];

impl Plan {
    /// Draws the faults of a scenario for a stack with these components and links.
    #[must_use]
    pub fn draw(name: &str, scenario: Scenario, seed: u64, components: &[String], links: &[String]) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let cells: Vec<(&FaultKind, &String)> = scenario
            .faults
            .iter()
            .flat_map(|kind| kind.targets.iter().map(move |target| (kind, target)))
            .filter(|(kind, target)| {
                if kind.action.on_link().is_some() {
                    links.iter().any(|link| matches(target, link))
                } else {
                    let needs_component = kind.action.on_component() || kind.action.on_identity().is_some();
                    !needs_component || components.contains(target)
                }
            })
            .collect();
        if scenario.needs_earlier() {
            let cells: Vec<_> = cells.iter().map(|(kind, target)| (kind.action, target.as_str())).collect();
            let faults = upgrade::rolls(&cells, scenario.storm_seconds * 1_000, &mut rng);
            return Self { name: name.to_owned(), scenario, seed, faults };
        }
        let (mut faults, mut deck, mut at_ms) = (Vec::new(), Vec::new(), 0);
        let storm = Duration::from_secs(scenario.storm_seconds);
        while !cells.is_empty() && Duration::from_millis(at_ms) < storm {
            if deck.is_empty() {
                deck.clone_from(&cells);
                rng.shuffle(&mut deck);
            }
            let Some((kind, target)) = deck.pop() else { break };
            let [least, most] = kind.length_ms.unwrap_or(LENGTH_MS);
            let length_ms = if kind.action.lasts() { rng.u64(least..=most) } else { 0 };
            faults.push(PlannedFault { at_ms, action: kind.action, target: target.clone(), length_ms });
            // Not in step with anything that is periodic in the system.
            at_ms += rng.u64(scenario.every_ms * 7 / 10..=scenario.every_ms * 13 / 10).max(1);
        }
        Self { name: name.to_owned(), scenario, seed, faults }
    }

    /// How long the load lasts.
    #[must_use]
    pub const fn load_seconds(&self) -> u64 {
        let Scenario { control_seconds, storm_seconds, calm_seconds, .. } = &self.scenario;
        *control_seconds + *storm_seconds + *calm_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn components() -> Vec<String> {
        let names = [
            "orders-db",
            "payments-db",
            "deliveries-db",
            "kafka",
            "order",
            "order-2",
            "payment",
            "payment-2",
            "delivery",
            "delivery-2",
            "gateway",
        ];
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn links() -> Vec<String> {
        let names = [
            "gateway->order",
            "gateway->payment",
            "gateway->delivery",
            "order->orders-db",
            "payment->payments-db",
            "delivery->deliveries-db",
            "order->kafka",
            "payment->kafka",
            "delivery->kafka",
        ];
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Every scenario that is shipped can be read, says what it shows, and plans what it asks for.
    #[test]
    fn every_scenario_can_be_planned() {
        for name in Scenario::names() {
            let scenario = Scenario::named(name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(!scenario.about.is_empty(), "{name}");
            let least = scenario.faults_min;
            let plan = Plan::draw(name, scenario, 7, &components(), &links());
            assert!(
                plan.faults.len() >= least,
                "{name}: {} faults, {least} are asked for",
                plan.faults.len()
            );
        }
        assert!(Scenario::named("nothing").is_err());
        assert!(Scenario::parse("about = 'x'\nunknown = 1").is_err());
        let misspelt = include_str!("soak.toml").replacen("a breaker opened", "a breaker opend", 1);
        let refused = Scenario::parse(&misspelt).expect_err("no such mark").to_string();
        assert!(refused.contains("a breaker opend"), "{refused}");
        let mixed =
            include_str!("upgrade.toml").to_owned() + "[[faults]]\naction = 'kill'\ntargets = ['order']\n";
        assert!(Scenario::parse(&mixed).is_err(), "its order is not that of upgrades");
        let both = include_str!("disk.toml").replacen("slow-disk", "lose-tail", 1);
        let refused = Scenario::parse(&both).expect_err("two faults that replace a disk").to_string();
        assert!(refused.contains("lose-tail"), "{refused}");
    }

    /// One seed makes one plan, and no cell comes again before all have come.
    #[test]
    fn a_plan_is_drawn_from_its_seed() {
        let draw = |seed| {
            let scenario = Scenario::named("everything").expect("built in");
            Plan::draw("everything", scenario, seed, &components(), &links()).faults
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let faults = draw(3);
        let cells: std::collections::HashSet<_> =
            faults.iter().map(|fault| (fault.action, fault.target.as_str())).collect();
        let first: std::collections::HashSet<_> =
            faults.iter().take(cells.len()).map(|fault| (fault.action, fault.target.as_str())).collect();
        assert_eq!(cells, first);
    }
}
