//! Mutual TLS on real sockets: who is served, who is refused, and certificates that change or are revoked while in use.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use holdfast_certs::{Authority, Kind, LEAF_LIFE_MAX, Leaf, LeafRequest, Pki, Usage};
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    grpc,
    health::Health,
    identity::{Identity, Reload},
    service,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const HOUR: time::Duration = time::Duration::hours(1);

fn config(directory: &Path, name: &str) -> IdentityConfig {
    IdentityConfig::in_folder(&directory.join(name))
}

/// An installation with an authority, servers and clients.
struct Lab {
    folder: tempfile::TempDir,
    pki: Pki,
    stop: CancellationToken,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        Self { folder, pki, stop: CancellationToken::new() }
    }

    fn identity(&self, name: &str) -> Identity {
        self.pki.ensure_leaf(name).expect("issued");
        Identity::load(config(self.folder.path(), name)).expect("loaded")
    }

    fn authority(&self) -> Authority {
        self.pki.authority().expect("created")
    }

    /// A server that offers only health, and refuses the rest.
    async fn serve(&self, server: Identity) -> SocketAddr {
        let health = Health::default();
        health.required("test").ready();
        self.serve_with(server, health).await
    }

    async fn serve_with(&self, server: Identity, health: Health) -> SocketAddr {
        let listener = service::bind(([127, 0, 0, 1], 0).into()).await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(grpc::serve(listener, server, &[], Routes::default(), 20, health, self.stop.clone()));
        address
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
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

/// A client that sends whatever certificate it is given, and trusts our authority.
fn raw_client(trusts: &str, leaf: Option<&Leaf>, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusts.as_bytes()).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .expect("certificates");
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Whether the server continues after the handshake: it sends its HTTP/2 settings only to those it serves.
async fn is_served(address: SocketAddr, config: impl Into<Arc<ClientConfig>>) -> bool {
    let exchange = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("order").expect("a name");
        let mut tls = TlsConnector::from(config.into()).connect(name, tcp).await?;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        tls.flush().await?;
        // A frame's head: length, then type 4, SETTINGS.
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head[3] == 4)
    };
    matches!(tokio::time::timeout(Duration::from_secs(10), exchange).await, Ok(Ok(true)))
}

/// A good certificate that an authority has signed which ours has signed, and both of them: the library alone takes it.
fn by_intermediate(intermediate: &Leaf, trusted: &str) -> Leaf {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "gateway");
    let key = rcgen::KeyPair::from_pem(&intermediate.key).expect("a key");
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["gateway".to_owned()]).expect("a name");
    let uri = "spiffe://holdfast.internal/gateway".try_into().expect("a URI");
    parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.signed_by(&key, &issuer).expect("signed").pem();

    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(der(trusted)).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .expect("a verifier")
        .verify_client_cert(&der(&certificate), &[der(&intermediate.certificate)], UnixTime::now())
        .expect("the library takes it");
    Leaf { certificate: certificate + &intermediate.certificate, key: key.serialize_pem() }
}

