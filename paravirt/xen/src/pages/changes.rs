//! Which address spaces have cached translations that may be wrong.
//!
//! A guest asks for a flush with each switch of address spaces, because a processor without identifiers
//! gives no other way. Whether there is anything to forget follows from what changed since: an entry that is
//! taken away or restricted matters to the top-level tables from which its table is reached. The tables of
//! a process are reached from two of them, for kernel and for user mode; those of the kernel itself from all, in
//! which it has them at the same addresses.
//!
//! The upper half of the addresses is the kernel's, and the same in all address spaces whose top-level tables have
//! the same entries there. So what is cached of it may outlive its address space. What changes there is told of
//! all address spaces, whether or not it is one's own.

use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Top-level tables that are followed up for one table.
const ROOTS: usize = 4;
/// Entries that link a table and are followed up. Linux has the tables of its own image where it was loaded, in two copies
/// of that, and for a while both.
const PARENTS: usize = 4;
/// Places of a table in what all address spaces have in common.
const PLACES: usize = 4;
/// Pages of an address space that are told one by one.
const TOLD: usize = 8;
/// Pages of the upper half that are. To forget so many takes a tenth of the time in which all that a kernel uses is found
/// again; a kernel that frees or protects memory restricts some hundred to two thousand at a time.
const TOLD_OF_ALL: usize = 2048;

/// From where a table is reached; empty places hold the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached<T, const N: usize> {
    From([T; N]),
    /// From more places than are followed up.
    Widely,
}

impl<T: Copy + Default + PartialEq, const N: usize> Reached<T, N> {
    fn from_nowhere() -> Self {
        Self::From([T::default(); N])
    }

    /// Adds a place that is not among them.
    fn add(&mut self, place: T) {
        if let Self::From(few) = self {
            match few.iter_mut().find(|slot| **slot == T::default()) {
                Some(slot) => *slot = place,
                None => *self = Self::Widely,
            }
        }
    }

    fn contains(&self, place: T) -> bool {
        matches!(self, Self::From(few) if few.contains(&place))
    }
}

/// The frame of a top-level table, and the linear address of what is mapped through a table under it.
type Root = (u64, u64);

/// What links a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Links {
    /// The addresses of the entries. Once there are too many they stay so until it is a table no more.
    from: Reached<u64, PARENTS>,
    /// The index in their tables that all of them have, and had.
    index: Option<u64>,
}

/// The top-level tables that a table is reached from, and what it maps there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roots {
    /// These; empty places hold zeros.
    Few([Root; ROOTS]),
    /// Any, and in all of them it maps what begins at these linear addresses, if it is there.
    All([Option<u64>; PLACES]),
    /// Any.
    Unknown,
}

/// What must be forgotten of an address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stale {
    /// The pages of these linear addresses; none may be.
    Pages(Vec<u64>),
    /// The lower half, and these pages of the upper half.
    LowerHalf(Vec<u64>),
    /// All of it.
    Everything,
}

/// What was restricted in an address space.
#[derive(Debug, Default)]
struct Restrictions {
    /// The last one.
    last: u64,
    /// The last ones that are not among the pages told, in the lower and in the upper half.
    others: [u64; 2],
    /// The last pages of the lower half, with the number of the restriction, oldest first.
    pages: Vec<(u64, u64)>,
    /// When the table was last one no more.
    ended: u64,
}

impl Restrictions {
    /// Adds one of the entry of a table of `level` that maps what begins at `linear`; not of a page of the upper half.
    fn add(&mut self, count: u64, linear: u64, level: u8) {
        self.last = count;
        if level > 1 {
            self.others[usize::from(is_upper(linear))] = count;
        } else if self.pages.last() != Some(&(count, linear)) {
            if self.pages.len() == TOLD {
                let (count, _) = self.pages.remove(0);
                self.others[0] = count.max(self.others[0]);
            }
            self.pages.push((count, linear));
        }
    }

    /// The pages since `epoch`.
    fn pages_since(&self, epoch: u64) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().filter(move |&&(count, _)| count > epoch).map(|(_, linear)| *linear)
    }
}

