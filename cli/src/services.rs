//! The services of a stack, called as the operator.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    identity::Identity,
};
use holdfast_native::layout::{OPERATOR, participant_names, service_of};
use holdfast_proto::ops::v1::{
    self as pb, dead_letter_service_client::DeadLetterServiceClient,
    outbox_service_client::OutboxServiceClient, reconcile_service_client::ReconcileServiceClient,
};
use tonic::{Code, Request};
use uuid::Uuid;

use crate::options::At;

/// An operator waits longer than an API client.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Leaves time for a second attempt, while a service starts or fails over.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(5);
/// Responses hold whole records.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One service, over all its replicas.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    destination: Destination,
}

impl Service {
    pub(crate) fn dead_letters(&self) -> DeadLetterServiceClient<Destination> {
        DeadLetterServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn outbox(&self) -> OutboxServiceClient<Destination> {
        OutboxServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn reconcile(&self) -> ReconcileServiceClient<Destination> {
        ReconcileServiceClient::new(self.destination.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    #[expect(clippy::unused_self, reason = "reads as what it is: a request to this service")]
    pub(crate) fn request<M>(&self, message: M) -> Result<Request<M>> {
        Ok(Deadline::after(CALL_TIME_MAX).request(message)?)
    }

    /// For the context of an error.
    pub(crate) fn failed(&self) -> String {
        format!("{} refused", self.name)
    }
}

/// The services that were asked for.
pub(crate) struct Services {
    pub(crate) all: Vec<Service>,
}

impl Services {
    /// Those of the running stack, or the one that is named.
    pub(crate) fn connect(at: &At, only: Option<&str>) -> Result<Self> {
        let (layout, report) = at.running()?;
        let folder = layout.pki_dir().join(OPERATOR);
        let identity = Identity::load(IdentityConfig::in_folder(&folder))
            .context("the operator's certificate cannot be used: see `holdfast certs status`")?;
        let mut addresses: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for component in &report.components {
            let Some(service) = service_of(&component.name) else { continue };
            addresses.entry(service).or_default().push(format!("127.0.0.1:{}", component.port));
        }
        let mut all = Vec::new();
        for name in participant_names() {
            let Some(addresses) = addresses.get(name) else { continue };
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let calls = CallsConfig { attempt_timeout: ATTEMPT_TIME_MAX, ..CallsConfig::default() };
            let config = DestinationConfig { address: addresses.join(","), name: name.to_owned(), calls };
            let destination = client::destination(&config, &identity, holdfast_proto::is_idempotent);
            let destination = destination.map_err(|error| anyhow::anyhow!("{error}"))?;
            all.push(Service { name, destination });
        }
        if all.is_empty() {
            bail!("the stack runs no services");
        }
        Ok(Self { all })
    }

    /// Returns the letter and the service that has it.
    pub(crate) async fn find(&self, id: Uuid) -> Result<Option<(&Service, pb::DeadLetter)>> {
        for service in &self.all {
            let request = service.request(pb::GetDeadLetterRequest { id: id.to_string() })?;
            match service.dead_letters().get_dead_letter(request).await {
                Ok(answer) => {
                    let letter = answer.into_inner().dead_letter.context("a response without a letter")?;
                    return Ok(Some((service, letter)));
                }
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status).with_context(|| service.failed()),
            }
        }
        Ok(None)
    }
}