/// Everything that is wrong with a client's certificate is refused by the server; the same client with a good
/// certificate is served.
#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_client_certificate_is_refused() {
    let lab = Lab::new();
    let address = lab.serve(lab.identity("order")).await;
    let authority = lab.authority();
    let ours = authority.certificate().to_owned();
    let good = LeafRequest::service("gateway", HOUR);
    let make = |change: &dyn Fn(&mut LeafRequest)| {
        let mut request = good.clone();
        change(&mut request);
        authority.leaf(&request).expect("created")
    };

    let served = make(&|_| {});
    assert!(is_served(address, raw_client(&ours, Some(&served), b"h2")).await, "a good one is served");
    let foreign = Authority::generate(HOUR).expect("created").leaf(&good).expect("created");
    let self_signed = {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(vec!["gateway".to_owned()]).expect("a name");
        let uri = "spiffe://holdfast.internal/gateway".try_into().expect("a URI");
        parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
        let certificate = parameters.self_signed(&key).expect("signed").pem();
        Leaf { certificate, key: key.serialize_pem() }
    };
    let ca_key = fs::read_to_string(lab.folder.path().join("ca.key")).expect("there");
    let by_intermediate = by_intermediate(&make(&|leaf| leaf.kind = Kind::Authority), &ours);
    let wrong = [
        ("none", None),
        ("expired", Some(make(&|leaf| leaf.valid_until = time::Duration::seconds(-60)))),
        ("not yet valid", Some(make(&|leaf| leaf.valid_from = time::Duration::minutes(30)))),
        ("of another authority", Some(foreign)),
        ("self-signed", Some(self_signed)),
        ("of an intermediate authority", Some(by_intermediate)),
        ("the authority's own", Some(Leaf { certificate: ours.clone(), key: ca_key })),
        ("an authority's as a leaf", Some(make(&|leaf| leaf.kind = Kind::Authority))),
        ("without a URI name", Some(make(&|leaf| leaf.uris.clear()))),
        (
            "with two URI names",
            Some(make(&|leaf| leaf.uris.push("spiffe://holdfast.internal/operator".to_owned()))),
        ),
        (
            "of another trust domain",
            Some(make(&|leaf| leaf.uris = vec!["spiffe://holdfast.example/gateway".to_owned()])),
        ),
        ("for servers only", Some(make(&|leaf| leaf.usages = vec![Usage::Server]))),
    ];
    for (what, leaf) in wrong {
        assert!(!is_served(address, raw_client(&ours, leaf.as_ref(), b"h2")).await, "{what}");
    }
    assert!(!is_served(address, raw_client(&ours, Some(&served), b"http/1.1")).await, "HTTP/1.1");
    let mut without_alpn = raw_client(&ours, Some(&served), b"h2");
    without_alpn.alpn_protocols.clear();
    assert!(!is_served(address, without_alpn).await, "no protocol named");
    assert!(is_served(address, raw_client(&ours, Some(&served), b"h2")).await, "others are not held up");
}

/// A client refuses a server whose certificate is not valid or is for another name.
#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_server_certificate_is_refused() {
    let lab = Lab::new();
    let gateway = lab.identity("gateway");
    let order = lab.serve(lab.identity("order")).await;
    check(destination(order, "order", &gateway)).await.expect("a good one is called");
    let refused = check(destination(order, "payment", &gateway)).await.expect_err("another name");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let other = Lab::new();
    let foreign = other.serve(other.identity("order")).await;
    let refused = check(destination(foreign, "order", &gateway)).await.expect_err("another authority");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let authority = lab.authority();
    let good = LeafRequest::service("order", HOUR);
    for (what, request) in [
        ("expired", LeafRequest { valid_until: time::Duration::seconds(-60), ..good.clone() }),
        ("for clients only", LeafRequest { usages: vec![Usage::Client], ..good.clone() }),
        ("without an identity", LeafRequest { uris: Vec::new(), ..good.clone() }),
    ] {
        let leaf = authority.leaf(&request).expect("created");
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        server.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // The client ends it, at the latest at its deadline.
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let mut all = Vec::new();
                    let _ = tls.read_to_end(&mut all).await;
                }
            }
        });
        let refused = check(destination(address, "order", &gateway)).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unavailable, "{what}: {refused}");
        let text = refused.message();
        assert!(text.contains("certificate") || text.contains("URI"), "{what}: {refused}");
    }
}

/// Without TLS, with an old version of TLS, with silence or garbage nothing is served, and others are not held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_or_plain_connection_holds_nobody_up() {
    let lab = Lab::new();
    let address = lab.serve(lab.identity("order")).await;
    let _silent = TcpStream::connect(address).await.expect("connected");
    // A ClientHello of TLS 1.2: record head, handshake head, version, random, no session, one cipher suite.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    for bytes in [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), hello, vec![0; 4096]] {
        let mut plain = TcpStream::connect(address).await.expect("connected");
        plain.write_all(&bytes).await.expect("sent");
        let mut answer = Vec::new();
        // It ends, with at most a TLS alert (first byte 21).
        let _ = plain.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    }
    check(destination(address, "order", &lab.identity("gateway"))).await.expect("served");
}

