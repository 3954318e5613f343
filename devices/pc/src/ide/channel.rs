//! One IDE channel: its registers, its two drives, its bus master. It knows no bus.
//!
//! Commands are served at once, by the vCPU that gives them: there is only one at a time on a
//! channel, the guest waits for it, and giving it to another thread and back takes longer (some
//! 27 µs) than a request that the host's page cache serves (a few µs).

use super::bus_master::{BusMaster, Gathered};
use super::drive::{Drive, Step};
use super::spec::{self, Control, Errors, MasterStatus, Status, command};
use super::task_file::TaskFile;
use ambos_memory::GuestRam;
use ambos_wire::Wire;
use std::sync::Arc;

/// Data on their way.
#[derive(Debug)]
enum Data {
    None,
    /// Bytes for the guest, and how many of them it has read.
    Send(Vec<u8>, usize),
    /// Bytes from the guest, and how many there will be.
    Receive(Vec<u8>, usize),
    /// So many bytes wait for the bus master.
    Master(u64),
}

/// A drive in its place.
struct Bay {
    drive: Box<dyn Drive>,
    task: TaskFile,
    data: Data,
}

impl Bay {
    fn reset(&mut self) {
        let (kind, status) = self.drive.signature();
        self.drive.reset();
        self.task.reset(kind, status);
        self.data = Data::None;
    }
}

/// A channel.
pub(super) struct Channel {
    // Dependencies.
    ram: Arc<GuestRam>,
    irq: Wire,
    bays: [Option<Bay>; 2],

    // Volatile state.
    master: BusMaster,
    control: Control,
    /// Drive 1 is selected.
    second: bool,
    /// The selected drive asks for an interrupt.
    interrupt: bool,
}

impl Channel {
    pub(super) fn new(ram: Arc<GuestRam>, irq: Wire, drives: [Option<Box<dyn Drive>>; 2]) -> Self {
        let bays = drives.map(|drive| {
            let mut bay = Bay { drive: drive?, task: TaskFile::default(), data: Data::None };
            bay.reset();
            Some(bay)
        });
        Self {
            ram,
            irq,
            bays,
            master: BusMaster::default(),
            control: Control::default(),
            second: false,
            interrupt: false,
        }
    }

    fn bay(&mut self) -> Option<&mut Bay> {
        self.bays[usize::from(self.second)].as_mut()
    }

    fn set_interrupt(&mut self, interrupt: bool) {
        self.interrupt = interrupt;
        let driven = interrupt && !self.control.contains(Control::NIEN);
        if driven && !self.irq.level() {
            self.master.status.insert(MasterStatus::INTERRUPT);
        }
        self.irq.set_level(driven);
    }

    /// Goes on with a command as its drive says.
    fn apply(&mut self, step: Step) {
        let Some(bay) = self.bay() else { return };
        bay.data = Data::None;
        let mut interrupt = true;
        match step {
            Step::Done => bay.task.succeed(),
            Step::Quiet => {
                bay.task.succeed();
                interrupt = false;
            }
            Step::Failed(errors) => bay.task.fail(errors),
            Step::Send(bytes) => {
                bay.task.succeed();
                bay.task.status.insert(Status::DRQ);
                bay.data = Data::Send(bytes, 0);
            }
            Step::Receive { length, interrupt: tell } => {
                bay.task.succeed();
                bay.task.status.insert(Status::DRQ);
                bay.data = Data::Receive(Vec::with_capacity(length), length);
                interrupt = tell;
            }
            Step::Master(length) => {
                bay.task.succeed();
                bay.task.status.insert(Status::DRQ);
                bay.data = Data::Master(length);
                interrupt = false;
            }
        }
        if interrupt {
            self.set_interrupt(true);
        }
    }

    /// Reads a register of the command or control block; data are read by [`Channel::read_data`].
    pub(super) fn read(&mut self, register: u16) -> u8 {
        if self.bays.iter().all(Option::is_none) {
            // Nobody drives the cable.
            return 0xff;
        }
        if register == spec::STATUS {
            self.set_interrupt(false);
        }
        let high_order = self.control.contains(Control::HIGH_ORDER);
        let resetting = self.control.contains(Control::SOFT_RESET);
        let Some(bay) = self.bay() else { return 0 };
        match register {
            spec::STATUS | spec::CONTROL if resetting => Status::BSY.bits(),
            spec::STATUS | spec::CONTROL => bay.task.status.bits(),
            register => bay.task.read(register, high_order),
        }
    }

