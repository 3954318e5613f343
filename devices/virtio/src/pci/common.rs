//! The common configuration: features, status, and where the queues are.

use super::spec::{self, Status, common};
use ambos_device::AccessError;
use ambos_memory::{GuestPhysAddr, GuestRam};
use virtio_queue::{Queue, QueueT};

/// A queue as the driver describes it, and the queue itself once it is enabled.
#[derive(Debug)]
pub(super) struct QueueSlot {
    size_max: u16,
    size: u16,
    pub(super) vector: u16,
    /// Descriptors, available ring, used ring.
    addresses: [u64; 3],
    pub(super) queue: Option<Queue>,
}

impl QueueSlot {
    fn new(size_max: u16) -> Self {
        Self { size_max, size: size_max, vector: spec::NO_VECTOR, addresses: [0; 3], queue: None }
    }

    /// The queue, if what the driver says of it makes one.
    fn make(&self, ram: &GuestRam, event_index: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.size_max).ok()?;
        let [descriptors, available, used] = self.addresses.map(GuestPhysAddr);
        queue.try_set_size(self.size).ok()?;
        queue.try_set_desc_table_address(descriptors).ok()?;
        queue.try_set_avail_ring_address(available).ok()?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        queue.is_valid(ram.memory()).then_some(queue)
    }
}

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing more.
    None,
    /// The driver resets the device.
    Reset,
    /// The driver has chosen these features, if they may be chosen.
    Features(u64),
    /// The selected queue is to be enabled.
    Enable,
}

/// The registers.
#[derive(Debug)]
pub(super) struct Common {
    device_select: u32,
    driver_select: u32,
    driver_features: u64,
    pub(super) config_vector: u16,
    /// Counts changes of the device's own configuration.
    pub(super) generation: u8,
    pub(super) status: Status,
    selected: u16,
    pub(super) queues: Vec<QueueSlot>,
}

