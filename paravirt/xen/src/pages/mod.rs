//! Who owns each frame, and what it is used as: the rules that keep a guest from writing to its own
//! page tables.
//!
//! Each frame has two counts. *References* say how many mappings and tables use it at all; a frame with
//! references is not given to someone else. *Uses* say how many of them need it to be of its present [`Use`]:
//! a page table of one level, a page of descriptors, or plain writable memory. The use can change
//! only while there are no uses, and a frame becomes a table only after every entry in it was checked
//! ([`tables`]). So no frame is a table and writable at once.
//!
//! One lock guards all of it ([`crate::domain::Domain::pages`]). Whoever waits for that lock or holds it serves requests to
//! forget translations meanwhile, so that one that changes a frame's use can wait for the others' caches.

mod changes;
pub(crate) mod entry;
pub(crate) mod tables;
pub(crate) mod update;

use crate::layout::{GRANT_FRAMES, Layout, STATUS_FRAMES};
use ambos_memory::{GuestRam, PCI_HOLE_END, PCI_HOLE_START};
use ambos_x86::paging::{ACCESSED, DIRTY};
use ambos_xen_abi::Errno;
use changes::Changes;
pub(crate) use changes::Stale;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whose a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody's: the guest gave it back.
    Nobody,
    /// The guest's.
    Guest,
    /// The hypervisor's, shared with the guest.
    Shared,
    /// The hypervisor's.
    Hypervisor,
}

/// What a frame is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing that matters.
    Plain,
    /// A page table of level 1 to 4.
    Table(u8),
    /// Segment descriptors.
    Descriptors,
    /// Memory that is mapped writable.
    Writable,
}

/// One frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) owner: Owner,
    pub(crate) usage: Use,
    pub(crate) pinned: bool,
    /// It was writable, and TLBs may still say so.
    pub(crate) stale: bool,
    /// The guest has it, apart from any mapping.
    pub(crate) allocated: bool,
    /// All entries of the table were checked.
    pub(crate) validated: bool,
    pub(crate) references: u32,
    pub(crate) uses: u32,
}

/// What must be forgotten before a frame may change its use.
pub(crate) trait Forget {
    /// Makes every vCPU forget that the frame is writable.
    fn protect(&mut self, frame: u64);
}

/// What a top-level table has for the upper half of the addresses, which is the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpperHalf(Box<[u64]>);

/// All frames.
pub(crate) struct Pages {
    ram: Arc<GuestRam>,
    layout: Layout,
    frames: Box<[Frame]>,
    /// Frames that the guest gave back.
    free: Vec<u64>,
    /// Frames the guest has.
    allocated: u64,
    /// Frames it may have.
    maximum: u64,
    changes: Changes,
}

impl Pages {
    /// All frames as at the start: the guest has all that are not the hypervisor's.
    pub(crate) fn new(ram: Arc<GuestRam>, layout: Layout) -> Self {
        let frame = |owner| Frame {
            owner,
            usage: Use::Plain,
            pinned: false,
            stale: false,
            allocated: owner == Owner::Guest,
            validated: false,
            references: 0,
            uses: 0,
        };
        let count = (ram.size() >> 12) as usize;
        let mut frames = Vec::with_capacity(count);
        ambos_hostcode::prefer_large_pages(frames.spare_capacity_mut());
        frames.resize(count, frame(Owner::Guest));
        let mut frames = frames.into_boxed_slice();
        let reserve = (layout.reserve as usize).min(count);
        frames[..reserve].fill(frame(Owner::Hypervisor));
        let grants = layout.grants..layout.grants + GRANT_FRAMES;
        let status = layout.grant_status..layout.grant_status + STATUS_FRAMES;
        for shared in grants.chain(status).chain([layout.shared_info]) {
            if let Some(entry) = frames.get_mut(shared as usize) {
                *entry = frame(Owner::Shared);
            }
        }
        let allocated = layout.guest_frames;
        let changes = Changes::default();
        Self { ram, layout, frames, free: Vec::new(), allocated, maximum: allocated, changes }
    }

    /// The frame's record.
    pub(crate) fn frame(&self, frame: u64) -> Option<&Frame> {
        self.frames.get(self.index(frame)?)
    }

    fn frame_mut(&mut self, frame: u64) -> Option<&mut Frame> {
        let index = self.index(frame)?;
        self.frames.get_mut(index)
    }

