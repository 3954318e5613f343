//! How many descriptors a guest makes the monitor keep: one for each file that it knows, and one for
//! each that it has open.

use crate::request::{ANSWER, Header, long, opcode, word};
use rustix::process::{Resource, getrlimit};
use std::collections::HashMap;

/// The limit where the host has none.
const WITHOUT_LIMIT: u64 = 1 << 20;
/// Bytes in front of the handle in the answer to a request that creates a file.
const ENTRY: usize = 128;

/// What a guest keeps.
#[derive(Debug)]
pub(crate) struct Handles {
    /// How often each file was made known, without being forgotten since.
    known: HashMap<u64, u64>,
    /// Open files.
    open: u64,
    limit: u64,
}

impl Handles {
    pub(crate) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(WITHOUT_LIMIT) / 2;
        Self { known: HashMap::new(), open: 0, limit }
    }

    /// Whether there is no room for what this request may add.
    pub(crate) fn is_full_for(&self, header: &Header) -> bool {
        let adds = matches!(
            header.opcode,
            opcode::LOOKUP
                | opcode::SYMLINK
                | opcode::MKNOD
                | opcode::MKDIR
                | opcode::LINK
                | opcode::CREATE
                | opcode::OPEN
                | opcode::OPENDIR
        );
        adds && self.known.len() as u64 + self.open >= self.limit
    }

    /// A request with that body was answered so.
    pub(crate) fn note(&mut self, header: &Header, body: &[u8], answer: &[u8]) {
        let succeeded = answer.len() > ANSWER && word(answer, 4) == 0;
        match header.opcode {
            opcode::FORGET => self.forget(header.node, long(body, 0)),
            opcode::BATCH_FORGET => {
                let list = body.get(8..).unwrap_or(&[]).as_chunks::<16>().0;
                for entry in list.iter().take(word(body, 0) as usize) {
                    self.forget(long(entry, 0), long(entry, 8));
                }
            }
            opcode::RELEASE | opcode::RELEASEDIR if word(answer, 4) == 0 => {
                self.open = self.open.saturating_sub(1);
            }
            opcode::OPEN | opcode::OPENDIR if succeeded => self.open += 1,
            opcode::LOOKUP
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::LINK
            | opcode::CREATE
                if succeeded =>
            {
                *self.known.entry(long(answer, ANSWER)).or_default() += 1;
                if header.opcode == opcode::CREATE && answer.len() >= ANSWER + ENTRY {
                    self.open += 1;
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, node: u64, count: u64) {
        if let Some(known) = self.known.get_mut(&node) {
            *known = known.saturating_sub(count);
            if *known == 0 {
                self.known.remove(&node);
            }
        }
    }
}
