//! What is known of one translated block: what guest code it is of, and where it is entered.

use crate::directory::{NUMBER_BITS, Variant};
use crate::key::Key;
use crate::records::{Forms, OF_ENTRIES, Records};
use crate::records::{put_signed, put_unsigned, take_signed, take_unsigned};

/// A block as it is kept. There are many: what is not asked often is in the bytes of its entries and records.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Offset in the code cache of the first host byte.
    start: u32,
    /// Where its bytes are among those of all blocks; the highest bit says that the guest code changed.
    bytes: u32,
    /// The number of its variant and, above that, the offset of its first instruction in its page.
    place: u32,
}

/// What one block of so many costs.
const _: () = assert!(size_of::<Packed>() == 12);

const STALE: u32 = 1 << 31;
/// So many bytes can be told of all blocks.
pub(crate) const MOST_BYTES: usize = STALE as usize;

impl Packed {
    /// A block whose code begins at the offset `start` in the code cache and whose bytes at `bytes`, of a variant with a
    /// number.
    pub(crate) fn new(start: u32, bytes: usize, variant: u32, offset: u16) -> Self {
        Self { start, bytes: bytes as u32, place: u32::from(offset) << NUMBER_BITS | variant }
    }

    pub(crate) fn start(&self) -> u32 {
        self.start
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.bytes & !STALE) as usize
    }

    pub(crate) fn variant(&self) -> u32 {
        self.place & ((1 << NUMBER_BITS) - 1)
    }

    pub(crate) fn offset(&self) -> u16 {
        (self.place >> NUMBER_BITS) as u16
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.bytes & STALE != 0
    }

    pub(crate) fn set_stale(&mut self) {
        self.bytes |= STALE;
    }
}

/// A block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Address of the first host byte, which is the entry from anywhere, with the linear address in R10 and the flags in
    /// memory.
    pub(crate) start: u64,
    /// Offset of its first instruction in its page.
    pub(crate) offset: u16,
    /// The guest code changed.
    pub(crate) stale: bool,
    /// What it has in common with other blocks of the page.
    pub(crate) variant: &'a Variant,
    /// Its entries and records, and the forms that they name.
    pub(crate) bytes: &'a [u8],
    pub(crate) forms: &'a Forms,
}

/// Addresses where a block is entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Where the one from anywhere has noted the address.
    pub(crate) arrived: u64,
    /// From another page, with the flags in memory.
    pub(crate) far: u64,
    /// From an earlier place in the same page.
    pub(crate) body: u64,
    /// From a later place in the same page, if the block was made with that; of a block with `ready`, only where the vector
    /// state is held.
    pub(crate) polling: Option<u64>,
    /// From an earlier place in the same page where the vector state is held, if the block begins with a look for that.
    pub(crate) ready: Option<u64>,
    /// What enters it must leave the flags as they are.
    pub(crate) needs_flags: bool,
    /// The straight path has the flags in memory: what enters from the same page saves them first.
    pub(crate) saves_flags: bool,
}

/// Flags of entries.
mod flag {
    pub(super) const NEEDS_FLAGS: u16 = 1;
    pub(super) const SAVES_FLAGS: u16 = 2;
    pub(super) const POLLING: u16 = 4;
    pub(super) const READY: u16 = 8;
}

impl Entries {
    /// Where the first instruction begins, with the flags in memory or in the host's.
    pub(crate) fn first(&self) -> u64 {
        if self.saves_flags { self.far } else { self.body }
    }