/// From where a table is reached, while that is found out.
#[derive(Debug)]
struct Found {
    /// Top-level tables.
    few: Reached<Root, ROOTS>,
    /// What it maps where all address spaces have it.
    all: [Option<u64>; PLACES],
}

/// Restrictions in the upper half of any address space.
#[derive(Debug, Default)]
struct Upper {
    /// The last one of more than a page.
    large: u64,
    /// The last pages, with the number of the restriction, oldest first.
    pages: VecDeque<(u64, u64)>,
}

impl Upper {
    /// Adds a page; returns the number of the restriction that is told no more for that.
    fn add(&mut self, count: u64, linear: u64) -> Option<u64> {
        if self.pages.back() == Some(&(count, linear)) {
            return None;
        }
        let forgotten = match self.pages.len() {
            TOLD_OF_ALL => self.pages.pop_front().map(|(count, _)| count),
            _ => None,
        };
        self.pages.push_back((count, linear));
        forgotten
    }

    /// The last restriction of a page.
    fn last_of_page(&self) -> u64 {
        self.pages.back().map_or(0, |&(count, _)| count)
    }

    /// The pages since `epoch`.
    fn since(&self, epoch: u64) -> impl Iterator<Item = u64> + '_ {
        let later = match self.last_of_page() > epoch {
            true => self.pages.partition_point(|&(count, _)| count <= epoch),
            false => self.pages.len(),
        };
        self.pages.range(later..).map(|&(_, linear)| linear)
    }
}

/// Something by frames. A guest that makes its own collisions waits for what it asked for; it has but its own frames for that.
type ByFrame<T> = FxHashMap<u64, T>;

/// What was restricted, and where it matters.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Counts restrictions.
    count: u64,
    /// The last one that may matter to all address spaces.
    general: u64,
    /// What matters to the upper half of any address space, besides.
    upper: Upper,
    /// What matters to the address space of a top-level table.
    of_root: ByFrame<Restrictions>,
    /// What links a table.
    parents: ByFrame<Links>,
    /// The answer for the table that was asked for last: changes of one table come together.
    last: Option<(u64, Roots)>,
}

impl Changes {
    /// Changes whenever translations through the top-level table `root` may have become wrong.
    pub(super) fn epoch(&self, root: u64) -> u64 {
        let own = self.of_root.get(&root).map_or(0, |restrictions| restrictions.last);
        self.general.max(self.upper.last_of_page()).max(own)
    }

    /// What may have become wrong of translations through `root` since its epoch was `epoch`.
    pub(super) fn since(&self, root: u64, epoch: u64) -> Stale {
        if self.general > epoch {
            return Stale::Everything;
        }
        let upper_pages = self.upper.since(epoch);
        let Some(restrictions) = self.of_root.get(&root) else {
            return Stale::Pages(upper_pages.collect());
        };
        let [lower, upper] = restrictions.others.map(|other| other > epoch);
        if upper || restrictions.ended > epoch {
            Stale::Everything
        } else if lower {
            Stale::LowerHalf(upper_pages.collect())
        } else {
            Stale::Pages(restrictions.pages_since(epoch).chain(upper_pages).collect())
        }
    }

    /// The pages of the upper half that may have become wrong in any address space since the epoch of one was
    /// `epoch`; `None` if all may have.
    pub(super) fn upper_half_since(&self, epoch: u64) -> Option<Vec<u64>> {
        let known = self.general.max(self.upper.large) <= epoch;
        known.then(|| self.upper.since(epoch).collect())
    }

    /// Whether `root` was a top-level table without interruption since its epoch was `epoch`.
    pub(super) fn is_same(&self, root: u64, epoch: u64) -> bool {
        self.of_root.get(&root).is_none_or(|restrictions| restrictions.ended <= epoch)
    }

    /// The entry at guest-physical address `at` names the table `child`.
    pub(super) fn link(&mut self, child: u64, at: u64) {
        self.last = None;
        let index = Some((at & 0xfff) / 8);
        let first = Links { from: Reached::from_nowhere(), index };
        let links = self.parents.entry(child).or_insert(first);
        if links.index != index {
            links.index = None;
        }
        if links.from.contains(at) {
            links.from = Reached::Widely;
        } else {
            links.from.add(at);
        }
    }

