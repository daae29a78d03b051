//! A gateway that is told to stop while clients are stuck.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep},
};

use super::sockets;
use crate::{
    edge::Edge,
    gateway::{SHIPPED, Server},
    http::{self, exchange},
};

const STUCK: u8 = 20;

pub(crate) async fn measure(edge: &Edge) -> Result<()> {
    let mut server = Server::gateway(&edge.world.stack.layout, SHIPPED).await?;
    let user = edge.user("stopping").await?;
    let order = edge.order(&user).await?;
    let (mut stuck, mut trickling) = (Vec::new(), Vec::new());
    for number in 0..STUCK {
        stuck.push(sockets::unread_answers(&server, Ipv4Addr::new(127, 0, 9, 10 + number)).await?);
        stuck.push(server.connect(Ipv4Addr::new(127, 0, 9, 60 + number)).await?);
        let token = edge.token(&format!("stuck-{number}"))?;
        stuck.push(sockets::unread_stream(&server, Ipv4Addr::new(127, 0, 9, 110 + number), &token).await?);
        let mut slow = server.connect(Ipv4Addr::new(127, 0, 9, 160 + number)).await?;
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await?;
        trickling.push(slow);
    }
    sleep(Duration::from_secs(1)).await;
    // An honest client asks until its connection ends.
    let mut honest = server.connect(Ipv4Addr::new(127, 0, 1, 200)).await?;
    let request = http::get(&format!("/api/orders/{order}"), &user.token);
    exchange(&mut honest, &request).await?;
    let told = Instant::now();
    kill(Pid::from_raw(i32::try_from(server.pid())?), Signal::SIGTERM)?;
    let last = exchange(&mut honest, &request).await.context("the request on its way is answered")?;
    let answered = told.elapsed();
    let trickle = tokio::spawn(async move {
        while !trickling.is_empty() {
            for slow in &mut trickling {
                let _ = slow.write_all(b"x").await;
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    let ended = tokio::time::timeout(Duration::from_secs(20), server.process.wait()).await;
    let took = told.elapsed();
    trickle.abort();
    drop(stuck);
    let is_met =
        ended.is_ok() && last.status == 200 && took.saturating_sub(answered) <= Duration::from_millis(2_500);
    println!(
        "| SIGTERM with {} stuck clients | ended after {:.1} s; the request on its way was {} after {:.0} ms | | | 2 s | {} |",
        u32::from(STUCK) * 4,
        took.as_secs_f64(),
        last.status,
        answered.as_secs_f64() * 1e3,
        if is_met { "met" } else { "**missed**" },
    );
    Ok(())
}
