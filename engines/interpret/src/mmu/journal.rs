//! A journal of writes to guest RAM, for running the same code twice.
//!
//! While a vCPU keeps a journal, every page is copied before it is first written to after
//! [`Cpu::begin_journal`]. To notice that, write translations last only until the next beginning.
//! Marks in page tables that walks make (accessed, dirty) are not among the writes.

use crate::cpu::Cpu;
use ambos_hostcode::mem;

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

    /// Puts back the bytes of `pages` that changed, and returns what they held until now.
    pub fn undo(&mut self, pages: &[JournalPage]) -> Vec<Box<[u8; PAGE]>> {
        let undo_page = |page: &JournalPage| {
            let after = page_bytes(page.host_page);
            if after != page.before {
                for (offset, (new, old)) in after.iter().zip(page.before.iter()).enumerate() {
                    if new != old {
                        #[expect(unsafe_code, reason = "guest RAM is shared with devices")]
                        // SAFETY: journals name mapped pages of guest RAM only.
                        unsafe {
                            mem::copy_to(page.host_page + offset, &[*old]);
                        }
                    }
                }
            }
            after
        };
        pages.iter().map(undo_page).collect()
    }
}
