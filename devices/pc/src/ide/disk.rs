//! An ATA disk.

use super::drive::{self, Drive, Step, host_error};
use super::identify::{self, DiskFacts, MULTIPLE_MAX, TRIM_BLOCKS, TransferMode};
use super::spec::{Errors, Status, command, feature};
use super::task_file::TaskFile;
use ambos_block::{BlockBackend, SECTOR};
use ambos_memory::{DmaRange, GuestRam};
use std::sync::Arc;

/// Power mode: active or idle.
const POWER_ACTIVE: u8 = 0xff;
/// DATA SET MANAGEMENT: discard.
const TRIM: u8 = 1;

/// A command in progress.
#[derive(Debug)]
enum Job {
    /// What is sent is all there is.
    Reply,
    Read(Span),
    Write(Span),
    MasterRead {
        offset: u64,
    },
    MasterWrite {
        offset: u64,
    },
    MasterTrim,
}

/// The sectors that are still to move through the data port.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Bytes.
    offset: u64,
    left: u64,
    /// Bytes of a block: what moves between two interrupts.
    block: u64,
}

impl Span {
    /// Bytes of the next block.
    fn next(&self) -> usize {
        self.left.min(self.block) as usize
    }

    fn advance(&mut self) {
        let done = self.next() as u64;
        self.offset += done;
        self.left -= done;
    }
}

/// A disk.
pub(super) struct Disk {
    // Configuration.
    serial: String,

    // Dependencies.
    backend: Arc<dyn BlockBackend>,

    // Volatile state.
    /// Sectors of a block of READ MULTIPLE and WRITE MULTIPLE; zero: they are off.
    multiple: u8,
    /// While it is off, each write is flushed.
    write_cache: bool,
    mode: TransferMode,
    job: Job,
}

impl Disk {
    pub(super) fn new(backend: Arc<dyn BlockBackend>, serial: String) -> Self {
        Self {
            serial,
            backend,
            multiple: MULTIPLE_MAX,
            write_cache: true,
            mode: TransferMode::default(),
            job: Job::Reply,
        }
    }

    fn identify(&self) -> Vec<u8> {
        identify::disk(&DiskFacts {
            serial: &self.serial,
            sectors: self.backend.size() / SECTOR,
            multiple: self.multiple,
            write_cache: self.write_cache,
            mode: self.mode,
        })
    }

    /// Offset and length in bytes of what the registers mean, if the disk has it.
    fn extent(&self, task: &TaskFile, ext: bool) -> Result<(u64, u64), Step> {
        let missing = Step::Failed(Errors::ID_NOT_FOUND);
        let Some(first) = task.first_sector(ext) else { return Err(missing) };
        let (offset, length) = (first * SECTOR, task.sectors(ext) * SECTOR);
        if offset + length <= self.backend.size() { Ok((offset, length)) } else { Err(missing) }
    }

    fn span(&self, task: &TaskFile, ext: bool, sectors: u8) -> Result<Span, Step> {
        if sectors == 0 {
            return Err(Step::Failed(Errors::ABORTED));
        }
        let (offset, left) = self.extent(task, ext)?;
        Ok(Span { offset, left, block: u64::from(sectors) * SECTOR })
    }

    fn start_read(&mut self, task: &TaskFile, ext: bool, sectors: u8) -> Result<Step, Step> {
        self.job = Job::Read(self.span(task, ext, sectors)?);
        self.next_read()
    }

    /// Reads a block for the data port.
    fn next_read(&mut self) -> Result<Step, Step> {
        let Job::Read(span) = &mut self.job else { return Ok(Step::Quiet) };
        if span.left == 0 {
            return Ok(Step::Quiet);
        }
        let bytes = drive::read(&*self.backend, span.offset, span.next());
        span.advance();
        bytes.map(Step::Send).map_err(|error| host_error(&error))
    }

    fn start_write(&mut self, task: &TaskFile, ext: bool, sectors: u8) -> Result<Step, Step> {
        self.check_writable()?;
        let span = self.span(task, ext, sectors)?;
        self.job = Job::Write(span);
        Ok(Step::Receive { length: span.next(), interrupt: false })
    }

    fn check_writable(&self) -> Result<(), Step> {
        if self.backend.is_read_only() { Err(Step::Failed(Errors::ABORTED)) } else { Ok(()) }
    }

    fn flush(&self) -> Result<Step, Step> {
        self.backend.flush().map(|()| Step::Done).map_err(|error| host_error(&error))
    }

    /// Some data were written.
    fn written(&self) -> Result<Step, Step> {
        if self.write_cache { Ok(Step::Done) } else { self.flush() }
    }

    fn set_features(&mut self, task: &TaskFile) -> Result<Step, Step> {
        match task.features.current {
            feature::WRITE_CACHE_ON => self.write_cache = true,
            feature::WRITE_CACHE_OFF => {
                self.write_cache = false;
                return self.flush();
            }
            feature::TRANSFER_MODE => {
                let mode = TransferMode::of_code(task.count.current);
                self.mode = mode.ok_or(Step::Failed(Errors::ABORTED))?;
            }
            feature::LOOK_AHEAD_OFF | feature::LOOK_AHEAD_ON => {}
            code if feature::REVERT_DEFAULTS.contains(&code) => {}
            _ => return Err(Step::Failed(Errors::ABORTED)),
        }
        Ok(Step::Done)
    }

