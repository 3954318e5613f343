//! One connection: what it holds in either direction, and what is to be told to the guest next.

use crate::packet::{Header, operation, shutdown};
use bitflags::bitflags;
use mio::net::UnixStream;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

/// Bytes from the guest that a connection holds until the host's program takes them.
pub(crate) const ROOM: u32 = 128 << 10;
/// Bytes from the host's program that are read at a time.
const READ: usize = 64 << 10;
/// Most bytes of `CONNECT n` and its line feed.
const GREETING_MAX: usize = 32;

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) guest: u32,
    pub(crate) host: u32,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// A program of the host is still to say which port it wants.
    Greeting(Vec<u8>),
    /// The guest was asked.
    Asked,
    /// Both ends are there.
    Open,
}

bitflags! {
    /// What the guest is to be told, in this order.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Due: u8 {
        const RESET = 1 << 0;
        const REQUEST = 1 << 1;
        const RESPONSE = 1 << 2;
        const CREDIT = 1 << 3;
    }
}

/// The guest broke the rules of the connection, or the host's end is gone: it ends with a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    ports: Ports,
    phase: Phase,
    due: Due,
    /// Whether it waits for its turn with the guest.
    pub(crate) queued: bool,

    // From the host's program to the guest.
    incoming: VecDeque<u8>,
    /// Whether the socket may have more.
    readable: bool,
    /// The host's program sends no more, and whether the guest knows.
    ended: bool,
    told_end: bool,
    /// The guest receives no more.
    deaf: bool,
    /// What the guest has room for, has passed on, and was sent.
    peer_room: u32,
    peer_forwarded: u32,
    sent: u32,

    // From the guest to the host's program.
    outgoing: VecDeque<u8>,
    /// The guest sends no more.
    finished: bool,
    /// Bytes received, passed on, and what the guest knows of the latter.
    received: u32,
    forwarded: u32,
    told_forwarded: u32,
}

impl Connection {
    fn new(stream: UnixStream, ports: Ports, phase: Phase, due: Due) -> Self {
        Self {
            stream,
            ports,
            phase,
            due,
            queued: false,
            incoming: VecDeque::new(),
            readable: true,
            ended: false,
            told_end: false,
            deaf: false,
            peer_room: 0,
            peer_forwarded: 0,
            sent: 0,
            outgoing: VecDeque::new(),
            finished: false,
            received: 0,
            forwarded: 0,
            told_forwarded: 0,
        }
    }

    /// A connection that the guest has asked for, to a program that listens.
    pub(crate) fn accepted(stream: UnixStream, ports: Ports) -> Self {
        Self::new(stream, ports, Phase::Open, Due::RESPONSE)
    }

    /// A connection of a program that has not said yet which port it wants. It will have the host's
    /// port `host`.
    pub(crate) fn greeting(stream: UnixStream, host: u32) -> Self {
        let ports = Ports { guest: 0, host };
        Self::new(stream, ports, Phase::Greeting(Vec::new()), Due::empty())
    }

    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Its ends, unless the program has not named the guest's yet.
    pub(crate) fn ports(&self) -> Option<Ports> {
        (!matches!(self.phase, Phase::Greeting(_))).then_some(self.ports)
    }

