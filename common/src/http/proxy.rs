//! The PROXY protocol, versions 1 and 2: with it a proxy that only passes bytes on says, before the first of them, whose they are.
//!
//! It is read from trusted proxies only, and then it must be there: if it could be left out, a client could say it itself. So
//! nothing here guesses; what is not exactly a header ends the connection. Its extensions (TLVs) are not looked at.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A header of version 2 begins with these bytes. One of version 1 is longer.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// After signature, command, family and length: the addresses and extensions that fit with them into one segment of any network
/// (536 bytes), which is what the protocol asks of proxies.
const CONTENT_BYTES_MAX: usize = 536 - SIGNATURE.len() - 4;

/// Reads a header, and not a byte more: what follows is the client's. Returns the client's address; `None` if the proxy speaks for
/// itself (`LOCAL`), or does not know (`UNKNOWN`).
pub(super) async fn read_header<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; SIGNATURE.len()];
    io.read_exact(&mut start).await?;
    if start != *SIGNATURE {
        return read_line(io, &start).await;
    }
    let mut fixed = [0; 4];
    io.read_exact(&mut fixed).await?;
    let [command, family, length @ ..] = fixed;
    let mut content = vec![0; usize::from(u16::from_be_bytes(length))];
    if content.len() > CONTENT_BYTES_MAX {
        return Err(refused("is too long"));
    }
    io.read_exact(&mut content).await?;
    match command {
        0x20 => Ok(None),
        0x21 => of_family(family, &content),
        _ => Err(refused("has an unknown version or command")),
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the PROXY header {why}"))
}

/// The source in the addresses of version 2: source, destination, and their ports.
fn of_family(family: u8, content: &[u8]) -> io::Result<Option<SocketAddr>> {
    let source = |address: Option<IpAddr>, port_at: usize| {
        let port = content.get(port_at..port_at + 2).and_then(|bytes| bytes.try_into().ok());
        // Both ports must be there.
        let whole = content.len() >= port_at + 4;
        address.zip(port).filter(|_| whole).map(|(address, port)| (address, u16::from_be_bytes(port)).into())
    };
    let found = match family {
        // Unspecified, or of this machine's own sockets: no address that could be counted.
        0x00 | 0x31 => return Ok(None),
        0x11 => source(content.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()), 8),
        0x21 => source(content.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()), 32),
        _ => return Err(refused("has an unknown family")),
    };
    found.map(Some).ok_or_else(|| refused("ends within its addresses"))
}

/// The rest of a line of version 1. Byte by byte: only its end says where the client's bytes begin.
async fn read_line<R: AsyncRead + Unpin>(io: &mut R, start: &[u8]) -> io::Result<Option<SocketAddr>> {
    if !start.starts_with(b"PROXY ") {
        return Err(refused("is missing"));
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX {
            return Err(refused("is too long"));
        }
        line.push(io.read_u8().await?);
    }
    let text = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| refused("is not text"))?;
    let source = match text.split(' ').collect::<Vec<_>>()[..] {
        ["PROXY", "UNKNOWN", ..] => return Ok(None),
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            of_text::<Ipv4Addr>([from, to], [from_port, to_port])
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            of_text::<Ipv6Addr>([from, to], [from_port, to_port])
        }
        _ => None,
    };
    source.map(Some).ok_or_else(|| refused("cannot be read"))
}

