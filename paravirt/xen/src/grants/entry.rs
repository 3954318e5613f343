//! Entries of the grant table, which the guest writes, in both layouts (`public/grant_table.h`).

use ambos_memory::GuestRam;
use ambos_xen_abi::DomainId;
use ambos_xen_abi::grant::{V1_ENTRY, V1_PER_FRAME, V2_ENTRY, V2_PER_FRAME, V2_STATUS, flag};
use std::sync::atomic::{AtomicU32, Ordering};

/// How often an entry may change while a use of it begins: the guest must not hold anyone up by that.
const ATTEMPTS: usize = 8;

/// Which layout the table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Entries of eight bytes, which show their use in their flags.
    One,
    /// Entries of sixteen bytes, whose use is shown in a table of its own.
    Two,
}

impl Version {
    /// Bytes of an entry.
    pub(super) fn entry_size(self) -> u64 {
        match self {
            Self::One => V1_ENTRY,
            Self::Two => V2_ENTRY,
        }
    }

    /// Entries in a frame.
    pub(super) fn per_frame(self) -> u64 {
        match self {
            Self::One => V1_PER_FRAME,
            Self::Two => V2_PER_FRAME,
        }
    }
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) version: Version,
    /// Guest-physical address of the entry.
    pub(super) at: u64,
    /// Guest-physical address of its status in the second layout.
    pub(super) status: u64,
}

/// What an entry grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) frame: u64,
    /// Where in the page the part begins that is granted, and how long it is.
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Place {
    fn head(self, ram: &GuestRam) -> Option<&AtomicU32> {
        ram.word32(self.at)
    }

    /// Shows that someone uses the entry, as `busy` says, if its flags and domain are still `expected`.
    fn set_busy(self, ram: &GuestRam, expected: u32, busy: u16) -> Result<(), u32> {
        let Some(head) = self.head(ram) else { return Err(0) };
        if self.version == Version::One {
            let marked = expected | u32::from(busy);
            let order = Ordering::SeqCst;
            return head.compare_exchange(expected, marked, order, order).map(drop);
        }
        self.change_status(ram, |status| status | busy);
        let now = head.load(Ordering::SeqCst);
        if now == expected { Ok(()) } else { Err(now) }
    }

    /// Begins a use by `holder`.
    pub(super) fn begin(
        self,
        ram: &GuestRam,
        holder: DomainId,
        write: bool,
    ) -> Result<Granted, super::GrantRefusal> {
        use super::GrantRefusal::{BadReference, Denied, NotGranted};
        let busy = flag::READING | if write { flag::WRITING } else { 0 };
        let mut now = self.head(ram).ok_or(BadReference)?.load(Ordering::SeqCst);
        for _ in 0..ATTEMPTS {
            let (flags, domain) = (now as u16, DomainId((now >> 16) as u16));
            if flags & flag::TYPE_MASK != flag::PERMIT_ACCESS || domain != holder {
                return Err(NotGranted);
            }
            if write && flags & flag::READONLY != 0 {
                return Err(Denied);
            }
            match self.set_busy(ram, now, busy) {
                Ok(()) => return Ok(self.granted(ram, flags)),
                Err(changed) => now = changed,
            }
        }
        // Another vCPU keeps changing it.
        Err(Denied)
    }

    fn granted(self, ram: &GuestRam, flags: u16) -> Granted {
        if self.version == Version::One {
            let frame = ram.word32(self.at + 4).map_or(0, |word| word.load(Ordering::SeqCst));
            return Granted { frame: frame.into(), offset: 0, length: 4096 };
        }
        let frame = ram.load_word(self.at + 8);
        if flags & flag::SUB_PAGE == 0 {
            return Granted { frame, offset: 0, length: 4096 };
        }
        let part = ram.load_word(self.at) >> 32;
        Granted { frame, offset: part & 0xffff, length: part >> 16 }
    }

    /// Shows that nobody uses the entry any longer in the ways of `idle`.
    pub(super) fn set_idle(self, ram: &GuestRam, idle: u16) {
        match self.version {
            Version::One => {
                if let Some(head) = self.head(ram) {
                    head.fetch_and(!u32::from(idle), Ordering::SeqCst);
                }
            }
            Version::Two => self.change_status(ram, |status| status & !idle),
        }
    }

    fn change_status(self, ram: &GuestRam, change: impl Fn(u16) -> u16) {
        let shift = self.status % 4 * 8;
        if let Some(word) = ram.word32(self.status & !3) {
            let changed = |now: u32| {
                let status = change((now >> shift) as u16);
                Some(now & !(0xffff << shift) | u32::from(status) << shift)
            };
            let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed);
        }
    }

    /// The whole entry with its status among its flags: flags and domain, frame.
    pub(super) fn load(self, ram: &GuestRam) -> (u32, u64) {
        let head = ram.load_word(self.at);
        match self.version {
            Version::One => (head as u32, head >> 32),
            Version::Two => {
                let word = ram.load_word(self.status & !7);
                let status = (word >> (self.status % 8 * 8)) as u16;
                (head as u32 | u32::from(status), ram.load_word(self.at + 8))
            }
        }
    }

    /// Writes a whole entry as [`Place::load`] returns it.
    pub(super) fn store(self, ram: &GuestRam, (head, frame): (u32, u64)) {
        match self.version {
            Version::One => ram.store_word(self.at, u64::from(head) | frame << 32),
            Version::Two => {
                const BUSY: u16 = flag::READING | flag::WRITING;
                ram.store_word(self.at, u64::from(head & !u32::from(BUSY)));
                ram.store_word(self.at + 8, frame);
                self.change_status(ram, |_| head as u16 & BUSY);
            }
        }
    }
}

/// Where the status of an entry lies in its table.
pub(super) fn status_offset(reference: u32) -> u64 {
    u64::from(reference) * V2_STATUS
}
