//! `console`: lets one browser into the pages, and runs them in this terminal if they do not run yet.
//!
//! The program runs as whoever types this, because it acts with the operator's certificate, which the user of the components can't
//! read.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write as _,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_common::config::IdentityConfig;
use holdfast_native::{
    layout::{GATEWAY, Layout, OPERATOR, Tls, participant_names, service_of},
    ports, programs,
    state::StackReport,
};
use holdfast_operator::ticket;
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    options::{At, By, folder_option, hint},
    output::{Outcome, data, say},
};

#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    at: At,
    /// Let it change things, each with a reason: redrive, edit and discard dead letters, resume consumers
    #[arg(long)]
    allow_write: bool,
    /// How much of keys, headers and values of records it shows: everything, their form only, or nothing
    #[arg(long, default_value = "full", value_parser = ["full", "masked", "off"], value_name = "HOW")]
    payloads: String,
    #[command(flatten)]
    by: By,
}

/// The settings of the program, as it reads them.
#[derive(Serialize)]
struct Settings {
    service: Service,
    identity: Identity,
    console: Pages,
    kafka: Kafka,
    gateway: Admin,
    order: Participant,
    payment: Participant,
    delivery: Participant,
}

#[derive(Serialize)]
struct Service {
    admin_listen: String,
}

#[derive(Serialize)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    trust_bundle: PathBuf,
    deny_list: Option<PathBuf>,
}

#[derive(Serialize)]
struct Pages {
    listen: String,
    tickets: PathBuf,
    allow_write: bool,
    payloads: String,
    command_options: String,
}

#[derive(Serialize)]
struct Kafka {
    brokers: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<KafkaTls>,
}

#[derive(Serialize)]
struct KafkaTls {
    mode: &'static str,
}

#[derive(Serialize)]
struct Admin {
    admin: String,
}

#[derive(Serialize)]
struct Participant {
    address: String,
    admin: String,
}

/// Files of a stack's console.
struct Files {
    settings: PathBuf,
    process: PathBuf,
    log: PathBuf,
    tickets: PathBuf,
}

impl Files {
    fn of(layout: &Layout) -> Self {
        let folder = layout.console_dir();
        Self {
            settings: folder.join("console.toml"),
            process: folder.join("process"),
            log: folder.join("console.log"),
            tickets: folder.join("tickets"),
        }
    }

    /// The console of this stack, if it runs: process ids are reused, so its command must name its settings.
    fn running(&self) -> Option<u32> {
        let process: u32 = fs::read_to_string(&self.process).ok()?.trim().parse().ok()?;
        let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
        let names_them =
            command.split(|byte| *byte == 0).any(|word| word == self.settings.as_os_str().as_bytes());
        names_them.then_some(process)
    }
}

impl Console {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.running()?;
        let author = self.by.name();
        let (files, port) = (Files::of(&layout), layout.console_port());
        // The folder is closed to others before anything is in it.
        let folder = layout.console_dir();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .context("cannot create the console's folder")?;
        let settings = toml::to_string(&self.settings(&layout, &report, &files)?)?;
        if let [taken] = ports::taken(&[("the console".to_owned(), port)]).as_slice() {
            let Some(process) = files.running() else {
                bail!("{taken}, and that is not this stack's console")
            };
            if fs::read_to_string(&files.settings)? != settings {
                bail!("a console with other settings runs already: end it (process {process}) first");
            }
            let url = Self::url(&files, port, &author)?;
            say!("the console runs already (process {process}): this address lets one more browser in, once");
            data!("{url}")?;
            return Ok(Outcome::Done);
        }
        write(&files.settings, &settings)?;
        write(&files.process, &std::process::id().to_string())?;
        let folder = programs::own_folder("console")?;
        let program = programs::program_in(&folder, "console")?;
        let log =
            File::create(&files.log).with_context(|| format!("cannot write {}", files.log.display()))?;
        say!(
            "{}: open this address within {} minutes, once; `{}` prints another one. Ctrl-C ends the console; its log is {}",
            if self.allow_write { "it may change things" } else { "read-only" },
            ticket::TICKET_TIME.as_secs() / 60,
            hint(&layout.data_dir, "console"),
            files.log.display()
        );
        data!("{}", Self::url(&files, port, &author)?)?;
        let mut command = Command::new(&program);
        command.arg("--config").arg(&files.settings).stdout(log);
        // Settings of other services are unknown to it.
        for (variable, _) in env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"HOLDFAST__")) {
            command.env_remove(variable);
        }
        Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
    }

    fn url(files: &Files, port: u16, author: &str) -> Result<String> {
        let ticket = ticket::issue(&files.tickets, author, OffsetDateTime::now_utc())?;
        Ok(format!("http://127.0.0.1:{port}/open?ticket={ticket}"))
    }

    fn settings(&self, layout: &Layout, report: &StackReport, files: &Files) -> Result<Settings> {
        let addresses = |service: &str, port: &dyn Fn(&str, u16) -> Option<u16>| {
            let of_service = report.components.iter().filter(|one| service_of(&one.name) == Some(service));
            let ports = of_service.filter_map(|one| port(&one.name, one.port));
            ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
        };
        let admin = |service: &str| addresses(service, &|name, _| layout.component_admin_port(name));
        let mut participants = participant_names().map(|service| Participant {
            address: addresses(service, &|_, port| Some(port)),
            admin: admin(service),
        });
        let mut next = || participants.next().context("the stack runs no services");
        let IdentityConfig { certificate, key, trust_bundle, deny_list } =
            IdentityConfig::in_folder(&layout.pki_dir().join(OPERATOR));
        Ok(Settings {
            service: Service { admin_listen: format!("127.0.0.1:{}", layout.console_admin_port()) },
            identity: Identity { certificate, key, trust_bundle, deny_list },
            console: Pages {
                listen: format!("127.0.0.1:{}", layout.console_port()),
                tickets: files.tickets.clone(),
                allow_write: self.allow_write,
                payloads: self.payloads.clone(),
                command_options: folder_option(&layout.data_dir),
            },
            kafka: Kafka {
                brokers: layout.kafka_brokers(),
                tls: (layout.kafka_tls() == Tls::On).then_some(KafkaTls { mode: "verify-full" }),
            },
            gateway: Admin { admin: admin(GATEWAY) },
            order: next()?,
            payment: next()?,
            delivery: next()?,
        })
    }
}

/// A file for its owner alone.
fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
