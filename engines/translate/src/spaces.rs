//! Which address spaces get views: programs that compute for a while, and seldom need pages that they do not see.
//!
//! A page that is missing costs a signal and a mapping, some microseconds; what it saves is a few instructions at each
//! access. So an address space gets views when its program has been running at several looks for attention, and loses
//! them, for longer each time, if missing pages take too much of its time.

use std::time::{Duration, Instant};

/// When address spaces get views.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Views {
    /// When that is worth it.
    #[default]
    Auto,
    /// At once, and for good: for tests.
    Always,
    /// Never.
    Never,
}

/// Looks for attention at which its program was running before an address space gets views, and the time between
/// those that count.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(2);
/// A look does not count if the TLB missed more often than this since the last one: such programs would miss as many
/// pages.
const MOST_TLB_MISSES: u64 = 200;
/// Missing pages may take so much time, as a program has to begin somewhere, and one part in so many of all besides.
const CREDIT: Duration = Duration::from_millis(20);
const SHARE: u32 = 6;
/// After this time what they took is forgotten.
const PERIOD: Duration = Duration::from_secs(1);
/// What a fault takes in the host's kernel before it is served.
const SIGNAL: Duration = Duration::from_micros(4);
/// How long an address space is without views after the first time.
const FIRST_BAN: Duration = Duration::from_millis(50);
/// The longest such time.
const LONGEST_BAN: Duration = Duration::from_secs(4);
/// In place of a linear address.
const UNKNOWN: u64 = u64::MAX;
/// Address spaces that are remembered.
const REMEMBERED: usize = 16;

/// What is known of an address space.
#[derive(Debug, Clone, Copy)]
struct Space {
    root: u64,
    looks: u32,
    viewed: bool,
    /// Time that missing pages took.
    lost: Duration,
    /// Since when that is counted; before, when the last look was.
    since: Instant,
    stack: u64,
    /// Misses of the TLB at the last look.
    tlb_misses: u64,
    /// It gets no views before.
    banned: Option<Instant>,
    ban: Duration,
}

/// The address spaces of a vCPU that were seen running last.
#[derive(Debug)]
pub(crate) struct Spaces {
    policy: Views,
    /// The last one is the one that was used last.
    known: Vec<Space>,
    /// The root that what follows is of.
    pub(crate) root: u64,
    pub(crate) viewed: bool,
    /// Where the stack is, or [`UNKNOWN`].
    pub(crate) stack: u64,
}

impl Spaces {
    pub(crate) fn new(policy: Views) -> Self {
        Self { policy, known: Vec::new(), root: u64::MAX, viewed: false, stack: UNKNOWN }
    }

    /// Says that the address space with this root is in use, and whether something of it is seen: if not, it may be
    /// another one by now.
    #[cold]
    pub(crate) fn switch(&mut self, root: u64, is_seen: bool) {
        self.root = root;
        self.viewed = self.policy == Views::Always;
        self.stack = UNKNOWN;
        if let Some(space) = self.known.iter_mut().find(|space| space.root == root) {
            if space.viewed && !is_seen {
                (space.viewed, space.looks) = (false, 0);
            }
            self.viewed |= space.viewed;
            self.stack = space.stack;
        }
    }

    /// Notes where the stack of the address space in use is.
    pub(crate) fn note_stack(&mut self, stack: u64) {
        self.stack = stack;
        let root = self.root;
        if let Some(space) = self.known.iter_mut().find(|space| space.root == root) {
            space.stack = stack;
        }
    }

    /// Counts a look for attention, after so many misses of the TLB, while a program runs in the address space in use;
    /// whether that gets views now.
    pub(crate) fn look(&mut self, tlb_misses: u64) -> bool {
        if self.viewed || self.policy != Views::Auto {
            return false;
        }
        let now = Instant::now();
        let space = self.current(now);
        if space.looks > 0 && now - space.since < BETWEEN {
            return false;
        }
        let missed =
            tlb_misses.saturating_sub(std::mem::replace(&mut space.tlb_misses, tlb_misses));
        space.since = now;
        if space.looks > 0 && missed > MOST_TLB_MISSES {
            return false;
        }
        space.looks += 1;
        if space.looks < LOOKS || space.banned.is_some_and(|until| now < until) {
            return false;
        }
        (space.viewed, space.lost, space.since) = (true, Duration::ZERO, now);
        self.viewed = true;
        true
    }

