//! UDP: each pair of endpoints has a socket of the host, until it has been silent for a while.

use super::exchange::Exchange;
use super::link::{Cable, send_packet};
use super::plan;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use smoltcp::wire::{IpProtocol, UdpPacket, UdpRepr};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Pairs of endpoints at a time; a new one takes the place of the one that was silent longest.
const FLOWS_MAX: usize = 256;
/// How long a pair is remembered without a datagram.
const SILENCE: Duration = Duration::from_secs(120);
/// Bytes of the largest datagram.
const DATAGRAM_MAX: usize = 65_535;
/// Datagrams that one socket may bring in a row.
const BURST: usize = 64;
/// Bytes of the header.
pub(super) const HEADER: usize = 8;

/// Both ends, in the guest's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ends {
    guest: SocketAddr,
    far: SocketAddr,
}

struct Flow {
    ends: Ends,
    /// Of the pair; `None` if the datagrams go through the socket of a forwarded port.
    socket: Option<UdpSocket>,
    /// The forwarded port, and whose datagrams these are.
    forwarded: Option<(usize, SocketAddr)>,
    used: Instant,
}

/// A port of the host whose datagrams go to the guest.
struct Forward {
    socket: UdpSocket,
    guest: SocketAddr,
}

/// All pairs of endpoints.
pub(super) struct Datagrams {
    flows: Vec<Option<Flow>>,
    by_ends: HashMap<Ends, usize>,
    forwards: Vec<Forward>,
    buffer: Vec<u8>,
    /// Sockets that have more to say when there is room.
    waiting: Vec<Source>,
    /// Number of pairs from outside, which become their ports.
    accepted: u16,
}

/// A socket of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Of a pair.
    Flow(usize),
    /// Of a forwarded port.
    Forward(usize),
}

impl Datagrams {
    /// No pairs yet, and the forwarded ports with where they lead to.
    pub(super) fn new(forwards: Vec<(UdpSocket, SocketAddr)>) -> Self {
        let forwards = forwards.into_iter().map(|(socket, guest)| Forward { socket, guest });
        Self {
            flows: Vec::new(),
            by_ends: HashMap::new(),
            forwards: forwards.collect(),
            buffer: vec![0; DATAGRAM_MAX],
            waiting: Vec::new(),
            accepted: 0,
        }
    }

    /// Registers the forwarded ports.
    pub(super) fn register(
        &mut self,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        for (index, forward) in self.forwards.iter_mut().enumerate() {
            registry.register(&mut forward.socket, token(index), Interest::READABLE)?;
        }
        Ok(())
    }

    /// A datagram of the guest.
    pub(super) fn send(
        &mut self,
        (source, destination): (IpAddr, IpAddr),
        datagram: &[u8],
        resolver: Option<IpAddr>,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) {
        let Ok(packet) = UdpPacket::new_checked(datagram) else { return };
        let ends = Ends {
            guest: SocketAddr::new(source, packet.src_port()),
            far: SocketAddr::new(destination, packet.dst_port()),
        };
        let index = match self.by_ends.get(&ends) {
            Some(&index) => index,
            None => match self.open(ends, resolver, registry, token) {
                Ok(index) => index,
                Err(_) => return,
            },
        };
        let Some(Some(flow)) = self.flows.get_mut(index) else { return };
        flow.used = Instant::now();
        // Datagrams may get lost; the host's network being busy is one way.
        let _ = match (&flow.socket, flow.forwarded) {
            (Some(socket), _) => socket.send(packet.payload()),
            (None, Some((forward, peer))) => match self.forwards.get(forward) {
                Some(forward) => forward.socket.send_to(packet.payload(), peer),
                None => Ok(0),
            },
            (None, None) => Ok(0),
        };
    }