    fn execute(&mut self, code: u8, task: &mut TaskFile) -> Result<Step, Step> {
        let multiple = self.multiple;
        match code {
            command::READ_SECTORS | command::READ_SECTORS_NO_RETRY => {
                self.start_read(task, false, 1)
            }
            command::READ_SECTORS_EXT => self.start_read(task, true, 1),
            command::READ_MULTIPLE => self.start_read(task, false, multiple),
            command::READ_MULTIPLE_EXT => self.start_read(task, true, multiple),
            command::WRITE_SECTORS | command::WRITE_SECTORS_NO_RETRY => {
                self.start_write(task, false, 1)
            }
            command::WRITE_SECTORS_EXT => self.start_write(task, true, 1),
            command::WRITE_MULTIPLE => self.start_write(task, false, multiple),
            command::WRITE_MULTIPLE_EXT => self.start_write(task, true, multiple),
            command::READ_DMA | command::READ_DMA_NO_RETRY | command::READ_DMA_EXT => {
                let (offset, length) = self.extent(task, code == command::READ_DMA_EXT)?;
                self.job = Job::MasterRead { offset };
                Ok(Step::Master(length))
            }
            command::WRITE_DMA | command::WRITE_DMA_NO_RETRY | command::WRITE_DMA_EXT => {
                self.check_writable()?;
                let (offset, length) = self.extent(task, code == command::WRITE_DMA_EXT)?;
                self.job = Job::MasterWrite { offset };
                Ok(Step::Master(length))
            }
            command::DATA_SET_MANAGEMENT => {
                self.check_writable()?;
                let blocks = task.sectors(true);
                if task.features.current != TRIM || blocks > TRIM_BLOCKS {
                    return Err(Step::Failed(Errors::ABORTED));
                }
                self.job = Job::MasterTrim;
                Ok(Step::Master(blocks * SECTOR))
            }
            command::VERIFY | command::VERIFY_NO_RETRY | command::VERIFY_EXT => {
                self.extent(task, code == command::VERIFY_EXT).map(|_| Step::Done)
            }
            command::SEEK => match task.first_sector(false) {
                Some(sector) if sector < self.backend.size() / SECTOR => Ok(Step::Done),
                _ => Err(Step::Failed(Errors::ID_NOT_FOUND)),
            },
            command::FLUSH_CACHE | command::FLUSH_CACHE_EXT => self.flush(),
            command::IDENTIFY => {
                self.job = Job::Reply;
                Ok(Step::Send(self.identify()))
            }
            command::SET_FEATURES => self.set_features(task),
            command::SET_MULTIPLE => {
                let sectors = task.count.current;
                if sectors > MULTIPLE_MAX || sectors != 0 && !sectors.is_power_of_two() {
                    return Err(Step::Failed(Errors::ABORTED));
                }
                self.multiple = sectors;
                Ok(Step::Done)
            }
            command::CHECK_POWER_MODE => {
                task.count.current = POWER_ACTIVE;
                Ok(Step::Done)
            }
            command::INITIALIZE_PARAMETERS
            | command::STANDBY_IMMEDIATE
            | command::IDLE_IMMEDIATE
            | command::STANDBY
            | command::IDLE
            | command::SLEEP => Ok(Step::Done),
            code if command::RECALIBRATE.contains(&code) => Ok(Step::Done),
            _ => Err(Step::Failed(Errors::ABORTED)),
        }
    }

    fn write_block(&mut self, data: &[u8]) -> Result<Step, Step> {
        let Job::Write(span) = &mut self.job else { return Ok(Step::Quiet) };
        let mut bytes = data.to_vec();
        let result = self.backend.write(span.offset, &[(&mut bytes[..]).into()]);
        span.advance();
        result.map_err(|error| host_error(&error))?;
        match span.next() {
            0 => self.written(),
            length => Ok(Step::Receive { length, interrupt: true }),
        }
    }

    fn move_data(&mut self, ram: &GuestRam, ranges: &[DmaRange]) -> Result<Step, Step> {
        match self.job {
            Job::MasterRead { offset } => {
                drive::read_into(&*self.backend, offset, ram, ranges)?;
                Ok(Step::Done)
            }
            Job::MasterWrite { offset } => {
                let slices = ram.dma_slices(ranges).map_err(|_| Step::Failed(Errors::ABORTED))?;
                self.backend.write(offset, &slices).map_err(|error| host_error(&error))?;
                self.written()
            }
            Job::MasterTrim => {
                let list = drive::get(ram, ranges, (TRIM_BLOCKS * SECTOR) as usize)?;
                // Six bytes of address and two of count each.
                for entry in list.as_chunks::<8>().0 {
                    let entry = u64::from_le_bytes(*entry);
                    let (sector, count) = (entry & 0xffff_ffff_ffff, entry >> 48);
                    if count != 0 {
                        let result = self.backend.discard(sector * SECTOR, count * SECTOR);
                        result.map_err(|error| host_error(&error))?;
                    }
                }
                Ok(Step::Done)
            }
            Job::Reply | Job::Read(_) | Job::Write(_) => Ok(Step::Quiet),
        }
    }
}

/// Both sides of these results are steps; a failure is one for `?`.
fn either(result: Result<Step, Step>) -> Step {
    result.unwrap_or_else(|step| step)
}

impl Drive for Disk {
    fn signature(&self) -> ([u8; 2], Status) {
        ([0, 0], Status::DRDY | Status::DSC)
    }

    fn reset(&mut self) {
        self.job = Job::Reply;
        self.multiple = MULTIPLE_MAX;
    }

    fn command(&mut self, command: u8, task: &mut TaskFile) -> Step {
        either(self.execute(command, task))
    }

    fn sent(&mut self, _task: &mut TaskFile) -> Step {
        either(self.next_read())
    }

    fn received(&mut self, data: &[u8], _task: &mut TaskFile) -> Step {
        either(self.write_block(data))
    }

    fn transfer(&mut self, ram: &GuestRam, ranges: &[DmaRange], _task: &mut TaskFile) -> Step {
        either(self.move_data(ram, ranges))
    }
}
