//! `doctor`: what is wrong with this machine or this stack, and the command that helps.

use std::fmt::Write as _;

use anyhow::{Error, Result};
use clap::Args;
use holdfast_certs::{LeafState, Pki};
use holdfast_chaos::admin::metric;
use holdfast_common::metric::{CONSUMER_STOPPED_BY_DEAD_LETTERS, DEAD_LETTERS_PARKED, OUTBOX_HELD_BACK_ROWS};
use holdfast_native::{
    control::{self, Found, Watched},
    layout::{Extra, Kind, Layout, PORT_OFFSET_MAX, Replicas, Scope},
    ports, prepare,
    programs::Running,
    remembered,
    state::{ComponentState, StackReport},
};
use serde::Serialize;

use crate::{
    admin, colour,
    options::{At, Output, hint, make_hint},
    output::{Outcome, data, say},
    runtime::block_on,
};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    at: At,
    /// Check the ports of a stack that is started with this offset; that of the last start unless it is said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=i64::from(PORT_OFFSET_MAX)))]
    port_offset: Option<u16>,
    #[command(flatten)]
    output: Output,
}

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// It works, and somebody should look.
    Attention,
    Bad,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Bad => "bad",
        }
    }
}

/// A check, as `-o json` shows it.
#[derive(Debug, Serialize)]
struct Line {
    check: String,
    state: State,
    detail: String,
    /// A command.
    helps: Option<String>,
}

impl Line {
    fn good(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), state: State::Good, detail: detail.into(), helps: None }
    }

    fn wrong(check: &str, state: State, detail: impl Into<String>, helps: Option<String>) -> Self {
        Self { check: check.to_owned(), state, detail: detail.into(), helps }
    }

    fn of(check: &str, result: Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::good(check, ""),
            Err(error) => Self::wrong(check, State::Bad, format!("{error:#}"), None),
        }
    }
}

#[derive(Serialize)]
struct Document {
    checks: Vec<Line>,
}

impl Doctor {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.examine())
    }

    async fn examine(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        let before = remembered::recall(&Layout::new(data_dir.clone(), 0));
        let before_offset = before.as_ref().map_or(0, |before| before.port_offset);
        let layout = Layout::new(data_dir.clone(), self.port_offset.unwrap_or(before_offset));
        let mut checks: Vec<Line> =
            prepare::checks(&layout).into_iter().map(|(check, result)| Line::of(check, result)).collect();
        // The rest is looked at all the same.
        if let Err(error) = before {
            checks.push(Line::of("last start", Err(error)));
        }
        match control::find(&data_dir)? {
            Found::Running(report) => {
                let layout = Layout::new(data_dir, report.port_offset);
                checks.push(Line::good("supervisor", format!("process {}", report.supervisor_pid)));
                of_stack(&layout, &report, Watched::BySupervisor, &mut checks).await?;
            }
            Found::Abandoned(report) => {
                let layout = Layout::new(data_dir, report.port_offset);
                let up = hint(&layout.data_dir, "up");
                let detail =
                    format!("process {} is gone: nothing that dies is started again", report.supervisor_pid);
                checks.push(Line::wrong("supervisor", State::Bad, detail, Some(up)));
                of_stack(&layout, &report, Watched::ByNobody, &mut checks).await?;
            }
            Found::Starting => {
                checks.push(Line::wrong(
                    "supervisor",
                    State::Attention,
                    "a stack is being started or deleted",
                    None,
                ));
            }
            Found::Nothing => {
                checks.push(Line::good(
                    "supervisor",
                    format!("none: `{}` starts one", make_hint(&data_dir, "up")),
                ));
                checks.push(of_ports(&layout));
            }
        }
        let worst_is_bad = checks.iter().any(|line| line.state == State::Bad);
        let document = Document { checks };
        self.output.print(&document, || data!("{}", findings(&document.checks)))?;
        let wrong = document.checks.iter().filter(|line| line.state != State::Good).count();
        match wrong {
            0 => say!("nothing is wrong"),
            _ => say!("{wrong} of {} checks found something", document.checks.len()),
        }
        Ok(if worst_is_bad { Outcome::Failed } else { Outcome::Done })
    }
}

/// All that are taken, not only the first.
fn of_ports(layout: &Layout) -> Line {
    let taken = ports::taken(&layout.ports(Scope::Everything, Replicas::default(), &Extra::DEFAULT, &[]));
    if taken.is_empty() {
        return Line::good("ports", "");
    }
    let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
    let up = hint(&layout.data_dir, "up --port-offset 1000");
    Line::wrong("ports", State::Bad, taken.join("; "), Some(up))
}