    /// The socket may have something to read.
    pub(crate) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// Reads the greeting; whether it is complete.
    pub(crate) fn greet(&mut self) -> Result<bool, Lost> {
        let Phase::Greeting(line) = &mut self.phase else { return Ok(true) };
        loop {
            // One byte at a time: what follows the line is the guest's.
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(Lost),
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) if line.len() >= GREETING_MAX => return Err(Lost),
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Lost),
            }
        }
        let line = str::from_utf8(line).map_err(|_| Lost)?;
        let port = line.trim_end_matches('\r').strip_prefix("CONNECT ").ok_or(Lost)?;
        self.ports.guest = port.trim().parse().map_err(|_| Lost)?;
        self.phase = Phase::Asked;
        self.due |= Due::REQUEST;
        Ok(true)
    }

    /// Ends it with a reset.
    pub(crate) fn reset(&mut self) {
        self.due = Due::RESET;
        self.outgoing.clear();
        self.incoming.clear();
    }

    /// Takes what a packet says of the room that the guest has.
    pub(crate) fn learn_credit(&mut self, header: &Header) {
        self.peer_room = header.room;
        self.peer_forwarded = header.forwarded;
    }

    /// Takes a packet of the guest.
    pub(crate) fn take(&mut self, header: &Header, data: &[u8]) -> Result<(), Lost> {
        self.learn_credit(header);
        match header.operation {
            operation::RESPONSE if self.phase == Phase::Asked => {
                self.phase = Phase::Open;
                // There is room for it: nothing was written before.
                let answer = format!("OK {}\n", self.ports.host);
                let written = self.stream.write(answer.as_bytes()).map_err(|_| Lost)?;
                if written == answer.len() { Ok(()) } else { Err(Lost) }
            }
            operation::DATA if self.phase == Phase::Open && !self.finished => self.send(data),
            operation::SHUTDOWN => {
                self.finished |= header.flags & shutdown::SEND != 0;
                self.deaf |= header.flags & shutdown::RECEIVE != 0;
                self.flush()
            }
            operation::CREDIT_UPDATE => Ok(()),
            operation::CREDIT_REQUEST => {
                self.due |= Due::CREDIT;
                Ok(())
            }
            _ => Err(Lost),
        }
    }

    fn send(&mut self, data: &[u8]) -> Result<(), Lost> {
        if data.len() > ROOM as usize - self.outgoing.len().min(ROOM as usize) {
            return Err(Lost);
        }
        self.received = self.received.wrapping_add(data.len() as u32);
        self.outgoing.extend(data);
        self.flush()
    }

    /// Passes on what the guest sent, as far as the host's program takes it.
    pub(crate) fn flush(&mut self) -> Result<(), Lost> {
        while !self.outgoing.is_empty() {
            match self.stream.write(self.outgoing.as_slices().0) {
                Ok(0) => return Err(Lost),
                Ok(count) => {
                    self.outgoing.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Lost),
            }
        }
        // The guest learns of room that it can use before it runs out.
        let known = self.received.wrapping_sub(self.told_forwarded);
        if known > ROOM / 2 && self.forwarded != self.told_forwarded {
            self.due |= Due::CREDIT;
        }
        if self.outgoing.is_empty() && self.finished {
            if self.deaf {
                return Err(Lost);
            }
            // A program that is gone is found out when the guest is told so.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Bytes that the guest has room for.
    fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_room.saturating_sub(under_way) as usize
    }

    /// Reads from the host's program, if the guest has taken all that was read before.
    fn refill(&mut self) -> Result<(), Lost> {
        if !self.incoming.is_empty() || !self.readable || self.ended {
            return Ok(());
        }
        let mut buffer = [0; READ];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.incoming.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Lost),
        }
        Ok(())
    }

    /// The next packet for the guest, with at most `room` bytes of data, which are appended to
    /// `data`. A reset is the last one.
    pub(crate) fn next(&mut self, room: usize, data: &mut Vec<u8>) -> Option<Header> {
        if self.phase == Phase::Open && self.due.is_empty() && self.credit() > 0 {
            if self.refill().is_err() {
                self.reset();
            } else if self.deaf {
                self.incoming.clear();
            }
        }
        let (operation, flags) = if self.due.contains(Due::RESET) {
            (operation::RESET, 0)
        } else if self.due.contains(Due::REQUEST) {
            self.due -= Due::REQUEST;
            (operation::REQUEST, 0)
        } else if self.due.contains(Due::RESPONSE) {
            self.due -= Due::RESPONSE;
            (operation::RESPONSE, 0)
        } else if self.due.contains(Due::CREDIT) {
            self.due -= Due::CREDIT;
            (operation::CREDIT_UPDATE, 0)
        } else if self.phase != Phase::Open {
            return None;
        } else if !self.incoming.is_empty() && self.credit() > 0 && room > 0 {
            let count = self.incoming.len().min(self.credit()).min(room);
            data.extend(self.incoming.drain(..count));
            self.sent = self.sent.wrapping_add(count as u32);
            (operation::DATA, 0)
        } else if self.incoming.is_empty() && self.ended && !self.told_end {
            self.told_end = true;
            (operation::SHUTDOWN, shutdown::SEND)
        } else {
            return None;
        };
        self.told_forwarded = self.forwarded;
        Some(Header {
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            length: data.len() as u32,
            operation,
            flags,
            room: ROOM,
            forwarded: self.forwarded,
            ..Header::default()
        })
    }

    /// Whether it ends with the packet that was made last.
    pub(crate) fn is_over(&self) -> bool {
        self.due.contains(Due::RESET)
    }
}
