//! Loops that only count, whose turns are skipped: exact for any number of turns and whichever condition ends them.

mod common;

use ambos_random::Random;
use ambos_translate::Views;
use ambos_vcpu::{CpuState, Engine, Request, Stop};
use common::place::Place;
use common::{CODE, services};
use std::sync::Arc;
use std::time::Duration;

/// Conditions of jumps that a counter can leave by: below, not below, equal, not above, above, and with signs.
const CONDITIONS: [u8; 9] = [2, 3, 4, 6, 7, 12, 13, 14, 15];

/// One loop: RDI moves from one value towards a limit in R9, RDX towards one in RAX.
#[derive(Debug)]
struct Loop {
    /// Condition by which RDI's comparison leaves.
    leaves: u8,
    /// It is the limit that is compared with RDI.
    reversed: bool,
    /// The limit is a constant of the code.
    constant: Option<i32>,
    /// RDI is moved, and compared, in 64 bits.
    wide: [bool; 2],
    steps: [i32; 2],
    /// Condition by which the loop goes back, and whether RDX counts in 64 bits.
    returns: u8,
    wide_end: bool,
}

impl Loop {
    fn code(&self) -> Place {
        // again:
        let mut place = Place::at(CODE);
        let mut ends = Vec::new();
        let mut leave = |place: &mut Place, condition: u8| {
            place.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
            ends.push(place.bytes.len());
        };
        let wide = |on: bool| u8::from(on) << 3;
        let [moves_wide, compares_wide] = self.wide.map(wide);
        match (self.constant, self.reversed) {
            // cmp rdi, constant
            (Some(constant), _) => {
                place.raw(&[0x40 | compares_wide, 0x81, 0xff]);
                place.raw(&constant.to_le_bytes());
            }
            // cmp rdi, r9
            (None, false) => place.raw(&[0x44 | compares_wide, 0x39, 0xcf]),
            // cmp r9, rdi
            (None, true) => place.raw(&[0x41 | compares_wide, 0x39, 0xf9]),
        }
        leave(&mut place, self.leaves);
        // xor r8d, r8d; cmp esi, r8d; jne out
        place.raw(&[0x45, 0x31, 0xc0, 0x44, 0x39, 0xc6]);
        leave(&mut place, 5);
        // add rdi, step; add rdx, step; cmp rdx, rax
        place.raw(&[0x40 | moves_wide, 0x81, 0xc7]);
        place.raw(&self.steps[0].to_le_bytes());
        place.raw(&[0x40 | wide(self.wide_end), 0x81, 0xc2]);
        place.raw(&self.steps[1].to_le_bytes());
        place.raw(&[0x40 | wide(self.wide_end), 0x39, 0xc2]);
        place.jump_if(self.returns, CODE);
        // out: hlt
        let out = place.bytes.len();
        for end in ends {
            let distance = (out - end) as i32;
            place.bytes[end - 4..end].copy_from_slice(&distance.to_le_bytes());
        }
        place.raw(&[0xf4]);
        place
    }
}

/// A number of turns: few, about as many as are skipped at once, or some times as many.
fn turns(random: &mut Random) -> i64 {
    let around = [0, 1024, 1028, 2048, 2052, 3 << 10][random.below(6) as usize];
    around + random.below(14) as i64
}

/// A value that counts around there, or at a border of what 32 or 64 bits hold.
fn value(random: &mut Random) -> i64 {
    let places = [0, 1 << 31, 1 << 32, i64::MAX, i64::MIN, -1, 0x1234_5678_9abc];
    places[random.below(7) as usize].wrapping_add(random.below(8) as i64 - 4)
}

fn choose(random: &mut Random) -> (Loop, Vec<CpuState>) {
    let moves_wide = random.below(2) == 0;
    let mut step = || match random.below(3) {
        0 => 1,
        1 => -1,
        _ => random.below(41) as i32 - 20,
    };
    let mut steps = [step(), step()];
    for step in &mut steps {
        *step += i32::from(*step == 0);
    }
    let compares_wide = moves_wide && random.below(2) == 0;
    let limit = value(random);
    let constant = (random.below(3) == 0).then_some(limit as i32);
    let what = Loop {
        leaves: CONDITIONS[random.below(9) as usize],
        reversed: random.below(2) == 0,
        constant,
        wide: [moves_wide, compares_wide],
        steps,
        returns: [5, 5, 2, 3, 6, 7, 12, 13, 14, 15][random.below(10) as usize],
        wide_end: random.below(2) == 0,
    };
    let limit = constant.map_or(limit, i64::from);
    let mut starts = Vec::new();
    for user in [false, true] {
        for _ in 0..6 {
            let mut state = common::state();
            if user {
                services::to_user(&mut state);
            }
            let end = value(random);
            let away = |turns: i64, step: i32| turns.wrapping_mul(i64::from(step));
            // Most loops end at RDX's limit at last; the others by a wrap that is not far either.
            state.gpr[0] = end as u64;
            state.gpr[2] = end.wrapping_sub(away(turns(random), steps[1])) as u64;
            state.gpr[9] = limit as u64;
            state.gpr[7] = limit.wrapping_sub(away(turns(random), steps[0])) as u64;
            state.gpr[6] = u64::from(random.below(16) == 0);
            starts.push(state);
        }
    }
    (what, starts)
}