async fn of_stack(
    layout: &Layout,
    report: &StackReport,
    watched: Watched,
    checks: &mut Vec<Line>,
) -> Result<()> {
    let of = |command: &str| Some(hint(&layout.data_dir, command));
    if let Some(age) = report.stale_for().filter(|_| watched == Watched::BySupervisor) {
        let detail =
            format!("{} is {} s old: is the disk full?", layout.state_file().display(), age.as_secs());
        checks.push(Line::wrong("state file", State::Bad, detail, None));
    }
    for component in control::measure(layout, report, watched).await? {
        let name = &component.name;
        let logs = || of(&format!("logs {name} --level warn --tail 20"));
        checks.push(match component.state {
            ComponentState::Ready => Line::good(name, component.detail),
            ComponentState::Degraded => Line::wrong(name, State::Attention, component.detail, logs()),
            ComponentState::Starting => {
                let detail = format!("is starting: {}", component.detail);
                Line::wrong(name, State::Attention, detail.trim_end_matches(": "), None)
            }
            ComponentState::Unready => Line::wrong(name, State::Bad, component.detail, logs()),
            ComponentState::Down => {
                let helps = match watched {
                    Watched::ByNobody => of("up"),
                    Watched::BySupervisor if report.leaves_down => of(&format!("restart {name}")),
                    // Its supervisor starts it by itself; the log says why it does not stay.
                    Watched::BySupervisor => logs(),
                };
                Line::wrong(name, State::Bad, component.detail, helps)
            }
        });
        if component.restarts > 0 && component.state.can_serve() {
            let detail = format!("was restarted {} times", component.restarts);
            checks.push(Line::wrong(name, State::Attention, detail, logs()));
        }
        if component.pid.and_then(Running::of).is_some_and(|program| program.is_replaced) {
            let detail = "the file of its program was replaced since it was started";
            checks.push(Line::wrong(name, State::Attention, detail, of(&format!("roll {name}"))));
        }
    }
    if !report.components.iter().any(|component| component.kind == Kind::Service) {
        return Ok(());
    }
    checks.push(of_certificates(layout));
    // A service that does not answer is said above.
    for (service, page) in admin::metrics_of_participants(layout).await {
        let counted = |name: &str| metric(&page, name, &[]);
        let parked = counted(DEAD_LETTERS_PARKED);
        if parked > 0.0 {
            let detail = format!("{parked} dead letters are parked");
            checks.push(Line::wrong(service, State::Attention, detail, of("dlq stats")));
        }
        if counted(CONSUMER_STOPPED_BY_DEAD_LETTERS) > 0.0 {
            let detail = "its consumer has stopped because of too many dead letters";
            checks.push(Line::wrong(service, State::Bad, detail, of("dlq stats")));
        }
        let held_back = counted(OUTBOX_HELD_BACK_ROWS);
        if held_back > 0.0 {
            let detail = format!("{held_back} events cannot be published");
            checks.push(Line::wrong(
                service,
                State::Bad,
                detail,
                of(&format!("outbox list --service {service}")),
            ));
        }
    }
    Ok(())
}

fn of_certificates(layout: &Layout) -> Line {
    let check = "certificates";
    let useless = Pki::open(&layout.pki_dir()).and_then(|pki| {
        let names = pki.identities()?;
        let is_useless =
            |name: &String| !pki.leaf_status(name).is_ok_and(|leaf| leaf.state == LeafState::Valid);
        Ok(names.into_iter().filter(is_useless).collect::<Vec<_>>())
    });
    match useless {
        Ok(useless) if useless.is_empty() => Line::good(check, ""),
        Ok(useless) => {
            let detail = format!("cannot be used: {}", useless.join(", "));
            Line::wrong(check, State::Bad, detail, Some(hint(&layout.data_dir, "certs status")))
        }
        Err(error) => {
            let helps = error.remedy().unwrap_or("certs status");
            Line::wrong(check, State::Bad, error.to_string(), Some(hint(&layout.data_dir, helps)))
        }
    }
}

/// One after the other, and the command on a line of its own: what is wrong must be whole at any width, and the command is copied.
fn findings(lines: &[Line]) -> String {
    let width = State::Attention.name().len();
    let mut text = String::new();
    for Line { check, state, detail, helps } in lines {
        let colon = if detail.is_empty() { "" } else { ": " };
        // Writing to a String can't fail.
        let fill = width - state.name().len();
        let word =
            if colour::are_on() { colour::marked(state.name(), state.name()) } else { state.name().into() };
        let _ = writeln!(text, "{word}{:fill$}  {check}{colon}{detail}", "");
        if let Some(command) = helps {
            let _ = writeln!(text, "{:width$}  {command}", "");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot};

    /// What is wrong is shown with the whole command that helps.
    #[test]
    fn checks_are_shown() {
        let checks = vec![
            Line::good("programs", ""),
            Line::of("java", Err(anyhow::anyhow!("no Java was found: install openjdk-17-jre-headless"))),
            Line::wrong(
                "order",
                State::Attention,
                "was restarted 3 times",
                Some("holdfast logs order --level warn --tail 20 --data-dir /srv/holdfast".to_owned()),
            ),
            Line::wrong(
                "certificates",
                State::Bad,
                "cannot be used: payment",
                Some("holdfast certs status".to_owned()),
            ),
        ];
        snapshot::check("tables/doctor.txt", &findings(&checks));
        snapshot::check("json/doctor.json", &json(&Document { checks }));
    }
}
