//! Code that is written, run and changed, by two processes that share its memory.

use crate::sys;

const PAGE: usize = 4096;
const SLOTS: usize = 64;
/// Bytes of a piece of code.
const SLOT: usize = 64;
const READ_WRITE_EXECUTE: usize = 7;
const SHARED_ANONYMOUS: usize = 0x21;

/// Writes, runs and changes code `rounds` times on each side. Zero if every result was right.
pub(crate) fn check(rounds: usize) -> i32 {
    let arguments = [0, 3 * PAGE, READ_WRITE_EXECUTE, SHARED_ANONYMOUS, usize::MAX, 0];
    let Ok(base) = sys::call(sys::MMAP, arguments) else { return 2 };
    let Ok(child) = sys::call3(sys::FORK, 0, 0, 0) else { return 2 };
    let side = usize::from(child == 0);
    let result = side_of(base, side, rounds);
    if side == 1 {
        sys::exit(result);
    }
    match crate::process::wait(child) {
        Ok(status) if status != 0 => status,
        Ok(_) => result,
        Err(_) => 2,
    }
}

/// Each side has a page of its own for code and a word in the last page. In a round it makes its page's next
/// piece of code anew, which returns a number, publishes the number, and runs its own and the other side's piece
/// that was published last. Code changes by whole words, so either the old or the new is seen.
fn side_of(base: usize, side: usize, rounds: usize) -> i32 {
    let (mine, theirs) = (base + side * PAGE, base + (1 - side) * PAGE);
    // mov eax, imm32; nop; nop; ret: in one aligned word, so that other processors see old or new code.
    let code = |value: usize| 0xc390_9000_0000_00b8 | (value & 0xffff_ffff) << 8;
    for round in 0..rounds {
        let at = mine + round % SLOTS * SLOT;
        let value = (side << 24) + round * 7;
        sys::store(at, code(value));
        if sys::run(at) as usize != value {
            return 3;
        }
        sys::store(base + 2 * PAGE + side * 8, round + 1);
        let published = sys::load(base + 2 * PAGE + (1 - side) * 8);
        if published > 0 {
            let other = published - 1;
            // What another processor wrote is certain to be seen past a serializing instruction.
            core::hint::black_box(core::arch::x86_64::__cpuid(0));
            let got = sys::run(theirs + other % SLOTS * SLOT) as usize;
            // It may have gone round since.
            let first = ((1 - side) << 24) + other * 7;
            if got < first || (got - first) % (SLOTS * 7) != 0 {
                return 4;
            }
        }
    }
    0
}
