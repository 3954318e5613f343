//! What the scratch registers R10 and R11 hold: the guest's R10 and R11 after use, the host address of a
//! group of operands, or nothing.

use crate::build::Builder;
use crate::emit::{Mem, reg};
use crate::layout;
use crate::plan::{GroupKind, Member};
use iced_x86::Register;

/// A guest register that has no host register of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Home {
    pub(crate) loaded: bool,
    pub(crate) dirty: bool,
}

/// What is in the scratch registers, and which groups' addresses are in memory too.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scratch {
    homes: [Home; 2],
    /// The group whose address each holds.
    groups: [Option<usize>; 2],
    /// A set of groups.
    stored: u64,
}

/// Which of the scratch registers is home to a guest register.
pub(crate) fn home_of(register: Register) -> Option<usize> {
    if !register.is_gpr() {
        return None;
    }
    match register.full_register() {
        Register::R10 => Some(0),
        Register::R11 => Some(1),
        _ => None,
    }
}

fn register(home: usize) -> u8 {
    reg::R10 + home as u8
}

impl Builder<'_> {
    /// Loads a homed register unless it is.
    pub(crate) fn need(&mut self, home: usize) {
        if !self.scratch.homes[home].loaded {
            self.release(home);
            let register = register(home);
            self.code.load(register, Mem::Gs(layout::gpr(register)));
            self.scratch.homes[home].loaded = true;
        }
    }

    /// Says that a homed register has been, or is about to be, written.
    pub(crate) fn written(&mut self, home: usize) {
        self.release(home);
        self.scratch.homes[home] = Home { loaded: true, dirty: true };
    }

    /// Says that a homed register was loaded again.
    pub(crate) fn reloaded(&mut self, home: usize, dirty: bool) {
        self.scratch.homes[home] = Home { loaded: true, dirty };
    }

    /// Which homed registers changed and have not been stored.
    pub(crate) fn dirty_homes(&self) -> [bool; 2] {
        self.scratch.homes.map(|home| home.dirty)
    }

    /// Stores homed registers that changed.
    pub(crate) fn flush(&mut self) {
        for home in 0..2 {
            self.flush_home(home);
        }
    }

    fn flush_home(&mut self, home: usize) {
        if std::mem::take(&mut self.scratch.homes[home].dirty) {
            let register = register(home);
            self.code.store(Mem::Gs(layout::gpr(register)), register);
        }
    }

    /// Lets go of the group that a scratch register holds.
    pub(crate) fn release(&mut self, home: usize) {
        let Some(group) = self.scratch.groups[home].take() else { return };
        let stored = self.scratch.stored & 1u64 << group != 0;
        if self.plan.groups[group].last >= self.index && !stored {
            self.code.store(Mem::Gs(layout::group(group)), register(home));
            self.scratch.stored |= 1u64 << group;
        }
    }

    /// Says that the address of a group is not needed any more.
    pub(crate) fn forget_group(&mut self, group: usize) {
        for held in &mut self.scratch.groups {
            *held = held.filter(|&other| other != group);
        }
    }

    /// A scratch register that holds nothing.
    pub(crate) fn idle(&self) -> Option<u8> {
        let idle = |home: &usize| {
            !self.scratch.homes[*home].loaded && self.scratch.groups[*home].is_none()
        };
        (0..2).find(idle).map(register)
    }

    /// A scratch register, other than the one to avoid, for something that is done with at once: rather not one that
    /// holds a group.
    pub(crate) fn passing_scratch(&mut self, avoid: Option<usize>) -> u8 {
        let home = match (avoid, self.idle()) {
            (Some(avoid), _) => 1 - avoid,
            (None, Some(idle)) => usize::from(idle == reg::R11),
            (None, None) => usize::from(self.scratch.groups[1].is_none()),
        };
        self.take_scratch(home)
    }

    /// A scratch register for the value of a guest register that is at home in the other, which holds the address of the
    /// group that `member` is in: that can stay where it is.
    pub(crate) fn pass_by(&mut self, member: Member, home: usize) -> Option<u8> {
        let page = matches!(self.plan.groups[member.group].kind, GroupKind::Page(_));
        let holds = page && self.scratch.groups[home] == Some(member.group);
        holds.then(|| self.take_scratch(1 - home))
    }

    /// Gives one scratch register free.
    pub(crate) fn take_scratch(&mut self, home: usize) -> u8 {
        self.flush_home(home);
        self.scratch.homes[home] = Home::default();
        self.release(home);
        register(home)
    }

    /// Gives both scratch registers free.
    pub(crate) fn free_scratch(&mut self) {
        for home in 0..2 {
            self.take_scratch(home);
        }
    }

    /// The scratch registers no longer hold what they are home to, which has been stored.
    pub(crate) fn forget_scratch(&mut self) {
        self.scratch.homes = [Home::default(); 2];
        self.scratch.groups = [None; 2];
    }

    /// Says that a scratch register holds the host address of a group.
    pub(crate) fn holds(&mut self, home: usize, group: usize) {
        self.scratch.groups[home] = Some(group);
    }

    /// A scratch register with the host address of a group; not the one to avoid.
    pub(crate) fn hold(&mut self, group: usize, avoid: Option<usize>) -> u8 {
        for home in 0..2 {
            if self.scratch.groups[home] == Some(group) {
                if Some(home) != avoid {
                    return register(home);
                }
                self.release(home);
            }
        }
        let busy =
            |home: usize| self.scratch.homes[home].loaded || self.scratch.groups[home].is_some();
        let home = match avoid {
            Some(avoid) => 1 - avoid,
            None => usize::from(!busy(1) || busy(0)),
        };
        let register = self.take_scratch(home);
        self.code.load(register, Mem::Gs(layout::group(group)));
        self.scratch.groups[home] = Some(group);
        register
    }
}
