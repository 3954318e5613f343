//! Where each bank has the pages of generated code, and the address that bars a slot of the jump caches: what
//! generated code compares with before it goes on by itself.

use super::bank::NO_PAGE;
use super::{BANKS, Tlb};

impl Tlb {
    /// Says where the current bank has the page of code with a number.
    pub(super) fn set_code_page(&mut self, set: usize, number: u16, page: u64) {
        let current = self.current;
        let pages = &mut self.set_mut(current, set).code_pages;
        let Some(place) = pages.get_mut(usize::from(number)) else { return };
        if std::mem::replace(place, page) == NO_PAGE {
            self.banks[current].code_pages[set].push(number);
        }
    }

    /// Forgets the pages of code of one set of a bank that `drop` says so of.
    pub(super) fn drop_code_pages(&mut self, bank: usize, set: usize, drop: impl Fn(u64) -> bool) {
        let mut known = std::mem::take(&mut self.banks[bank].code_pages[set]);
        let pages = &mut self.set_mut(bank, set).code_pages;
        known.retain(|&number| {
            let place = &mut pages[usize::from(number)];
            let gone = drop(*place);
            if gone {
                *place = NO_PAGE;
            }
            !gone
        });
        self.banks[bank].code_pages[set] = known;
    }

    /// Forgets a page of code in all banks.
    pub fn forget_code_page(&mut self, set: usize, number: u16) {
        for bank in 0..BANKS {
            let known = &mut self.banks[bank].code_pages[set];
            if let Some(index) = known.iter().position(|&other| other == number) {
                known.swap_remove(index);
                self.set_mut(bank, set).code_pages[usize::from(number)] = NO_PAGE;
            }
        }
    }

    /// Sets the generated code for the address that the barred slot of jump caches' first levels has. That slot
    /// has no other: generated code looks there, whatever the address, when it is to look up.
    pub fn bar_jumps(&mut self, code: usize) {
        for bank in 0..BANKS {
            for set in &mut self.bank_mut(bank).sets {
                set.jumps[0].value = code;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_code_go_with_their_fetch_translations() {
        let mut tlb = Tlb::new().unwrap();
        let place = |tlb: &Tlb, bank, number| tlb.bank(bank).sets[Tlb::USER].code_pages[number];
        tlb.set_jump(Tlb::USER, 0x7010, false, 99, Some(5));
        assert_eq!(place(&tlb, 0, 5), NO_PAGE);
        for page in [0x7000, 0x8000] {
            tlb.insert_fetch(true, false, page, 0, 0, 0);
        }
        tlb.set_jump(Tlb::USER, 0x7010, false, 99, Some(5));
        tlb.set_jump(Tlb::USER, 0x8010, false, 99, Some(6));
        assert_eq!(
            (place(&tlb, 0, 5), place(&tlb, 0, 6), place(&tlb, 1, 5)),
            (0x7000, 0x8000, NO_PAGE)
        );
        tlb.flush_page(0x7000);
        assert_eq!((place(&tlb, 0, 5), place(&tlb, 0, 6)), (NO_PAGE, 0x8000));
        tlb.forget_code_page(Tlb::USER, 6);
        assert_eq!(place(&tlb, 0, 6), NO_PAGE);
        // A number that nobody has is nothing to note.
        tlb.set_jump(Tlb::USER, 0x8010, false, 99, Some(u16::MAX));
        assert!(tlb.banks[0].code_pages[Tlb::USER].is_empty());
    }
}
