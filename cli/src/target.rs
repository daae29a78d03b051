//! Which services a command speaks to: those of a native stack, found by its folder, or any others, named by address.
//!
//! Addresses and folder exclude each other. What is on the command line goes before what is in the environment, so that an
//! environment made for one installation does not keep anybody from looking at another; both on the same level contradict each
//! other, and nothing is guessed.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{
    Arg, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind, parser::ValueSource, value_parser,
};
use holdfast_common::{config::IdentityConfig, identity::Identity};
use holdfast_native::layout::{OPERATOR, participant_names, service_of};

use crate::{
    options::{At, hint},
    output::UsageError,
};

/// The option that names a folder: its id, and its name in messages.
const FOLDER: (&str, &str) = ("data_dir", "--data-dir");
/// The option of who calls.
const IDENTITY_DIR: &str = "identity-dir";

/// An option that says where a service is, without its dashes; it can be a variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddressOption {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) help: &'static str,
}

impl AddressOption {
    pub(crate) fn arg(
        self,
        value_name: &'static str,
        parser: fn(&str) -> Result<String, AddressError>,
    ) -> Arg {
        let Self { name, variable, help, .. } = self;
        let arg = Arg::new(name).long(name).env(variable).help(help);
        arg.value_name(value_name).value_parser(parser).help_heading(HEADING)
    }

    /// The service and its address, if that was given.
    pub(crate) fn given(self, matches: &ArgMatches) -> Option<(&'static str, String)> {
        Some((self.service, matches.get_one::<String>(self.name)?.clone()))
    }
}

/// Of the ports of gRPC.
const ADDRESSES: [AddressOption; 3] = [
    AddressOption {
        service: "order",
        name: "order-address",
        variable: "HOLDFAST_ORDER_ADDRESS",
        help: "Where order answers, instead of --data-dir: host:port, or several separated by commas",
    },
    AddressOption {
        service: "payment",
        name: "payment-address",
        variable: "HOLDFAST_PAYMENT_ADDRESS",
        help: "Where payment answers",
    },
    AddressOption {
        service: "delivery",
        name: "delivery-address",
        variable: "HOLDFAST_DELIVERY_ADDRESS",
        help: "Where delivery answers",
    },
];

/// The services that a command calls.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Those of a native stack.
    Stack(At),
    /// Those at these addresses, by service.
    Addresses {
        /// `host:port`, several separated by commas.
        services: BTreeMap<&'static str, String>,
        /// Folder of the caller's certificate.
        identity_dir: PathBuf,
    },
}

const HEADING: &str = "Services that are not a native stack's";

impl Target {
    /// A command to type for the same services.
    pub(crate) fn hint(&self, command: &str) -> Result<String> {
        Ok(match self {
            Self::Stack(at) => format!("`{}`", hint(&at.data_dir()?, command)),
            Self::Addresses { .. } => format!("`holdfast {command}` with the same addresses"),
        })
    }

    /// Where the services are, and who calls them: only one service, or all.
    pub(crate) fn find(&self, only: Option<&str>) -> Result<(BTreeMap<&'static str, String>, Identity)> {
        match self {
            Self::Stack(at) => {
                let (layout, report) = at.running()?;
                let identity = Identity::load(IdentityConfig::in_folder(&layout.pki_dir().join(OPERATOR)))
                    .with_context(|| {
                        format!(
                            "the operator's certificate cannot be used: see `{}`",
                            hint(&layout.data_dir, "certs status")
                        )
                    })?;
                let mut addresses: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
                for component in &report.components {
                    let Some(service) = service_of(&component.name) else { continue };
                    addresses.entry(service).or_default().push(format!("127.0.0.1:{}", component.port));
                }
                let addresses = addresses.into_iter().map(|(service, each)| (service, each.join(",")));
                Ok((addresses.collect(), identity))
            }
            Self::Addresses { services, identity_dir } => {
                let missing = missing(services, only);
                if !missing.is_empty() {
                    let hint = if only.is_none() { ", or name one service with --service" } else { "" };
                    return Err(UsageError(format!(
                        "the address of {} is missing: give {}{hint}",
                        missing.join(" and "),
                        missing
                            .iter()
                            .map(|name| format!("--{name}-address"))
                            .collect::<Vec<_>>()
                            .join(" and "),
                    ))
                    .into());
                }
                let mut files = IdentityConfig::in_folder(identity_dir);
                // A cluster has the list elsewhere. Services check the caller against theirs anyway.
                files.deny_list = files.deny_list.filter(|list| list.exists());
                let identity = Identity::load(files).with_context(|| {
                    format!("the certificate in {} cannot be used", identity_dir.display())
                })?;
                Ok((services.clone(), identity))
            }
        }
    }
}