    /// When something begins that is done so that pages are seen, for [`Spaces::note_lost`].
    pub(crate) fn now(&self) -> Option<Instant> {
        (self.policy == Views::Auto).then(Instant::now)
    }

    /// Counts the time that was taken by pages that are to be seen.
    pub(crate) fn note_lost(&mut self, began: Option<Instant>) {
        let Some(began) = began else { return };
        let now = Instant::now();
        let space = self.current(now);
        space.lost += now - began + SIGNAL;
        let passed = now - space.since;
        if !space.viewed {
            return;
        }
        if space.lost > CREDIT + passed / SHARE {
            (space.viewed, space.looks) = (false, 0);
            space.banned = Some(now + space.ban);
            space.ban = (space.ban * 2).min(LONGEST_BAN);
            self.viewed = false;
        } else if passed > PERIOD {
            (space.lost, space.since) = (Duration::ZERO, now);
        }
    }

    /// What is known of the address space in use.
    fn current(&mut self, now: Instant) -> &mut Space {
        let root = self.root;
        let fresh = Space {
            root,
            looks: 0,
            viewed: false,
            lost: Duration::ZERO,
            since: now,
            stack: UNKNOWN,
            tlb_misses: 0,
            banned: None,
            ban: FIRST_BAN,
        };
        let space = match self.known.iter().position(|space| space.root == root) {
            Some(index) => self.known.remove(index),
            None => {
                if self.known.len() == REMEMBERED {
                    self.known.remove(0);
                }
                fresh
            }
        };
        self.known.push(space);
        let last = self.known.len() - 1;
        &mut self.known[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look some time after the last one.
    fn look(spaces: &mut Spaces) -> bool {
        let root = spaces.root;
        for space in spaces.known.iter_mut().filter(|space| space.root == root && !space.viewed) {
            space.since -= BETWEEN;
        }
        spaces.look(0)
    }

    #[test]
    fn spaces_get_views_after_some_looks_and_keep_them() {
        let mut spaces = Spaces::new(Views::Auto);
        spaces.switch(1, false);
        assert_eq!([(); 6].map(|()| look(&mut spaces)), [false, false, false, true, false, false]);
        spaces.switch(2, false);
        assert!(!spaces.viewed);
        spaces.switch(1, true);
        assert!(spaces.viewed);
        spaces.switch(2, false);
        spaces.switch(1, false);
        assert!(!spaces.viewed, "it is another one");
    }

    #[test]
    fn much_time_lost_ends_views() {
        let mut spaces = Spaces::new(Views::Auto);
        spaces.switch(1, false);
        assert!([(); 4].map(|()| look(&mut spaces))[3]);
        let index = spaces.known.len() - 1;
        spaces.known[index].lost = CREDIT + Duration::from_millis(900) / SHARE;
        spaces.known[index].since -= Duration::from_secs(1);
        spaces.note_lost(spaces.now());
        assert!(spaces.viewed, "there was time");
        assert_eq!(spaces.known[index].lost, Duration::ZERO, "what was lost is forgotten");
        spaces.known[index].lost = Duration::from_secs(1000);
        spaces.note_lost(spaces.now());
        assert!(!spaces.viewed);
        spaces.known[index].banned = Some(Instant::now() + Duration::from_secs(100));
        assert!([(); 9].map(|()| look(&mut spaces)).iter().all(|&gets| !gets));
    }

    #[test]
    fn few_spaces_are_remembered() {
        let mut spaces = Spaces::new(Views::Auto);
        for root in 0..1000 {
            spaces.switch(root, false);
            spaces.look(0);
        }
        assert!(spaces.known.len() <= REMEMBERED);
    }
}
