//! A virtio device as a function on PCI (section 4.1): modern only.

mod common;
mod moderation;
mod msix;
mod spec;
#[cfg(test)]
mod tests;

use crate::device::{Doorbell, QueueFeatures, VirtioDevice};
use crate::queue::QueueAccess;
use ambos_clock::{Expire, Timer, TimerTarget, VmClock};
use ambos_device::{
    AccessError, BarKind, BarMapper, ConfigError, ConfigSpace, MmioDevice, PciFunction,
    PciIdentity, read_dwords, write_dwords,
};
use ambos_memory::GuestRam;
use ambos_wire::{MsiTarget, Wire};
use common::{Common, Effect};
use moderation::Moderator;
use msix::MessageTable;
use spec::{Isr, Status};
use std::sync::{Arc, Mutex, Weak};

/// What a function on PCI stands on.
pub struct PciParts {
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// The machine's clock.
    pub clock: Arc<VmClock>,
    /// The interrupt pin, for drivers that use no messages.
    pub wire: Wire,
    /// Which pin that is: 0 = INTA# … 3 = INTD#.
    pub pin: u8,
    /// Where messages go.
    pub msi: Arc<dyn MsiTarget>,
    /// Puts the function on the machine's buses.
    pub mapper: BarMapper,
}

/// Where in the configuration space the capabilities are that can be written.
struct Places {
    /// Window to the registers through configuration space.
    access: u8,
    msix: u8,
}

/// A virtio device on PCI.
pub struct VirtioPci {
    // Dependencies.
    ram: Arc<GuestRam>,
    wire: Wire,
    msi: Arc<dyn MsiTarget>,
    mapper: BarMapper,
    /// Goes on with a queue that never runs dry, away from the vCPU.
    again: Timer,
    /// When each queue's interrupts come.
    moderators: Vec<Moderator>,

    // Configuration.
    places: Places,

    // Volatile state.
    device: Box<dyn VirtioDevice>,
    config: ConfigSpace,
    common: Common,
    messages: MessageTable,
    isr: Isr,
}

