//! The services, called as the operator.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    deadline::Deadline,
};
use holdfast_native::layout::participant_names;
use holdfast_proto::ops::v1::{
    self as pb, dead_letter_service_client::DeadLetterServiceClient,
    outbox_service_client::OutboxServiceClient, reconcile_service_client::ReconcileServiceClient,
};
use tonic::{Code, Request};
use uuid::Uuid;

use crate::target::Target;

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
    /// Those of the target, or the one that is named.
    pub(crate) fn connect(target: &Target, only: Option<&str>) -> Result<Self> {
        let (addresses, identity) = target.find(only)?;
        let mut all = Vec::new();
        for name in participant_names() {
            let Some(address) = addresses.get(name) else { continue };
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let calls = CallsConfig { attempt_timeout: ATTEMPT_TIME_MAX, ..CallsConfig::default() };
            let config = DestinationConfig { address: address.clone(), name: name.to_owned(), calls };
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
