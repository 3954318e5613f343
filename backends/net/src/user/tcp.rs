//! TCP: each connection of the guest ends in the stack, and a socket of the host goes on with it.

use super::exchange::Exchange;
use super::link::{Cable, Link};
use super::plan;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpEndpoint, TcpPacket};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

/// Connections at a time; more are refused.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// Connections that get large buffers; the others make do with little, so that a guest does not
/// take more than some 160 MiB of the host's memory.
const LARGE_MAX: usize = 64;
/// Bytes of a large buffer, in each direction. It must hold what the guest can take while the
/// stack's thread waits for its turn.
const LARGE: usize = 1 << 20;
/// Bytes of a small one.
const SMALL: usize = 32 << 10;
/// How long a guest may take to accept a connection from outside.
const ACCEPT_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(30);

/// Both ends of a connection, in the guest's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ends {
    guest: IpEndpoint,
    far: IpEndpoint,
}

/// A connection.
struct Flow {
    ends: Ends,
    handle: SocketHandle,
    stream: TcpStream,
    large: bool,
    /// The host's socket is not connected yet.
    connecting: bool,
    /// What is known of the host's socket until it says that it would block.
    readable: bool,
    writable: bool,
    /// The far end will send no more.
    far_finished: bool,
    /// The guest will send no more, and the far end was told.
    guest_finished: bool,
    /// It is in the list of those to look at.
    listed: bool,
}

/// All connections.
pub(super) struct Connections {
    interface: Interface,
    sockets: SocketSet<'static>,
    flows: Vec<Option<Flow>>,
    by_ends: HashMap<Ends, usize>,
    large: usize,
    /// Connections to look at.
    listed: Vec<usize>,
    /// Number of connections from outside, which become their ports.
    accepted: u16,
}