    fn open(
        &mut self,
        ends: Ends,
        resolver: Option<IpAddr>,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<usize> {
        let target = plan::target(ends.far, resolver).ok_or(io::ErrorKind::HostUnreachable)?;
        if target.port() == 0 || ends.guest.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // The socket is connected at once, so that it takes nothing in from anybody else.
        let mut socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(target)?;
        let index = self.place(registry);
        registry.register(&mut socket, token(index), Interest::READABLE)?;
        self.put(index, ends, Some(socket), None);
        Ok(index)
    }

    /// A place for a new pair.
    fn place(&mut self, registry: &Registry) -> usize {
        if let Some(free) = self.flows.iter().position(Option::is_none) {
            return free;
        }
        if self.flows.len() < FLOWS_MAX {
            self.flows.push(None);
            return self.flows.len() - 1;
        }
        let used = |(_, flow): &(usize, &Option<Flow>)| flow.as_ref().map(|flow| flow.used);
        let oldest = self.flows.iter().enumerate().min_by_key(used);
        let index = oldest.map_or(0, |(index, _)| index);
        self.remove(index, registry);
        index
    }

    fn put(
        &mut self,
        index: usize,
        ends: Ends,
        socket: Option<UdpSocket>,
        forwarded: Option<(usize, SocketAddr)>,
    ) {
        self.flows[index] = Some(Flow { ends, socket, forwarded, used: Instant::now() });
        self.by_ends.insert(ends, index);
    }

    fn remove(&mut self, index: usize, registry: &Registry) {
        if let Some(mut flow) = self.flows.get_mut(index).and_then(Option::take) {
            self.by_ends.remove(&flow.ends);
            if let Some(socket) = &mut flow.socket {
                let _ = registry.deregister(socket);
            }
        }
    }

    /// Forgets all pairs.
    pub(super) fn clear(&mut self, registry: &Registry) {
        for index in 0..self.flows.len() {
            self.remove(index, registry);
        }
        self.waiting.clear();
    }

    /// Forgets pairs that have been silent for long.
    pub(super) fn expire(&mut self, registry: &Registry) {
        for index in 0..self.flows.len() {
            if self.flows[index].as_ref().is_some_and(|flow| flow.used.elapsed() > SILENCE) {
                self.remove(index, registry);
            }
        }
    }

    /// A socket has datagrams.
    pub(super) fn event(&mut self, source: Source) {
        if !self.waiting.contains(&source) {
            self.waiting.push(source);
        }
    }

    /// Whether sockets may have more datagrams.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives the guest what the sockets have, as long as there is room.
    pub(super) fn advance(&mut self, exchange: &Exchange, cable: &Cable, registry: &Registry) {
        for source in std::mem::take(&mut self.waiting) {
            let mut more = true;
            for _ in 0..BURST {
                if !exchange.has_room() {
                    break;
                }
                more = self.bring(source, exchange, cable, registry);
                if !more {
                    break;
                }
            }
            if more {
                self.event(source);
            }
        }
    }

    /// Gives the guest one datagram. Returns whether there may be more.
    fn bring(
        &mut self,
        source: Source,
        exchange: &Exchange,
        cable: &Cable,
        registry: &Registry,
    ) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = match source {
            Source::Flow(index) => match self.flows.get_mut(index) {
                Some(Some(Flow { ends, socket: Some(socket), used, .. })) => {
                    *used = Instant::now();
                    Some(socket.recv(&mut buffer).map(|length| (*ends, length)))
                }
                _ => None,
            },
            Source::Forward(index) => self
                .forwards
                .get(index)
                .map(|forward| {
                    let received = forward.socket.recv_from(&mut buffer);
                    received.map(|(length, peer)| ((index, peer, forward.guest), length))
                })
                .map(|received| {
                    received.map(|((index, peer, guest), length)| {
                        (self.ends_of(index, peer, guest, registry), length)
                    })
                }),
        };
        let more = match received {
            Some(Ok((ends, length))) => {
                deliver(exchange, cable, ends, &buffer[..length]);
                true
            }
            // An error of an earlier datagram says nothing of the next one.
            Some(Err(error)) => error.kind() != io::ErrorKind::WouldBlock,
            None => false,
        };
        self.buffer = buffer;
        more
    }

    /// The pair by which the guest knows `peer`, which sent to a forwarded port.
    fn ends_of(
        &mut self,
        forward: usize,
        peer: SocketAddr,
        guest: SocketAddr,
        registry: &Registry,
    ) -> Ends {
        let known = self.flows.iter_mut().flatten();
        if let Some(flow) = known.into_iter().find(|flow| flow.forwarded == Some((forward, peer))) {
            flow.used = Instant::now();
            return flow.ends;
        }
        let index = self.place(registry);
        let gateway = plan::gateway_for(guest.ip());
        let ends = loop {
            self.accepted = self.accepted.wrapping_add(1);
            let far = SocketAddr::new(gateway, 0xc000 | self.accepted);
            // There are more ports than pairs.
            if !self.by_ends.contains_key(&Ends { guest, far }) {
                break Ends { guest, far };
            }
        };
        self.put(index, ends, None, Some((forward, peer)));
        ends
    }
}

fn deliver(exchange: &Exchange, cable: &Cable, ends: Ends, payload: &[u8]) {
    send_datagram(exchange, cable, (ends.far, ends.guest), payload);
}

/// Sends the guest a datagram.
pub(super) fn send_datagram(
    exchange: &Exchange,
    cable: &Cable,
    (source, destination): (SocketAddr, SocketAddr),
    payload: &[u8],
) {
    let length = HEADER + payload.len();
    if length > DATAGRAM_MAX {
        return;
    }
    let ends = (source.ip(), destination.ip());
    let repr = UdpRepr { src_port: source.port(), dst_port: destination.port() };
    send_packet(exchange, cable, ends, IpProtocol::Udp, length, 64, |bytes| {
        repr.emit(
            &mut UdpPacket::new_unchecked(bytes),
            &ends.0.into(),
            &ends.1.into(),
            payload.len(),
            |body| body.copy_from_slice(payload),
            &Default::default(),
        );
    });
}
