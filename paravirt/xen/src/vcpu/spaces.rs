//! Address spaces by the frames of their top-level tables.
//!
//! Engines cache translations under small numbers. The hypervisor sees every change of a page
//! table, so a switch to a table forgets of what was cached of it only the pages whose entries were taken away or
//! restricted since, or everything if these were many (`pages::changes`). A table that is new takes over the
//! kernel's pages from the one whose number it gets, where both have the same kernel.

use crate::pages::{Pages, Stale, UpperHalf};
use ambos_vcpu::{GuestCpu, SPACES};

/// Top-level tables remembered at the same time.
const SLOTS: usize = SPACES;
/// As many of those not used for longest may be chosen from for a new one.
const OLD: usize = 4;

#[derive(Debug, Default, Clone)]
struct Slot {
    /// Machine frame; zero: none.
    root: u64,
    /// The epoch of the page tables that nothing older is cached of.
    epoch: u64,
    /// The upper half through which everything of it was cached, if it says all of that.
    upper: Option<UpperHalf>,
    used: u64,
}

/// The numbers of address spaces of one vCPU.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    slots: [Slot; SLOTS],
    switches: u64,
    current: usize,
}

impl Spaces {
    fn find(&self, root: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.root == root)
    }

    /// The slot for a table with this upper half: a free one, or one that has it already and is among the older ones.
    fn oldest(&self, upper: Option<&UpperHalf>) -> usize {
        let mut slots = std::array::from_fn::<_, SLOTS, _>(|index| index);
        let in_use = |index: usize| index == self.current && self.slots[index].root != 0;
        slots.sort_by_key(|&index| (in_use(index), self.slots[index].used));
        let like = |&&index: &&usize| upper.is_some() && self.slots[index].upper.as_ref() == upper;
        match self.slots[slots[0]].root {
            0 => slots[0],
            _ => slots[..OLD].iter().find(like).copied().unwrap_or(slots[0]),
        }
    }

    /// Switches to `root`.
    pub(crate) fn enter(&mut self, cpu: &mut dyn GuestCpu, root: u64, pages: &Pages) {
        self.renew(cpu, root, pages);
        self.resume(cpu, root);
    }

    /// Forgets what is wrong of what is cached of `root`.
    pub(crate) fn renew(&mut self, cpu: &mut dyn GuestCpu, root: u64, pages: &Pages) {
        let epoch = pages.epoch(root);
        let found = self.find(root);
        self.switches += 1;
        if let Some(slot) = found.map(|index| &mut self.slots[index])
            && slot.epoch == epoch
        {
            slot.used = self.switches;
            return;
        }
        let known = found.and_then(|index| {
            pages.stale(root, self.slots[index].epoch).map(|stale| (index, stale))
        });
        let (index, mut stale) = known.unwrap_or_else(|| {
            let upper = pages.upper_half(root);
            // A number for each table.
            let index = self.find(root).unwrap_or_else(|| self.oldest(upper.as_ref()));
            let slot = &self.slots[index];
            let stale = match slot.upper == upper {
                true => pages.stale_in_other(slot.epoch),
                false => Stale::Everything,
            };
            (index, stale)
        });
        if matches!(stale, Stale::LowerHalf(_)) && self.slots[index].upper.is_none() {
            stale = Stale::Everything;
        }
        let number = number(index);
        let one_by_one = match stale {
            Stale::Pages(pages) => pages,
            Stale::LowerHalf(pages) => {
                cpu.flush_lower_half_of(number);
                pages
            }
            Stale::Everything => {
                cpu.flush_space(number);
                self.slots[index].upper = pages.upper_half(root);
                Vec::new()
            }
        };
        for linear in one_by_one {
            cpu.flush_page_of(number, linear);
        }
        let slot = &mut self.slots[index];
        (slot.root, slot.epoch, slot.used) = (root, epoch, self.switches);
    }

    /// Whether `root` has a number.
    pub(crate) fn knows(&self, root: u64) -> bool {
        self.find(root).is_some()
    }

    /// Switches to `root`, which has a number, and forgets nothing: between the tables of kernel and user mode.
    pub(crate) fn resume(&mut self, cpu: &mut dyn GuestCpu, root: u64) {
        let Some(index) = self.find(root) else { return };
        self.switches += 1;
        self.slots[index].used = self.switches;
        self.current = index;
        cpu.switch_space(root << 12, number(index));
    }
}

