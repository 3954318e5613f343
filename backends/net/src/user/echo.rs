//! ICMP echo: the gateway answers for itself; for others the host asks, where it lets its users.

use super::exchange::Exchange;
use super::link::{Cable, send_packet};
use super::plan;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Destinations that are asked at a time; a new one takes the place of the one asked longest ago.
const FLOWS_MAX: usize = 32;
/// Bytes of the largest answer.
const ANSWER_MAX: usize = 65_515;
/// Bytes of the header.
const HEADER: usize = 8;

/// A question: who asks whom, its identification, number, and what is to come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) guest: IpAddr,
    pub(super) far: IpAddr,
    pub(super) identification: u16,
    pub(super) sequence: u16,
    pub(super) data: &'a [u8],
}

impl<'a> Question<'a> {
    /// Reads one from an ICMP message for IPv4.
    pub(super) fn v4(guest: IpAddr, far: IpAddr, message: &'a [u8]) -> Option<Self> {
        let packet = Icmpv4Packet::new_checked(message).ok()?;
        let asks = packet.msg_type() == Icmpv4Message::EchoRequest && packet.msg_code() == 0;
        asks.then(|| Self {
            guest,
            far,
            identification: packet.echo_ident(),
            sequence: packet.echo_seq_no(),
            data: packet.data(),
        })
    }
}

struct Flow {
    guest: IpAddr,
    far: IpAddr,
    identification: u16,
    /// A socket for echo messages; the host's kernel chooses the identification on the way out.
    socket: UdpSocket,
    used: Instant,
}

/// All destinations that were asked of late.
pub(super) struct Echoes {
    flows: Vec<Flow>,
    buffer: Vec<u8>,
}

impl Echoes {
    pub(super) fn new() -> Self {
        Self { flows: Vec::new(), buffer: vec![0; ANSWER_MAX] }
    }

    /// The guest asks.
    pub(super) fn ask(
        &mut self,
        exchange: &Exchange,
        cable: &Cable,
        question: Question<'_>,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) {
        if plan::is_own(question.far) {
            return answer(exchange, cable, question);
        }
        // A host that does not let its users ask has no answer.
        let _ = self.pass_on(question, registry, token);
    }

    fn pass_on(
        &mut self,
        question: Question<'_>,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<()> {
        let target = plan::behind(question.far).ok_or(io::ErrorKind::HostUnreachable)?;
        let known = self.flows.iter().position(|flow| {
            (flow.guest, flow.far, flow.identification)
                == (question.guest, question.far, question.identification)
        });
        let index = match known {
            Some(index) => index,
            None => self.open(question, target, registry, token)?,
        };
        let flow = &mut self.flows[index];
        flow.used = Instant::now();
        let mut message = vec![0; HEADER + question.data.len()];
        message[0] = if target.is_ipv4() { 8 } else { 128 };
        message[4..6].copy_from_slice(&question.identification.to_be_bytes());
        message[6..8].copy_from_slice(&question.sequence.to_be_bytes());
        message[HEADER..].copy_from_slice(question.data);
        // The kernel computes the checksum.
        flow.socket.send(&message)?;
        Ok(())
    }

    fn open(
        &mut self,
        question: Question<'_>,
        target: IpAddr,
        registry: &Registry,
        token: impl Fn(usize) -> Token,
    ) -> io::Result<usize> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.connect(&SocketAddr::new(target, 0).into())?;
        let mut socket = UdpSocket::from_std(socket.into());
        let index = if self.flows.len() < FLOWS_MAX {
            self.flows.len()
        } else {
            let oldest = self.flows.iter().enumerate().min_by_key(|(_, flow)| flow.used);
            oldest.map_or(0, |(index, _)| index)
        };
        registry.register(&mut socket, token(index), Interest::READABLE)?;
        let flow = Flow {
            guest: question.guest,
            far: question.far,
            identification: question.identification,
            socket,
            used: Instant::now(),
        };
        if index == self.flows.len() {
            self.flows.push(flow);
        } else {
            let mut before = std::mem::replace(&mut self.flows[index], flow);
            let _ = registry.deregister(&mut before.socket);
        }
        Ok(index)
    }

    /// Forgets all questions.
    pub(super) fn clear(&mut self, registry: &Registry) {
        for mut flow in self.flows.drain(..) {
            let _ = registry.deregister(&mut flow.socket);
        }
    }

    /// Socket `index` has answers.
    pub(super) fn event(&mut self, index: usize, exchange: &Exchange, cable: &Cable) {
        let Some(flow) = self.flows.get(index) else { return };
        while let Ok(length) = flow.socket.recv(&mut self.buffer) {
            let Some((header, data)) = self.buffer[..length].split_first_chunk::<HEADER>() else {
                continue;
            };
            if matches!(header[0], 0 | 129) {
                let question = Question {
                    guest: flow.guest,
                    far: flow.far,
                    identification: flow.identification,
                    sequence: u16::from_be_bytes([header[6], header[7]]),
                    data,
                };
                answer(exchange, cable, question);
            }
        }
    }
}

/// Sends the guest the answer to its question.
fn answer(exchange: &Exchange, cable: &Cable, question: Question<'_>) {
    let Question { guest, far, identification, sequence, data } = question;
    let (length, ends) = (HEADER + data.len(), (far, guest));
    match (far, guest) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            send_packet(exchange, cable, ends, IpProtocol::Icmp, length, 64, |bytes| {
                let repr = Icmpv4Repr::EchoReply { ident: identification, seq_no: sequence, data };
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &Default::default());
            });
        }
        (IpAddr::V6(far), IpAddr::V6(guest)) => {
            send_packet(exchange, cable, ends, IpProtocol::Icmpv6, length, 64, |bytes| {
                let repr = Icmpv6Repr::EchoReply { ident: identification, seq_no: sequence, data };
                let mut packet = Icmpv6Packet::new_unchecked(bytes);
                packet.set_msg_type(Icmpv6Message::EchoReply);
                repr.emit(&far, &guest, &mut packet, &Default::default());
            });
        }
        _ => {}
    }
}
