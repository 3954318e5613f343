//! Who the guest's network workloads talk to: a server on the host's loopback address.
//!
//! A connection's first byte says what to do: `e` to send back every byte, `s` to send for ever.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// The server. Its threads end with the process or with their connections.
pub(crate) struct Peer {
    port: u16,
}

impl Peer {
    /// Starts to listen at a free port.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::Builder::new().name("network peer".to_owned()).spawn(move || {
            for connection in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    // A connection ends with an error when the guest is done with it.
                    let _ = serve(connection);
                });
            }
        })?;
        Ok(Self { port })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut order = [0];
    connection.read_exact(&mut order)?;
    let mut buffer = vec![0x5a; 1 << 16];
    match order {
        [b'e'] => loop {
            let length = connection.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            connection.write_all(&buffer[..length])?;
        },
        [b's'] => loop {
            connection.write_all(&buffer)?;
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_echoes_and_sends() {
        let peer = Peer::start().unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port())).unwrap();
        let mut echo = connect();
        echo.write_all(b"ehello").unwrap();
        let mut reply = [0; 5];
        echo.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"hello");
        let mut source = connect();
        source.write_all(b"s").unwrap();
        let mut bytes = vec![0; 200_000];
        source.read_exact(&mut bytes).unwrap();
        let mut nonsense = connect();
        nonsense.write_all(b"x").unwrap();
        assert_eq!(nonsense.read(&mut bytes).unwrap(), 0);
    }
}
