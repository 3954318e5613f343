//! All connections, and whose turn it is with the guest.

use crate::VsockPort;
use crate::connection::{Connection, Lost, Ports};
use crate::packet::{HOST_CID, Header, STREAM, operation};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Weak;

/// Most connections at a time.
pub(crate) const CONNECTIONS_MAX: usize = 512;
/// Most refusals that wait for the guest. It knows of those beyond by its own patience.
const REFUSALS_MAX: usize = 1024;
/// First of the ports that programs of the host have for the guest.
const FIRST_PORT: u32 = 1 << 30;
/// Tokens below are not connections'.
pub(crate) const FIRST_TOKEN: usize = 2;

/// The connections of one guest.
pub(crate) struct Hub {
    // Configuration.
    path: PathBuf,
    cid: u64,

    // Dependencies.
    registry: Registry,
    port: Option<Weak<dyn VsockPort>>,

    // Volatile state.
    connections: HashMap<usize, Connection>,
    tokens: HashMap<Ports, usize>,
    /// Connections that may have something for the guest.
    turn: VecDeque<usize>,
    refusals: VecDeque<Header>,
    next_token: usize,
    next_port: u32,
}

impl Hub {
    pub(crate) fn new(path: &Path, cid: u64, registry: Registry) -> Self {
        Self {
            path: path.to_owned(),
            cid,
            registry,
            port: None,
            connections: HashMap::new(),
            tokens: HashMap::new(),
            turn: VecDeque::new(),
            refusals: VecDeque::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_PORT,
        }
    }

    pub(crate) fn attach(&mut self, port: Weak<dyn VsockPort>) {
        self.forget();
        self.port = Some(port);
    }

    pub(crate) fn port(&self) -> Option<Weak<dyn VsockPort>> {
        self.port.clone()
    }

    /// Drops all connections: the guest knows of none.
    pub(crate) fn forget(&mut self) {
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            self.remove(token);
        }
        self.turn.clear();
        self.refusals.clear();
    }

    fn remove(&mut self, token: usize) {
        if let Some(mut connection) = self.connections.remove(&token) {
            // A socket that is not registered cannot be closed more than it will be now.
            let _ = self.registry.deregister(connection.stream());
            if let Some(ports) = connection.ports()
                && self.tokens.get(&ports) == Some(&token)
            {
                self.tokens.remove(&ports);
            }
        }
    }

    /// Keeps a connection; whether there was room for it.
    fn keep(&mut self, mut connection: Connection) -> Option<usize> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let token = self.next_token;
        self.next_token += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(connection.stream(), Token(token), interest).ok()?;
        if let Some(ports) = connection.ports() {
            self.tokens.insert(ports, token);
        }
        self.connections.insert(token, connection);
        Some(token)
    }

    fn queue(&mut self, token: usize) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.turn.push_back(token);
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.operation != operation::RESET && self.refusals.len() < REFUSALS_MAX {
            self.refusals.push_back(header.refusal());
        }
    }

    /// Takes a packet of the guest.
    pub(crate) fn transmit(&mut self, header: &Header, data: &[u8]) {
        if header.source_cid != self.cid
            || header.destination_cid != HOST_CID
            || header.kind != STREAM
        {
            return self.refuse(header);
        }
        let ports = Ports { guest: header.source_port, host: header.destination_port };
        let known = self.tokens.get(&ports).copied();
        match (header.operation, known) {
            (operation::REQUEST, None) => self.connect(header, ports),
            (operation::RESET, Some(token)) => self.remove(token),
            (_, Some(token)) => {
                let Some(connection) = self.connections.get_mut(&token) else { return };
                if connection.take(header, data) == Err(Lost) {
                    connection.reset();
                }
                self.queue(token);
            }
            (_, None) => self.refuse(header),
        }
    }

    /// Connects the guest to a program that listens.
    fn connect(&mut self, header: &Header, ports: Ports) {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{}", ports.host));
        let stream = match UnixStream::connect(PathBuf::from(path)) {
            Ok(stream) if self.connections.len() < CONNECTIONS_MAX => stream,
            _ => return self.refuse(header),
        };
        let mut connection = Connection::accepted(stream, ports);
        connection.learn_credit(header);
        match self.keep(connection) {
            Some(token) => self.queue(token),
            None => self.refuse(header),
        }
    }

    /// Takes a program of the host that wants to reach the guest.
    pub(crate) fn accept(&mut self, stream: UnixStream) {
        let host = loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).filter(|p| *p != u32::MAX).unwrap_or(FIRST_PORT);
            // The guest may have chosen that port of the host itself, as one to connect to.
            if !self.tokens.keys().any(|ports| ports.host == port) {
                break port;
            }
        };
        // A connection that there is no room for ends here.
        if let Some(token) = self.keep(Connection::greeting(stream, host)) {
            self.ready(token, true, false);
        }
    }

    /// A connection's socket is ready for something.
    pub(crate) fn ready(&mut self, token: usize, readable: bool, writable: bool) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.ports().is_none() {
            match connection.greet() {
                Ok(false) => return,
                Ok(true) => {}
                Err(Lost) => return self.remove(token),
            }
            if let Some(ports) = connection.ports() {
                self.tokens.insert(ports, token);
            }
            return self.queue(token);
        }
        if readable {
            connection.set_readable();
        }
        if writable && connection.flush() == Err(Lost) {
            connection.reset();
        }
        self.queue(token);
    }

    /// Whether the guest may be told something.
    pub(crate) fn has_news(&self) -> bool {
        !self.turn.is_empty() || !self.refusals.is_empty()
    }

    /// The next packet for the guest, with at most `room` bytes of data, which are put into `data`.
    pub(crate) fn receive(&mut self, room: usize, data: &mut Vec<u8>) -> Option<Header> {
        data.clear();
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        while let Some(token) = self.turn.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.queued = false;
            let Some(header) = connection.next(room, data) else { continue };
            if connection.is_over() {
                self.remove(token);
            } else {
                // It may have more, when the others have had their turn.
                self.queue(token);
            }
            let header =
                Header { source_cid: HOST_CID, destination_cid: self.cid, kind: STREAM, ..header };
            return Some(header);
        }
        None
    }
}
