//! What works the clocks and timers.

use crate::bench::{Bench, CLOCK_MONOTONIC, Failure, now, refused};
use crate::sys;
use core::hint::black_box;

/// How late a short sleep ends. One operation is a sleep of a tenth of a millisecond, which the
/// measured time includes: setting the timer, halting, its interrupt, and the way back.
pub(crate) fn latency(bench: &mut Bench) -> Result<(), Failure> {
    bench.measure(|| {
        sleep(100_000)?;
        Ok(1)
    })
}

/// Reading the time. One operation is one reading as a C library does it: by the function that the kernel maps into each
/// program, which asks the kernel itself only if the guest's clock cannot be read without.
pub(crate) fn clock(bench: &mut Bench) -> Result<(), Failure> {
    let function = sys::kernel_function("__vdso_clock_gettime");
    bench.measure(|| {
        for _ in 0..64 {
            black_box(match function {
                Some(function) => sys::nanoseconds_by(function, CLOCK_MONOTONIC),
                None => now(),
            });
        }
        Ok(64)
    })
}

/// Nothing at all: what the monitor works meanwhile is what an idle guest costs. One operation is a
/// sleep of half a second.
pub(crate) fn idle(bench: &mut Bench) -> Result<(), Failure> {
    bench.once(|| sleep(500_000_000))
}

fn sleep(nanoseconds: u64) -> Result<(), Failure> {
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    sys::call3(sys::NANOSLEEP, (&raw const time) as usize, 0, 0).map_err(refused("nanosleep"))?;
    Ok(())
}