/// Services that are asked for and have no address. Leaving one out in silence would look as if it had no dead letters.
fn missing(services: &BTreeMap<&'static str, String>, only: Option<&str>) -> Vec<&'static str> {
    participant_names()
        .filter(|name| only.is_none_or(|only| only == *name) && !services.contains_key(name))
        .collect()
}

impl Args for Target {
    fn augment_args(command: Command) -> Command {
        let identity_dir = Arg::new(IDENTITY_DIR)
            .long(IDENTITY_DIR)
            .env("HOLDFAST_IDENTITY_DIR")
            .help("Folder of the operator's certificate: tls.crt, tls.key, ca.crt, and revoked if there is a list")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .help_heading(HEADING);
        let addresses = ADDRESSES.map(|option| option.arg("ADDRESS", parse_service_address));
        At::augment_args(command).args(addresses).arg(identity_dir)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Target {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let names = ADDRESSES.iter().map(|option| option.name).chain([IDENTITY_DIR]);
        if side(matches, names)? == Side::Folder {
            return Ok(Self::Stack(At::from_arg_matches(matches)?));
        }
        let services: BTreeMap<_, _> = ADDRESSES.iter().filter_map(|option| option.given(matches)).collect();
        match matches.get_one::<PathBuf>(IDENTITY_DIR).cloned() {
            Some(_) if services.is_empty() => Err(refused(
                ErrorKind::MissingRequiredArgument,
                "--identity-dir says who calls, but no address says whom: give --order-address, --payment-address and \
                 --delivery-address too",
            )),
            None => Err(refused(
                ErrorKind::MissingRequiredArgument,
                "addresses need the folder of the operator's certificate too: give --identity-dir",
            )),
            Some(identity_dir) => Ok(Self::Addresses { services, identity_dir }),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a command looks for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Folder,
    Addresses,
}

/// How explicit something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Given {
    No,
    ByEnvironment,
    ByArgument,
}

/// Decides by what was given; `options` are the names of those of addresses.
pub(crate) fn side(
    matches: &ArgMatches,
    options: impl Iterator<Item = &'static str> + Clone,
) -> Result<Side, clap::Error> {
    let given = |id: &str| match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Given::ByArgument,
        Some(ValueSource::EnvVariable) => Given::ByEnvironment,
        _ => Given::No,
    };
    let addresses = options.clone().map(given).max().unwrap_or(Given::No);
    let folder = given(FOLDER.0);
    if addresses == Given::No {
        return Ok(Side::Folder);
    }
    if addresses == folder {
        let named: Vec<String> =
            options.filter(|option| given(option) == folder).map(|option| format!("--{option}")).collect();
        let by = if folder == Given::ByEnvironment { " (by their variables)" } else { "" };
        return Err(refused(
            ErrorKind::ArgumentConflict,
            &format!("{} and {} name different services{by}: give one of them", FOLDER.1, named.join(", ")),
        ));
    }
    Ok(if addresses > folder { Side::Addresses } else { Side::Folder })
}

/// A mistake on the command line that clap can't see: exit code 2.
pub(crate) fn refused(kind: ErrorKind, text: &str) -> clap::Error {
    clap::Error::raw(kind, text)
}

/// An address that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressError;

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be host:port, or several separated by commas")
    }
}

impl std::error::Error for AddressError {}