/// A client that opens streams and resets them at once, faster than they are accepted, loses its connection (pitfalls
/// P36).
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_its_connection() {
    const GOAWAY: u8 = 7;
    let lab = Lab::new();
    let address = lab.serve(lab.identity("order")).await;
    let authority = lab.authority();
    let leaf = authority.leaf(&LeafRequest::service("gateway", HOUR)).expect("created");
    let tls = TlsConnector::from(Arc::new(raw_client(authority.certificate(), Some(&leaf), b"h2")));
    let tcp = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("order").expect("a name");
    let mut tls = tls.connect(name, tcp).await.expect("served");

    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..400_u32).step_by(2) {
        // HEADERS with END_HEADERS: POST, https, "/" and authority "a", by HPACK's static table.
        flood.extend([0, 0, 6, 1, 4]);
        flood.extend(stream.to_be_bytes());
        flood.extend([0x83, 0x87, 0x84, 0x41, 1, b'a']);
        // RST_STREAM with CANCEL.
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(stream.to_be_bytes());
        flood.extend(8_u32.to_be_bytes());
    }
    tls.write_all(&flood).await.expect("sent");
    tls.flush().await.expect("sent");
    let goes_away = async {
        loop {
            let mut head = [0; 9];
            tls.read_exact(&mut head).await.expect("it says goodbye first");
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            tls.read_exact(&mut payload).await.expect("a whole frame");
            if head[3] == GOAWAY {
                // The last stream, then the error code: ENHANCE_YOUR_CALM.
                return payload[4..8] == 11_u32.to_be_bytes();
            }
        }
    };
    let calmed = tokio::time::timeout(Duration::from_secs(10), goes_away).await;
    assert!(calmed.expect("it ends the connection"), "for the flood");
    check(destination(address, "order", &lab.identity("gateway"))).await.expect("others are served");
}

/// A call that the table does not allow is refused, even to a proven identity.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_does_not_allow_is_refused() {
    let lab = Lab::new();
    let address = lab.serve(lab.identity("order")).await;
    let mut client = tonic::client::Grpc::new(destination(address, "order", &lab.identity("gateway")));
    client.ready().await.expect("always");
    let path = http::uri::PathAndQuery::from_static("/holdfast.order.v1.OrderService/CreateOrder");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckRequest>::default();
    let refused = client.unary(tonic::Request::new(HealthCheckRequest::default()), path, codec).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
}

/// A revoked certificate is refused in the handshake, and ends the connections that were open before.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_on_open_connections_too() {
    let lab = Lab::new();
    let (server, thief) = (lab.identity("order"), lab.identity("gateway"));
    let address = lab.serve(server.clone()).await;
    let open = destination(address, "order", &thief);
    check(open.clone()).await.expect("served before");
    lab.pki.revoke("gateway", "stolen").expect("revoked");
    assert_eq!(server.reload().expect("readable"), Reload::Swapped);
    // The thief keeps using what was stolen: on the open connection, and on new ones.
    check(open.clone()).await.expect_err("the open connection has ended");
    check(open).await.expect_err("and no new one is made");
    check(destination(address, "order", &thief)).await.expect_err("by nobody");
    check(destination(address, "order", &lab.identity("gateway"))).await.expect("the new one is served");
    // The other way round: a server whose certificate is revoked is no longer called.
    let gateway = lab.identity("gateway");
    let open = destination(address, "order", &gateway);
    check(open.clone()).await.expect("called before");
    lab.pki.revoke("order", "stolen").expect("revoked");
    assert_eq!(gateway.reload().expect("readable"), Reload::Swapped);
    check(open.clone()).await.expect_err("the open connection has ended");
    check(open).await.expect_err("and no new one is made");
}

