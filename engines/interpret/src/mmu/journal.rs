//! A journal of writes to guest RAM, for running the same code twice.
//!
//! While a vCPU keeps a journal, every page is copied before it is first written to after
//! [`Cpu::begin_journal`]. To notice that, write translations last only until the next beginning.
//! Marks in page tables that walks make (accessed, dirty) are not among the writes.

use crate::cpu::Cpu;
use ambos_hostcode::mem::{self, Cell};

/// Bytes of a page.
const PAGE: usize = 0x1000;

/// Pages as they were before they were written to.
#[derive(Debug, Default)]
pub struct Journal {
    pages: Vec<JournalPage>,
    /// Write translations entered since the beginning: bank, set and linear address.
    entered: Vec<(usize, usize, u64)>,
}

/// One page that was written to.
#[derive(Debug)]
pub struct JournalPage {
    /// Its host address.
    pub host_page: usize,
    /// What it held before.
    pub before: Box<[u8; PAGE]>,
}

/// The bytes of a page of guest RAM at host address `host_page`.
pub fn page_bytes(host_page: usize) -> Box<[u8; PAGE]> {
    let mut bytes = Box::new([0; PAGE]);
    #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
    // SAFETY: journals name mapped pages of guest RAM only.
    unsafe {
        mem::copy_from(host_page, &mut bytes[..]);
    }
    bytes
}

impl Cpu {
    /// Keeps a journal from now on, and begins it.
    pub fn begin_journal(&mut self) {
        let mut journal = self.journal.take().unwrap_or_else(|| {
            // Translations from before would let writes pass unseen.
            self.tlb.protect_all();
            Box::default()
        });
        for (bank, set, linear) in journal.entered.drain(..) {
            self.tlb.drop_write(bank, set, linear);
        }
        journal.pages.clear();
        self.journal = Some(journal);
    }

    /// Whether it keeps one.
    pub(crate) fn keeps_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// The pages written to since the journal's beginning.
    pub fn take_journal_pages(&mut self) -> Vec<JournalPage> {
        self.journal.as_mut().map(|journal| std::mem::take(&mut journal.pages)).unwrap_or_default()
    }

    /// Notes that the page at `host_page` may be written to from now on, through a translation of
    /// `linear` in `set`.
    #[inline]
    pub(super) fn note_in_journal(&mut self, host_page: usize, set: usize, linear: u64) {
        if let Some(journal) = &mut self.journal {
            journal.entered.push((self.tlb.current_bank(), set, linear));
            if journal.pages.iter().all(|page| page.host_page != host_page) {
                journal.pages.push(JournalPage { host_page, before: page_bytes(host_page) });
            }
        }
    }
}

/// Gives the bits in which `from` and `to` differ their value in `to`, in the page of guest RAM at host address
/// `host_page`. Others stay as they are: another thread may have changed them, as one that signals an event does.
pub fn change_page(host_page: usize, from: &[u8; PAGE], to: &[u8; PAGE]) {
    const WORD: usize = size_of::<u64>();
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    for (number, (from, to)) in from.chunks(WORD).zip(to.chunks(WORD)).enumerate() {
        let (value, changed) = (word(to), word(from) ^ word(to));
        let address = host_page + number * WORD;
        if changed != 0 {
            #[expect(unsafe_code, reason = "guest RAM is shared with devices")]
            // SAFETY: journals name mapped pages of guest RAM only, and the words of a page are aligned.
            unsafe {
                let mut held = u64::load(address);
                loop {
                    let new = held & !changed | value & changed;
                    match u64::compare_exchange(address, held, new) {
                        same if same == held => break,
                        other => held = other,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};

    #[test]
    fn what_others_changed_meanwhile_stays() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let (host_page, _) = ram.host_page(0x5000).unwrap();
        let write = |offset: u64, byte: u8| {
            ram.memory().write_obj(byte, GuestPhysAddr(0x5000 + offset)).unwrap();
        };
        let before = page_bytes(host_page);
        write(8, 0x11);
        write(4095, 0x80);
        let after = page_bytes(host_page);
        // Beside what is to be put back: in its byte, its word and elsewhere.
        write(8, 0x13);
        write(9, 5);
        write(100, 6);
        change_page(host_page, &after, &before);
        let now = page_bytes(host_page);
        assert_eq!([now[8], now[9], now[100], now[4095]], [2, 5, 6, 0]);
        write(100, 7);
        change_page(host_page, &before, &after);
        let now = page_bytes(host_page);
        assert_eq!([now[8], now[9], now[100], now[4095]], [0x13, 5, 7, 0x80]);
    }
}