    /// The entry at `at`, of a table of `level`, names the table `child` no more.
    pub(super) fn unlink(&mut self, child: u64, at: u64, level: u8) {
        self.last = None;
        let links = self.parents.get_mut(&child);
        let Some(Links { from: Reached::From(few), .. }) = links else { return };
        few.iter_mut().filter(|slot| **slot == at).for_each(|slot| *slot = 0);
        // What happens to a table that is not reached is not followed up, so nobody may have cached
        // anything through it when it is linked again.
        let is_link = |at: u64| is_upper(span(at, 4));
        if level == 4 && is_link(at) && !few.iter().any(|&at| is_link(at)) {
            self.restrict_all();
        }
    }

    /// `table` is a table of this level no more. Nothing links it by then, so it matters only where it was
    /// a top-level table itself, or linked in the upper half from more places than are followed up.
    pub(super) fn end_table(&mut self, table: u64, level: u8) {
        self.last = None;
        let parents = self.parents.remove(&table);
        if level == 4 {
            self.count += 1;
            let restrictions = self.of_root.entry(table).or_default();
            (restrictions.last, restrictions.ended) = (self.count, self.count);
        } else if level == 3 && parents.is_some_and(|links| links.from == Reached::Widely) {
            self.restrict_all();
        }
    }

    /// The entry at `at` of a table of this level was taken away or restricted.
    pub(super) fn restrict(&mut self, at: u64, level: u8) {
        self.count += 1;
        match self.roots(at >> 12, level) {
            Roots::Few(roots) => {
                for (root, base) in roots.into_iter().filter(|(root, _)| *root != 0) {
                    let linear = sign_extended(base | span(at, level));
                    self.restrict_of(root, linear, level);
                }
            }
            Roots::All(places) if level == 1 && places.into_iter().flatten().all(is_upper) => {
                for base in places.into_iter().flatten() {
                    self.restrict_upper(sign_extended(base | span(at, level)));
                }
            }
            Roots::All(_) | Roots::Unknown => self.general = self.count,
        }
    }

    /// What an entry of this level maps at `linear`, of the address space of `root`, was restricted.
    fn restrict_of(&mut self, root: u64, linear: u64, level: u8) {
        if level == 1 && is_upper(linear) {
            return self.restrict_upper(linear);
        }
        self.of_root.entry(root).or_default().add(self.count, linear, level);
        if is_upper(linear) {
            self.upper.large = self.count;
        }
    }

    /// A page of the upper half was restricted.
    fn restrict_upper(&mut self, linear: u64) {
        if let Some(forgotten) = self.upper.add(self.count, linear) {
            self.general = self.general.max(forgotten);
        }
    }

    /// The entry at `at` of a top-level table leads elsewhere than before, if only to where it led nowhere: in the
    /// upper half it is no longer like others.
    pub(super) fn replace_top(&mut self, at: u64) {
        let linear = sign_extended(span(at, 4));
        if is_upper(linear) {
            self.count += 1;
            self.restrict_of(at >> 12, linear, 4);
        }
    }

    /// Something changed that matters everywhere.
    pub(super) fn restrict_all(&mut self) {
        self.count += 1;
        self.general = self.count;
    }

    /// Whether changes of `table` matter to more address spaces than are followed up.
    pub(super) fn is_shared(&mut self, table: u64, level: u8) -> bool {
        !matches!(self.roots(table, level), Roots::Few(_))
    }

    fn roots(&mut self, table: u64, level: u8) -> Roots {
        if let Some((last, roots)) = self.last
            && last == table
        {
            return roots;
        }
        let mut found = Found { few: Reached::from_nowhere(), all: [None; PLACES] };
        let known = self.collect(table, level, 0, &mut found);
        let alone = found.all == [None; PLACES];
        let roots = match found.few {
            Reached::From(few) if known && alone => Roots::Few(few),
            Reached::From(few) if known && few == [Root::default(); ROOTS] => Roots::All(found.all),
            _ => Roots::Unknown,
        };
        self.last = Some((table, roots));
        roots
    }

