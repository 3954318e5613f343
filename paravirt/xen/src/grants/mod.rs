//! The guest's grant table: which of its pages the control domain, or the guest itself, may use.

mod entry;
mod mappings;

pub(crate) use entry::Version;
pub(crate) use mappings::{Mapping, Mappings};

use crate::domain::{Domain, Nothing};
use crate::layout::{GRANT_FRAMES, Layout, STATUS_FRAMES};
use crate::pages::{Pages, Use};
use ambos_memory::GuestRam;
use ambos_xen_abi::grant::{RESERVED_ENTRIES, flag};
use ambos_xen_abi::{DomainId, Errno};
use entry::{Granted, Place, status_offset};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a grant cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantRefusal {
    /// There is no such entry.
    #[error("there is no such grant")]
    BadReference,
    /// It grants nothing to the domain that asks.
    #[error("the grant is not for this domain")]
    NotGranted,
    /// It grants less.
    #[error("the grant does not permit this")]
    Denied,
    /// The frame is no page of the guest's.
    #[error("the granted frame is no page of the guest's")]
    BadPage,
}

/// Uses of one grant.
#[derive(Debug, Clone, Copy)]
struct Uses {
    holder: DomainId,
    frame: u64,
    readers: u32,
    writers: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct GrantTable {
    first: u64,
    status: u64,
    /// Frames of the table.
    pub(crate) frames: u64,
    version: Version,
    uses: BTreeMap<u32, Uses>,
    pub(crate) mappings: Mappings,
}

impl GrantTable {
    /// A table of one frame, with what the domain builder grants.
    pub(crate) fn new(layout: Layout, granted: &[(u32, u64)], ram: &GuestRam) -> Self {
        let table = Self {
            first: layout.grants << 12,
            status: layout.grant_status << 12,
            frames: 1,
            version: Version::One,
            uses: BTreeMap::new(),
            mappings: Mappings::default(),
        };
        for &(reference, frame) in granted {
            if let Some(place) = table.place(reference) {
                place.store(ram, (flag::PERMIT_ACCESS.into(), frame));
            }
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

    /// The machine frames of the status of its entries; none in the first layout.
    pub(crate) fn status_frames(&self) -> std::ops::Range<u64> {
        let count = match self.version {
            Version::One => 0,
            Version::Two => {
                status_offset((self.frames * Version::Two.per_frame()) as u32).div_ceil(4096)
            }
        };
        (self.status >> 12)..(self.status >> 12) + count
    }

    /// The number of the layout.
    pub(crate) fn version(&self) -> u32 {
        match self.version {
            Version::One => 1,
            Version::Two => 2,
        }
    }

    /// Changes the layout; of the entries, only the reserved ones stay.
    ///
    /// # Errors
    ///
    /// `EBUSY` while others are in use or the guest maps the status of entries, `ERANGE` where the first
    /// layout has no room for a frame's number.
    pub(crate) fn set_version(
        &mut self,
        ram: &GuestRam,
        pages: &Pages,
        version: Version,
    ) -> Result<(), Errno> {
        if version == self.version {
            return Ok(());
        }
        let mapped = |frame| pages.frame(frame).is_some_and(|found| found.references > 0);
        let busy = self.uses.range(RESERVED_ENTRIES..).next().is_some();
        if busy || self.status_frames().any(mapped) {
            return Err(Errno::EBUSY);
        }
        let mut kept = Vec::new();
        for place in (0..RESERVED_ENTRIES).filter_map(|reference| self.place(reference)) {
            let (head, frame) = place.load(ram);
            let whole = head & u32::from(flag::SUB_PAGE) == 0;
            if version == Version::One && whole && frame > u64::from(u32::MAX) {
                return Err(Errno::ERANGE);
            }
            kept.push(if whole { (head, frame) } else { (0, 0) });
        }
        self.version = version;
        let end = self.first + (self.frames << 12);
        let status_end = self.status + (STATUS_FRAMES << 12);
        for word in (self.first..end).chain(self.status..status_end).step_by(8) {
            ram.store_word(word, 0);
        }
        for (entry, reference) in kept.into_iter().zip(0..) {
            if let Some(place) = self.place(reference) {
                place.store(ram, entry);
            }
        }
        Ok(())
    }

    /// Swaps two entries that nobody uses; `false` if there are no such.
    pub(crate) fn swap(&self, ram: &GuestRam, one: u32, other: u32) -> bool {
        let (Some(first), Some(second)) = (self.place(one), self.place(other)) else {
            return false;
        };
        if self.uses.contains_key(&one) || self.uses.contains_key(&other) {
            return false;
        }
        for offset in (0..self.version.entry_size()).step_by(8) {
            let (at, with) = (first.at + offset, second.at + offset);
            let (a, b) = (ram.load_word(at), ram.load_word(with));
            ram.store_word(at, b);
            ram.store_word(with, a);
        }
        true
    }

    fn place(&self, reference: u32) -> Option<Place> {
        let version = self.version;
        (u64::from(reference) < self.frames * version.per_frame()).then(|| Place {
            version,
            at: self.first + u64::from(reference) * version.entry_size(),
            status: self.status + status_offset(reference),
        })
    }

    /// Begins a use of the page that entry `reference` grants to `holder`; returns the page's frame, and where in
    /// it the part that is granted begins and how long it is. [`GrantTable::end`] ends it.
    pub(crate) fn begin(
        &mut self,
        pages: &mut Pages,
        reference: u32,
        holder: DomainId,
        write: bool,
    ) -> Result<(u64, u64, u64), GrantRefusal> {
        let place = self.place(reference).ok_or(GrantRefusal::BadReference)?;
        let known = self.uses.get(&reference).copied();
        if known.is_some_and(|uses| uses.holder != holder) {
            return Err(GrantRefusal::NotGranted);
        }
        let mut uses = known.unwrap_or(Uses { holder, frame: 0, readers: 0, writers: 0 });
        let begun = place.begin(pages.ram(), holder, write);
        let Granted { frame, offset, length } = begun.inspect_err(|_| {
            // In its flags, the entry was marked only together with what it grants.
            if place.version == Version::Two {
                place.set_idle(pages.ram(), uses.idle());
            }
        })?;
        if known.is_none() {
            uses.frame = frame;
        }
        let held = match write {
            true => pages.take(uses.frame, Use::Writable, &mut Nothing),
            false => pages.reference(uses.frame),
        };
        if held.is_err() {
            place.set_idle(pages.ram(), uses.idle());
            return Err(GrantRefusal::BadPage);
        }
        if write {
            uses.writers += 1;
        } else {
            uses.readers += 1;
        }
        self.uses.insert(reference, uses);
        Ok((uses.frame, offset, length))
    }

    /// Begins a use of a whole page; returns its frame.
    pub(crate) fn begin_whole(
        &mut self,
        pages: &mut Pages,
        reference: u32,
        holder: DomainId,
        write: bool,
    ) -> Result<u64, GrantRefusal> {
        let (frame, offset, length) = self.begin(pages, reference, holder, write)?;
        if (offset, length) != (0, 4096) {
            self.end(pages, reference, write);
            return Err(GrantRefusal::NotGranted);
        }
        Ok(frame)
    }

    /// Ends a use.
    pub(crate) fn end(&mut self, pages: &mut Pages, reference: u32, write: bool) {
        let Some(mut uses) = self.uses.get(&reference).copied() else { return };
        let count = if write { &mut uses.writers } else { &mut uses.readers };
        if *count == 0 {
            return;
        }
        *count -= 1;
        match write {
            true => pages.give(uses.frame),
            false => pages.release(uses.frame),
        }
        if let Some(place) = self.place(reference) {
            place.set_idle(pages.ram(), uses.idle());
        }
        if uses.readers + uses.writers == 0 {
            self.uses.remove(&reference);
        } else {
            self.uses.insert(reference, uses);
        }
    }
}

impl Uses {
    /// The marks that these uses do not need.
    fn idle(&self) -> u16 {
        let mut idle = 0;
        if self.writers == 0 {
            idle |= flag::WRITING;
        }
        if self.readers + self.writers == 0 {
            idle |= flag::READING;
        }
        idle
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
        let mut pages = self.pages_from_outside();
        let frame = table.begin_whole(&mut pages, reference, DomainId::CONTROL, write)?;
        Ok(frame << 12)
    }

    /// Ends a use.
    pub fn end_grant(&self, reference: u32, write: bool) {
        let mut table = self.grants_from_outside();
        table.end(&mut self.pages_from_outside(), reference, write);
    }
}
