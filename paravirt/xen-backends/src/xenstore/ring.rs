//! A connection over the page that the guest shares with the store (`io/xs_wire.h`,
//! `xenstore_domain_interface`).

use super::store::{ConnectionId, Store};
use super::watch::Event;
use super::wire::{HEADER, Header, PAYLOAD_MAX, StoreError, kind};
use crate::events::Progress;
use crate::ring::{ByteRing, Side};
use crate::shared::{RingError, SharedPages};
use std::collections::VecDeque;

/// Places in the page.
mod at {
    pub(super) const REQUESTS: (u32, u32) = (0, 1024);
    pub(super) const RESPONSES: (u32, u32) = (1024, 1024);
    pub(super) const REQUEST_CONSUMER: u32 = 2048;
    pub(super) const REQUEST_PRODUCER: u32 = 2052;
    pub(super) const RESPONSE_CONSUMER: u32 = 2056;
    pub(super) const RESPONSE_PRODUCER: u32 = 2060;
    pub(super) const FEATURES: u32 = 2064;
    pub(super) const CONNECTION: u32 = 2068;
    pub(super) const ERROR: u32 = 2072;
}

/// The guest may ask for a fresh connection; errors of the connection are told.
const FEATURES: u32 = 1 | 2;
/// State of the connection: the guest wants it to begin anew.
const RECONNECT: u32 = 1;
/// Errors of the connection.
const BAD_INDICES: u32 = 2;
const BAD_PROTOCOL: u32 = 3;

/// Bytes of answers that may wait while further requests are served.
const OUTPUT_MAX: usize = 64 << 10;
/// Requests served in one call.
const REQUESTS: usize = 64;

/// What a call did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exchanged {
    /// Bytes went over the ring: the guest should look.
    pub(crate) moved: bool,
    pub(crate) progress: Progress,
}

/// The store's end of the ring.
pub(crate) struct StoreRing {
    // Dependencies.
    pages: SharedPages,
    connection: ConnectionId,

    // Volatile state.
    requests: ByteRing,
    responses: ByteRing,
    /// The beginning of a request that has not come whole yet.
    input: Vec<u8>,
    /// Answers for which the ring has no room yet.
    output: VecDeque<u8>,
    /// The guest broke the protocol. Nothing is served until it asks for a fresh connection.
    broken: bool,
}

impl StoreRing {
    pub(crate) fn new(pages: SharedPages, connection: ConnectionId) -> Result<Self, RingError> {
        let requests = ByteRing::new(
            &pages,
            at::REQUESTS,
            at::REQUEST_CONSUMER,
            at::REQUEST_PRODUCER,
            Side::Consumer,
        )?;
        let responses = ByteRing::new(
            &pages,
            at::RESPONSES,
            at::RESPONSE_CONSUMER,
            at::RESPONSE_PRODUCER,
            Side::Producer,
        )?;
        pages.store(at::FEATURES, FEATURES)?;
        let (input, output) = (Vec::new(), VecDeque::new());
        Ok(Self { pages, connection, requests, responses, input, output, broken: false })
    }

    /// Takes requests in, has them served, and puts answers and events out, as far as possible.
    pub(crate) fn exchange(&mut self, store: &mut Store) -> Exchanged {
        let mut moved = false;
        let progress = match self.try_exchange(store, &mut moved) {
            Ok(progress) => progress,
            Err(error) => {
                let number = match error {
                    Failure::Ring(RingError::Indices) => BAD_INDICES,
                    Failure::Ring(_) | Failure::Protocol => BAD_PROTOCOL,
                };
                tracing::warn!("the guest's connection to xenstore is broken ({number})");
                self.broken = true;
                // If even this cannot be told, there is nobody to tell it to.
                let _ = self.pages.store(at::ERROR, number);
                Progress::Done
            }
        };
        Exchanged { moved, progress }
    }