/// New connections use new files; incomplete, foreign and broken ones are refused, the old ones stay in use, and the
/// next good ones are taken.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_while_in_use() {
    let lab = Lab::new();
    let server = lab.identity("order");
    let address = lab.serve(server.clone()).await;
    let gateway = lab.identity("gateway");
    assert_eq!(server.reload().expect("readable"), Reload::Unchanged);
    lab.pki.issue("order", LEAF_LIFE_MAX).expect("issued");
    assert_eq!(server.reload().expect("readable"), Reload::Swapped);
    check(destination(address, "order", &gateway)).await.expect("served with the new one");

    let authority = lab.authority();
    let leaf = |life| authority.leaf(&LeafRequest::service("order", life)).expect("created").certificate;
    let foreign = Authority::generate(HOUR).expect("created");
    let certificate = lab.folder.path().join("order/tls.crt");
    let good = fs::read(&certificate).expect("there");
    let bundle = lab.folder.path().join("order/ca.crt");
    let good_bundle = fs::read(&bundle).expect("there");
    for (what, path, bad) in [
        ("cut short", &certificate, good[..good.len() / 2].to_vec()),
        ("another key's", &certificate, leaf(HOUR).into_bytes()),
        ("expired", &certificate, leaf(time::Duration::seconds(-60)).into_bytes()),
        ("the authority's own", &certificate, authority.certificate().as_bytes().to_vec()),
        ("empty", &certificate, Vec::new()),
        ("another authority", &bundle, foreign.certificate().as_bytes().to_vec()),
        ("no authority", &bundle, Vec::new()),
        ("binary", &bundle, vec![0xff; 64]),
    ] {
        let before = fs::read(path).expect("there");
        fs::write(path, bad).expect("written");
        assert!(server.reload().is_err(), "{what}");
        check(destination(address, "order", &gateway)).await.expect("served with the old one");
        fs::write(path, before).expect("written");
        assert_eq!(server.reload().expect("readable"), Reload::Unchanged, "{what}");
    }
    assert_eq!(fs::read(&bundle).expect("there"), good_bundle);
    lab.pki.issue("order", LEAF_LIFE_MAX).expect("issued");
    assert_eq!(server.reload().expect("readable"), Reload::Swapped, "the next good one is taken");
}

/// Gives an identity a leaf that expires soon.
fn expires_soon(lab: &Lab, name: &str, identity: &Identity) {
    let request = LeafRequest { valid_until: time::Duration::seconds(6), ..LeafRequest::service(name, HOUR) };
    let leaf = lab.authority().leaf(&request).expect("created");
    let folder = lab.folder.path().join(name);
    fs::write(folder.join("tls.crt"), leaf.certificate).expect("written");
    fs::write(folder.join("tls.key"), leaf.key).expect("written");
    assert_eq!(identity.reload().expect("readable"), Reload::Swapped);
}

/// A certificate that expires while it is in use is refused at the next connection, whichever end it is of, and also by a peer that
/// has talked to it before: no session is resumed without looking at the certificate again.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_by_those_who_know_it() {
    for expiring in ["order", "gateway"] {
        let lab = Lab::new();
        let (server, client) = (lab.identity("order"), lab.identity("gateway"));
        expires_soon(&lab, expiring, if expiring == "order" { &server } else { &client });
        let (address, config) = (lab.serve(server).await, client.client_config());
        assert!(is_served(address, config.clone()).await, "{expiring}: it is valid");
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(!is_served(address, config).await, "{expiring}: it has expired");
    }
}