/// Services speak mutual TLS only, so a URL of `https` means the same as its host and port.
fn parse_service_address(text: &str) -> Result<String, AddressError> {
    let address = |text: &str| {
        let address = text.trim();
        parse_address(address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/'))
    };
    Ok(text.split(',').map(address).collect::<Result<Vec<_>, _>>()?.join(","))
}

/// `host:port`.
pub(crate) fn parse_address(text: &str) -> Result<String, AddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
    // An IPv6 address has colons of its own, and then brackets.
    let is_host =
        !host.is_empty() && !host.contains(['/', '@', ' ']) && (!host.contains(':') || host.ends_with(']'));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_host && is_port { Ok(text.to_owned()) } else { Err(AddressError) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        #[command(flatten)]
        target: Target,
    }

    /// No variable of the machine that runs the tests may decide.
    fn parse(arguments: &[&str]) -> Result<Target, String> {
        let command = <Sample as clap::CommandFactory>::command()
            .mut_args(|argument| argument.env(None::<&'static str>));
        let arguments = ["sample"].iter().chain(arguments);
        let matches = command.try_get_matches_from(arguments).map_err(|error| error.to_string())?;
        Target::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    const ALL: [&str; 8] = [
        "--order-address",
        "o:1",
        "--payment-address",
        "https://p:2",
        "--delivery-address",
        "d:3,e:4",
        "--identity-dir",
        "/pki",
    ];

    /// Without addresses the folder counts; with them they do, whether they are written as URLs or not.
    #[test]
    fn addresses_take_the_place_of_a_folder() {
        assert!(matches!(parse(&[]), Ok(Target::Stack(_))));
        assert!(matches!(parse(&["--data-dir", "x"]), Ok(Target::Stack(_))));
        let Ok(Target::Addresses { services, identity_dir }) = parse(&ALL) else {
            panic!("{:?}", parse(&ALL))
        };
        let expected = [("delivery", "d:3,e:4"), ("order", "o:1"), ("payment", "p:2")];
        assert!(
            services.iter().map(|(name, address)| (*name, address.as_str())).eq(expected),
            "{services:?}"
        );
        assert_eq!(identity_dir, PathBuf::from("/pki"));
    }

    /// What is missing or contradicts itself is one sentence that names the options.
    #[test]
    fn what_does_not_fit_is_named() {
        for (arguments, expected) in [
            (&ALL[..2], "addresses need the folder of the operator's certificate too: give --identity-dir"),
            (
                &ALL[6..],
                "no address says whom: give --order-address, --payment-address and --delivery-address too",
            ),
            (
                &[&ALL[..], &["--data-dir", "x"]].concat()[..],
                "--data-dir and --order-address, --payment-address, --delivery-address, --identity-dir name different \
                 services: give one of them",
            ),
            (&["--order-address", "order"], "must be host:port"),
            (&["--order-address", ""], "must be host:port"),
            (&["--order-address", "http://order:1"], "must be host:port"),
            (&["--order-address", "order:0"], "must be host:port"),
        ] {
            let error = parse(arguments).expect_err("refused");
            assert!(error.contains(expected), "{expected} in {error}");
        }
    }

    /// A service whose address is missing is not left out in silence.
    #[test]
    fn a_service_without_an_address_is_named() {
        let Ok(target) = parse(&[&ALL[..2], &ALL[6..]].concat()) else {
            panic!("an address and a certificate")
        };
        let error = |only| target.find(only).expect_err("refused").to_string();
        assert_eq!(
            error(None),
            "the address of payment and delivery is missing: give --payment-address and --delivery-address, or name one \
             service with --service"
        );
        assert_eq!(error(Some("payment")), "the address of payment is missing: give --payment-address");
        assert_eq!(error(Some("order")), "the certificate in /pki cannot be used");
    }

    /// Hosts may be names, IPv4 and IPv6 addresses.
    #[test]
    fn addresses_are_host_and_port() {
        for good in ["order:1", "10.0.0.1:65535", "[::1]:50051", "order.holdfast.svc:50051"] {
            assert_eq!(parse_address(good).as_deref(), Ok(good));
        }
        for wrong in [
            "",
            ":",
            "order",
            ":1",
            "order:",
            "::1:50051",
            "a b:1",
            "order:65536",
            "user@order:1",
            "order/x:1",
        ] {
            assert_eq!(parse_address(wrong), Err(AddressError), "{wrong}");
        }
    }
}
