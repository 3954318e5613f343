//! What works the network: a peer on the host, behind the gateway of the guest's network.
//!
//! The peer's address comes on the kernel's command line, `ambos.peer=ADDRESS:PORT`. It reads one
//! byte that says what it is to do: `e` to send back every byte that comes, `s` to send for ever.

use crate::bench::{Bench, Failure, refused};
use crate::{memory, sys};

const INTERNET: u16 = 2;
const STREAM: usize = 1;
const TCP: usize = 6;
const NO_DELAY: usize = 1;

/// Connects to the peer and tells it what to do.
fn connect(order: u8) -> Result<usize, Failure> {
    let mut command_line = [0; 4096];
    let peer = peer(&mut command_line).ok_or(Failure::Skipped("the guest has no network"))?;
    let socket =
        sys::call3(sys::SOCKET, INTERNET.into(), STREAM, 0).map_err(refused("socket"))?;
    let on = 1i32;
    let _ = sys::call(sys::SETSOCKOPT, [socket, TCP, NO_DELAY, (&raw const on) as usize, 4, 0]);
    sys::call3(sys::CONNECT, socket, peer.as_ptr() as usize, peer.len())
        .map_err(refused("connecting to the host"))?;
    sys::call3(sys::WRITE, socket, (&raw const order) as usize, 1).map_err(refused("sending"))?;
    Ok(socket)
}

/// The socket address of the peer, as the kernel wants it.
fn peer(buffer: &mut [u8; 4096]) -> Option<[u8; 16]> {
    let path = sys::CString::new("/proc/cmdline");
    let file = sys::call3(sys::OPEN, path.address(), 0, 0).ok()?;
    let length = sys::call3(sys::READ, file, buffer.as_mut_ptr() as usize, buffer.len());
    let _ = sys::call3(sys::CLOSE, file, 0, 0);
    let text = core::str::from_utf8(buffer.get(..length.ok()?)?).ok()?;
    let peer = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("ambos.peer="))?;
    let (address, port) = peer.split_once(':')?;
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&INTERNET.to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.parse::<u16>().ok()?.to_be_bytes());
    for (byte, number) in bytes[4..8].iter_mut().zip(address.split('.')) {
        *byte = number.parse().ok()?;
    }
    Some(bytes)
}

/// Receives as fast as it can. One operation is one byte.
pub(crate) fn throughput(bench: &mut Bench) -> Result<(), Failure> {
    const BUFFER: usize = 1 << 16;
    let socket = connect(b's')?;
    let buffer = memory::map(BUFFER)?;
    bench.measure(|| match sys::call3(sys::READ, socket, buffer, BUFFER) {
        Ok(0) => Err(Failure::Skipped("the host has closed the connection")),
        result => Ok(result.map_err(refused("receiving"))? as u64),
    })
}

/// Sends one byte and waits for one. One operation is one such round trip.
pub(crate) fn request(bench: &mut Bench) -> Result<(), Failure> {
    let socket = connect(b'e')?;
    let mut byte = 0u8;
    let address = (&raw mut byte) as usize;
    bench.measure(|| {
        sys::call3(sys::WRITE, socket, address, 1).map_err(refused("sending"))?;
        match sys::call3(sys::READ, socket, address, 1) {
            Ok(1) => Ok(1),
            Ok(_) => Err(Failure::Skipped("the host has closed the connection")),
            Err(error) => Err(Failure::System("receiving", error)),
        }
    })
}
