//! Both ends of virtio sockets, to try them with.

use crate::{output, sys};

const VSOCK: u16 = 40;
const STREAM: usize = 1;
/// The host's address, and the one that means any of the guest's.
const HOST: u32 = 2;
const ANY: u32 = u32::MAX;
/// Bytes that are moved at a time.
const PIECE: usize = 16 << 10;

/// A socket address, as the kernel wants it.
fn address(port: u32, cid: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&VSOCK.to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes[8..12].copy_from_slice(&cid.to_ne_bytes());
    bytes
}

/// Sends back what the first connection to `port` sends. Returns the exit status.
pub(crate) fn echo(port: u32) -> i32 {
    let done = || {
        let place = address(port, ANY);
        let socket = sys::call3(sys::SOCKET, VSOCK.into(), STREAM, 0)?;
        sys::call3(sys::BIND, socket, place.as_ptr() as usize, place.len())?;
        sys::call3(sys::LISTEN, socket, 1, 0)?;
        output::line(&["listening"]);
        let peer = sys::call3(sys::ACCEPT, socket, 0, 0)?;
        let mut buffer = [0; PIECE];
        loop {
            match sys::call3(sys::READ, peer, buffer.as_mut_ptr() as usize, PIECE)? {
                0 => return Ok(()),
                length => write_all(peer, buffer.get(..length).unwrap_or(&[]))?,
            }
        }
    };
    finish(done())
}

/// Sends `bytes` bytes to `port` of the host, and checks that they come back. Returns the exit
/// status.
pub(crate) fn ask(port: u32, bytes: usize) -> i32 {
    let done = || {
        let place = address(port, HOST);
        let socket = sys::call3(sys::SOCKET, VSOCK.into(), STREAM, 0)?;
        sys::call3(sys::CONNECT, socket, place.as_ptr() as usize, place.len())?;
        let mut left = bytes;
        while left > 0 {
            let length = left.min(PIECE);
            let mut piece = [0u8; PIECE];
            for (index, byte) in piece.iter_mut().enumerate() {
                *byte = (left.wrapping_mul(31) ^ index) as u8;
            }
            let (sent, mut back) = (piece.get(..length).unwrap_or(&[]), [0u8; PIECE]);
            write_all(socket, sent)?;
            let mut got = 0;
            while got < length {
                let place = back.as_mut_ptr() as usize + got;
                match sys::call3(sys::READ, socket, place, length - got)? {
                    0 => return Err(0),
                    count => got += count,
                }
            }
            if back.get(..length) != Some(sent) {
                return Err(0);
            }
            left -= length;
        }
        output::line(&["same"]);
        Ok(())
    };
    finish(done())
}

fn write_all(socket: usize, mut bytes: &[u8]) -> Result<(), sys::Errno> {
    while !bytes.is_empty() {
        let count = sys::call3(sys::WRITE, socket, bytes.as_ptr() as usize, bytes.len())?;
        bytes = bytes.get(count..).unwrap_or(&[]);
    }
    Ok(())
}

fn finish(result: Result<(), sys::Errno>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            let mut digits = output::Digits::default();
            output::line(&["error ", digits.of(error.unsigned_abs().into())]);
            1
        }
    }
}
