//! How an operation is timed.

#![expect(unsafe_code, reason = "reads the time-stamp counter")]

use crate::text::Line;

/// Least ticks of one measurement.
const LEAST: u64 = 6_000_000;
/// Repetitions, of which the best counts.
const REPETITIONS: usize = 3;

/// The time-stamp counter.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: the instruction has no effect but to read the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Times an operation and tells it by `print`.
pub(crate) fn measure(name: &str, print: fn(&[u8]), mut operation: impl FnMut()) {
    let mut count = 16u64;
    let best = loop {
        let times = [(); REPETITIONS].map(|()| time(count, &mut operation));
        let best = times.into_iter().min().unwrap_or(0);
        // The first times are of code that was never run before: what is long enough then may be too
        // short later.
        if best >= LEAST {
            break best;
        }
        count *= 2;
    };
    let mut line = Line::default();
    for part in ["ticks ", name, " "] {
        line.text(part);
    }
    line.number(count);
    line.text(" ");
    line.number(best);
    line.text("\n");
    print(line.bytes());
}

fn time(count: u64, operation: &mut impl FnMut()) -> u64 {
    let start = ticks();
    for _ in 0..count {
        operation();
    }
    ticks().wrapping_sub(start)
}