/// Number 0 is the engine's own at its start.
fn number(slot: usize) -> u16 {
    slot as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Nothing;
    use crate::pages::update::Mode;
    use crate::testing::Guest;
    use ambos_x86::paging::{PRESENT, USER, WRITE};

    /// Entry of a top-level table, in the upper half.
    const UPPER: u64 = 300;
    const LINK: u64 = PRESENT | USER | WRITE;

    /// What a switch forgot.
    #[derive(Debug, PartialEq, Eq)]
    enum Forgot {
        Nothing,
        LowerHalf,
        Everything,
    }

    struct Test {
        guest: Guest,
        spaces: Spaces,
    }

    impl Test {
        fn new() -> Self {
            let mut guest = Guest::new();
            guest.cpu.flushed_spaces.clear();
            Self { guest, spaces: Spaces::default() }
        }

        /// The machine frame of the `index`th of the frames that nobody maps.
        fn frame(&self, index: u64) -> u64 {
            self.guest.frame(0x200 + index)
        }

        fn set(&self, table: u64, index: u64, entry: u64) {
            self.guest.domain.ram.store_word((table << 12) + index * 8, entry);
        }

        fn update(&mut self, table: u64, index: u64, entry: u64) {
            let mut pages = self.guest.domain.pages(&mut self.guest.cpu);
            pages.update((table << 12) + index * 8, entry, Mode::Set, &mut Nothing).unwrap();
        }

        fn pin(&mut self, table: u64, level: u8) {
            let mut pages = self.guest.domain.pages(&mut self.guest.cpu);
            pages.pin(table, level, &mut Nothing).unwrap();
        }

        fn unpin(&mut self, table: u64) {
            self.guest.domain.pages(&mut self.guest.cpu).unpin(table).unwrap();
        }

        /// A top-level table whose upper half leads to the level-3 table `kernel`.
        fn root(&mut self, index: u64, kernel: u64) -> u64 {
            let root = self.frame(index);
            self.set(root, UPPER, kernel << 12 | LINK);
            self.pin(root, 4);
            root
        }

        fn enter(&mut self, root: u64) -> Forgot {
            let domain = std::sync::Arc::clone(&self.guest.domain);
            let pages = domain.pages(&mut self.guest.cpu);
            self.spaces.enter(&mut self.guest.cpu, root, &pages);
            let number = self.guest.cpu.space.1;
            let all = std::mem::take(&mut self.guest.cpu.flushed_spaces);
            let lower = std::mem::take(&mut self.guest.cpu.flushed_lower_halves);
            assert!(all.iter().chain(&lower).all(|&flushed| flushed == number));
            match (all.is_empty(), lower.is_empty()) {
                (false, _) => Forgot::Everything,
                (_, false) => Forgot::LowerHalf,
                _ => Forgot::Nothing,
            }
        }

        /// Uses all numbers, for tables that lead to `kernel`.
        fn fill(&mut self, kernel: u64) {
            for index in 10..10 + SLOTS as u64 {
                let root = self.root(index, kernel);
                assert_eq!(self.enter(root), Forgot::Everything);
            }
        }
    }

    #[test]
    fn a_new_table_takes_over_the_upper_half() {
        let mut test = Test::new();
        let kernel = test.frame(0);
        test.fill(kernel);
        for index in 30..50 {
            let root = test.root(index, kernel);
            assert_eq!(test.enter(root), Forgot::LowerHalf);
            assert_eq!(test.enter(root), Forgot::Nothing);
            test.unpin(root);
        }
        // A table that comes back is another one.
        let root = test.root(49, kernel);
        assert_eq!(test.enter(root), Forgot::LowerHalf);
        // Marks that the processor sets are no difference.
        let root = test.root(50, kernel);
        test.set(root, UPPER, kernel << 12 | LINK | ambos_x86::paging::ACCESSED);
        assert_eq!(test.enter(root), Forgot::LowerHalf);
    }

    #[test]
    fn another_upper_half_is_not_taken_over() {
        let mut test = Test::new();
        let [kernel, other] = [0, 1].map(|index| test.frame(index));
        test.fill(kernel);
        let root = test.root(30, other);
        assert_eq!(test.enter(root), Forgot::Everything);
        // What a table got later may be cached of it, and another one lacks it.
        let [changed, like_before] = [31, 32].map(|index| test.root(index, kernel));
        assert_eq!(test.enter(changed), Forgot::LowerHalf);
        test.update(changed, UPPER + 1, other << 12 | LINK);
        assert_eq!(test.enter(like_before), Forgot::Everything);
        assert_eq!(test.enter(changed), Forgot::Everything);
    }

    #[test]
    fn changes_of_the_upper_half_matter_to_all_that_take_over() {
        let mut test = Test::new();
        let [kernel, table] = [0, 1].map(|index| test.frame(index));
        test.set(kernel, 5, table << 12 | LINK);
        test.pin(kernel, 3);
        test.fill(kernel);
        let root = test.root(30, kernel);
        assert_eq!(test.enter(root), Forgot::LowerHalf);
        test.update(kernel, 5, 0);
        let root = test.root(31, kernel);
        assert_eq!(test.enter(root), Forgot::Everything);
    }

    #[test]
    fn a_kernel_that_was_gone_for_a_while_is_another_one() {
        let mut test = Test::new();
        let [kernel, other] = [0, 1].map(|index| test.frame(index));
        test.fill(other);
        let root = test.root(30, kernel);
        assert_eq!(test.enter(root), Forgot::Everything);
        for index in 11..10 + SLOTS as u64 {
            let root = test.frame(index);
            assert_eq!(test.enter(root), Forgot::Nothing);
        }
        test.unpin(root);
        let root = test.root(31, kernel);
        assert_eq!(test.enter(root), Forgot::Everything);
    }

    #[test]
    fn where_a_table_maps_itself_the_upper_half_goes_with_the_lower() {
        let mut test = Test::new();
        let [kernel, table] = [0, 1].map(|index| test.frame(index));
        let root = test.frame(30);
        test.set(root, UPPER + 1, root << 12 | PRESENT | USER);
        test.set(root, 1, table << 12 | LINK);
        let root = test.root(30, kernel);
        assert_eq!(test.enter(root), Forgot::Everything);
        assert_eq!(test.enter(root), Forgot::Nothing);
        test.update(root, 1, 0);
        assert_eq!(test.enter(root), Forgot::Everything);
        test.unpin(root);
        let root = test.root(30, kernel);
        assert_eq!(test.enter(root), Forgot::Everything);
    }
}
