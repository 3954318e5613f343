//! An ATAPI CD-ROM drive.

use super::drive::{self, Drive, Step};
use super::identify::{self, TransferMode};
use super::packet::{self, BLOCK, Request, Sense};
use super::spec::{Errors, Status, command, feature};
use super::task_file::TaskFile;
use ambos_block::BlockBackend;
use ambos_memory::{DmaRange, GuestRam};
use std::sync::Arc;

/// Interrupt reason (the sector count register): the data are a command.
const REASON_COMMAND: u8 = 1 << 0;
/// Interrupt reason: data go to the guest.
const REASON_TO_GUEST: u8 = 1 << 1;
/// Features of PACKET: the bus master moves the data.
const BY_MASTER: u8 = 1 << 0;
/// Bytes that are read from the medium at once for the data port.
const READ_AHEAD: u64 = 1 << 16;

/// A command in progress.
#[derive(Debug)]
enum Job {
    None,
    /// The packet is to come.
    Packet {
        by_master: bool,
        limit: usize,
    },
    /// An answer for the bus master.
    Answer(Vec<u8>),
    /// Part of the medium for the bus master.
    Master {
        offset: u64,
    },
    /// Data for the data port, in pieces of at most `limit` bytes.
    Port(Port),
}

#[derive(Debug)]
struct Port {
    limit: usize,
    /// Bytes that wait, and how many of them went.
    bytes: Vec<u8>,
    sent: usize,
    /// The part of the medium that comes after them.
    offset: u64,
    left: u64,
}

/// A CD-ROM drive with its medium.
pub(super) struct Cdrom {
    // Configuration.
    serial: String,

    // Dependencies.
    medium: Arc<dyn BlockBackend>,

    // Volatile state.
    mode: TransferMode,
    sense: Sense,
    job: Job,
}

impl Cdrom {
    pub(super) fn new(medium: Arc<dyn BlockBackend>, serial: String) -> Self {
        Self { serial, medium, mode: TransferMode::default(), sense: Sense::NONE, job: Job::None }
    }

    fn end(&mut self, task: &mut TaskFile) -> Step {
        self.sense = Sense::NONE;
        self.job = Job::None;
        task.count.current = REASON_COMMAND | REASON_TO_GUEST;
        Step::Done
    }

    fn fail(&mut self, sense: Sense, task: &mut TaskFile) -> Step {
        self.sense = sense;
        self.job = Job::None;
        task.count.current = REASON_COMMAND | REASON_TO_GUEST;
        Step::Failed(Errors::from_bits_retain(sense.key << 4) | Errors::ABORTED)
    }

    fn start(&mut self, packet: &[u8], by_master: bool, limit: usize, task: &mut TaskFile) -> Step {
        let Some(packet) = packet.first_chunk::<{ packet::LENGTH }>() else {
            return self.fail(Sense::INVALID_FIELD, task);
        };
        let request = match packet::request(packet, self.medium.size() / BLOCK, self.sense) {
            Ok(request) => request,
            Err(sense) => return self.fail(sense, task),
        };
        let (bytes, offset, left) = match request {
            Request::Nothing => return self.end(task),
            Request::Answer(bytes) => (bytes, 0, 0),
            Request::Read { first, count } => (Vec::new(), first * BLOCK, count * BLOCK),
        };
        if !by_master {
            self.job = Job::Port(Port { limit, bytes, sent: 0, offset, left });
            return self.next(task);
        }
        let length = bytes.len() as u64 + left;
        if length == 0 {
            return self.end(task);
        }
        self.job = if left > 0 { Job::Master { offset } } else { Job::Answer(bytes) };
        task.count.current = REASON_TO_GUEST;
        Step::Master(length)
    }

    /// Sends the next piece of data.
    fn next(&mut self, task: &mut TaskFile) -> Step {
        let Job::Port(port) = &mut self.job else { return Step::Quiet };
        if port.sent == port.bytes.len() {
            if port.left == 0 {
                return self.end(task);
            }
            let length = port.left.min(READ_AHEAD);
            match drive::read(&*self.medium, port.offset, length as usize) {
                Ok(bytes) => (port.bytes, port.sent) = (bytes, 0),
                Err(_) => return self.fail(Sense::READ_ERROR, task),
            }
            port.offset += length;
            port.left -= length;
        }
        let length = (port.bytes.len() - port.sent).min(port.limit);
        let piece = port.bytes[port.sent..port.sent + length].to_vec();
        port.sent += length;
        let [low, high] = (length as u16).to_le_bytes();
        (task.lba[1].current, task.lba[2].current) = (low, high);
        task.count.current = REASON_TO_GUEST;
        Step::Send(piece)
    }
}

impl Drive for Cdrom {
    fn signature(&self) -> ([u8; 2], Status) {
        ([0x14, 0xeb], Status::empty())
    }

    fn reset(&mut self) {
        self.job = Job::None;
        self.sense = Sense::NONE;
    }

    fn command(&mut self, code: u8, task: &mut TaskFile) -> Step {
        self.job = Job::None;
        match code {
            command::PACKET => {
                let limit = u16::from_le_bytes([task.lba[1].current, task.lba[2].current]);
                // Zero means as much as possible; only the last piece may be odd.
                let limit = match limit & !1 {
                    0 => 0xfffe,
                    limit => usize::from(limit),
                };
                let by_master = task.features.current & BY_MASTER != 0;
                self.job = Job::Packet { by_master, limit };
                task.count.current = REASON_COMMAND;
                Step::Receive { length: packet::LENGTH, interrupt: false }
            }
            command::IDENTIFY_PACKET => Step::Send(identify::cdrom(&self.serial, self.mode)),
            command::SET_FEATURES if task.features.current == feature::TRANSFER_MODE => {
                match TransferMode::of_code(task.count.current) {
                    Some(mode) => {
                        self.mode = mode;
                        Step::Done
                    }
                    None => Step::Failed(Errors::ABORTED),
                }
            }
            command::STANDBY_IMMEDIATE
            | command::IDLE_IMMEDIATE
            | command::SLEEP
            | command::FLUSH_CACHE => Step::Done,
            command::CHECK_POWER_MODE => {
                task.count.current = 0xff;
                Step::Done
            }
            // Software that takes this for a disk learns from the signature that it is none.
            command::IDENTIFY | command::READ_SECTORS => {
                let (kind, _) = self.signature();
                (task.count.current, task.lba[0].current) = (1, 1);
                (task.lba[1].current, task.lba[2].current) = (kind[0], kind[1]);
                Step::Failed(Errors::ABORTED)
            }
            _ => Step::Failed(Errors::ABORTED),
        }
    }

    fn sent(&mut self, task: &mut TaskFile) -> Step {
        self.next(task)
    }

    fn received(&mut self, data: &[u8], task: &mut TaskFile) -> Step {
        match self.job {
            Job::Packet { by_master, limit } => self.start(data, by_master, limit, task),
            _ => Step::Quiet,
        }
    }

    fn transfer(&mut self, ram: &GuestRam, ranges: &[DmaRange], task: &mut TaskFile) -> Step {
        let result = match &self.job {
            Job::Answer(bytes) => drive::put(bytes, ram, ranges),
            Job::Master { offset } => drive::read_into(&*self.medium, *offset, ram, ranges),
            _ => return Step::Quiet,
        };
        match result {
            Ok(()) => self.end(task),
            Err(_) => self.fail(Sense::READ_ERROR, task),
        }
    }
}
