//! Silent connections on a port that speaks gRPC, beside a peer that shakes hands.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use holdfast_common::{config::IdentityConfig, identity::Identity};
use holdfast_native::layout::{PARTICIPANTS, Replica};
use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{edge::Edge, honest::summary, row::phase};

/// Handshakes of a good peer alone, and beside each number of silent ones.
pub(crate) async fn measure(edge: &Edge) -> Result<()> {
    let layout = &edge.world.stack.layout;
    let participant = &PARTICIPANTS[0];
    let port = layout.grpc_port(Replica { participant, number: 0 });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let identity = Identity::load(IdentityConfig::in_folder(&layout.pki_dir().join("gateway")))?;
    for count in [0, 250, 500, 1_200] {
        let mut silent = Vec::new();
        for _ in 0..count {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 0, 9, 3), 0).into())?;
            // Those that do not fit wait in the backlog, which is a part of the attack.
            silent.push(timeout(Duration::from_secs(2), socket.connect(address)).await.ok());
        }
        let (begin, mut times, mut failed) = (Instant::now(), Vec::new(), 0);
        while begin.elapsed() < phase() / 2 {
            let started = Instant::now();
            let shaken =
                timeout(Duration::from_secs(10), shake_hands(address, &identity, participant.name)).await;
            times.push(started.elapsed());
            failed += usize::from(!matches!(shaken, Ok(Ok(()))));
            sleep(Duration::from_millis(20)).await;
        }
        let seen = summary(&mut times, failed);
        let verdict = if seen.failed == 0 && seen.p99_ms <= 100.0 { "met" } else { "**missed**" };
        println!(
            "| good gRPC handshake beside {count} silent connections | p50 {:.1}, p99 {:.1} ms, {failed} of {} failed | | | 100 ms | {verdict} |",
            seen.p50_ms, seen.p99_ms, seen.count
        );
    }
    Ok(())
}

async fn shake_hands(address: SocketAddr, identity: &Identity, name: &'static str) -> Result<()> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(identity.client_config()).connect(ServerName::try_from(name)?, tcp).await?;
    Ok(())
}
