//! What the client column costs: the same unary call to the same server over mutual TLS, through a bare tonic channel and
//! through the column. `cargo bench -p holdfast-common --bench call`; compare the two in one run.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::{hint::black_box, net::SocketAddr, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast_certs::Pki;
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    grpc,
    health::Health,
    identity::Identity,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    service::Routes,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;

const TIME: Duration = Duration::from_secs(3);

fn identity(folder: &std::path::Path, name: &str) -> Identity {
    Pki::open_or_init(folder).expect("created").ensure_leaf(name).expect("issued");
    let folder = folder.join(name);
    Identity::load(IdentityConfig::in_folder(&folder)).expect("loaded")
}

/// What a client without this library would use.
fn bare(address: SocketAddr, identity: Identity) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let origin = "https://order".parse().expect("a URI");
    endpoint.origin(origin).connect_with_connector_lazy(service_fn(move |_| {
        let identity = identity.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("order").map_err(std::io::Error::other)?;
            let tls = TlsConnector::from(identity.client_config()).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    }))
}

async fn call_bare(channel: &Channel) {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(TIME);
    let answer = HealthClient::new(channel.clone()).check(request).await;
    black_box(answer.expect("answered"));
}

async fn call_column(destination: &Destination) {
    let request = Deadline::after(TIME).request(HealthCheckRequest::default()).expect("time is left");
    let answer = HealthClient::new(destination.clone()).check(request).await;
    black_box(answer.expect("answered"));
}

fn calls(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let (order, gateway) = (identity(folder.path(), "order"), identity(folder.path(), "gateway"));
    let stop = CancellationToken::new();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(grpc::serve(
            listener,
            order,
            &[],
            Routes::default(),
            20,
            Health::default(),
            stop.clone(),
        ));
        address
    });
    let (channel, destination) = runtime.block_on(async {
        let config = DestinationConfig {
            address: address.to_string(),
            name: "order".to_owned(),
            calls: CallsConfig::default(),
        };
        // All calls may be sent again, so the message is buffered as it is for ours.
        let destination = client::destination(&config, &gateway, |_, _| true).expect("an address");
        (bare(address, gateway.clone()), destination)
    });
    let mut group = criterion.benchmark_group("unary call over mutual TLS");
    group.sample_size(200).measurement_time(Duration::from_secs(15));
    group.bench_function("bare tonic channel", |bencher| {
        bencher.to_async(&runtime).iter(|| call_bare(&channel));
    });
    group.bench_function("client column", |bencher| {
        bencher.to_async(&runtime).iter(|| call_column(&destination));
    });
    group.finish();
    stop.cancel();
}

criterion_group!(benches, calls);
criterion_main!(benches);