    /// Frames are numbered without the hole below 4 GiB.
    fn index(&self, frame: u64) -> Option<usize> {
        const BELOW: u64 = PCI_HOLE_START >> 12;
        const ABOVE: u64 = PCI_HOLE_END >> 12;
        let index = if frame < BELOW { frame } else { frame.checked_sub(ABOVE)? + BELOW };
        usize::try_from(index).ok()
    }

    /// Guest RAM.
    pub(crate) fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The plan of the RAM.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Frames the guest has and may have.
    pub(crate) fn reservation(&self) -> (u64, u64) {
        (self.allocated, self.maximum)
    }

    /// Changes whenever translations through the top-level table `root` may have become wrong.
    pub(crate) fn epoch(&self, root: u64) -> u64 {
        self.changes.epoch(root)
    }

    /// What has become wrong of translations cached through `root` since its epoch was `epoch`; `None` if it was
    /// not a top-level table all the time.
    pub(crate) fn stale(&self, root: u64, epoch: u64) -> Option<Stale> {
        self.changes.is_same(root, epoch).then(|| self.changes.since(root, epoch))
    }

    /// The same where a table with the same [`UpperHalf`] takes the place of one that it was cached through.
    pub(crate) fn stale_in_other(&self, epoch: u64) -> Stale {
        self.changes.upper_half_since(epoch).map_or(Stale::Everything, Stale::LowerHalf)
    }

    /// The upper half of a top-level table, as far as it is the guest's. There is none to compare with others where the
    /// table maps itself there: then what the lower half has can be reached through it.
    pub(crate) fn upper_half(&self, root: u64) -> Option<UpperHalf> {
        let marks = ACCESSED | DIRTY;
        let words = self.ram.page_words(root << 12)?;
        let mut entries = Vec::with_capacity(words.len() / 2);
        for (index, word) in (0..).zip(words).skip(words.len() / 2) {
            let entry = word.load(Ordering::Relaxed);
            if tables::is_reserved(4, index) {
                continue;
            }
            if entry::is_present(entry) && entry::frame(entry) == root {
                return None;
            }
            entries.push(entry & !marks);
        }
        Some(UpperHalf(entries.into()))
    }

    /// Whether the guest may name the frame.
    pub(crate) fn belongs_to_guest(&self, frame: u64) -> bool {
        self.frame(frame).is_some_and(|entry| matches!(entry.owner, Owner::Guest | Owner::Shared))
    }

    /// Takes a reference to a frame of the guest.
    pub(crate) fn reference(&mut self, frame: u64) -> Result<(), Errno> {
        let entry = self.frame_mut(frame).ok_or(Errno::EINVAL)?;
        if !matches!(entry.owner, Owner::Guest | Owner::Shared) || entry.references == u32::MAX {
            return Err(Errno::EINVAL);
        }
        entry.references += 1;
        Ok(())
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, frame: u64) {
        let Some(entry) = self.frame_mut(frame) else { return };
        debug_assert!(entry.references > 0, "references are given back once");
        entry.references = entry.references.saturating_sub(1);
        self.reclaim(frame);
    }

    fn reclaim(&mut self, frame: u64) {
        let Some(entry) = self.frame_mut(frame) else { return };
        if entry.owner == Owner::Guest && !entry.allocated && entry.references == 0 {
            entry.owner = Owner::Nobody;
            self.free.push(frame);
        }
    }

    /// Uses a frame as `usage`; the caller has a reference.
    pub(crate) fn take_use(
        &mut self,
        frame: u64,
        usage: Use,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        let entry = *self.frame(frame).ok_or(Errno::EINVAL)?;
        if entry.uses == u32::MAX {
            return Err(Errno::EINVAL);
        }
        if entry.uses == 0 && (entry.usage != usage || usage != Use::Writable) {
            if entry.owner != Owner::Guest && usage != Use::Writable {
                return Err(Errno::EINVAL);
            }
            return self.begin_use(frame, usage, forget);
        }
        let matching = entry.usage == usage
            && (entry.validated || !matches!(usage, Use::Table(_) | Use::Descriptors));
        if !matching {
            return Err(Errno::EINVAL);
        }
        if let Some(entry) = self.frame_mut(frame) {
            entry.uses += 1;
        }
        Ok(())
    }