    /// Writes a register of the command or control block; data are written by
    /// [`Channel::write_data`].
    pub(super) fn write(&mut self, register: u16, value: u8) {
        match register {
            spec::STATUS => self.command(value),
            spec::CONTROL => self.set_control(Control::from_bits_truncate(value)),
            register => {
                self.control.remove(Control::HIGH_ORDER);
                for bay in self.bays.iter_mut().flatten() {
                    bay.task.write(register, value);
                }
                if register == spec::DEVICE {
                    self.second = value & spec::DEVICE_1 != 0;
                }
            }
        }
    }

    fn set_control(&mut self, control: Control) {
        let before = std::mem::replace(&mut self.control, control);
        if control.contains(Control::SOFT_RESET) && !before.contains(Control::SOFT_RESET) {
            self.reset();
        }
        self.set_interrupt(self.interrupt);
    }

    fn reset(&mut self) {
        self.bays.iter_mut().flatten().for_each(Bay::reset);
        self.second = false;
        self.interrupt = false;
    }

    fn command(&mut self, code: u8) {
        if self.control.contains(Control::SOFT_RESET) {
            return;
        }
        if code == command::EXECUTE_DIAGNOSTIC {
            self.reset();
            self.set_interrupt(true);
            return;
        }
        let Some(bay) = self.bay() else { return };
        if code == command::DEVICE_RESET && bay.drive.signature().1.is_empty() {
            bay.reset();
            self.set_interrupt(false);
            return;
        }
        if bay.task.status.contains(Status::DRQ) {
            // Busy with another one, which only a reset ends.
            return;
        }
        let step = bay.drive.command(code, &mut bay.task);
        self.set_interrupt(false);
        self.apply(step);
        self.run_master();
    }

    /// Reads the data port.
    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0);
        let Some(bay) = self.bay() else { return };
        let Data::Send(bytes, position) = &mut bay.data else { return };
        let left = &bytes[*position..];
        let count = data.len().min(left.len());
        data[..count].copy_from_slice(&left[..count]);
        *position += count;
        if *position == bytes.len() {
            let step = bay.drive.sent(&mut bay.task);
            self.apply(step);
        }
    }

    /// Writes the data port.
    pub(super) fn write_data(&mut self, data: &[u8]) {
        let Some(bay) = self.bay() else { return };
        let Data::Receive(bytes, length) = &mut bay.data else { return };
        let count = data.len().min(*length - bytes.len());
        bytes.extend_from_slice(&data[..count]);
        if bytes.len() == *length {
            let bytes = std::mem::take(bytes);
            let step = bay.drive.received(&bytes, &mut bay.task);
            self.apply(step);
            self.run_master();
        }
    }

    /// Reads a register of the bus master.
    pub(super) fn read_master(&self, offset: u16) -> u8 {
        self.master.read(offset)
    }

    /// Writes a register of the bus master. It moves data only if the guest `allowed` that.
    pub(super) fn write_master(&mut self, offset: u16, value: u8, allowed: bool) {
        if self.master.write(offset, value) {
            if allowed {
                self.run_master();
            } else {
                self.master.status.insert(MasterStatus::ERROR);
                self.master.status.remove(MasterStatus::ACTIVE);
            }
        }
    }

    /// Moves data if bus master and drive are both ready.
    fn run_master(&mut self) {
        if !self.master.is_active() {
            return;
        }
        let ram = Arc::clone(&self.ram);
        let Some(bay) = self.bays[usize::from(self.second)].as_mut() else { return };
        let Data::Master(length) = bay.data else { return };
        let (step, more) = match self.master.gather(&ram, length) {
            Gathered::Whole(ranges, more) => {
                if ram.dma_slices(&ranges).is_ok() {
                    (bay.drive.transfer(&ram, &ranges, &mut bay.task), more)
                } else {
                    self.master.status.insert(MasterStatus::ERROR);
                    (Step::Failed(Errors::ABORTED), false)
                }
            }
            Gathered::Short => {
                self.master.status.remove(MasterStatus::ACTIVE);
                return;
            }
            Gathered::Fault => {
                self.master.status.insert(MasterStatus::ERROR);
                (Step::Failed(Errors::ABORTED), false)
            }
        };
        if !more {
            self.master.status.remove(MasterStatus::ACTIVE);
        }
        self.apply(step);
    }
}
