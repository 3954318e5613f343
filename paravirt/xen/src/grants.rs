//! The guest's grant table, first layout: which of its pages the control domain may use.

use crate::domain::{Domain, Nothing};
use crate::layout::{GRANT_FRAMES, Layout};
use crate::pages::Use;
use ambos_memory::GuestRam;
use ambos_xen_abi::DomainId;
use ambos_xen_abi::grant::{V1_ENTRY, V1_PER_FRAME, flag};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// Why a grant cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantRefusal {
    /// There is no such entry, or it grants nothing to the control domain.
    #[error("there is no such grant")]
    BadReference,
    /// It grants less.
    #[error("the grant does not permit this")]
    Denied,
    /// The frame is no page of the guest's.
    #[error("the granted frame is no page of the guest's")]
    BadPage,
}

/// Uses of one grant.
#[derive(Debug, Default, Clone, Copy)]
struct Uses {
    frame: u64,
    readers: u32,
    writers: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct GrantTable {
    first: u64,
    /// Frames of the table.
    pub(crate) frames: u64,
    uses: BTreeMap<u32, Uses>,
}

impl GrantTable {
    /// A table of one frame, with what the domain builder grants.
    pub(crate) fn new(layout: Layout, granted: &[(u32, u64)], ram: &GuestRam) -> Self {
        let table = Self { first: layout.grants << 12, frames: 1, uses: BTreeMap::new() };
        for &(reference, frame) in granted {
            let permit = u64::from(flag::PERMIT_ACCESS);
            ram.store_word(table.first + u64::from(reference) * V1_ENTRY, frame << 32 | permit);
        }
        table
    }

    /// Makes the table at least `frames` long; `false` if that is too long.
    pub(crate) fn grow(&mut self, frames: u64) -> bool {
        if frames > GRANT_FRAMES {
            return false;
        }
        self.frames = self.frames.max(frames);
        true
    }

    /// The machine frame of frame `index` of the table.
    pub(crate) fn frame(&self, index: u64) -> Option<u64> {
        (index < GRANT_FRAMES).then_some((self.first >> 12) + index)
    }

    /// Swaps two entries that nobody uses; `false` if there are no such.
    pub(crate) fn swap(&self, ram: &GuestRam, one: u32, other: u32) -> bool {
        let (Some(first), Some(second)) = (self.entry(one), self.entry(other)) else {
            return false;
        };
        if self.uses.contains_key(&one) || self.uses.contains_key(&other) {
            return false;
        }
        let (a, b) = (ram.load_word(first), ram.load_word(second));
        ram.store_word(first, b);
        ram.store_word(second, a);
        true
    }

    fn entry(&self, reference: u32) -> Option<u64> {
        (u64::from(reference) < self.frames * V1_PER_FRAME)
            .then_some(self.first + u64::from(reference) * V1_ENTRY)
    }
}

impl Domain {
    /// Begins a use of the page that entry `reference` grants to the control domain; returns the page's guest-physical
    /// address. [`Domain::end_grant`] ends it.
    ///
    /// # Errors
    ///
    /// [`GrantRefusal`].
    pub fn begin_grant(&self, reference: u32, write: bool) -> Result<u64, GrantRefusal> {
        let mut table = self.grants_from_outside();
        let at = table.entry(reference).ok_or(GrantRefusal::BadReference)?;
        let head = self.ram.word32(at).ok_or(GrantRefusal::BadReference)?;
        let busy = u32::from(flag::READING | if write { flag::WRITING } else { 0 });
        let mut now = head.load(Ordering::SeqCst);
        loop {
            let (flags, domain) = (now as u16, DomainId((now >> 16) as u16));
            if flags & flag::TYPE_MASK != flag::PERMIT_ACCESS || domain != DomainId::CONTROL {
                return Err(GrantRefusal::BadReference);
            }
            if write && flags & flag::READONLY != 0 {
                return Err(GrantRefusal::Denied);
            }
            match head.compare_exchange(now, now | busy, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(changed) => now = changed,
            }
        }
        let frame = self.ram.word32(at + 4).map_or(0, |word| word.load(Ordering::SeqCst));
        let mut uses = table.uses.get(&reference).copied().unwrap_or_default();
        if uses.readers + uses.writers == 0 {
            uses.frame = u64::from(frame);
        }
        if let Err(refusal) = self.hold(uses.frame, write) {
            Self::set_busy(head, &uses);
            return Err(refusal);
        }
        if write {
            uses.writers += 1;
        } else {
            uses.readers += 1;
        }
        table.uses.insert(reference, uses);
        Ok(uses.frame << 12)
    }

    fn hold(&self, frame: u64, write: bool) -> Result<(), GrantRefusal> {
        let mut pages = self.pages_from_outside();
        pages.reference(frame).map_err(|_| GrantRefusal::BadPage)?;
        if write && pages.take_use(frame, Use::Writable, &mut Nothing).is_err() {
            pages.release(frame);
            return Err(GrantRefusal::BadPage);
        }
        Ok(())
    }

    /// Ends a use.
    pub fn end_grant(&self, reference: u32, write: bool) {
        let mut table = self.grants_from_outside();
        let Some(mut uses) = table.uses.get(&reference).copied() else { return };
        let count = if write { &mut uses.writers } else { &mut uses.readers };
        if *count == 0 {
            return;
        }
        *count -= 1;
        {
            let mut pages = self.pages_from_outside();
            if write {
                pages.end_use(uses.frame);
            }
            pages.release(uses.frame);
        }
        if let Some(head) = table.entry(reference).and_then(|at| self.ram.word32(at)) {
            Self::set_busy(head, &uses);
        }
        if uses.readers + uses.writers == 0 {
            table.uses.remove(&reference);
        } else {
            table.uses.insert(reference, uses);
        }
    }

    /// Shows the guest whether its grant is in use.
    fn set_busy(head: &std::sync::atomic::AtomicU32, uses: &Uses) {
        let mut idle = 0;
        if uses.writers == 0 {
            idle |= flag::WRITING;
        }
        if uses.readers + uses.writers == 0 {
            idle |= flag::READING;
        }
        head.fetch_and(!u32::from(idle), Ordering::SeqCst);
    }
}