    fn begin_use(&mut self, frame: u64, usage: Use, forget: &mut dyn Forget) -> Result<(), Errno> {
        let entry = self.frame_mut(frame).ok_or(Errno::EINVAL)?;
        (entry.usage, entry.uses, entry.validated) = (usage, 1, false);
        if usage == Use::Writable {
            return Ok(());
        }
        if std::mem::take(&mut entry.stale) {
            forget.protect(frame);
        }
        let checked = match usage {
            Use::Table(level) => self.validate_table(frame, level, forget),
            Use::Descriptors => self.validate_descriptors(frame),
            Use::Plain | Use::Writable => Ok(()),
        };
        let entry = self.frame_mut(frame).ok_or(Errno::EINVAL)?;
        match checked {
            Ok(()) => entry.validated = true,
            Err(_) => (entry.usage, entry.uses) = (Use::Plain, 0),
        }
        checked
    }

    /// Ends a use.
    pub(crate) fn end_use(&mut self, frame: u64) {
        let Some(entry) = self.frame_mut(frame) else { return };
        debug_assert!(entry.uses > 0, "uses end once");
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses > 0 {
            return;
        }
        match entry.usage {
            Use::Writable => entry.stale = true,
            Use::Table(level) => {
                // No longer a table to anyone who looks while its entries are given back.
                (entry.usage, entry.validated) = (Use::Plain, false);
                self.changes.end_table(frame, level);
                self.release_entries(frame, level);
            }
            Use::Descriptors => (entry.usage, entry.validated) = (Use::Plain, false),
            Use::Plain => {}
        }
    }

    /// Takes a reference to and a use of a frame.
    pub(crate) fn take(
        &mut self,
        frame: u64,
        usage: Use,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        self.reference(frame)?;
        self.take_use(frame, usage, forget).inspect_err(|_| self.release(frame))
    }

    /// Gives both back.
    pub(crate) fn give(&mut self, frame: u64) {
        self.end_use(frame);
        self.release(frame);
    }

    /// Pins a table: it stays one until it is unpinned.
    pub(crate) fn pin(
        &mut self,
        frame: u64,
        level: u8,
        forget: &mut dyn Forget,
    ) -> Result<(), Errno> {
        self.take(frame, Use::Table(level), forget)?;
        match self.frame_mut(frame) {
            Some(entry) if !entry.pinned => {
                entry.pinned = true;
                Ok(())
            }
            _ => {
                self.give(frame);
                Err(Errno::EINVAL)
            }
        }
    }

    /// Unpins a table.
    pub(crate) fn unpin(&mut self, frame: u64) -> Result<(), Errno> {
        let entry = self.frame_mut(frame).ok_or(Errno::EINVAL)?;
        if entry.owner != Owner::Guest || !std::mem::take(&mut entry.pinned) {
            return Err(Errno::EINVAL);
        }
        self.give(frame);
        Ok(())
    }

    /// Gives a frame back to the hypervisor: nobody may map it anew; it is free once nobody does.
    pub(crate) fn deallocate(&mut self, frame: u64) -> Result<(), Errno> {
        let entry = self.frame_mut(frame).ok_or(Errno::EINVAL)?;
        if entry.owner != Owner::Guest || !entry.allocated || entry.pinned {
            return Err(Errno::EINVAL);
        }
        entry.allocated = false;
        self.allocated -= 1;
        self.changes.restrict_all();
        self.reclaim(frame);
        Ok(())
    }

    /// Gives the guest a frame.
    pub(crate) fn allocate(&mut self) -> Option<u64> {
        if self.allocated >= self.maximum {
            return None;
        }
        let frame = self.free.pop()?;
        let entry = self.frame_mut(frame)?;
        entry.owner = Owner::Guest;
        entry.allocated = true;
        self.allocated += 1;
        // What it held was the guest's own, but a new page is expected to be clean.
        for word in 0..512 {
            self.ram.store_word((frame << 12) + word * 8, 0);
        }
        Some(frame)
    }

    /// Sets an entry of the machine-to-physical table.
    pub(crate) fn set_physical(&self, frame: u64, pfn: u64) {
        if frame < self.layout.end {
            self.ram.store_word((self.layout.machphys << 12) + frame * 8, pfn);
        }
    }
}