impl Connections {
    /// None yet, on an interface that takes every address for its own.
    pub(super) fn new(link: &mut Link<'_>, now: Instant, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, link, now);
        interface.set_any_ip(true);
        let routes = interface.routes_mut();
        // The table has room for one route of each kind; they say that everything is on the cable.
        let _ = routes.add_default_ipv4_route(plan::GATEWAY_V4);
        let _ = routes.add_default_ipv6_route(plan::GATEWAY_V6);
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            flows: Vec::new(),
            by_ends: HashMap::new(),
            large: 0,
            listed: Vec::new(),
            accepted: 0,
        }
    }

    fn list(&mut self, index: usize) {
        if let Some(Some(flow)) = self.flows.get_mut(index)
            && !std::mem::replace(&mut flow.listed, true)
        {
            self.listed.push(index);
        }
    }

    /// A packet of the guest with `segment` in it. `resolver` is the host's name server.
    pub(super) fn receive(
        &mut self,
        link: &mut Link<'_>,
        now: Instant,
        (source, destination): (IpAddr, IpAddr),
        segment: &[u8],
        resolver: Option<IpAddr>,
        (registry, token): (&Registry, impl Fn(usize) -> Token),
    ) {
        let Ok(tcp) = TcpPacket::new_checked(segment) else { return };
        if tcp.src_port() == 0 || tcp.dst_port() == 0 {
            return;
        }
        let ends = Ends {
            guest: (IpAddress::from(source), tcp.src_port()).into(),
            far: (IpAddress::from(destination), tcp.dst_port()).into(),
        };
        if tcp.syn() && !tcp.ack() && !tcp.rst() {
            if let Some(&index) = self.by_ends.get(&ends)
                && self.state(index) == Some(State::TimeWait)
            {
                self.remove(index, registry);
            }
            if !self.by_ends.contains_key(&ends) {
                let far = SocketAddr::new(destination, tcp.dst_port());
                // Where no connection comes to be, the stack answers that there is none.
                if let Some(target) = plan::target(far, resolver) {
                    let _ = self.open(ends, target, registry, token);
                }
            }
        }
        self.interface.poll_ingress_single(now, link, &mut self.sockets);
        if let Some(&index) = self.by_ends.get(&ends) {
            self.list(index);
        }
    }

    fn state(&self, index: usize) -> Option<State> {
        let flow = self.flows.get(index)?.as_ref()?;
        Some(self.sockets.get::<Socket<'_>>(flow.handle).state())
    }

    fn socket(&mut self) -> Option<(Socket<'static>, bool)> {
        if self.by_ends.len() >= CONNECTIONS_MAX {
            return None;
        }
        let large = self.large < LARGE_MAX;
        let size = if large { LARGE } else { SMALL };
        let buffer = || SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(), buffer());
        // The far end has done all that already; an answer goes out when all packets that came
        // together have been looked at.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        Some((socket, large))
    }

    /// Begins a connection of the guest.
    fn open(
        &mut self,
        ends: Ends,
        target: SocketAddr,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let (mut socket, large) = self.socket().ok_or(io::ErrorKind::QuotaExceeded)?;
        let stream = TcpStream::connect(target)?;
        socket.listen(ends.far).map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        // The guest learns that it is connected when it is.
        socket.pause_synack(true);
        self.add(ends, socket, large, stream, true, registry, token)
    }

    /// Hands a connection from outside to the guest's port.
    pub(super) fn accept(
        &mut self,
        stream: TcpStream,
        guest: SocketAddr,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let (mut socket, large) = self.socket().ok_or(io::ErrorKind::QuotaExceeded)?;
        let guest = IpEndpoint::from(guest);
        let gateway = IpAddress::from(plan::gateway_for(guest.addr.into()));
        let free = (0..=u16::MAX).find_map(|_| {
            self.accepted = self.accepted.wrapping_add(1);
            let ends = Ends { guest, far: (gateway, 0xc000 | self.accepted).into() };
            (!self.by_ends.contains_key(&ends)).then_some(ends)
        });
        let ends = free.ok_or(io::ErrorKind::AddrInUse)?;
        socket.set_timeout(Some(ACCEPT_TIMEOUT));
        socket
            .connect(self.interface.context(), ends.guest, ends.far)
            .map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        self.add(ends, socket, large, stream, false, registry, token)
    }

    #[expect(clippy::too_many_arguments, reason = "these are the parts of a connection")]
    fn add(
        &mut self,
        ends: Ends,
        socket: Socket<'static>,
        large: bool,
        mut stream: TcpStream,
        connecting: bool,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let free = self.flows.iter().position(Option::is_none);
        let index = free.unwrap_or(self.flows.len());
        registry.register(&mut stream, token(index), Interest::READABLE | Interest::WRITABLE)?;
        // Segments are the guest's business; a host that cannot do it only makes them later.
        let _ = stream.set_nodelay(true);
        let handle = self.sockets.add(socket);
        let flow = Flow {
            ends,
            handle,
            stream,
            large,
            connecting,
            readable: !connecting,
            writable: !connecting,
            far_finished: false,
            guest_finished: false,
            listed: false,
        };
        if free.is_none() {
            self.flows.push(None);
        }
        self.flows[index] = Some(flow);
        self.by_ends.insert(ends, index);
        self.large += usize::from(large);
        self.list(index);
        Ok(())
    }

    fn remove(&mut self, index: usize, registry: &Registry) {
        let Some(mut flow) = self.flows.get_mut(index).and_then(Option::take) else { return };
        self.by_ends.remove(&flow.ends);
        self.large -= usize::from(flow.large);
        let socket = self.sockets.remove(flow.handle);
        let _ = registry.deregister(&mut flow.stream);
        let smoltcp::socket::Socket::Tcp(_) = socket;
        if !(flow.far_finished && flow.guest_finished) {
            // The far end learns that the connection broke off.
            let _ = socket2::SockRef::from(&flow.stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends all connections.
    pub(super) fn clear(&mut self, registry: &Registry) {
        for index in 0..self.flows.len() {
            self.remove(index, registry);
        }
        self.listed.clear();
    }

    /// Something happened to the host's socket of connection `index`.
    pub(super) fn event(&mut self, index: usize, readable: bool, writable: bool) {
        if let Some(Some(flow)) = self.flows.get_mut(index) {
            flow.readable |= readable;
            flow.writable |= writable;
            self.list(index);
        }
    }

    /// Moves data of all connections that something happened to, and sends what there is for the
    /// guest.
    pub(super) fn advance(&mut self, link: &mut Link<'_>, now: Instant, registry: &Registry) {
        let mut listed = std::mem::take(&mut self.listed);
        for &index in &listed {
            if let Some(Some(flow)) = self.flows.get_mut(index) {
                let socket = self.sockets.get_mut::<Socket<'_>>(flow.handle);
                flow.advance(socket);
            }
        }
        // Each call sends one packet of a connection at most. There are no more when all that their guest
        // takes was sent, or the adapter has no room.
        while self.interface.poll_egress(now, link, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
        for &index in &listed {
            let Some(Some(flow)) = self.flows.get_mut(index) else { continue };
            flow.listed = false;
            let socket = self.sockets.get::<Socket<'_>>(flow.handle);
            // A reset has been sent when the socket has forgotten its peer. A guest that takes its
            // first packet back makes it listen again.
            let gone = socket.state() == State::Closed && socket.remote_endpoint().is_none()
                || socket.state() == State::Listen;
            let aborting = socket.state() == State::Closed;
            if gone {
                self.remove(index, registry);
            } else if aborting {
                self.list(index);
            }
        }
        listed.clear();
        if self.listed.is_empty() {
            self.listed = listed;
        }
    }

    /// When time alone makes something happen.
    pub(super) fn deadline(&mut self, now: Instant) -> Option<Duration> {
        let delay = self.interface.poll_delay(now, &self.sockets)?;
        Some(delay.into())
    }

    /// Time alone may have made something happen.
    pub(super) fn tick(&mut self) {
        for index in 0..self.flows.len() {
            self.list(index);
        }
    }
}

/// Whether an error of a socket only says that there is nothing to do now.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Flow {
    /// Moves what can be moved between the host's socket and the stack's.
    fn advance(&mut self, socket: &mut Socket<'_>) {
        if self.connecting {
            match self.is_connected() {
                Ok(true) => {
                    self.connecting = false;
                    socket.pause_synack(false);
                }
                Ok(false) => return,
                Err(_) => return self.abort(socket),
            }
        }
        if self.far_to_guest(socket).is_err() || self.guest_to_far(socket).is_err() {
            self.abort(socket);
        }
    }

    fn abort(&mut self, socket: &mut Socket<'_>) {
        socket.pause_synack(false);
        socket.abort();
        (self.readable, self.writable) = (false, false);
    }

    fn is_connected(&mut self) -> io::Result<bool> {
        if !self.writable {
            return Ok(false);
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Data go from the host's socket into the stack's buffer, which is copied to frames, which are
    /// copied to guest memory. The first copy is TCP's, which must be able to send again; the second
    /// one is needed because where a frame goes is known only when the adapter takes it.
    fn far_to_guest(&mut self, socket: &mut Socket<'_>) -> io::Result<()> {
        while self.readable && !self.far_finished && socket.can_send() {
            let read = socket.send(|buffer| match self.stream.read(buffer) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.far_finished = true;
                    socket.close();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_temporary(&error) => self.readable = false,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Data were copied from guest memory to a frame, so that the guest cannot change headers after
    /// they were looked at; from there to the stack's buffer, which puts them in order; and go to the
    /// host's socket.
    fn guest_to_far(&mut self, socket: &mut Socket<'_>) -> io::Result<()> {
        while self.writable && socket.can_recv() {
            let written = socket.recv(|buffer| match self.stream.write(buffer) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_temporary(&error) => self.writable = false,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        let finished = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if finished && !self.guest_finished && socket.recv_queue() == 0 {
            self.guest_finished = true;
            // The far end may have gone meanwhile; then there is nobody to tell.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}

/// A link for the stack to look at `packet`, if there is one.
pub(super) fn link<'a>(
    exchange: &'a Exchange,
    cable: Cable,
    mtu: u16,
    packet: Option<&'a [u8]>,
) -> Link<'a> {
    Link { exchange, cable, mtu, received: packet }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ETHERNET_HEADER, MacAddress};
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        IpProtocol, IpRepr, Ipv4Packet, TcpControl, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
    };
    use std::net::{Ipv4Addr, TcpListener};

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const GUEST_PORT: u16 = 40_000;
    /// What the guest takes before it acknowledges anything: several frames.
    const WINDOW: usize = 512 << 10;
    const WINDOW_SCALE: u8 = 7;

    /// A guest without an adapter, with one connection.
    struct Bench {
        connections: Connections,
        exchange: Exchange,
        poll: mio::Poll,
        far: SocketAddr,
    }

    impl Bench {
        fn new(far: SocketAddr) -> Self {
            let poll = mio::Poll::new().unwrap();
            let exchange = Exchange::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
            let mut link = link(&exchange, Self::cable(), 1500, None);
            let connections = Connections::new(&mut link, Instant::ZERO, 1);
            Self { connections, exchange, poll, far }
        }

        fn cable() -> Cable {
            Cable { guest: MacAddress::DEFAULT, gateway: MacAddress([2; 6]) }
        }

        /// The guest sends a segment without data.
        fn send(&mut self, control: TcpControl, sequence: i32, acknowledged: Option<TcpSeqNumber>) {
            let first = control == TcpControl::Syn;
            let segment = TcpRepr {
                src_port: GUEST_PORT,
                dst_port: self.far.port(),
                control,
                seq_number: TcpSeqNumber(sequence),
                ack_number: acknowledged,
                // That of a first segment is not scaled.
                window_len: if first { u16::MAX } else { (WINDOW >> WINDOW_SCALE) as u16 },
                window_scale: first.then_some(WINDOW_SCALE),
                max_seg_size: first.then_some(1460),
                sack_permitted: false,
                sack_ranges: [None; 3],
                timestamp: None::<TcpTimestampRepr>,
                payload: &[],
            };
            let to = plan::GATEWAY_V4;
            let length = segment.buffer_len();
            let header = IpRepr::new(GUEST.into(), to.into(), IpProtocol::Tcp, length, 64);
            let mut packet = vec![0; header.buffer_len()];
            let sums = ChecksumCapabilities::default();
            header.emit(&mut packet[..], &sums);
            let mut body = TcpPacket::new_unchecked(&mut packet[header.header_len()..]);
            segment.emit(&mut body, &GUEST.into(), &to.into(), &sums);
            let mut link = link(&self.exchange, Self::cable(), 1500, Some(&packet));
            let events = (self.poll.registry(), |_: usize| Token(1));
            let ends = (GUEST.into(), to.into());
            let payload = &packet[header.header_len()..];
            self.connections.receive(&mut link, Instant::ZERO, ends, payload, None, events);
        }

        fn advance(&mut self) {
            // The host's socket may be ready for anything; it says so itself if it is not.
            self.connections.event(0, true, true);
            let mut link = link(&self.exchange, Self::cable(), 1500, None);
            self.connections.advance(&mut link, Instant::ZERO, self.poll.registry());
        }

        /// The segments that wait for the guest: their first numbers, and bytes of data.
        fn received(&self) -> Vec<(TcpSeqNumber, usize)> {
            let mut all = Vec::new();
            self.exchange.accept(crate::Accepts::all());
            self.exchange.receive(&mut |frame| {
                let bytes = frame.parts.concat();
                if let Ok(packet) = Ipv4Packet::new_checked(&bytes[ETHERNET_HEADER..])
                    && let Ok(segment) = TcpPacket::new_checked(packet.payload())
                {
                    all.push((segment.seq_number(), segment.payload().len()));
                }
                true
            });
            all
        }
    }

    #[test]
    fn all_that_the_guest_takes_is_sent_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The guest leaves before it has all.
            let _ = stream.write_all(&vec![7; 2 * LARGE]);
        });
        let mut bench = Bench::new(far);
        bench.send(TcpControl::Syn, 100, None);
        let answer = loop {
            bench.advance();
            if let Some((sequence, _)) = bench.received().first() {
                break *sequence;
            }
            std::thread::yield_now();
        };
        // While frames have no room, the stack's buffer fills.
        while bench.exchange.has_room() {
            let frame = bench.exchange.frame(64);
            bench.exchange.push(frame);
        }
        bench.send(TcpControl::None, 101, Some(answer + 1));
        let handle = bench.connections.flows[0].as_ref().unwrap().handle;
        while bench.connections.sockets.get::<Socket<'_>>(handle).send_queue() < LARGE {
            bench.advance();
            std::thread::yield_now();
        }
        assert_eq!(bench.received(), []);
        bench.advance();
        let sent = bench.received();
        assert_eq!(sent.iter().map(|(_, length)| length).sum::<usize>(), WINDOW);
        assert!(sent.iter().any(|(_, length)| *length > 60_000), "{sent:?}");
        // The guest takes as much again.
        let (last, length) = *sent.last().unwrap();
        bench.send(TcpControl::None, 101, Some(last + length));
        bench.advance();
        assert_eq!(bench.received().iter().map(|(_, length)| length).sum::<usize>(), WINDOW);
        drop(bench);
        // Its connection broke off.
        let _ = server.join();
    }
}
