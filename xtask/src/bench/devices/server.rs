//! Who the guest downloads from: a server on the host's loopback address that times its answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of an answer.
pub(super) const LENGTH: usize = 64_000_000;

/// What has an answer without content.
const NOTHING: &str = "/nothing";

/// A server of HTTP. Its thread ends with the process.
pub(super) struct Server {
    port: u16,
    seconds: Arc<Mutex<Vec<f64>>>,
}

impl Server {
    /// Starts to listen at a free port.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let seconds = Arc::new(Mutex::new(Vec::new()));
        let times = Arc::clone(&seconds);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A download that breaks off is not among the times.
                if let Ok(Some(seconds)) = answer(stream) {
                    times.lock().unwrap_or_else(PoisonError::into_inner).push(seconds);
                }
            }
        });
        Ok(Self { port, seconds })
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Seconds that each answer took since this was last called.
    pub(super) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.seconds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers a request; seconds from its arrival until the client, who has everything then, hangs up. `None`
/// if the client asked for [`NOTHING`].
fn answer(mut stream: TcpStream) -> io::Result<Option<f64>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let start = Instant::now();
    let nothing = first.contains(NOTHING);
    let length = if nothing { 0 } else { LENGTH };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    let piece = vec![0x5a; 1 << 20];
    let mut rest = length;
    while rest > 0 {
        let next = rest.min(piece.len());
        stream.write_all(&piece[..next])?;
        rest -= next;
    }
    while reader.read(&mut [0; 64])? > 0 {}
    Ok((!nothing).then(|| start.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_timed() {
        let server = Server::start().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\nHost: here\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let body = io::copy(&mut (&mut reader).take(LENGTH as u64), &mut io::sink()).unwrap();
        assert_eq!(body, LENGTH as u64);
        assert!(server.take().is_empty(), "the client has not hung up");
    }
}