/// A channel outlives the certificate that it began with: it connects again with the one in use then (pitfalls P29).
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_connects_again_with_the_certificate_in_use() {
    let lab = Lab::new();
    let (server, gateway) = (lab.identity("order"), lab.identity("gateway"));
    let channel = destination(lab.serve(server.clone()).await, "order", &gateway);
    check(channel.clone()).await.expect("served before");
    lab.pki.revoke("gateway", "renewed").expect("revoked");
    assert_eq!(gateway.reload().expect("readable"), Reload::Swapped);
    assert_eq!(server.reload().expect("readable"), Reload::Swapped);
    check(channel.clone()).await.expect_err("the open connection has ended");
    // Connections that are refused open the breaker, which closes within two seconds.
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while check(channel.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < until, "still refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kubernetes and Vault agents swap a symbolic link instead of writing files: every swap is seen, not only the first.
#[tokio::test(flavor = "multi_thread")]
async fn every_symlink_swap_is_seen() {
    let lab = Lab::new();
    lab.pki.ensure_leaf("order").expect("issued");
    let mount = lab.folder.path().join("mount");
    fs::create_dir(&mount).expect("created");
    let publish = |number: usize| {
        let version = mount.join(format!("..version-{number}"));
        fs::create_dir(&version).expect("created");
        for file in ["tls.crt", "tls.key", "ca.crt", "revoked"] {
            fs::copy(lab.folder.path().join("order").join(file), version.join(file)).expect("copied");
        }
        let draft = mount.join("..data.draft");
        symlink(&version, &draft).expect("linked");
        fs::rename(&draft, mount.join("..data")).expect("swapped");
    };
    publish(0);
    let file = |name: &str| -> PathBuf { mount.join("..data").join(name) };
    let identity = Identity::load(IdentityConfig {
        certificate: file("tls.crt"),
        key: file("tls.key"),
        trust_bundle: file("ca.crt"),
        deny_list: Some(file("revoked")),
    })
    .expect("loaded");
    for number in 1..=5 {
        lab.pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        publish(number);
        assert_eq!(identity.reload().expect("readable"), Reload::Swapped, "swap {number}");
        assert_eq!(identity.reload().expect("readable"), Reload::Unchanged);
    }
}

/// Silent peers don't keep a good one waiting, even if there are more of them than places for handshakes, from the same
/// address.
#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_keep_nobody_waiting() {
    const SILENT: usize = 400;
    let lab = Lab::new();
    let address = lab.serve(lab.identity("order")).await;
    let authority = lab.authority();
    let ours = authority.certificate().to_owned();
    let leaf = authority.leaf(&LeafRequest::service("gateway", HOUR)).expect("created");
    let handshakes = async || {
        let mut times = Vec::new();
        for _ in 0..21 {
            let begin = tokio::time::Instant::now();
            assert!(is_served(address, raw_client(&ours, Some(&leaf), b"h2")).await, "served");
            times.push(begin.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    let alone = handshakes().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(address).await.expect("connected"));
    }
    let beside = handshakes().await;
    eprintln!(
        "a handshake takes {alone:.1?} alone and {beside:.1?} beside {SILENT} silent peers (medians of 21)"
    );
    // If handshakes were served in order, it would take the time limit of one, 1.5 s.
    assert!(beside < alone * 20 + Duration::from_millis(100), "{alone:?} {beside:?}");
}

/// gRPC health agrees with `/readyz`, whether a part is away that callers need, or only one that they don't need now.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_says_whether_it_can_serve() {
    let lab = Lab::new();
    let health = Health::default();
    let (database, kafka) = (health.required("database"), health.component("kafka"));
    let address = lab.serve_with(lab.identity("order"), health).await;
    let caller = destination(address, "order", &lab.identity("gateway"));
    let says = async |expected: ServingStatus| {
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let request = Deadline::after(Duration::from_secs(5))
                .request(HealthCheckRequest::default())
                .expect("time is left");
            let answer =
                HealthClient::new(caller.clone()).check(request).await.expect("answered").into_inner();
            if answer.status() == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "it says {answer:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    says(ServingStatus::NotServing).await;
    database.ready();
    kafka.waiting("connection refused");
    says(ServingStatus::Serving).await;
    database.waiting("connection refused");
    says(ServingStatus::NotServing).await;
}

/// Certificate and key may be in one file, in either order, as some that issue them write it: it is replaced in one step.
#[tokio::test]
async fn certificate_and_key_may_be_one_file() {
    let lab = Lab::new();
    lab.identity("order");
    let separate = config(lab.folder.path(), "order");
    let one = lab.folder.path().join("one.pem");
    let bundle = |files: [&Path; 2]| {
        let draft = lab.folder.path().join("draft");
        let content = files.map(|file| fs::read_to_string(file).expect("read")).concat();
        fs::write(&draft, content).expect("written");
        fs::rename(&draft, &one).expect("replaced");
    };
    bundle([&separate.certificate, &separate.key]);
    let together = IdentityConfig { certificate: one.clone(), key: one.clone(), ..separate.clone() };
    let identity = Identity::load(together).expect("loaded");
    assert_eq!(identity.reload().expect("read"), Reload::Unchanged);
    lab.pki.issue("order", LEAF_LIFE_MAX).expect("issued");
    bundle([&separate.key, &separate.certificate]);
    assert_eq!(identity.reload().expect("read"), Reload::Swapped);
    let address = lab.serve(identity).await;
    check(destination(address, "order", &lab.identity("gateway"))).await.expect("served");
}
