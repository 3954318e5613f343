//! The thread of the stack: looks at the guest's frames, and at the host's sockets.

use super::echo::{Echoes, Question};
use super::exchange::{Exchange, Frame};
use super::link::Cable;
use super::tcp::{self, Connections};
use super::udp::{self, Datagrams, Source};
use super::{Forwards, dhcp, neighbors, plan, resolver};
use crate::offload::{Accepts, SegmentKind};
use crate::{ETHERNET_HEADER, MacAddress};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The gateway's own address on the cable; locally administered.
const GATEWAY: MacAddress = MacAddress([0x52, 0x55, 10, 0, 2, 2]);
/// Frames of the guest that are looked at before data are moved on.
const BATCH: usize = 64;
/// Connections that a listener may bring in a row.
const ACCEPT_BATCH: usize = 32;
/// How often silent pairs are looked for.
const EXPIRY: Duration = Duration::from_secs(15);
/// How long to wait for what cannot be waited for.
const AGAIN: Duration = Duration::from_millis(10);

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Waker,
    Listener,
    Connection,
    Datagrams,
    ForwardedDatagrams,
    Echo,
}

impl Kind {
    const BITS: u32 = 24;

    fn token(self, index: usize) -> Token {
        Token((self as usize) << Self::BITS | index)
    }

    fn of(token: Token) -> (Option<Self>, usize) {
        let kinds = [
            Self::Waker,
            Self::Listener,
            Self::Connection,
            Self::Datagrams,
            Self::ForwardedDatagrams,
            Self::Echo,
        ];
        (kinds.get(token.0 >> Self::BITS).copied(), token.0 & ((1 << Self::BITS) - 1))
    }
}

/// The token of what wakes the thread.
pub(super) fn waker_token() -> Token {
    Kind::Waker.token(0)
}

/// Everything the thread works on.
pub(super) struct Stack {
    // Configuration.
    mtu: u16,
    guest: MacAddress,

    // Dependencies.
    exchange: Arc<Exchange>,
    poll: Poll,
    listeners: Vec<(TcpListener, SocketAddr)>,

    // Volatile state.
    cable: Cable,
    connections: Connections,
    datagrams: Datagrams,
    echoes: Echoes,
    resolver: Option<IpAddr>,
    start: std::time::Instant,
    expired: std::time::Instant,
}

