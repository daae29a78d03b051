//! `env`.

use std::{io::IsTerminal as _, path::Path};

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_native::layout::{Kind, OPERATOR, PARTICIPANTS};

use crate::{
    options::{At, hint},
    output::{Outcome, exact_line, say},
};

#[derive(Debug, Args)]
pub(crate) struct Env {
    #[command(flatten)]
    at: At,
}

impl Env {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.running()?;
        exact_line(&format!("export HOLDFAST_URL={}", layout.gateway_url()))?;
        for participant in PARTICIPANTS {
            let url = layout.database_url(participant).context("cannot read the database password")?;
            exact_line(&format!(
                "export {}_DATABASE_URL={}",
                participant.name.to_uppercase(),
                quoted_text(&url)
            ))?;
        }
        exact_line(&format!("export KAFKA_BROKERS={}", layout.kafka_brokers()))?;
        if report.components.iter().any(|component| component.kind == Kind::Redis) {
            let url = layout.redis_url().context("cannot read the password of Redis")?;
            exact_line(&format!("export REDIS_URL={url}"))?;
        }
        let pki = layout.pki_dir();
        let operator = pki.join(OPERATOR);
        exact_line(&format!("export HOLDFAST_CA={}", quoted(&pki.join("ca.crt"))))?;
        exact_line(&format!("export HOLDFAST_OPERATOR_CERTIFICATE={}", quoted(&operator.join("tls.crt"))))?;
        exact_line(&format!("export HOLDFAST_OPERATOR_KEY={}", quoted(&operator.join("tls.key"))))?;
        if std::io::stdout().is_terminal() {
            say!("# use it with: eval \"$({})\"", hint(&layout.data_dir, "env"));
        }
        Ok(Outcome::Done)
    }
}

/// For a POSIX shell.
fn quoted(path: &Path) -> String {
    quoted_text(&path.display().to_string())
}

fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