impl Common {
    pub(super) fn new(sizes: &[u16]) -> Self {
        Self {
            device_select: 0,
            driver_select: 0,
            driver_features: 0,
            config_vector: spec::NO_VECTOR,
            generation: 0,
            status: Status::empty(),
            selected: 0,
            queues: sizes.iter().map(|size| QueueSlot::new(*size)).collect(),
        }
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|slot| slot.size_max).collect();
        *self = Self::new(&sizes);
    }

    /// Whether the driver chose this feature.
    pub(super) fn chose(&self, feature: u64) -> bool {
        self.driver_features & feature != 0
    }

    fn slot(&self) -> Option<&QueueSlot> {
        self.queues.get(usize::from(self.selected))
    }

    /// Enables the selected queue; `false` if it cannot be.
    pub(super) fn enable(&mut self, ram: &GuestRam, event_index: bool) -> bool {
        let Some(slot) = self.queues.get_mut(usize::from(self.selected)) else { return true };
        if slot.queue.is_none() {
            slot.queue = slot.make(ram, event_index);
        }
        slot.queue.is_some()
    }

    /// The registers' bytes, for a device that offers `features`.
    pub(super) fn image(&self, features: u64) -> [u8; spec::COMMON_LENGTH] {
        let mut image = [0; spec::COMMON_LENGTH];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(common::DEVICE_FEATURE_SELECT, &self.device_select.to_le_bytes());
        put(common::DEVICE_FEATURE, &half(features, self.device_select).to_le_bytes());
        put(common::DRIVER_FEATURE_SELECT, &self.driver_select.to_le_bytes());
        let chosen = half(self.driver_features, self.driver_select);
        put(common::DRIVER_FEATURE, &chosen.to_le_bytes());
        put(common::CONFIG_VECTOR, &self.config_vector.to_le_bytes());
        put(common::QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(common::STATUS, &[self.status.bits()]);
        put(common::CONFIG_GENERATION, &[self.generation]);
        put(common::QUEUE_SELECT, &self.selected.to_le_bytes());
        if let Some(slot) = self.slot() {
            put(common::QUEUE_SIZE, &slot.size.to_le_bytes());
            put(common::QUEUE_VECTOR, &slot.vector.to_le_bytes());
            put(common::QUEUE_ENABLE, &[u8::from(slot.queue.is_some())]);
            put(common::QUEUE_NOTIFY_OFFSET, &self.selected.to_le_bytes());
            for (index, address) in slot.addresses.iter().enumerate() {
                put(common::QUEUE_ADDRESSES + index * 8, &address.to_le_bytes());
            }
        }
        image
    }

    /// Writes one register. Messages are numbered below `vectors`.
    ///
    /// # Errors
    ///
    /// [`AccessError::Size`] if the bytes are not just one register (or one half of an address).
    pub(super) fn write(
        &mut self,
        offset: usize,
        data: &[u8],
        vectors: usize,
    ) -> Result<Effect, AccessError> {
        let vector = |bytes: [u8; 2]| {
            let vector = u16::from_le_bytes(bytes);
            if usize::from(vector) < vectors { vector } else { spec::NO_VECTOR }
        };
        let negotiating = !self.status.contains(Status::FEATURES_OK);
        match (offset, data) {
            (common::DEVICE_FEATURE_SELECT, &[a, b, c, d]) => {
                self.device_select = u32::from_le_bytes([a, b, c, d]);
            }
            (common::DRIVER_FEATURE_SELECT, &[a, b, c, d]) => {
                self.driver_select = u32::from_le_bytes([a, b, c, d]);
            }
            (common::DRIVER_FEATURE, &[a, b, c, d]) => {
                let value = u64::from(u32::from_le_bytes([a, b, c, d]));
                let shift = match self.driver_select {
                    0 => 0,
                    1 => 32,
                    _ => return Ok(Effect::None),
                };
                if negotiating {
                    let keep = self.driver_features & !(0xffff_ffff << shift);
                    self.driver_features = keep | value << shift;
                }
            }
            (common::CONFIG_VECTOR, &[a, b]) => self.config_vector = vector([a, b]),
            (common::STATUS, &[0]) => return Ok(Effect::Reset),
            (common::STATUS, &[value]) => return Ok(self.set_status(value)),
            (common::QUEUE_SELECT, &[a, b]) => self.selected = u16::from_le_bytes([a, b]),
            (common::QUEUE_ENABLE, &[1, 0]) => return Ok(Effect::Enable),
            (common::QUEUE_ENABLE, &[_, _]) => {}
            (offset, data) => return self.write_queue(offset, data, vector),
        }
        Ok(Effect::None)
    }

    fn set_status(&mut self, value: u8) -> Effect {
        let written = Status::from_bits_truncate(value) - Status::NEEDS_RESET;
        let chosen =
            written.contains(Status::FEATURES_OK) && !self.status.contains(Status::FEATURES_OK);
        // A driver never takes bits back but by a reset. Whether FEATURES_OK stays is for the
        // device to say.
        self.status |= written - Status::FEATURES_OK;
        if chosen { Effect::Features(self.driver_features) } else { Effect::None }
    }

    fn write_queue(
        &mut self,
        offset: usize,
        data: &[u8],
        vector: impl Fn([u8; 2]) -> u16,
    ) -> Result<Effect, AccessError> {
        let Some(slot) = self.queues.get_mut(usize::from(self.selected)) else {
            return Ok(Effect::None);
        };
        match (offset, data) {
            (common::QUEUE_VECTOR, &[a, b]) => slot.vector = vector([a, b]),
            // The rest does not change under a queue that is in use.
            _ if slot.queue.is_some() => {}
            (common::QUEUE_SIZE, &[a, b]) => {
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= slot.size_max {
                    slot.size = size;
                }
            }
            (common::QUEUE_ADDRESSES..common::QUEUE_ADDRESSES_END, _)
                if offset.is_multiple_of(data.len()) && matches!(data.len(), 4 | 8) =>
            {
                let place = offset - common::QUEUE_ADDRESSES;
                let address = &mut slot.addresses[place / 8];
                let mut bytes = address.to_le_bytes();
                bytes[place % 8..place % 8 + data.len()].copy_from_slice(data);
                *address = u64::from_le_bytes(bytes);
            }
            _ => return Err(AccessError::Size),
        }
        Ok(Effect::None)
    }
}