    /// Goes up from `table`, at most three levels, of few entries each. What it maps begins at `base` in what
    /// the table of `level` above it maps. `false` if there are too many places.
    fn collect(&self, table: u64, level: u8, base: u64, found: &mut Found) -> bool {
        if level >= 4 {
            if !found.few.contains((table, base)) {
                found.few.add((table, base));
            }
            return true;
        }
        match self.parents.get(&table) {
            None => true,
            Some(&Links { from: Reached::Widely, index }) => {
                // What a table maps that several entries of others link depends on where these are; of top-level tables
                // there is but one place.
                let place = index.filter(|_| level == 3).map(|index| base | span(index * 8, 4));
                let slot = found.all.iter_mut().find(|slot| slot.is_none() || **slot == place);
                match (place, slot) {
                    (Some(_), Some(slot)) => *slot = place,
                    _ => return false,
                }
                true
            }
            Some(Links { from: Reached::From(from), .. }) => {
                let mut links = from.iter().filter(|at| **at != 0);
                links
                    .all(|at| self.collect(at >> 12, level + 1, base | span(*at, level + 1), found))
            }
        }
    }
}

/// Where what the entry at `at` maps begins in what its table, of this level, maps.
fn span(at: u64, level: u8) -> u64 {
    ((at & 0xfff) / 8) << (12 + 9 * (level - 1))
}

/// A linear address from its lower 48 bits.
fn sign_extended(linear: u64) -> u64 {
    ((linear << 16) as i64 >> 16) as u64
}

