//! The network as a guest sees it. The guest is another instance of the IP stack, which checks all
//! checksums.

use super::{Forward, Protocol, UserNet, UserOptions};
use crate::{Accepts, MacAddress, NetBackend, NetPort, Offload, Slice};
use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address,
};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest wait for anything: failure, not measure.
const PATIENCE: Duration = Duration::from_secs(60);

struct Port(Mutex<Sender<()>>);

impl NetPort for Port {
    fn changed(&self) {
        let _ = self.0.lock().unwrap().send(());
    }
}

/// The guest's side of the cable.
struct Guest {
    network: UserNet,
    _port: Arc<Port>,
    changes: Receiver<()>,
    received: VecDeque<Vec<u8>>,
}

impl Guest {
    fn new(forwards: Vec<Forward>, accepts: Accepts) -> Self {
        let network = UserNet::new(&UserOptions { forwards, ..Default::default() }).unwrap();
        let (sender, changes) = channel();
        let port = Arc::new(Port(Mutex::new(sender)));
        let weak: std::sync::Weak<Port> = Arc::downgrade(&port);
        network.attach(weak);
        network.accept(accepts);
        Self { network, _port: port, changes, received: VecDeque::new() }
    }

    fn send(&self, frame: &[u8], offload: Offload) {
        let mut frame = frame.to_vec();
        while self.network.transmit(&offload, &[Slice::from(&mut frame[..])]).is_err() {
            self.changes.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn collect(&mut self) {
        let received = &mut self.received;
        self.network.receive(&mut |frame| {
            received.push_back(frame.parts.concat());
            true
        });
    }

    /// The next frame that is wanted; others are dropped.
    fn wait_for(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            self.collect();
            while let Some(frame) = self.received.pop_front() {
                if wanted(&frame) {
                    return frame;
                }
            }
            self.changes.recv_timeout(PATIENCE).unwrap();
        }
    }
}

struct FrameIn(Vec<u8>);

impl RxToken for FrameIn {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct FrameOut<'a>(&'a UserNet);

impl TxToken for FrameOut<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // What finds no room is sent again by the protocol.
        let _ = self.0.transmit(&Offload::NONE, &[Slice::from(&mut frame[..])]);
        result
    }
}

impl Device for Guest {
    type RxToken<'a> = FrameIn;
    type TxToken<'a> = FrameOut<'a>;

    fn receive(&mut self, _: Instant) -> Option<(FrameIn, FrameOut<'_>)> {
        let frame = self.received.pop_front()?;
        Some((FrameIn(frame), FrameOut(&self.network)))
    }

    fn transmit(&mut self, _: Instant) -> Option<FrameOut<'_>> {
        Some(FrameOut(&self.network))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with an IP stack.
struct Host {
    guest: Guest,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: std::time::Instant,
}

impl Host {
    fn new(forwards: Vec<Forward>) -> Self {
        let mut guest = Guest::new(forwards, Accepts::empty());
        let address = HardwareAddress::Ethernet(EthernetAddress(MacAddress::DEFAULT.0));
        let mut interface = Interface::new(Config::new(address), &mut guest, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let v4 = IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 15));
            let v6 = IpAddress::Ipv6(Ipv6Address::new(0xfec0, 0, 0, 0, 0, 0, 0, 15));
            addresses.push(IpCidr::new(v4, 24)).unwrap();
            addresses.push(IpCidr::new(v6, 64)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        Self { guest, interface, sockets, start: std::time::Instant::now() }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    fn connect(&mut self, to: IpEndpoint) -> SocketHandle {
        let handle = self.socket();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, 40_000).unwrap();
        handle
    }

