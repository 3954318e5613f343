//! Grants that the guest has mapped itself, by handle.

use ambos_xen_abi::grant::map;

/// Mappings at the same time.
const LIMIT: usize = 1 << 14;

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) reference: u32,
    pub(crate) frame: u64,
    /// Flags of [`map`]; those of host and device go away as they are unmapped.
    pub(crate) flags: u32,
}

impl Mapping {
    /// Whether it is for writing.
    pub(crate) fn writes(&self) -> bool {
        self.flags & map::READONLY == 0
    }
}

/// All mappings.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    slots: Vec<Option<Mapping>>,
    free: Vec<u32>,
}

impl Mappings {
    /// Whether there is room for another one.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < LIMIT
    }

    /// Adds one, for which there must be room, and returns its handle.
    pub(crate) fn add(&mut self, mapping: Mapping) -> u32 {
        let handle = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(handle as usize) {
            Some(slot) => *slot = Some(mapping),
            None => self.slots.push(Some(mapping)),
        }
        handle
    }

    /// The mapping with this handle.
    pub(crate) fn get(&self, handle: u32) -> Option<Mapping> {
        *self.slots.get(handle as usize)?
    }

    /// Sets what is left of a mapping; nothing frees the handle.
    pub(crate) fn set(&mut self, handle: u32, mapping: Mapping) {
        let Some(slot) = self.slots.get_mut(handle as usize) else { return };
        if mapping.flags & (map::HOST | map::DEVICE) != 0 {
            *slot = Some(mapping);
        } else if slot.take().is_some() {
            self.free.push(handle);
        }
    }
}
