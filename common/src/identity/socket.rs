//! What both ends set on a connection.

use std::{io, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Data that nobody acknowledges for this long ends the connection. Without it the kernel retries for a quarter of an
/// hour when a peer's machine vanishes (pitfalls P28).
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(15);

pub(crate) fn tune(tcp: &TcpStream) -> io::Result<()> {
    // Small messages both ways; waiting to fill a segment would add a delayed acknowledgement to each call.
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The kernel does not wait for a quarter of an hour for the acknowledgements of a peer that is gone (pitfalls
    /// P28).
    #[tokio::test]
    async fn unacknowledged_data_has_a_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let tcp = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        tune(&tcp).expect("tuned");
        let limit = SockRef::from(&tcp).tcp_user_timeout().expect("asked");
        assert_eq!(limit, Some(UNACKNOWLEDGED_TIME_MAX));
    }
}
