//! Interceptions that translated code serves itself, on their way to the ledger: generated code counts
//! them in its own memory, and the dispatcher hands them over when the code returns.

use crate::build::Builder;
use crate::emit::{Mem, reg};
use crate::layout;
use ambos_intercept::{Intercept, Ledger, Privileged};

/// What translated code counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Counted {
    ControlRegisterRead,
    TimeStampCounter,
    InterruptFlag,
    SegmentLoad,
    SystemCall,
    SystemReturn,
    Flags,
}

/// The class in the ledger of each.
const CLASSES: [Privileged; 7] = [
    Privileged::ControlRegisterRead,
    Privileged::TimeStampCounter,
    Privileged::InterruptFlag,
    Privileged::SegmentLoad,
    Privileged::SystemCall,
    Privileged::SystemReturn,
    Privileged::Flags,
];

/// Counts that the ledger does not have yet.
pub(crate) type Counts = [u64; CLASSES.len()];

/// Moves counts to the ledger.
#[inline]
pub(crate) fn hand_over(counts: &mut Counts, ledger: &Ledger) {
    for (count, class) in counts.iter_mut().zip(CLASSES) {
        if *count != 0 {
            ledger.count_many(Intercept::Privileged(class), std::mem::take(count));
        }
    }
}

impl Builder<'_> {
    /// Counts one event. Changes R11.
    pub(crate) fn count(&mut self, what: Counted) {
        let at = Mem::Gs(layout::count(what));
        self.code.load(reg::R11, at);
        self.code.lea(reg::R11, Mem::Base(reg::R11, 1));
        self.code.store(at, reg::R11);
    }

    /// Counts one event. Changes flags.
    pub(crate) fn count_with_flags(&mut self, what: Counted) {
        // inc qword ptr [count]
        self.code.op(true, &[0xff], 0, Mem::Gs(layout::count(what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_reach_the_ledger_once() {
        let (mut counts, ledger) = (Counts::default(), Ledger::default());
        counts[Counted::SystemCall as usize] = 3;
        hand_over(&mut counts, &ledger);
        hand_over(&mut counts, &ledger);
        let lines = ledger.counts();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].intercept, Intercept::Privileged(Privileged::SystemCall));
        assert_eq!(lines[0].count, 3);
    }
}
