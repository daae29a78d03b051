//! Mutual TLS on real sockets: who is served, who is refused, and a certificate that changes while it is in use.

use std::{net::SocketAddr, path::Path, time::Duration};

use holdfast_certs::Authority;
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    grpc,
    health::Health,
    identity::{Identity, Reload},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, service::Routes};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

fn identity(directory: &Path, name: &str) -> IdentityConfig {
    let directory = directory.join(name);
    IdentityConfig {
        certificate: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        trust_bundle: directory.join("ca.crt"),
    }
}

fn issued(directory: &Path, name: &str) -> Identity {
    let authority = Authority::load_or_create(directory).expect("made");
    authority.issue(name).expect("issued");
    Identity::load(identity(directory, name)).expect("loaded")
}

/// A server that knows nothing but health.
async fn serve(server: Identity, stop: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let health = Health::default();
    health.component("test").ready();
    tokio::spawn(grpc::serve(listener, server, &[], Routes::default(), health, stop));
    address
}

fn destination(address: SocketAddr, name: &str, identity: &Identity) -> Destination {
    let config = DestinationConfig {
        address: address.to_string(),
        name: name.to_owned(),
        calls: CallsConfig::default(),
    };
    client::destination(&config, identity, |_, _| false).expect("an address")
}

async fn check(destination: Destination) -> Result<(), Status> {
    let request =
        Deadline::after(Duration::from_secs(5)).request(HealthCheckRequest::default()).expect("time is left");
    HealthClient::new(destination).check(request).await.map(drop)
}

/// Somebody with a certificate of ours is served; everybody else is refused, and the client sees UNAVAILABLE.
#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_ours_are_served() {
    let (ours, theirs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let stop = CancellationToken::new();
    let address = serve(issued(ours.path(), "order"), stop.clone()).await;
    let gateway = issued(ours.path(), "gateway");
    check(destination(address, "order", &gateway)).await.expect("served");

    // Of another authority: refused by both sides.
    let foreign = issued(theirs.path(), "gateway");
    let refused = check(destination(address, "order", &foreign)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Of another authority, but trusting ours: refused by the server.
    let ca = std::fs::read(ours.path().join("ca.crt")).expect("there");
    let both = [std::fs::read(theirs.path().join("ca.crt")).expect("there"), ca].concat();
    std::fs::write(theirs.path().join("gateway/ca.crt"), both).expect("written");
    let foreign = Identity::load(identity(theirs.path(), "gateway")).expect("loaded");
    let refused = check(destination(address, "order", &foreign)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // The server is not who was asked for.
    let refused = check(destination(address, "payment", &gateway)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // A call that the table does not allow.
    let mut client = tonic::client::Grpc::new(destination(address, "order", &gateway));
    client.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/holdfast.order.v1.OrderService/CreateOrder");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let request = tonic::Request::new(HealthCheckRequest::default());
    let refused = client.unary(request, path, codec).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    stop.cancel();
}

/// Without TLS, without a certificate or with silence nothing is served, and others are not held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_plain_connection_holds_nobody_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().expect("a folder");
    let stop = CancellationToken::new();
    let address = serve(issued(folder.path(), "order"), stop.clone()).await;
    let _silent = tokio::net::TcpStream::connect(address).await.expect("connected");
    let mut plain = tokio::net::TcpStream::connect(address).await.expect("connected");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // It ends, with at most a TLS alert (first byte 21).
    let _ = plain.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    let gateway = issued(folder.path(), "gateway");
    check(destination(address, "order", &gateway)).await.expect("served");
    stop.cancel();
}

/// New files are taken for new connections; torn, foreign and broken ones are refused and the old stays.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_while_in_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let stop = CancellationToken::new();
    let server = issued(folder.path(), "order");
    let address = serve(server.clone(), stop.clone()).await;
    let gateway = issued(folder.path(), "gateway");
    assert_eq!(server.reload().expect("readable"), Reload::Unchanged);

    let authority = Authority::load_or_create(folder.path()).expect("read");
    authority.issue("order").expect("issued");
    assert_eq!(server.reload().expect("readable"), Reload::Swapped);
    check(destination(address, "order", &gateway)).await.expect("served with the new one");

    let good = std::fs::read(folder.path().join("order/tls.crt")).expect("there");
    let (other_pair, _) = authority.leaf("order", time::Duration::hours(1)).expect("made");
    let (over, _) = authority.leaf("order", time::Duration::seconds(-60)).expect("made");
    for (what, bad) in [
        ("cut short", good[..good.len() / 2].to_vec()),
        ("another key's", other_pair.into_bytes()),
        ("over", over.into_bytes()),
        ("the authority's own", authority.certificate().as_bytes().to_vec()),
        ("empty", Vec::new()),
    ] {
        std::fs::write(folder.path().join("order/tls.crt"), bad).expect("written");
        assert!(server.reload().is_err(), "{what}");
        check(destination(address, "order", &gateway)).await.expect("served with the old one");
    }
    std::fs::write(folder.path().join("order/tls.crt"), good).expect("written");
    assert_eq!(server.reload().expect("readable"), Reload::Unchanged);
    stop.cancel();
}
