//! A network of its own for one guest, with address translation in user space: the guest reaches what
//! the host reaches, and nobody reaches the guest but through ports that are forwarded.
//!
//! - `plan`: the addresses of the network, and what is behind them.
//! - `exchange`: where frames wait between the adapter and the stack's thread; `link`: frames and
//!   packets.
//! - `stack`: the thread, which looks at frames and sockets.
//! - `tcp`, on smoltcp, which ends the guest's connections; `udp`, `echo`.
//! - `dhcp`, `neighbors` (ARP, neighbour discovery, router advertisements), `resolver`.
//!
//! # What a guest can take
//!
//! Connections, pairs of endpoints and frames on their way have limits; what is beyond them is
//! refused or forgotten as networks do.

mod dhcp;
mod echo;
mod exchange;
mod link;
mod neighbors;
mod plan;
mod resolver;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use crate::offload::{Accepts, Offload};
use crate::{Full, MacAddress, NetBackend, NetPort, Received, Slice};
use exchange::Exchange;
use mio::net::{TcpListener, UdpSocket};
use mio::{Poll, Waker};
use stack::Stack;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use thiserror::Error;

/// What a forwarded port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// What it carries.
    pub protocol: Protocol,
    /// The host's address and port; port 0 takes a free one.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// How the network is made.
#[derive(Debug, Clone)]
pub struct UserOptions {
    /// The adapter's address.
    pub mac: MacAddress,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Ports that lead to the guest.
    pub forwards: Vec<Forward>,
}

impl UserOptions {
    /// The MTU of Ethernet, which is what guests expect.
    pub const MTU: u16 = 1500;
}

impl Default for UserOptions {
    fn default() -> Self {
        Self { mac: MacAddress::DEFAULT, mtu: Self::MTU, forwards: Vec::new() }
    }
}

/// Why there is no network.
#[derive(Debug, Error)]
pub enum UserError {
    /// A port cannot be forwarded.
    #[error("cannot listen on {address}")]
    Forward {
        /// The host's address and port.
        address: SocketAddr,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The host refuses a thread or what it waits with.
    #[error("cannot start the network's thread")]
    Start(#[source] io::Error),
}

/// Sockets of the host that lead to the guest, with the guest's ends.
struct Forwards {
    listeners: Vec<(TcpListener, SocketAddr)>,
    sockets: Vec<(UdpSocket, SocketAddr)>,
}

impl Forwards {
    fn open(forwards: &[Forward]) -> Result<Self, UserError> {
        let mut all = Self { listeners: Vec::new(), sockets: Vec::new() };
        for Forward { protocol, host, guest } in forwards {
            let error = |source| UserError::Forward { address: *host, source };
            let guest = SocketAddr::new(plan::GUEST_V4.into(), *guest);
            match protocol {
                Protocol::Tcp => {
                    all.listeners.push((TcpListener::bind(*host).map_err(error)?, guest));
                }
                Protocol::Udp => all.sockets.push((UdpSocket::bind(*host).map_err(error)?, guest)),
            }
        }
        Ok(all)
    }

    /// The addresses that are in fact listened on: connections', then datagrams'.
    fn addresses(&self) -> Vec<SocketAddr> {
        let listeners =
            self.listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok());
        let sockets = self.sockets.iter().filter_map(|(socket, _)| socket.local_addr().ok());
        listeners.chain(sockets).collect()
    }
}

/// The network.
pub struct UserNet {
    mtu: u16,
    listening: Vec<SocketAddr>,
    exchange: Arc<Exchange>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UserNet {
    /// Makes a network and starts its thread.
    ///
    /// # Errors
    ///
    /// [`UserError`]: usually a forwarded port is taken.
    pub fn new(options: &UserOptions) -> Result<Self, UserError> {
        let forwards = Forwards::open(&options.forwards)?;
        let listening = forwards.addresses();
        let poll = Poll::new().map_err(UserError::Start)?;
        let waker = Waker::new(poll.registry(), stack::waker_token()).map_err(UserError::Start)?;
        let exchange = Arc::new(Exchange::new(waker));
        let ending = Arc::new(AtomicBool::new(false));
        let mtu = options.mtu;
        let mut stack = Stack::new(Arc::clone(&exchange), poll, forwards, options.mac, mtu)
            .map_err(UserError::Start)?;
        let end = Arc::clone(&ending);
        let life = move || {
            // A mistake in the stack that a guest found must not take more than its connections.
            while catch_unwind(AssertUnwindSafe(|| stack.run(&end))).is_err() {
                tracing::error!("the network had to begin anew");
                stack.forget();
            }
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(life);
        let thread = Some(thread.map_err(UserError::Start)?);
        Ok(Self { mtu, listening, exchange, ending, thread })
    }

    /// The host's addresses that lead to the guest: first those of connections.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}

impl Drop for UserNet {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        self.exchange.wake();
        // The last owner may be the thread itself, in the middle of a call of its adapter.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            // It never panics; and if it did there would be nothing left to do here.
            let _ = thread.join();
        }
    }
}

impl NetBackend for UserNet {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn attach(&self, port: Weak<dyn NetPort>) {
        self.exchange.attach(port);
    }

    fn accept(&self, accepts: Accepts) {
        self.exchange.accept(accepts);
    }

    fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full> {
        self.exchange.transmit(offload, parts)
    }

    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        self.exchange.receive(take);
    }
}