    /// Appends them for a block at `start`: the entries follow each other, but that `body` lies elsewhere if flags are
    /// saved.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>, forms: &mut Forms, start: u64) {
        let Self { arrived, far, body, polling, ready, needs_flags, saves_flags } = *self;
        let flag = |flag, set| if set { flag } else { 0 };
        let flags = flag(flag::NEEDS_FLAGS, needs_flags)
            | flag(flag::SAVES_FLAGS, saves_flags)
            | flag(flag::POLLING, polling.is_some())
            | flag(flag::READY, ready.is_some());
        let distances = [arrived - start, far - arrived, self.first() - far];
        debug_assert!(distances.iter().all(|&distance| distance <= u16::MAX.into()));
        let [arrived_at, to_far, to_body] = distances.map(|distance| distance as u16);
        forms.put(bytes, [OF_ENTRIES | flags, arrived_at, to_far, to_body]);
        if saves_flags {
            put_signed(bytes, body.wrapping_sub(start) as i32);
        }
        if let Some(polling) = polling {
            put_unsigned(bytes, (polling - arrived) as u32);
        }
        if let Some(ready) = ready {
            put_unsigned(bytes, (ready - arrived) as u32);
        }
    }

    /// Takes what [`Entries::write`] has put.
    fn read(bytes: &mut &[u8], forms: &Forms, start: u64) -> Option<Self> {
        let [flags, distances @ ..] = forms.take(bytes)?;
        let [arrived_at, to_far, to_body] = distances.map(u64::from);
        let saves_flags = flags & flag::SAVES_FLAGS != 0;
        let arrived = start + arrived_at;
        let far = arrived + to_far;
        let body = match saves_flags {
            true => start.wrapping_add_signed(take_signed(bytes)?.into()),
            false => far + to_body,
        };
        let mut behind = |flag| match flags & flag != 0 {
            true => Some(Some(arrived + u64::from(take_unsigned(bytes)?))),
            false => Some(None),
        };
        let (polling, ready) = (behind(flag::POLLING)?, behind(flag::READY)?);
        let needs_flags = flags & flag::NEEDS_FLAGS != 0;
        Some(Self { arrived, far, body, polling, ready, needs_flags, saves_flags })
    }
}

impl<'a> Block<'a> {
    /// The entries, and the bytes of the records.
    fn parts(&self) -> (Entries, &'a [u8]) {
        let mut bytes = self.bytes;
        match Entries::read(&mut bytes, self.forms, self.start) {
            Some(entries) => (entries, bytes),
            None => {
                debug_assert!(false, "a block has entries");
                let Self { start, .. } = *self;
                let entries = Entries {
                    arrived: start,
                    far: start,
                    body: start,
                    polling: None,
                    ready: None,
                    needs_flags: false,
                    saves_flags: false,
                };
                (entries, &[])
            }
        }
    }

    /// The entries.
    pub(crate) fn entries(&self) -> Entries {
        self.parts().0
    }

    /// What is known of its code.
    pub(crate) fn records(&self) -> Records<'a> {
        let (entries, bytes) = self.parts();
        Records::new(bytes, self.forms, entries.first(), self.offset)
    }

    /// What it has in common with others of the page is found by this key.
    pub(crate) fn key(&self) -> Key {
        self.variant.key()
    }

    /// Whether the host address `pc` is where the page's own code enters the block, which traps there when it is stale:
    /// then, whether the flags are in memory.
    pub(crate) fn traps_at(&self, pc: u64) -> Option<bool> {
        if !self.stale {
            return None;
        }
        let entries = self.entries();
        (pc == entries.first() || Some(pc) == entries.ready).then_some(entries.saves_flags)
    }

    /// Linear address of the page, where it is part of the code.
    pub(crate) fn linear_page(&self) -> Option<u64> {
        let Key { absolute, linear_page, .. } = self.key();
        absolute.then_some(linear_page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were() {
        let start = 0x7000_0000_0000;
        let mut forms = Forms::default();
        let plain = Entries {
            arrived: start,
            far: start + 2,
            body: start + 2,
            polling: None,
            ready: None,
            needs_flags: false,
            saves_flags: false,
        };
        let all = [
            plain,
            Entries { arrived: start + 7, far: start + 16, body: start + 40, ..plain },
            Entries { polling: Some(start), far: start + 300, body: start + 315, ..plain },
            Entries { polling: Some(start + 22), ready: Some(start + 350), ..plain },
            Entries { saves_flags: true, needs_flags: true, body: start + 0x123_4567, ..plain },
            Entries { saves_flags: true, body: start - 5, ..plain },
        ];
        for entries in all {
            let mut bytes = Vec::new();
            entries.write(&mut bytes, &mut forms, start);
            bytes.push(0x77);
            let mut rest = &bytes[..];
            assert_eq!(Entries::read(&mut rest, &forms, start), Some(entries));
            assert_eq!(rest, [0x77]);
        }
        assert_eq!(Entries::read(&mut &[][..], &forms, start), None);
    }

    #[test]
    fn blocks_keep_their_places() {
        let mut block = Packed::new(0x1234_5670, MOST_BYTES - 1, (1 << NUMBER_BITS) - 1, 0xfff);
        let all = |block: &Packed| (block.start(), block.bytes(), block.variant(), block.offset());
        let whole = (0x1234_5670, MOST_BYTES - 1, (1 << NUMBER_BITS) - 1, 0xfff);
        assert!(all(&block) == whole && !block.is_stale());
        block.set_stale();
        assert!(all(&block) == whole && block.is_stale());
    }
}
