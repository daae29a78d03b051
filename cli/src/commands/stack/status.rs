//! `status`.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use holdfast_chaos::admin::metric;
use holdfast_common::metric::DEAD_LETTERS_PARKED;
use holdfast_native::{
    control::{self, Found, Watched},
    layout::{Kind, Layout},
    programs::Running,
    state::{ComponentReport, ComponentState},
};
use serde::Serialize;
use tokio::net::lookup_host;

use super::roll::remarks;
use crate::{
    admin,
    options::{At, Output, hint, no_stack, nobody_watches},
    output::{Outcome, age_text, data, exact_line, say},
    runtime::block_on,
    table::Table,
    target::{AddressOption, Side, parse_address, side},
};

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    asked: Asked,
    /// Look again every 2 s, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

const WATCHED_EVERY: Duration = Duration::from_secs(2);
/// What a terminal begins anew with.
const CLEARED: &str = "\u{1b}[H\u{1b}[2J";

/// Who is asked: the components of a native stack, or services by the addresses of their admin ports.
#[derive(Debug, Clone)]
enum Asked {
    Stack(At),
    Addresses(Vec<(&'static str, String)>),
}

const ADMIN_ADDRESSES: [AddressOption; 5] = [
    AddressOption {
        service: "gateway",
        name: "gateway-admin-address",
        variable: "HOLDFAST_GATEWAY_ADMIN_ADDRESS",
        help: "Where the gateway's admin port is, instead of --data-dir; each address of the name is asked",
    },
    AddressOption {
        service: "order",
        name: "order-admin-address",
        variable: "HOLDFAST_ORDER_ADMIN_ADDRESS",
        help: "Where order's admin port is",
    },
    AddressOption {
        service: "payment",
        name: "payment-admin-address",
        variable: "HOLDFAST_PAYMENT_ADMIN_ADDRESS",
        help: "Where payment's admin port is",
    },
    AddressOption {
        service: "delivery",
        name: "delivery-admin-address",
        variable: "HOLDFAST_DELIVERY_ADMIN_ADDRESS",
        help: "Where delivery's admin port is",
    },
    AddressOption {
        service: "console",
        name: "console-admin-address",
        variable: "HOLDFAST_CONSOLE_ADMIN_ADDRESS",
        help: "Where the console's admin port is",
    },
];

impl Args for Asked {
    fn augment_args(command: Command) -> Command {
        At::augment_args(command).args(ADMIN_ADDRESSES.map(|option| option.arg("HOST:PORT", parse_address)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Asked {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if side(matches, ADMIN_ADDRESSES.iter().map(|option| option.name))? == Side::Folder {
            return Ok(Self::Stack(At::from_arg_matches(matches)?));
        }
        Ok(Self::Addresses(ADMIN_ADDRESSES.iter().filter_map(|option| option.given(matches)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Serialize)]
struct Answers {
    components: Vec<AnswerLine>,
}

/// A service that was asked by its address, as `-o json` shows it.
#[derive(Serialize)]
struct AnswerLine {
    name: &'static str,
    address: String,
    state: ComponentState,
    detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    components: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    report: &'a ComponentReport,
    /// The file that a service runs.
    program: Option<String>,
}

impl<'a> Document<'a> {
    fn of(components: &'a [ComponentReport], programs: &[(String, Running)]) -> Self {
        let line = |report: &'a ComponentReport| {
            let program = programs.iter().find(|(name, _)| *name == report.name);
            Line { report, program: program.map(|(_, program)| program.file.display().to_string()) }
        };
        Self { components: components.iter().map(line).collect() }
    }
}

/// The programs of the services that run.
fn programs_of(components: &[ComponentReport]) -> Vec<(String, Running)> {
    let services = components.iter().filter(|component| component.kind == Kind::Service);
    services.filter_map(|component| Some((component.name.clone(), Running::of(component.pid?)?))).collect()
}

impl Status {
    pub(crate) fn run(&self) -> Result<Outcome> {
        if !self.watch {
            return self.look();
        }
        loop {
            if io::stdout().is_terminal() {
                exact_line(CLEARED)?;
            }
            self.look()?;
            #[expect(clippy::disallowed_methods, reason = "no runtime runs here")]
            std::thread::sleep(WATCHED_EVERY);
        }
    }

    fn look(&self) -> Result<Outcome> {
        match &self.asked {
            Asked::Stack(at) => self.of_stack(at),
            Asked::Addresses(addresses) => block_on(self.of_addresses(addresses)),
        }
    }

    /// Each address of each name: behind the name of a service are all its replicas.
    async fn of_addresses(&self, services: &[(&'static str, String)]) -> Result<Outcome> {
        let mut components = Vec::new();
        for (name, address) in services {
            let unknown =
                |detail| AnswerLine { name, address: address.clone(), state: ComponentState::Down, detail };
            let resolved = match lookup_host(address).await {
                Ok(resolved) => resolved.collect::<BTreeSet<_>>(),
                Err(error) => {
                    components.push(unknown(format!("its name cannot be resolved: {error}")));
                    continue;
                }
            };
            if resolved.is_empty() {
                components.push(unknown("its name has no address".to_owned()));
            }
            for address in resolved {
                let (state, detail) = control::ask(address).await;
                components.push(AnswerLine { name, address: address.to_string(), state, detail });
            }
        }
        let all_serve = components.iter().all(|component| component.state.can_serve());
        let document = Answers { components };
        self.output.print(&document, || data!("{}", answer_table(&document.components)))?;
        Ok(if all_serve { Outcome::Done } else { Outcome::Failed })
    }

    fn of_stack(&self, at: &At) -> Result<Outcome> {
        let data_dir = at.data_dir()?;
        let (report, watched) = match control::find(&data_dir)? {
            Found::Running(report) => (report, Watched::BySupervisor),
            Found::Abandoned(report) => (report, Watched::ByNobody),
            Found::Starting => {
                say!("a stack is being started or deleted in {}", data_dir.display());
                return Ok(Outcome::Failed);
            }
            Found::Nothing => {
                self.output.print(&Document { components: Vec::new() }, || Ok(()))?;
                return Err(no_stack(&data_dir).into());
            }
        };
        let layout = Layout::new(data_dir, report.port_offset);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (components, parked) = runtime.block_on(async {
            let components = control::measure(&layout, &report, watched).await?;
            Ok::<_, anyhow::Error>((components, parked(&layout).await))
        })?;
        // A probe that hangs must not delay the end of the command.
        runtime.shutdown_background();
        match (watched, report.stale_for()) {
            (Watched::ByNobody, _) => say!("{}", nobody_watches(&layout, &report)),
            (Watched::BySupervisor, Some(age)) => say!(
                "{} is {} s old: its supervisor cannot write it (is the disk full?), so PID and RESTARTS may be older \
                 than STATE",
                layout.state_file().display(),
                age.as_secs()
            ),
            (Watched::BySupervisor, None) => {}
        }
        let programs = programs_of(&components);
        for remark in remarks(&layout.data_dir, &programs) {
            say!("{remark}");
        }
        self.output.print(&Document::of(&components, &programs), || {
            data!("{}", component_table(&layout, &components, control::age))
        })?;
        if parked > 0.0 {
            say!("{parked} dead letters are parked: `{}`", hint(&layout.data_dir, "dlq stats"));
        }
        let all_serve = components.iter().all(|component| component.state.can_serve());
        Ok(if all_serve { Outcome::Done } else { Outcome::Failed })
    }
}

/// Dead letters of all services that answer.
async fn parked(layout: &Layout) -> f64 {
    let pages = admin::metrics_of_participants(layout).await;
    pages.iter().map(|(_, page)| metric(page, DEAD_LETTERS_PARKED, &[])).sum()
}

fn answer_table(answers: &[AnswerLine]) -> Table {
    let mut table = Table::new(&["NAME", "ADDRESS", "STATE", "DETAIL"]).cutting(&["DETAIL"]);
    for line in answers {
        table.add_row([line.name, &line.address, line.state.name(), &line.detail]);
    }
    table
}

fn component_table(
    layout: &Layout,
    components: &[ComponentReport],
    age: impl Fn(&ComponentReport) -> Option<Duration>,
) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "AGE", "RESTARTS", "PORT", "ADMIN", "PID", "KIND", "DETAIL"])
            .cutting(&["DETAIL"])
            .sparing(&["ADMIN", "PORT", "PID", "KIND"]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for component in components {
        table.add_row([
            component.name.clone(),
            component.state.name().to_owned(),
            or_none(age(component).map(age_text)),
            component.restarts.to_string(),
            component.port.to_string(),
            or_none(layout.component_admin_port(&component.name).map(|port| port.to_string())),
            or_none(component.pid.map(|pid| pid.to_string())),
            format!("{:?}", component.kind).to_lowercase(),
            component.detail.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// What is wrong is seen at every width, and JSON has the same keys for whatever runs.
    #[test]
    fn components_are_shown() {
        let layout = Layout::new(PathBuf::from("/srv/holdfast"), 1_000);
        let component = |name: &str, kind, port, state, restarts, detail: &str| ComponentReport {
            name: name.to_owned(),
            kind,
            pid: (state != ComponentState::Down).then_some(47_110 + u32::from(port % 100)),
            port,
            state,
            restarts,
            log: format!("/srv/holdfast/logs/{name}.log"),
            detail: detail.to_owned(),
        };
        let components = [
            component("orders-db", Kind::Postgres, 6_432, ComponentState::Ready, 0, ""),
            component(
                "kafka",
                Kind::Kafka,
                10_092,
                ComponentState::Starting,
                0,
                "does not accept connections",
            ),
            component("redis", Kind::Redis, 7_379, ComponentState::Unready, 0, "does not answer"),
            component("order", Kind::Service, 51_051, ComponentState::Ready, 3, ""),
            component("order-2", Kind::Service, 51_061, ComponentState::Down, 12, ""),
            component(
                "payment",
                Kind::Service,
                51_052,
                ComponentState::Degraded,
                0,
                "consumer: stopped because of too many dead letters, the last one in order.created/3 at 4711",
            ),
            component("gateway", Kind::Service, 9_080, ComponentState::Ready, 0, ""),
            component("console", Kind::Service, 9_090, ComponentState::Unready, 1, "does not answer"),
        ];
        let age = |component: &ComponentReport| {
            component.pid.map(|pid| Duration::from_secs(u64::from(pid % 7 + 1) * 4_000))
        };
        let table = component_table(&layout, &components, age);
        snapshot::check("tables/status.txt", &at_all_widths(&table));
        let program = Running { file: PathBuf::from("/opt/holdfast/holdfast-order"), is_replaced: false };
        let programs = [("order".to_owned(), program)];
        snapshot::check("json/status.json", &json(&Document::of(&components, &programs)));
    }

    /// Services that are asked by their addresses.
    #[test]
    fn answers_are_shown() {
        let line = |name, address: &str, state, detail: &str| AnswerLine {
            name,
            address: address.to_owned(),
            state,
            detail: detail.to_owned(),
        };
        let components = vec![
            line("order", "10.0.3.17:9101", ComponentState::Ready, ""),
            line(
                "payment",
                "payment.example:9102",
                ComponentState::Down,
                "its name cannot be resolved: unknown host",
            ),
            line("gateway", "[2001:db8::17]:9100", ComponentState::Degraded, "payment: UNAVAILABLE"),
        ];
        snapshot::check("tables/status-addresses.txt", &at_all_widths(&answer_table(&components)));
        snapshot::check("json/status-addresses.json", &json(&Answers { components }));
    }
}
