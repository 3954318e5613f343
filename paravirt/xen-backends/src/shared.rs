//! Memory that the guest and a back end share and both change.

use crate::grants::{GrantError, GrantRef, Grants, LastingPins, PAGE};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// A ring cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// The guest says that it has put more into it than fits.
    #[error("the guest's ring indices contradict each other")]
    Indices,
    /// Requests that belong together do not fit together.
    #[error("the guest's requests contradict each other")]
    Requests,
    /// Its pages are no memory.
    #[error("the pages of the ring are no memory")]
    Memory,
}

/// Pages that lie behind one another for those who use them, wherever they are in RAM.
pub(crate) struct SharedPages {
    ram: Arc<GuestRam>,
    addresses: Vec<u64>,
    _pins: Option<LastingPins>,
}

impl SharedPages {
    /// One page of RAM that is shared without a grant.
    pub(crate) fn page(ram: &Arc<GuestRam>, address: u64) -> Self {
        Self { ram: Arc::clone(ram), addresses: vec![address], _pins: None }
    }

    /// Granted pages.
    pub(crate) fn granted(
        grants: &Arc<dyn Grants>,
        references: &[GrantRef],
    ) -> Result<Self, GrantError> {
        let pins = LastingPins::new(grants, references)?;
        let addresses = pins.addresses();
        Ok(Self { ram: Arc::clone(grants.ram()), addresses, _pins: Some(pins) })
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u32 {
        self.addresses.len() as u32 * PAGE
    }

    /// The address of a byte, and how many bytes of its page lie there.
    fn place(&self, offset: u32) -> Result<(GuestPhysAddr, usize), RingError> {
        let page = self.addresses.get((offset / PAGE) as usize).ok_or(RingError::Memory)?;
        let within = offset % PAGE;
        Ok((GuestPhysAddr(page + u64::from(within)), (PAGE - within) as usize))
    }

    /// An index, at a multiple of four. What the guest wrote before it is seen, too.
    pub(crate) fn load(&self, offset: u32) -> Result<u32, RingError> {
        let (address, _) = self.place(offset)?;
        self.ram.memory().load(address, Ordering::Acquire).map_err(|_| RingError::Memory)
    }

    /// Sets an index, after everything that was written before.
    pub(crate) fn store(&self, offset: u32, value: u32) -> Result<(), RingError> {
        let (address, _) = self.place(offset)?;
        let stored = self.ram.memory().store(value, address, Ordering::Release);
        stored.map_err(|_| RingError::Memory)?;
        self.wrote(address, 4);
        Ok(())
    }

    pub(crate) fn read(&self, mut offset: u32, mut bytes: &mut [u8]) -> Result<(), RingError> {
        while !bytes.is_empty() {
            let (address, room) = self.place(offset)?;
            let (head, tail) = bytes.split_at_mut(room.min(bytes.len()));
            self.ram.memory().read_slice(head, address).map_err(|_| RingError::Memory)?;
            offset += head.len() as u32;
            bytes = tail;
        }
        Ok(())
    }

    pub(crate) fn write(&self, mut offset: u32, mut bytes: &[u8]) -> Result<(), RingError> {
        while !bytes.is_empty() {
            let (address, room) = self.place(offset)?;
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            self.ram.memory().write_slice(head, address).map_err(|_| RingError::Memory)?;
            self.wrote(address, head.len() as u32);
            offset += head.len() as u32;
            bytes = tail;
        }
        Ok(())
    }

    fn wrote(&self, address: GuestPhysAddr, length: u32) {
        self.ram.device_wrote(&[DmaRange { address: address.0, length }]);
    }
}
