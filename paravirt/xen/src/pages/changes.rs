//! Which address spaces have cached translations that may be wrong.
//!
//! A guest asks for a flush with each switch of address spaces, because a processor without identifiers
//! gives no other way. Whether there is anything to forget follows from what changed since: an entry that is
//! taken away or restricted matters to the top-level tables from which its table is reached. The tables of
//! a process are reached from two of them, for kernel and for user mode; those of the kernel itself from all,
//! and these are not followed up.

use std::collections::HashMap;

/// Top-level tables that are followed up for one table.
const ROOTS: usize = 4;
/// Tables that link a table and are followed up.
const PARENTS: usize = 2;

/// A few frames; zero is none.
type Few<const N: usize> = [u64; N];

/// From where a table is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached<const N: usize> {
    From(Few<N>),
    /// From more places than are followed up.
    Widely,
}

impl<const N: usize> Reached<N> {
    const NOWHERE: Self = Self::From([0; N]);

    /// Adds a frame that is not among them.
    fn add(&mut self, frame: u64) {
        if let Self::From(few) = self {
            match few.iter_mut().find(|slot| **slot == 0) {
                Some(slot) => *slot = frame,
                None => *self = Self::Widely,
            }
        }
    }

    fn contains(&self, frame: u64) -> bool {
        matches!(self, Self::From(few) if few.contains(&frame))
    }
}

/// What was restricted, and where it matters.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Counts restrictions.
    count: u64,
    /// The last one that may matter to all address spaces.
    general: u64,
    /// The last one that matters to the address space of a top-level table.
    of_root: HashMap<u64, u64>,
    /// The tables that link a table. Once there are too many they stay so until it is a table no more.
    parents: HashMap<u64, Reached<PARENTS>>,
    /// The answer for the table that was asked for last: changes of one table come together.
    last: Option<(u64, Reached<ROOTS>)>,
}

impl Changes {
    /// Changes whenever translations through the top-level table `root` may have become wrong.
    pub(super) fn epoch(&self, root: u64) -> u64 {
        self.general.max(self.of_root.get(&root).copied().unwrap_or(0))
    }

    /// An entry of `parent` names the table `child`.
    pub(super) fn link(&mut self, child: u64, parent: u64) {
        self.last = None;
        let parents = self.parents.entry(child).or_insert(Reached::NOWHERE);
        if parents.contains(parent) {
            *parents = Reached::Widely;
        } else {
            parents.add(parent);
        }
    }

    /// An entry of `parent` names the table `child` no more.
    pub(super) fn unlink(&mut self, child: u64, parent: u64) {
        self.last = None;
        if let Some(Reached::From(few)) = self.parents.get_mut(&child) {
            few.iter_mut().filter(|slot| **slot == parent).for_each(|slot| *slot = 0);
        }
    }

    /// `table` is a table of this level no more. Nothing links it by then, so it matters only where it was
    /// a top-level table itself.
    pub(super) fn end_table(&mut self, table: u64, level: u8) {
        self.last = None;
        self.parents.remove(&table);
        if level == 4 {
            self.count += 1;
            self.of_root.insert(table, self.count);
        }
    }

    /// An entry of `table`, of this level, was taken away or restricted.
    pub(super) fn restrict(&mut self, table: u64, level: u8) {
        self.count += 1;
        match self.roots(table, level) {
            Reached::From(roots) => {
                for root in roots.into_iter().filter(|root| *root != 0) {
                    self.of_root.insert(root, self.count);
                }
            }
            Reached::Widely => self.general = self.count,
        }
    }

    /// Something changed that matters everywhere.
    pub(super) fn restrict_all(&mut self) {
        self.count += 1;
        self.general = self.count;
    }

    /// Whether changes of `table` matter to more address spaces than are followed up.
    pub(super) fn is_shared(&mut self, table: u64, level: u8) -> bool {
        self.roots(table, level) == Reached::Widely
    }

    fn roots(&mut self, table: u64, level: u8) -> Reached<ROOTS> {
        if let Some((last, roots)) = self.last
            && last == table
        {
            return roots;
        }
        let mut roots = Reached::NOWHERE;
        self.collect(table, level, &mut roots);
        self.last = Some((table, roots));
        roots
    }

    /// Goes up from `table`: at most three levels, of two tables each.
    fn collect(&self, table: u64, level: u8, roots: &mut Reached<ROOTS>) {
        if level >= 4 {
            if !roots.contains(table) {
                roots.add(table);
            }
            return;
        }
        match self.parents.get(&table) {
            None => {}
            Some(Reached::Widely) => *roots = Reached::Widely,
            Some(Reached::From(few)) => {
                for parent in few.iter().filter(|parent| **parent != 0) {
                    self.collect(*parent, level + 1, roots);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two address spaces, 40 and 41, with a shared level-3 table 30 and one of its own, 31, for the first.
    fn linked() -> Changes {
        let mut changes = Changes::default();
        for (child, parent) in
            [(30, 40), (30, 41), (31, 40), (20, 30), (21, 31), (10, 20), (11, 21)]
        {
            changes.link(child, parent);
        }
        changes
    }

    #[test]
    fn a_restriction_matters_where_its_table_is_reached_from() {
        let mut changes = linked();
        changes.restrict(10, 1);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [1, 1, 0]);
        changes.restrict(11, 1);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [2, 1, 0]);
        changes.restrict(41, 4);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [2, 3, 0]);
        changes.unlink(30, 41);
        changes.restrict(20, 2);
        assert_eq!([40, 41, 42].map(|root| changes.epoch(root)), [4, 3, 0]);
    }

    #[test]
    fn what_all_share_matters_to_all() {
        let mut changes = linked();
        assert!(!changes.is_shared(10, 1));
        changes.link(30, 42);
        assert!(changes.is_shared(10, 1));
        changes.restrict(10, 1);
        assert_eq!([40, 41, 42, 43].map(|root| changes.epoch(root)), [1; 4]);
        // Links that go away are not counted then.
        changes.unlink(30, 42);
        changes.unlink(30, 41);
        assert!(changes.is_shared(10, 1));
        changes.end_table(30, 3);
        changes.link(30, 41);
        assert!(!changes.is_shared(10, 1));
    }

    #[test]
    fn a_table_linked_twice_by_another_is_not_followed_up() {
        let mut changes = linked();
        changes.link(21, 31);
        changes.unlink(21, 31);
        assert!(changes.is_shared(11, 1));
    }

    #[test]
    fn a_top_level_table_that_is_used_anew_begins_afresh() {
        let mut changes = linked();
        let before = changes.epoch(40);
        changes.end_table(40, 4);
        assert_ne!(changes.epoch(40), before);
        assert_eq!(changes.epoch(41), 0);
    }
}
