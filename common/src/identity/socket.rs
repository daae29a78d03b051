//! What both ends set on a connection.

use std::{io, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Data that nobody acknowledges for this long ends the connection. Without it the kernel goes on for a quarter of an
/// hour when a peer's machine vanishes (pitfalls P28).
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(15);

pub(super) fn tune(tcp: &TcpStream) -> io::Result<()> {
    // Small messages both ways; waiting to fill a segment would add a delayed acknowledgement to each call.
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    Ok(())
}