/// The source of a line, if its destination can be read too.
fn of_text<A: FromStr + Into<IpAddr>>([from, to]: [&str; 2], ports: [&str; 2]) -> Option<SocketAddr> {
    let address = from.parse::<A>().ok()?;
    to.parse::<A>().ok()?;
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain)
    };
    let [port, _] = [number(ports[0])?, number(ports[1])?];
    Some(SocketAddr::new(address.into(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a header says, and what of `bytes` is left behind it.
    fn read(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome = runtime.block_on(read_header(&mut rest));
        (outcome, rest.to_vec())
    }

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("short");
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), content].concat()
    }

    fn addresses(source: SocketAddr) -> Vec<u8> {
        let (port, destination) = (source.port().to_be_bytes(), 443_u16.to_be_bytes());
        match source.ip() {
            IpAddr::V4(ip) => [&ip.octets()[..], &[127, 0, 0, 1], &port, &destination].concat(),
            IpAddr::V6(ip) => [&ip.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &port, &destination].concat(),
        }
    }

    fn said(bytes: &[u8]) -> String {
        match read(bytes).0 {
            Ok(Some(address)) => address.to_string(),
            Ok(None) => "nobody".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// A line of version 1 says its source; one that is not exactly as it should be says nothing.
    #[test]
    fn a_line_is_read() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "192.0.2.7:4711"),
            ("PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "[2001:db8::7]:4711"),
            ("PROXY UNKNOWN\r\n", "nobody"),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "nobody"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "the PROXY header is missing"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 1\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +4711 443\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 0443\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 192.0.2.07 10.0.0.1 4711 443\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4 2001:db8::7 ::1 4711 443\r\n", "the PROXY header cannot be read"),
            ("PROXY TCP4  192.0.2.7 10.0.0.1 4711 443\r\n", "the PROXY header cannot be read"),
            ("PROXY UDP4 192.0.2.7 10.0.0.1 4711 443\r\n", "the PROXY header cannot be read"),
            ("proxy TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "the PROXY header is missing"),
        ] {
            assert_eq!(said(line.as_bytes()), expected, "{line}");
        }
        let long = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16));
        assert_eq!(said(long(LINE_BYTES_MAX).as_bytes()), "nobody");
        assert_eq!(said(long(LINE_BYTES_MAX + 1).as_bytes()), "the PROXY header is too long");
        assert_eq!(read(b"PROXY TCP4").0.expect_err("cut off").kind(), io::ErrorKind::UnexpectedEof);
    }

    /// So do the bytes of version 2, whatever extensions follow the addresses.
    #[test]
    fn bytes_are_read() {
        let source: SocketAddr = "192.0.2.7:4711".parse().expect("an address");
        let content = addresses(source);
        let with_extension = [&content[..], &[4, 0, 2, 9, 9]].concat();
        for (bytes, expected) in [
            (binary(0x21, 0x11, &content), "192.0.2.7:4711"),
            (binary(0x21, 0x11, &with_extension), "192.0.2.7:4711"),
            (binary(0x20, 0x11, &content), "nobody"),
            (binary(0x20, 0x00, &[]), "nobody"),
            (binary(0x21, 0x00, &[]), "nobody"),
            (binary(0x21, 0x11, &content[..11]), "the PROXY header ends within its addresses"),
            (binary(0x21, 0x21, &content), "the PROXY header ends within its addresses"),
            (binary(0x21, 0x12, &content), "the PROXY header has an unknown family"),
            (binary(0x22, 0x11, &content), "the PROXY header has an unknown version or command"),
            (binary(0x11, 0x11, &content), "the PROXY header has an unknown version or command"),
            (binary(0x20, 0x00, &[0; CONTENT_BYTES_MAX]), "nobody"),
            (binary(0x20, 0x00, &[0; CONTENT_BYTES_MAX + 1]), "the PROXY header is too long"),
        ] {
            assert_eq!(said(&bytes), expected, "{bytes:?}");
        }
    }

    /// Headers, whole or damaged, before which and after which anything may come.
    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            Just(SIGNATURE.to_vec()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(b"PROXY TCP6 ".to_vec()),
            Just(Vec::new()),
        ];
        (start, prop::collection::vec(any::<u8>(), 0..700)).prop_map(|(start, rest)| [start, rest].concat())
    }

    proptest! {
        /// Arbitrary bytes never panic, and no more of them is read than a header may have.
        #[test]
        fn arbitrary_bytes_are_survived(bytes in headers()) {
            let (_, rest) = read(&bytes);
            prop_assert!(bytes.len() - rest.len() <= 536);
        }

        /// What a proxy writes in either version is read as it was meant, up to its last byte and no further.
        #[test]
        fn what_is_written_is_read(ip in any::<IpAddr>(), port in any::<u16>(), request in prop::collection::vec(any::<u8>(), 0..40)) {
            let source = SocketAddr::new(ip, port);
            let (name, family, destination) = match ip {
                IpAddr::V4(_) => ("TCP4", 0x11, "10.0.0.1"),
                IpAddr::V6(_) => ("TCP6", 0x21, "::1"),
            };
            let line = format!("PROXY {name} {ip} {destination} {port} 443\r\n").into_bytes();
            for header in [line, binary(0x21, family, &addresses(source))] {
                let (outcome, rest) = read(&[header, request.clone()].concat());
                prop_assert_eq!(outcome.expect("a header"), Some(source));
                prop_assert_eq!(&rest, &request);
            }
        }
    }
}