impl Stack {
    /// A stack for a guest whose adapter has the address `guest`.
    ///
    /// # Errors
    ///
    /// [`io::Error`] if the host has no room for more events.
    pub(super) fn new(
        exchange: Arc<Exchange>,
        poll: Poll,
        forwards: Forwards,
        guest: MacAddress,
        mtu: u16,
    ) -> io::Result<Self> {
        let cable = Cable { guest, gateway: GATEWAY };
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
        let connections =
            Connections::new(&mut tcp::link(&exchange, cable, mtu, None), Instant::ZERO, seed);
        let Forwards { mut listeners, sockets } = forwards;
        for (index, (listener, _)) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Kind::Listener.token(index), Interest::READABLE)?;
        }
        let mut datagrams = Datagrams::new(sockets);
        datagrams.register(poll.registry(), |index| Kind::ForwardedDatagrams.token(index))?;
        let start = std::time::Instant::now();
        Ok(Self {
            mtu,
            guest,
            exchange,
            poll,
            listeners,
            cable,
            connections,
            datagrams,
            echoes: Echoes::new(),
            resolver: resolver::find(),
            start,
            expired: start,
        })
    }

    /// Works until `ending` says so.
    pub(super) fn run(&mut self, ending: &AtomicBool) {
        let mut events = Events::with_capacity(256);
        while !ending.load(Ordering::Acquire) {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(%error, "the network of the guest ends");
                    return;
                }
                _ => {}
            }
            self.step(&events);
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// How long to wait for events.
    fn timeout(&mut self) -> Option<Duration> {
        let now = self.now();
        let room = self.exchange.has_room();
        let timer = self.connections.deadline(now);
        // What is due after all was sent that could be waits for something else.
        let timer = timer.map(|delay| delay.max(AGAIN)).unwrap_or(EXPIRY).min(EXPIRY);
        if !self.exchange.prepare_sleep() || room && self.datagrams.is_waiting() {
            return Some(Duration::ZERO);
        }
        Some(timer)
    }

    fn step(&mut self, events: &Events) {
        if self.exchange.take_attached() {
            self.forget();
        }
        let due = events.is_empty();
        for event in events {
            let (kind, index) = Kind::of(event.token());
            let (readable, writable) = (
                event.is_readable() || event.is_read_closed() || event.is_error(),
                event.is_writable() || event.is_write_closed() || event.is_error(),
            );
            match kind {
                Some(Kind::Listener) => self.accept(index),
                Some(Kind::Connection) => self.connections.event(index, readable, writable),
                Some(Kind::Datagrams) => self.datagrams.event(Source::Flow(index)),
                Some(Kind::ForwardedDatagrams) => self.datagrams.event(Source::Forward(index)),
                Some(Kind::Echo) => self.echoes.event(index, &self.exchange, &self.cable),
                Some(Kind::Waker) | None => {}
            }
        }
        for _ in 0..BATCH {
            let Some(mut frame) = self.exchange.next() else { break };
            self.look_at(&mut frame);
            self.exchange.recycle(frame);
        }
        if due {
            self.connections.tick();
        }
        let now = self.now();
        let mut link = tcp::link(&self.exchange, self.cable, self.mtu, None);
        self.connections.advance(&mut link, now, self.poll.registry());
        self.datagrams.advance(&self.exchange, &self.cable, self.poll.registry());
        if self.expired.elapsed() > EXPIRY {
            self.expired = std::time::Instant::now();
            self.datagrams.expire(self.poll.registry());
            self.resolver = resolver::find();
        }
        self.exchange.tell();
    }

    /// The guest is a new one.
    pub(super) fn forget(&mut self) {
        let registry = self.poll.registry();
        self.connections.clear(registry);
        self.datagrams.clear(registry);
        self.echoes.clear(registry);
        self.cable.guest = self.guest;
    }

    fn accept(&mut self, index: usize) {
        let Some((listener, guest)) = self.listeners.get(index) else { return };
        for _ in 0..ACCEPT_BATCH {
            let Ok((stream, _)) = listener.accept() else { return };
            // One that cannot be handed on is closed again.
            let _ = self.connections.accept(stream, *guest, self.poll.registry(), |index| {
                Kind::Connection.token(index)
            });
        }
        // Events are edges: what is left would not be told again.
        let _ = self.poll.registry().reregister(
            &mut self.listeners[index].0,
            Kind::Listener.token(index),
            Interest::READABLE,
        );
    }

    fn look_at(&mut self, frame: &mut Frame) {
        let kind = frame.offload.segmentation.map(|segmentation| segmentation.kind);
        if kind == Some(SegmentKind::Udp) {
            // Datagrams go out one by one.
            let accepts = Accepts::all() - Accepts::UDP;
            frame.give(accepts, &mut |datagram| {
                self.look_at_bytes(&datagram.parts.concat());
                true
            });
        } else {
            self.look_at_bytes(frame.bytes());
        }
    }

    fn look_at_bytes(&mut self, frame: &[u8]) {
        let Some((header, payload)) = frame.split_first_chunk::<ETHERNET_HEADER>() else { return };
        let [_, _, _, _, _, _, source @ .., high, low] = *header;
        // A group cannot be a sender.
        if source[0] & 1 != 0 {
            return;
        }
        self.cable.guest = MacAddress(source);
        match u16::from_be_bytes([high, low]) {
            0x0800 => self.look_at_v4(payload),
            0x86dd => self.look_at_v6(payload),
            neighbors::ARP => neighbors::arp(&self.exchange, &self.cable, payload),
            _ => {}
        }
    }

    fn look_at_v4(&mut self, bytes: &[u8]) {
        let Ok(packet) = Ipv4Packet::new_checked(bytes) else { return };
        // Parts of datagrams are not put together.
        if packet.more_frags() || packet.frag_offset() != 0 {
            return;
        }
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let ends = (IpAddr::V4(source), IpAddr::V4(destination));
        match packet.next_header() {
            IpProtocol::Udp if udp_port(packet.payload()) == Some(dhcp::SERVER) => {
                self.serve_dhcp(packet.payload());
            }
            // The guest's own network is the one that it was given.
            _ if source.octets()[..3] != plan::NETWORK_V4 => {}
            protocol => self.look_at_ip(protocol, ends, bytes, packet.payload()),
        }
    }

    fn look_at_v6(&mut self, bytes: &[u8]) {
        let Ok(packet) = Ipv6Packet::new_checked(bytes) else { return };
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let ends = (IpAddr::V6(source), IpAddr::V6(destination));
        if packet.next_header() == IpProtocol::Icmpv6 {
            return self.look_at_icmp_v6(source, destination, packet.payload());
        }
        let inside = source.segments()[..4] == plan::PREFIX_V6.segments()[..4];
        if inside {
            self.look_at_ip(packet.next_header(), ends, bytes, packet.payload());
        }
    }

    fn look_at_ip(
        &mut self,
        protocol: IpProtocol,
        ends: (IpAddr, IpAddr),
        packet: &[u8],
        payload: &[u8],
    ) {
        let registry = self.poll.registry();
        match protocol {
            IpProtocol::Tcp => {
                let now = self.now();
                let mut link = tcp::link(&self.exchange, self.cable, self.mtu, Some(packet));
                let token = |index| Kind::Connection.token(index);
                let events = (registry, token);
                self.connections.receive(&mut link, now, ends, payload, self.resolver, events);
            }
            IpProtocol::Udp => {
                let token = |index| Kind::Datagrams.token(index);
                self.datagrams.send(ends, payload, self.resolver, registry, token);
            }
            IpProtocol::Icmp => {
                if let Some(question) = Question::v4(ends.0, ends.1, payload) {
                    self.ask(question);
                }
            }
            _ => {}
        }
    }

    fn look_at_icmp_v6(&mut self, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) {
        let Ok(packet) = Icmpv6Packet::new_checked(message) else { return };
        let sums = ChecksumCapabilities::ignored();
        match Icmpv6Repr::parse(&source, &destination, &packet, &sums) {
            Ok(Icmpv6Repr::Ndisc(message)) => {
                let (exchange, cable) = (&self.exchange, &self.cable);
                neighbors::discovery(exchange, cable, self.mtu, source, &message);
            }
            Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => self.ask(Question {
                guest: source.into(),
                far: destination.into(),
                identification: ident,
                sequence: seq_no,
                data,
            }),
            _ => {}
        }
    }

    fn ask(&mut self, question: Question<'_>) {
        let token = |index| Kind::Echo.token(index);
        self.echoes.ask(&self.exchange, &self.cable, question, self.poll.registry(), token);
    }

    fn serve_dhcp(&mut self, datagram: &[u8]) {
        let Some(message) = datagram.get(udp::HEADER..) else { return };
        let Some((to, answer)) = dhcp::answer(message, self.mtu) else { return };
        let ends = (
            SocketAddr::new(plan::GATEWAY_V4.into(), dhcp::SERVER),
            SocketAddr::new(to.into(), dhcp::CLIENT),
        );
        let guest =
            if to == Ipv4Addr::BROADCAST { MacAddress([0xff; 6]) } else { self.cable.guest };
        let cable = Cable { guest, ..self.cable };
        udp::send_datagram(&self.exchange, &cable, ends, &answer);
    }
}

/// The port that a datagram goes to.
fn udp_port(datagram: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]))
}