/// The turns that a loop takes, if they are few enough to be run one by one.
fn is_short(what: &Loop, start: &CpuState) -> bool {
    let holds = |condition: u8, wide: bool, a: u64, b: u64| {
        let (a, b) = if wide { (a, b) } else { (a & 0xffff_ffff, b & 0xffff_ffff) };
        let sign = if wide { 1 << 63 } else { 1 << 31 };
        let (s, t) = (a ^ sign, b ^ sign);
        let met = match condition >> 1 {
            1 => a < b,
            2 => a == b,
            3 => a <= b,
            6 => s < t,
            _ => s <= t,
        };
        met != (condition & 1 != 0)
    };
    let (mut rdi, mut rdx) = (start.gpr[7], start.gpr[2]);
    for _ in 0..6000 {
        let other = what.constant.map_or(start.gpr[9], |constant| i64::from(constant) as u64);
        let (a, b) =
            if what.reversed && what.constant.is_none() { (other, rdi) } else { (rdi, other) };
        if holds(what.leaves, what.wide[1], a, b) || start.gpr[6] != 0 {
            return true;
        }
        let moved = |value: u64, step: i32, wide: bool| {
            let sum = value.wrapping_add(i64::from(step) as u64);
            if wide { sum } else { sum & 0xffff_ffff }
        };
        rdi = moved(rdi, what.steps[0], what.wide[0]);
        rdx = moved(rdx, what.steps[1], what.wide_end);
        if !holds(what.returns, what.wide_end, rdx, start.gpr[0]) {
            return true;
        }
    }
    false
}

#[test]
fn loops_end_where_they_would() {
    let mut random = Random::new(7);
    let mut long = 0;
    for number in 0..400 {
        let (what, starts) = choose(&mut random);
        for views in [Views::Never, Views::Always] {
            let (mut reference, reference_ram) = common::interpreter();
            let (mut engine, ram, _) = common::translator_with(views);
            for ram in [&reference_ram, &ram] {
                services::install(ram, CODE + 0x5000, CODE + 0x6000);
                what.code().store(ram);
            }
            for start in starts.iter().filter(|start| is_short(&what, start)) {
                let (want, _) = common::place::run(&mut reference, &reference_ram, start);
                let (got, _) = common::place::run(&mut engine, &ram, start);
                long += usize::from(want.gpr[7].abs_diff(start.gpr[7]) > 2000);
                let case = format!("{number}: {what:?} from {:x?}", start.gpr);
                assert_eq!(got.gpr, want.gpr, "{case}");
                assert_eq!(got.rip, want.rip, "{case}");
                assert_eq!(got.rflags, want.rflags, "{case}");
            }
        }
    }
    assert!(long > 1000, "{long}");
}

#[test]
fn whoever_looks_in_between_sees_whole_turns() {
    // again: cmp rdi, r9; jb out; cmp rsi, rbx; jne out; inc rdi; inc rdx; cmp rdx, rax; jne again; out: hlt
    let place = Place::of(
        CODE,
        &[
            0x4c, 0x39, 0xcf, 0x72, 0x10, 0x48, 0x39, 0xde, 0x75, 0x0b, 0x48, 0xff, 0xc7, 0x48,
            0xff, 0xc2, 0x48, 0x39, 0xc2, 0x75, 0xeb, 0xf4,
        ],
    );
    const OFFSET: u64 = 1 << 62;
    for (user, views) in common::MODES {
        let (mut engine, ram, attention) = common::translator_with(views);
        services::install(&ram, CODE + 0x5000, CODE + 0x6000);
        place.store(&ram);
        let mut state = common::state();
        if user {
            services::to_user(&mut state);
        }
        (state.gpr[2], state.gpr[7], state.gpr[9]) = (0, OFFSET, OFFSET);
        (state.gpr[0], state.gpr[3], state.gpr[6]) = (u64::MAX >> 1, 5, 5);
        engine.set_state(&state);
        for _ in 0..40 {
            let _watchdog = common::watch();
            let other = Arc::clone(&attention);
            let asker = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(300));
                other.raise(Request::STOP);
            });
            let stop = engine.run(&mut common::Nothing::default(), None);
            asker.join().unwrap();
            assert_eq!(stop, Stop::Asked);
            let state = engine.state();
            if state.rip == CODE {
                assert_eq!(state.gpr[7], state.gpr[2] + OFFSET);
            }
        }
    }
}