    /// Lets both sides work until `done` says so.
    fn until<T>(
        &mut self,
        handle: SocketHandle,
        mut done: impl FnMut(&mut Socket<'static>) -> Option<T>,
    ) -> T {
        let begin = std::time::Instant::now();
        loop {
            self.guest.collect();
            let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.guest, &mut self.sockets);
            if let Some(result) = done(self.sockets.get_mut(handle)) {
                self.interface.poll(now, &mut self.guest, &mut self.sockets);
                return result;
            }
            assert!(begin.elapsed() < PATIENCE, "nothing more happens");
            let _ = self.guest.changes.recv_timeout(Duration::from_millis(5));
        }
    }
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

fn transfer(address: &str, gateway: IpAddress) {
    const LENGTH: usize = 3 << 20;
    let Ok(listener) = TcpListener::bind((address, 0)) else { return };
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        let mut sender = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            sender.write_all(&pattern(LENGTH)).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        received
    });
    let mut host = Host::new(Vec::new());
    let handle = host.connect((gateway, port).into());
    let (mut sent, mut received, all) = (0, Vec::new(), pattern(LENGTH));
    host.until(handle, |socket| {
        if socket.can_send() && sent < LENGTH {
            sent += socket.send_slice(&all[sent..]).unwrap();
            if sent == LENGTH {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    received.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        (received.len() == LENGTH && sent == LENGTH && !socket.may_recv()).then_some(())
    });
    assert!(received == all);
    host.until(handle, |socket| {
        matches!(socket.state(), State::TimeWait | State::Closed).then_some(())
    });
    assert!(server.join().unwrap() == all);
}

#[test]
fn connections_carry_both_directions_at_once() {
    transfer("127.0.0.1", Ipv4Address::new(10, 0, 2, 2).into());
}

#[test]
fn so_they_do_over_ipv6() {
    transfer("::1", Ipv6Address::new(0xfec0, 0, 0, 0, 0, 0, 0, 2).into());
}

#[test]
fn nobody_at_the_far_end_is_a_refusal() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut host = Host::new(Vec::new());
    let handle = host.connect((Ipv4Address::new(10, 0, 2, 2), free).into());
    host.until(handle, |socket| (socket.state() == State::Closed).then_some(()));
}

#[test]
fn forwarded_connections_reach_the_guest() {
    let forward =
        Forward { protocol: Protocol::Tcp, host: "127.0.0.1:0".parse().unwrap(), guest: 80 };
    let mut host = Host::new(vec![forward]);
    let address = host.guest.network.listening()[0];
    assert!(address.ip().is_loopback());
    let handle = host.socket();
    host.sockets.get_mut::<Socket<'_>>(handle).listen(80).unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let mut question = Vec::new();
    host.until(handle, |socket| {
        if socket.can_recv() {
            socket
                .recv(|bytes| {
                    question.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        (question == b"hello").then_some(())
    });
    host.until(handle, |socket| {
        socket.send_slice(b"and goodbye").unwrap();
        socket.close();
        Some(())
    });
    host.until(handle, |socket| (!socket.is_active()).then_some(()));
    assert_eq!(client.join().unwrap(), "and goodbye");
}

/// The beginning of a frame of the guest.
fn ethernet(to: [u8; 6], kind: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(MacAddress::DEFAULT.0);
    frame.extend(kind.to_be_bytes());
    frame
}

/// A frame with an IPv4 packet, whose checksums nobody looks at.
fn packet(protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet([0x52, 0x55, 10, 0, 2, 2], 0x0800);
    frame.extend([0x45, 0]);
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
    frame.extend(to);
    frame.extend(payload);
    frame
}

#[test]
fn the_gateway_answers_for_itself() {
    let mut guest = Guest::new(Vec::new(), Accepts::empty());
    let mut frame = ethernet([0xff; 6], 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MacAddress::DEFAULT.0);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    guest.send(&frame, Offload::NONE);
    let answer = guest.wait_for(|frame| frame[12..14] == [8, 6]);
    assert_eq!(answer[20..22], [0, 2]);
    assert_eq!(answer[28..32], [10, 0, 2, 2]);

    guest.send(&packet(1, [10, 0, 2, 2], &[8, 0, 0, 0, 1, 2, 0, 7, b'x']), Offload::NONE);
    let answer = guest.wait_for(|frame| frame[12..14] == [8, 0] && frame[23] == 1);
    assert_eq!((answer[34], &answer[38..]), (0, &[1, 2, 0, 7, b'x'][..]));

    // A router is asked for, and says what the prefix is.
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 2], 0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    frame.extend("ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    frame.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    guest.send(&frame, Offload::NONE);
    let answer = guest.wait_for(|frame| frame[12..14] == [0x86, 0xdd] && frame[54] == 134);
    assert!(answer.windows(8).any(|bytes| bytes == [0xfe, 0xc0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn datagrams_find_their_way_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new(Vec::new(), Accepts::empty());
    let mut datagram = vec![0x30, 0x39];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 12, 0, 0]);
    datagram.extend(b"ping");
    guest.send(&packet(17, [10, 0, 2, 2], &datagram), Offload::NONE);
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ping");
    server.send_to(b"pong", peer).unwrap();
    let answer = guest.wait_for(|frame| frame[12..14] == [8, 0] && frame[23] == 17);
    assert_eq!(answer[26..34], [10, 0, 2, 2, 10, 0, 2, 15]);
    assert_eq!((&answer[34..36], &answer[42..]), (&port.to_be_bytes()[..], &b"pong"[..]));
}

#[test]
fn a_guest_that_takes_nothing_is_not_given_more() {
    let guest = Guest::new(Vec::new(), Accepts::empty());
    let ping = packet(1, [10, 0, 2, 2], &[&[8][..], &[0; 1400]].concat());
    for _ in 0..5_000 {
        let mut ping = ping.clone();
        if guest.network.transmit(&Offload::NONE, &[Slice::from(&mut ping[..])]).is_err() {
            guest.changes.recv_timeout(PATIENCE).unwrap();
        }
    }
    let mut count = 0;
    guest.network.receive(&mut |_| {
        count += 1;
        true
    });
    assert!((1..2_000).contains(&count), "{count}");
}

/// Frames that look like something.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..120);
    let kind = prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x0806), any::<u16>()];
    let protocol = prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()];
    let to =
        prop_oneof![Just([10, 0, 2, 2]), Just([10, 0, 2, 3]), Just([127, 0, 0, 1]), Just([255; 4])];
    (kind, protocol, to, bytes, 0usize..3).prop_map(|(kind, protocol, mut to, bytes, shape)| {
        if protocol == 6 {
            // Not the ports of the machine that the test runs on.
            to = [10, 0, 2, 9];
        }
        match shape {
            0 => packet(protocol, to, &bytes),
            1 => {
                let mut frame = ethernet([0xff; 6], 0x86dd);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((bytes.len() as u16).to_be_bytes());
                frame.extend([protocol, 255]);
                frame.extend("fec0::15".parse::<std::net::Ipv6Addr>().unwrap().octets());
                frame.extend("fec0::3".parse::<std::net::Ipv6Addr>().unwrap().octets());
                frame.extend(bytes);
                frame
            }
            _ => [ethernet([0xff; 6], kind), bytes].concat(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_frame_disturbs_the_network(
        frames in proptest::collection::vec((frames(), any::<[u8; 12]>()), 1..40),
    ) {
        let mut guest = Guest::new(Vec::new(), Accepts::all());
        for (frame, header) in frames {
            guest.send(&frame, Offload::from_header(&header));
        }
        guest.send(&packet(1, [10, 0, 2, 2], &[8, 0, 0, 0, 0xaa, 0xbb, 0, 7]), Offload::NONE);
        guest.wait_for(|frame| frame.get(38..40) == Some(&[0xaa, 0xbb]));
    }
}