/// A capability that names a structure (section 4.1.4), without ID and pointer.
fn structure(kind: u8, page: u64, length: u32, more: &[u8]) -> Vec<u8> {
    let size = 16 + more.len() as u8;
    let mut body = vec![size, kind, spec::BAR as u8, 0, 0, 0];
    body.extend((page as u32 * spec::PAGE as u32).to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

fn config_space(
    device: &dyn VirtioDevice,
    queues: usize,
    pin: u8,
) -> Result<(ConfigSpace, Places), ConfigError> {
    let kind = device.kind();
    let identity = PciIdentity {
        vendor: spec::VENDOR,
        device: spec::DEVICE_BASE + kind.id,
        revision: spec::REVISION,
        class: kind.class,
        subsystem_vendor: spec::VENDOR,
        subsystem: spec::DEVICE_BASE + kind.id,
    };
    let mut config = ConfigSpace::new(&identity).with_interrupt_pin(pin);
    config.add_bar(spec::BAR, BarKind::Memory64 { prefetchable: false }, spec::BAR_SIZE)?;
    let page = spec::PAGE as u32;
    for (kind, place, length, more) in [
        (spec::CAP_COMMON, spec::COMMON, spec::COMMON_LENGTH as u32, &[][..]),
        (spec::CAP_NOTIFY, spec::NOTIFY, page, &(spec::NOTIFY_STRIDE as u32).to_le_bytes()),
        (spec::CAP_ISR, spec::ISR, 1, &[]),
        (spec::CAP_DEVICE, spec::DEVICE, page, &[]),
    ] {
        config.add_capability(spec::CAPABILITY, &structure(kind, place, length, more), &[])?;
    }
    let access = structure(spec::CAP_PCI_ACCESS, 0, 0, &[0; 4]);
    // Base address register, offset, length and data can be written.
    let mut writable = [0; 18];
    writable[2] = 0xff;
    writable[6..].fill(0xff);
    let access = config.add_capability(spec::CAPABILITY, &access, &writable)?;
    let table = (spec::MSIX_TABLE as u32 * page) | spec::BAR as u32;
    let pending = (spec::MSIX_PENDING as u32 * page) | spec::BAR as u32;
    // One message for each queue and one for changes of the configuration.
    let mut body = (queues as u16).to_le_bytes().to_vec();
    body.extend(table.to_le_bytes());
    body.extend(pending.to_le_bytes());
    let control = [0, spec::MSIX_ENABLED | spec::MSIX_MASKED];
    let msix = config.add_capability(spec::MSIX, &body, &control)?;
    Ok((config, Places { access, msix }))
}

impl VirtioPci {
    /// Puts `device` on PCI.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] is a mistake in the layout of the function's registers.
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        parts: PciParts,
    ) -> Result<Arc<Mutex<Self>>, ConfigError> {
        let PciParts { ram, clock, wire, pin, msi, mut mapper } = parts;
        let sizes = device.queue_sizes();
        let (config, places) = config_space(&*device, sizes.len(), pin)?;
        Ok(Arc::new_cyclic(|this: &Weak<Mutex<Self>>| {
            let timer = |label| clock.timer(label, this.clone() as Weak<dyn TimerTarget>);
            device.connect(Doorbell::new(this.clone()));
            mapper.show_memory(spec::BAR, this.clone() as Weak<Mutex<dyn MmioDevice>>, 0);
            Mutex::new(Self {
                ram,
                wire,
                msi,
                mapper,
                again: timer("virtio queue"),
                moderators: sizes
                    .iter()
                    .map(|_| Moderator::new(timer("virtio interrupt")))
                    .collect(),
                places,
                device,
                config,
                common: Common::new(&sizes),
                messages: MessageTable::new(sizes.len() + 1),
                isr: Isr::empty(),
            })
        }))
    }

    fn features(&self) -> u64 {
        self.device.features() | QueueFeatures::all().bits()
    }

    fn msix_control(&self) -> u8 {
        self.config.byte(self.places.msix + 3)
    }

    /// Interrupts for `reason`, by the message `vector` if the driver uses messages.
    fn interrupt(&mut self, reason: Isr, vector: u16) {
        let control = self.msix_control();
        if control & spec::MSIX_ENABLED == 0 {
            self.isr |= reason;
            self.drive_pin();
        } else if let Some(message) = self.messages.signal(vector, control & spec::MSIX_MASKED != 0)
        {
            self.msi.signal(message.address, message.data);
        }
    }

    fn drive_pin(&mut self) {
        let messages = self.msix_control() & spec::MSIX_ENABLED != 0;
        let driven = self.config.set_interrupt(!self.isr.is_empty() && !messages);
        self.wire.set_level(driven);
    }

    fn release_messages(&mut self) {
        let control = self.msix_control();
        if control & (spec::MSIX_ENABLED | spec::MSIX_MASKED) == spec::MSIX_ENABLED {
            for message in self.messages.released() {
                self.msi.signal(message.address, message.data);
            }
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        self.common.reset();
        self.isr = Isr::empty();
        self.again.cancel();
        self.moderators.iter_mut().for_each(Moderator::forget);
        self.drive_pin();
    }

    /// The driver broke the rules: nothing more happens until it resets the device.
    fn give_up(&mut self) {
        self.common.status |= Status::NEEDS_RESET;
        self.common.queues.iter_mut().for_each(|slot| slot.queue = None);
        self.moderators.iter_mut().for_each(Moderator::forget);
        if self.common.status.contains(Status::DRIVER_OK) {
            self.interrupt(Isr::CONFIGURATION, self.common.config_vector);
        }
    }

    /// The device's part of the configuration is not what it was.
    pub(crate) fn configuration_changed(&mut self) {
        self.common.generation = self.common.generation.wrapping_add(1);
        if self.common.status.contains(Status::DRIVER_OK) {
            self.interrupt(Isr::CONFIGURATION, self.common.config_vector);
        }
    }

    /// Lets the device look at a queue, and at what follows from that.
    pub(crate) fn serve(&mut self, index: usize) {
        self.serve_one(index);
        if let Some(next) = self.device.serve_next(index) {
            self.serve_one(next);
        }
    }

    fn serve_one(&mut self, index: usize) {
        let running = self.common.status.contains(Status::DRIVER_OK | Status::FEATURES_OK);
        if !running || !self.config.is_bus_master() {
            return;
        }
        let Some(slot) = self.common.queues.get_mut(index) else { return };
        let Some(moderator) = self.moderators.get_mut(index) else { return };
        let Some(queue) = &mut slot.queue else { return };
        let vector = slot.vector;
        let mut access = QueueAccess::new(queue, &self.ram);
        // What the driver found out meanwhile is no reason to interrupt it.
        if let Some(since) = moderator.since()
            && access.begin_at(since) == Ok(false)
        {
            moderator.forget();
        }
        let served = self.device.serve(index, &mut access);
        let untold = served.and_then(|()| access.untold());
        let exhausted = access.is_exhausted();
        let Ok(untold) = untold else { return self.give_up() };
        if moderator.is_due(untold, self.device.patience(index)) {
            self.interrupt(Isr::QUEUE, vector);
        }
        if exhausted {
            self.again.arm(self.again.clock().now());
        }
    }

    fn write_common(&mut self, offset: usize, data: &[u8]) -> Result<(), AccessError> {
        match self.common.write(offset, data, self.messages.len())? {
            Effect::None => {}
            Effect::Reset => self.reset(),
            Effect::Features(chosen) => {
                let modern = chosen & QueueFeatures::VERSION_1.bits() != 0;
                if modern && chosen & !self.features() == 0 {
                    self.device.set_features(chosen);
                    self.common.status |= Status::FEATURES_OK;
                }
            }
            Effect::Enable => {
                let event_index = self.common.chose(QueueFeatures::EVENT_INDEX.bits());
                if !self.common.enable(&self.ram, event_index) {
                    self.give_up();
                }
            }
        }
        Ok(())
    }

    /// The part of the registers that the capability for access through configuration space names.
    fn window(&self) -> Option<(u64, usize)> {
        let byte = |offset: u8| self.config.byte(self.places.access + offset);
        let word = |offset: u8| {
            (0..4).rev().fold(0, |word: u32, index| word << 8 | u32::from(byte(offset + index)))
        };
        let (offset, length) = (u64::from(word(8)), word(12));
        let valid = usize::from(byte(4)) == spec::BAR
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(u64::from(length))
            && offset < spec::BAR_SIZE;
        valid.then_some((offset, length as usize))
    }

    /// Whether an access to configuration space concerns the data of that capability.
    fn touches_window(&self, offset: u16) -> bool {
        let data = u16::from(self.places.access) + 16;
        (data..data + 4).contains(&offset)
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if self.touches_window(offset)
            && let Some((at, length)) = self.window()
        {
            let mut bytes = [0; 4];
            // What cannot be read is what was there before.
            if self.read(at, &mut bytes[..length]).is_ok() {
                for (index, byte) in bytes[..length].iter().enumerate() {
                    self.config.set_byte(self.places.access + 16 + index as u8, *byte);
                }
            }
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        let changed = self.config.write(offset, data);
        if self.touches_window(offset) {
            if let Some((at, length)) = self.window() {
                let mut bytes = [0; 4];
                self.config.read(u16::from(self.places.access) + 16, &mut bytes);
                // Refusals are silent there.
                let _ = self.write(at, &bytes[..length]);
            }
        } else if changed {
            self.mapper.update(&self.config);
            self.drive_pin();
            self.release_messages();
        }
    }
}

impl MmioDevice for VirtioPci {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), AccessError> {
        let (page, offset) = (offset / spec::PAGE, offset % spec::PAGE);
        match page {
            spec::COMMON => {
                let image = self.common.image(self.features());
                crate::device::read_bytes(&image, offset, data);
            }
            spec::ISR => {
                data.fill(0);
                if let (0, Some(first)) = (offset, data.first_mut()) {
                    *first = std::mem::take(&mut self.isr).bits();
                    self.drive_pin();
                }
            }
            spec::DEVICE => self.device.read_config(offset, data),
            spec::NOTIFY => data.fill(0),
            spec::MSIX_TABLE => read_dwords(offset, data, |at| Ok(self.messages.read(at)))?,
            spec::MSIX_PENDING => read_dwords(offset, data, |at| Ok(self.messages.pending(at)))?,
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let (page, offset) = (offset / spec::PAGE, offset % spec::PAGE);
        match page {
            spec::COMMON => return self.write_common(offset as usize, data),
            spec::DEVICE => self.device.write_config(offset, data),
            // The doorbell's place tells the queue.
            spec::NOTIFY => self.serve((offset / spec::NOTIFY_STRIDE) as usize),
            spec::MSIX_TABLE => {
                write_dwords(offset, data, |at, value| {
                    self.messages.write(at, value);
                    Ok(())
                })?;
                self.release_messages();
            }
            spec::ISR | spec::MSIX_PENDING => {}
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

impl Expire for VirtioPci {
    fn expire(&mut self, _now: u64) {
        for index in 0..self.common.queues.len() {
            self.serve(index);
        }
    }
}