    fn try_exchange(&mut self, store: &mut Store, moved: &mut bool) -> Result<Progress, Failure> {
        if self.pages.load(at::CONNECTION)? == RECONNECT {
            self.begin_anew(store)?;
            *moved = true;
        }
        if self.broken {
            return Ok(Progress::Done);
        }
        for _ in 0..REQUESTS {
            self.collect_events(store);
            *moved |= self.put_out()?;
            if self.output.len() > OUTPUT_MAX {
                // The guest has to fetch answers first; it notifies when it does.
                return Ok(Progress::Done);
            }
            let (whole, taken) = self.take_in()?;
            *moved |= taken;
            if !whole {
                return Ok(Progress::Done);
            }
            self.serve(store)?;
        }
        *moved |= self.put_out()?;
        Ok(Progress::More)
    }

    fn begin_anew(&mut self, store: &mut Store) -> Result<(), RingError> {
        store.reset(self.connection);
        self.input.clear();
        self.output.clear();
        self.broken = false;
        self.requests.reset(&self.pages)?;
        self.responses.reset(&self.pages)?;
        self.pages.store(at::ERROR, 0)?;
        self.pages.store(at::CONNECTION, 0)
    }

    /// Takes in what there is of one request: whether it is whole, and whether there was anything.
    fn take_in(&mut self) -> Result<(bool, bool), Failure> {
        let mut taken = false;
        loop {
            let wanted = match self.input.first_chunk() {
                None => HEADER,
                Some(header) => HEADER + payload_length(&Header::decode(header))?,
            };
            let have = self.input.len();
            if have == wanted && have >= HEADER {
                return Ok((true, taken));
            }
            self.input.resize(wanted, 0);
            let count = self.requests.read(&self.pages, &mut self.input[have..]);
            self.input.truncate(have + *count.as_ref().unwrap_or(&0));
            if count? == 0 {
                return Ok((false, taken));
            }
            taken = true;
        }
    }

    /// Serves the request that has been taken in.
    fn serve(&mut self, store: &mut Store) -> Result<(), Failure> {
        let input = std::mem::take(&mut self.input);
        let (header, payload) = input.split_first_chunk().ok_or(Failure::Protocol)?;
        let header = Header::decode(header);
        match store.serve(self.connection, header.kind, header.transaction, payload) {
            Ok(reply) if reply.len() <= PAYLOAD_MAX => self.answer(header, &[&reply]),
            reply => {
                let error = reply.err().unwrap_or(StoreError::TooBig).to_string();
                let header = Header { kind: kind::ERROR, ..header };
                self.answer(header, &[error.as_bytes(), &[0]]);
            }
        }
        Ok(())
    }

    fn answer(&mut self, header: Header, payload: &[&[u8]]) {
        let length = payload.iter().map(|part| part.len()).sum::<usize>() as u32;
        self.output.extend(Header { length, ..header }.encode());
        payload.iter().for_each(|part| self.output.extend(*part));
    }

    /// Makes messages of events, as long as not too many wait.
    fn collect_events(&mut self, store: &mut Store) {
        while self.output.len() <= OUTPUT_MAX
            && let Some(Event { name, token }) = store.next_event(self.connection)
        {
            let header = Header { kind: kind::WATCH_EVENT, request: 0, transaction: 0, length: 0 };
            self.answer(header, &[name.as_bytes(), &[0], token.as_bytes(), &[0]]);
        }
    }

    /// Puts out what there is room for; whether that was anything.
    fn put_out(&mut self) -> Result<bool, RingError> {
        let mut moved = false;
        while !self.output.is_empty() {
            let (head, _) = self.output.as_slices();
            let count = self.responses.write(&self.pages, head)?;
            if count == 0 {
                break;
            }
            self.output.drain(..count);
            moved = true;
        }
        Ok(moved)
    }
}

/// Why a connection ends.
enum Failure {
    Ring(RingError),
    /// A message is longer than any may be.
    Protocol,
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

fn payload_length(header: &Header) -> Result<usize, Failure> {
    let length = usize::try_from(header.length).map_err(|_| Failure::Protocol)?;
    if length > PAYLOAD_MAX { Err(Failure::Protocol) } else { Ok(length) }
}
