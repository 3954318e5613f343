//! Connections between a guest's virtio sockets and Unix sockets of the host.
//!
//! The names are Firecracker's convention. With the path `P`:
//!
//! - A guest that connects to port `n` of the host reaches whoever listens on the Unix socket `P_n`.
//! - A program of the host that connects to `P` and writes `CONNECT n` and a line feed reaches
//!   whoever listens on port `n` in the guest. It is answered `OK m` and a line feed, where `m` is
//!   the port that it has for the guest, or the connection ends.
//!
//! # Bounds
//!
//! Both sides hold each other back by credit (virtio 1.2, section 5.10.6.3): what a connection buffers
//! here is limited, and so are connections. A guest that sends more than it was allowed to loses the
//! connection.
//!
//! # Threads and locks
//!
//! [`UnixSockets`] waits for the host's sockets on a thread of its own. The device calls it with its
//! own lock held and is never made to wait but for a short lock, which is not held when
//! [`VsockPort::changed`] is called.

mod connection;
mod host;
mod hub;
mod packet;
#[cfg(test)]
mod tests;

pub use host::{SocketsError, UnixSockets};
pub use packet::{HEADER_LENGTH, Header};

/// The device as its back-end sees it.
pub trait VsockPort: Send + Sync {
    /// [`UnixSockets::receive`] may have something after it had nothing.
    fn changed(&self);
}
