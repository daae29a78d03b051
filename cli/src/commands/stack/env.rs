//! `env`.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
};

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_native::{
    layout::{Kind, Layout, OPERATOR, PARTICIPANTS},
    state::StackReport,
};

use crate::{
    options::{At, Output, hint, quoted},
    output::{Outcome, exact_line, say},
};

#[derive(Debug, Args)]
pub(crate) struct Env {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

impl Env {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.running()?;
        let variables = variables(&layout, &report)?;
        let document: BTreeMap<&str, &str> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.output.print(&document, || {
            for line in lines(&variables) {
                exact_line(&line)?;
            }
            if io::stdout().is_terminal() {
                say!("# use it with: eval \"$({})\"", hint(&layout.data_dir, "env"));
            }
            Ok(())
        })?;
        Ok(Outcome::Done)
    }
}

/// Names and values, the folder first: then the commands that follow speak to this stack.
fn variables(layout: &Layout, report: &StackReport) -> Result<Vec<(String, String)>> {
    let mut variables = vec![
        ("HOLDFAST_DATA_DIR".to_owned(), layout.data_dir.display().to_string()),
        ("HOLDFAST_URL".to_owned(), layout.gateway_url()),
    ];
    for participant in PARTICIPANTS {
        let url = layout.database_url(participant).context("cannot read the database password")?;
        variables.push((format!("{}_DATABASE_URL", participant.name.to_uppercase()), url));
    }
    variables.push(("KAFKA_BROKERS".to_owned(), layout.kafka_brokers()));
    if report.components.iter().any(|component| component.kind == Kind::Redis) {
        let url = layout.redis_url().context("cannot read the password of Redis")?;
        variables.push(("REDIS_URL".to_owned(), url));
    }
    let pki = layout.pki_dir();
    let operator = pki.join(OPERATOR);
    for (name, path) in [
        ("HOLDFAST_CA", pki.join("ca.crt")),
        ("HOLDFAST_OPERATOR_CERTIFICATE", operator.join("tls.crt")),
        ("HOLDFAST_OPERATOR_KEY", operator.join("tls.key")),
    ] {
        variables.push((name.to_owned(), path.display().to_string()));
    }
    Ok(variables)
}

/// For a POSIX shell.
fn lines(variables: &[(String, String)]) -> impl Iterator<Item = String> {
    variables.iter().map(|(name, value)| format!("export {name}={}", quoted(value)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{output::json, snapshot};

    /// Whatever is in a value, a shell reads it as it is; JSON has the same.
    #[test]
    fn variables_are_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(folder.path().join("o'clock"), 1_000);
        fs::create_dir_all(layout.data_dir.join("config")).expect("created");
        for participant in PARTICIPANTS {
            for file in layout.password_files(participant) {
                fs::write(file, "hush\n").expect("written");
            }
        }
        let report = StackReport {
            supervisor_pid: 1,
            port_offset: 1_000,
            written_at: 0,
            leaves_down: false,
            components: Vec::new(),
            links: Vec::new(),
        };
        let variables = variables(&layout, &report).expect("there");
        let masked = |text: &str| text.replace(&folder.path().display().to_string(), "DIR");
        let shown: Vec<String> = lines(&variables).collect();
        snapshot::check("tables/env.txt", &masked(&shown.join("\n")));
        let document: BTreeMap<&str, &str> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        snapshot::check("json/env.json", &masked(&json(&document)));
    }
}