/// Whether the address is in the upper half.
fn is_upper(linear: u64) -> bool {
    linear >> 47 & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of entry `index` of a table.
    fn entry(table: u64, index: u64) -> u64 {
        (table << 12) + index * 8
    }

    /// Two address spaces, 40 and 41, with a shared level-3 table 30 and one of its own, 31, for the first.
    fn linked() -> Changes {
        let mut changes = Changes::default();
        for (child, parent, index) in [
            (30, 40, 1),
            (30, 41, 1),
            (31, 40, 511),
            (20, 30, 2),
            (21, 31, 511),
            (10, 20, 3),
            (11, 21, 511),
        ] {
            changes.link(child, entry(parent, index));
        }
        changes
    }

    #[test]
    fn a_restriction_matters_where_its_table_is_reached_from() {
        let mut changes = linked();
        changes.restrict(entry(10, 0), 1);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [1, 1, 0]);
        changes.restrict(entry(41, 0), 4);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [1, 2, 0]);
        changes.unlink(30, entry(41, 1), 4);
        changes.restrict(entry(20, 0), 2);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [3, 2, 0]);
        // Of the upper half, pages are told of all.
        changes.restrict(entry(11, 0), 1);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [4; 3]);
        changes.restrict(entry(21, 0), 2);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [5, 4, 4]);
    }

    #[test]
    fn restricted_pages_are_told_one_by_one_while_they_are_few() {
        let mut changes = linked();
        let page = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12;
        changes.restrict(entry(10, 4), 1);
        changes.restrict(entry(11, 511), 1);
        assert_eq!(changes.since(40, 0), Stale::Pages(vec![page, !0xfff]));
        assert_eq!(changes.since(40, 1), Stale::Pages(vec![!0xfff]));
        assert_eq!(changes.since(40, 2), Stale::Pages(vec![]));
        assert_eq!(changes.since(41, 0), Stale::Pages(vec![page, !0xfff]));
        assert_eq!(changes.since(42, 0), Stale::Pages(vec![!0xfff]));
        for _ in 1..=TOLD {
            changes.restrict(entry(10, 5), 1);
        }
        assert_eq!(changes.since(40, 0), Stale::LowerHalf(vec![!0xfff]));
        assert_eq!(changes.since(40, 1), Stale::Pages([&[page + 4096; 8][..], &[!0xfff]].concat()));
        changes.restrict(entry(20, 3), 2);
        assert_eq!(changes.since(41, changes.epoch(41) - 1), Stale::LowerHalf(vec![]));
        for _ in 0..=TOLD_OF_ALL {
            changes.restrict(entry(11, 5), 1);
        }
        assert_eq!(changes.since(42, 0), Stale::Everything);
        assert_eq!(
            changes.since(42, changes.epoch(42) - 1),
            Stale::Pages(vec![!0xfff - (506 << 12)])
        );
        changes.restrict_all();
        assert_eq!(changes.since(42, 0), Stale::Everything);
        assert_eq!(changes.since(42, changes.epoch(42)), Stale::Pages(vec![]));
    }

    #[test]
    fn what_all_share_matters_to_all() {
        let mut changes = linked();
        assert!(!changes.is_shared(10, 1));
        for root in 42..45 {
            changes.link(30, entry(root, 1));
        }
        assert!(changes.is_shared(10, 1));
        changes.restrict(entry(10, 0), 1);
        assert_eq!([40, 41, 42, 49].map(|root| changes.epoch(root)), [1; 4]);
        assert_eq!(changes.since(49, 0), Stale::Everything);
        // Links that go away are not counted then.
        for root in 41..45 {
            changes.unlink(30, entry(root, 1), 4);
        }
        assert!(changes.is_shared(10, 1));
        changes.end_table(30, 3);
        changes.link(30, entry(41, 1));
        assert!(!changes.is_shared(10, 1));
    }

    /// Address spaces 50 to 59 with a level-3 table 30 at the index 511, of which 31 has a copy at 273.
    fn kernel() -> Changes {
        let mut changes = Changes::default();
        for root in 50..60 {
            changes.link(30, entry(root, 511));
            changes.link(31, entry(root, 273));
        }
        for (child, parent, index) in [(20, 30, 510), (21, 31, 0), (10, 20, 5), (10, 21, 6)] {
            changes.link(child, entry(parent, index));
        }
        changes
    }

    #[test]
    fn pages_that_all_have_at_the_same_places_are_told_one_by_one() {
        let mut changes = kernel();
        assert!(changes.is_shared(10, 1));
        changes.restrict(entry(10, 7), 1);
        let places = [
            0xffff_8880_0000_0000 | 6 << 21 | 7 << 12,
            0xffff_ff80_0000_0000 | 510 << 30 | 5 << 21 | 7 << 12,
        ];
        let told = |changes: &Changes, root| match changes.since(root, 0) {
            Stale::Pages(mut pages) => {
                pages.sort_unstable();
                pages
            }
            other => panic!("{other:?}"),
        };
        assert_eq!([51, 70].map(|root| told(&changes, root)), [places.to_vec(), places.to_vec()]);
        assert_eq!(changes.upper_half_since(0).map(|pages| pages.len()), Some(2));
        // What maps more than a page is not.
        changes.restrict(entry(20, 5), 2);
        assert_eq!(changes.since(51, 1), Stale::Everything);
    }

    #[test]
    fn what_lies_at_different_places_is_not_told_one_by_one() {
        // A level-3 table elsewhere in one address space, if only for a while; one in the lower half; one of the tables
        // below it at many places.
        let moved = |changes: &mut Changes| {
            changes.link(31, entry(60, 274));
            changes.unlink(31, entry(60, 274), 4);
        };
        let lower = |changes: &mut Changes| {
            for root in 50..60 {
                changes.link(32, entry(root, 3));
            }
            changes.link(22, entry(32, 0));
            changes.link(10, entry(22, 0));
        };
        let many = |changes: &mut Changes| {
            for index in 0..5 {
                changes.link(10, entry(20, 100 + index));
            }
        };
        let own = |changes: &mut Changes| {
            changes.link(33, entry(61, 511));
            changes.link(23, entry(33, 510));
            changes.link(10, entry(23, 5));
        };
        let ways: [&dyn Fn(&mut Changes); 4] = [&moved, &lower, &many, &own];
        for (number, change) in ways.into_iter().enumerate() {
            let mut changes = kernel();
            change(&mut changes);
            let epoch = changes.epoch(51);
            changes.restrict(entry(10, 7), 1);
            assert_eq!(changes.since(51, epoch), Stale::Everything, "{number}");
        }
    }

    #[test]
    fn a_table_that_one_entry_links_twice_is_not_followed_up() {
        let mut changes = linked();
        changes.link(21, entry(31, 511));
        changes.unlink(21, entry(31, 511), 3);
        assert!(changes.is_shared(11, 1));
    }

    #[test]
    fn a_table_is_told_at_both_of_its_places() {
        let mut changes = linked();
        changes.link(10, entry(20, 4));
        changes.restrict(entry(10, 0), 1);
        let page = 1 << 39 | 2 << 30 | 3 << 21;
        assert_eq!(changes.since(41, 0), Stale::Pages(vec![page, page + (1 << 21)]));
    }

    #[test]
    fn a_top_level_table_that_is_used_anew_begins_afresh() {
        let mut changes = linked();
        let before = changes.epoch(40);
        changes.end_table(40, 4);
        assert_ne!(changes.epoch(40), before);
        assert_eq!(changes.since(40, before), Stale::Everything);
        assert_eq!(changes.epoch(41), 0);
    }

    #[test]
    fn pages_that_are_told_no_more_hide_nothing_later() {
        let mut changes = linked();
        for index in 0..TOLD as u64 {
            changes.restrict(entry(10, index), 1);
        }
        let epoch = changes.epoch(40);
        changes.restrict(entry(20, 3), 2);
        changes.restrict(entry(10, 0), 1);
        assert_eq!(changes.since(40, epoch), Stale::LowerHalf(vec![]));
    }

    #[test]
    fn what_changes_in_the_upper_half_is_told_of_all_address_spaces() {
        let mut changes = linked();
        changes.restrict(entry(10, 4), 1);
        let epoch = changes.epoch(40);
        assert_eq!(changes.upper_half_since(epoch), Some(vec![]));
        changes.restrict(entry(11, 511), 1);
        changes.restrict(entry(20, 3), 2);
        assert_eq!(changes.since(40, epoch), Stale::LowerHalf(vec![!0xfff]));
        assert_eq!(changes.upper_half_since(epoch), Some(vec![!0xfff]));
        // Also of those that are not followed up any more.
        changes.end_table(40, 4);
        assert!(!changes.is_same(40, epoch));
        assert!(changes.is_same(41, epoch));
        assert_eq!(changes.upper_half_since(epoch), Some(vec![!0xfff]));
        changes.restrict(entry(21, 511), 2);
        assert_eq!(changes.upper_half_since(epoch), None);
        assert_eq!(changes.since(40, epoch), Stale::Everything);
        assert_eq!(changes.since(41, epoch), Stale::LowerHalf(vec![!0xfff]));
    }

    #[test]
    fn a_top_level_table_with_another_upper_half_is_not_like_before() {
        let mut changes = linked();
        changes.replace_top(entry(40, 1));
        assert_eq!(changes.upper_half_since(0), Some(vec![]));
        changes.replace_top(entry(40, 300));
        assert_eq!(changes.upper_half_since(0), None);
        assert_eq!([40, 41].map(|root| changes.epoch(root)), [1, 0]);
        assert_eq!(changes.since(40, 0), Stale::Everything);
    }

    #[test]
    fn a_table_of_the_upper_half_that_nothing_links_is_not_followed_up() {
        let mut changes = linked();
        let epoch = changes.epoch(40);
        changes.link(31, entry(41, 511));
        changes.unlink(31, entry(40, 511), 4);
        assert!(changes.upper_half_since(epoch).is_some());
        changes.unlink(31, entry(41, 511), 4);
        assert_eq!(changes.upper_half_since(epoch), None);
        // The same where the links are not known.
        let mut changes = linked();
        for root in 41..45 {
            changes.link(31, entry(root, 511));
        }
        for root in 40..45 {
            changes.unlink(31, entry(root, 511), 4);
        }
        assert!(changes.upper_half_since(0).is_some());
        changes.end_table(31, 3);
        assert_eq!(changes.upper_half_since(0), None);
        // Programs' tables come and go.
        let mut changes = linked();
        changes.unlink(30, entry(40, 1), 4);
        changes.unlink(30, entry(41, 1), 4);
        changes.end_table(30, 3);
        assert_eq!(changes.upper_half_since(0), Some(vec![]));
    }
}
