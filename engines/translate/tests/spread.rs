//! Random programs of many blocks on several pages, with loops, calls, code that is written, and pages that are remapped
//! or found at other addresses and in other address spaces meanwhile, end in the same state under the translator as under the interpreter.

mod common;

use ambos_random::Random;
use ambos_translate::Views;
use ambos_vcpu::{Attention, CpuState, Engine, Request};
use common::DATA;
use common::instructions::{FREE, POINTERS, instruction, memory, system};
use common::place::{Place, write};
use common::services::{self, RELOAD, SWAP};
use iced_x86::{Encoder, Mnemonic};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Linear pages of code. The first never changes; the second is swapped with another one.
const PAGES: [u64; 4] = [0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000];
const SWAPPED: usize = 1;
/// The page that takes the place of the second one.
const OTHER: u64 = 0x10_8000;
/// Where blocks begin in each page, and the bytes that each has.
const STARTS: [u64; 7] = [0, 0x240, 0x480, 0x6c0, 0x900, 0xb40, 0xd80];
const ROOM: usize = 0x230;
/// Blocks that are functions: by their number in a page.
const FUNCTIONS: [usize; 2] = [2, 5];
/// What tells apart two ranges of addresses that have the same pages.
const AWAY: u32 = 0x2_0000;
/// Where programs end.
const END: u64 = 0x10_4000;

/// Instructions that do as they like with registers and memory, the stack being as before.
fn body(random: &mut Random, faults: bool, user: bool, longest: usize) -> Vec<u8> {
    let mut code = Vec::new();
    let mut pushed = 0;
    for _ in 0..random.index(longest) {
        let register = random.pick(&FREE);
        let prefix: &[u8] = if register >= 8 { &[0x41] } else { &[] };
        match random.index(12) {
            0 | 1 => {
                code.extend(prefix);
                code.push(0x50 | register as u8 & 7);
                pushed += 1;
            }
            2 if pushed > 0 => {
                code.extend(prefix);
                code.push(0x58 | register as u8 & 7);
                pushed -= 1;
            }
            3 if pushed > 0 && random.index(2) == 0 => {
                // push [rsp+8*n]
                code.extend([0xff, 0x74, 0x24, 8 * random.index(pushed) as u8]);
                pushed += 1;
            }
            6 if random.index(2) == 0 => {
                let memory = memory(random, faults);
                let mut below = |limit| random.index(limit);
                code.extend(common::x87::instruction(&mut below, memory, false));
            }
            4 if random.index(3) == 0 => code.extend(system(random, faults, user)),
            5 => {
                // A jump over the next instruction.
                let next = computed(random, faults);
                code.extend([0x70 | random.index(16) as u8, next.len() as u8]);
                code.extend(next);
            }
            _ => code.extend(computed(random, faults)),
        }
        if code.len() > ROOM - 0xa0 {
            break;
        }
    }
    for _ in 0..pushed {
        match random.index(2) {
            // pop rax
            0 => code.push(0x58),
            // lea rsp, [rsp+8]
            _ => code.extend([0x48, 0x8d, 0x64, 0x24, 8]),
        }
    }
    code
}

fn computed(random: &mut Random, faults: bool) -> Vec<u8> {
    let next = instruction(random, faults);
    let mut encoder = Encoder::new(64);
    encoder.encode(&next, 0).unwrap();
    let mut code = encoder.take_buffer();
    if matches!(next.mnemonic(), Mnemonic::Mul | Mnemonic::Imul) {
        // cmp al, 5: what they leave undefined must not count.
        code.extend([0x3c, 5]);
    }
    code
}

/// Ends the program once R15 has been counted down: with the flags that a loop's counter leaves, or with all
/// flags as they were.
fn count(random: &mut Random, place: &mut Place) {
    if random.index(6) != 0 {
        // dec r15; jz end
        place.raw(&[0x49, 0xff, 0xcf]);
        place.jump_if(4, END);
    } else {
        // lea r15, [r15-1]; xchg rcx, r15; jrcxz +5; xchg rcx, r15; jmp +8; xchg rcx, r15; jmp end
        place.raw(&[0x4d, 0x8d, 0x7f, 0xff, 0x4c, 0x87, 0xf9, 0xe3, 0x05]);
        place.raw(&[0x4c, 0x87, 0xf9, 0xeb, 0x08, 0x4c, 0x87, 0xf9]);
        place.jump(END);
    }
}

/// Some block that is not a function.
fn any_block(random: &mut Random) -> u64 {
    loop {
        let number = random.index(STARTS.len());
        if !FUNCTIONS.contains(&number) {
            return random.pick(&PAGES) + STARTS[number];
        }
    }
}

/// Has RAX point at the same code at its other address.
fn away(place: &mut Place) {
    // xor eax, AWAY
    place.raw(&[0x35]);
    place.raw(&AWAY.to_le_bytes());
}

/// What programs are like.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// They may fault.
    faults: bool,
    /// They run in user mode.
    user: bool,
    /// Address spaces have identifiers.
    pcids: bool,
    /// They run in supervisor mode, with pages of its own, where RFLAGS.AC makes a difference.
    smap: bool,
}

/// A block at the start `number` of a page.
fn block(random: &mut Random, page: usize, number: usize, kind: Kind) -> Place {
    let Kind { faults, user, pcids, smap } = kind;
    let start = PAGES[page] + STARTS[number];
    // lea eax, [rax + ..], of which programs change a byte
    let mut place = Place::of(start, &[0x8d, 0x80, 1, 0, 0, 0]);
    place.raw(&body(random, faults, user, 14));
    if FUNCTIONS.contains(&number) {
        if page + 1 < PAGES.len() && random.index(3) == 0 {
            // Functions call only those of later pages.
            let later = page + 1 + random.index(PAGES.len() - page - 1);
            place.call(PAGES[later] + STARTS[random.pick(&FUNCTIONS)]);
            place.raw(&body(random, faults, user, 6));
        }
        place.raw(&[0xc3]);
        return place;
    }
    for _ in 0..random.index(3) {
        if smap && random.index(3) == 0 {
            // stac, or clac
            place.raw(&[0x0f, 0x01, random.pick(&[0xca, 0xcb])]);
        }
        match random.index(11) {
            8 => {
                // inc byte ptr [operand]
                let number = random.index(STARTS.len());
                place.byte_operand(&[0xfe, 0x05], random.pick(&PAGES) + STARTS[number] + 2);
            }
            9 => {
                place.address_in_rax(random.pick(&PAGES) + STARTS[random.pick(&FUNCTIONS)]);
                away(&mut place);
                place.raw(&[0xff, 0xd0]);
            }
            10 if page == 0 => {
                let [first, second] = services::ROOTS;
                let keep = random.next() & (u64::from(pcids) << 63);
                let root =
                    random.pick(&[first | u64::from(pcids), second | (2 * u64::from(pcids))]);
                // mov rsi, root; int
                place.raw(&[0x48, 0xbe]);
                place.raw(&(root | keep).to_le_bytes());
                place.raw(&[0xcd, RELOAD]);
            }
            0..=2 => place.call(random.pick(&PAGES) + STARTS[random.pick(&FUNCTIONS)]),
            3 if page == 0 => place.raw(&[0xcd, SWAP]),
            4 => {
                // lea rax, [function]; call rax
                place.address_in_rax(random.pick(&PAGES) + STARTS[random.pick(&FUNCTIONS)]);
                place.raw(&[0xff, 0xd0]);
            }
            _ => {
                // A loop of its own.
                let again = place.here();
                place.raw(&body(random, faults, user, 4));
                count(random, &mut place);
                place.jump_if(random.index(16) as u8, again);
            }
        }
        if place.bytes.len() > ROOM - 0xa0 {
            break;
        }
    }
    count(random, &mut place);
    if random.index(2) == 0 {
        place.jump_if(random.index(16) as u8, any_block(random));
    }
    let last = number + 1 == STARTS.len();
    match random.index(5) {
        0 => place.jump_if(random.index(16) as u8, start),
        1 => {
            place.address_in_rax(any_block(random));
            if random.index(4) == 0 {
                away(&mut place);
            }
            place.raw(&[0xff, 0xe0]);
        }
        _ => {}
    }
    if last && page + 1 < PAGES.len() && random.index(2) == 0 {
        // On into the next page.
        let left = STARTS[number] as usize + place.bytes.len();
        place.raw(&vec![0x90; 0x1000 - left]);
    } else {
        place.jump(any_block(random));
    }
    place
}

/// Compares programs; `disturbed` ones are stopped again and again.
fn compare(faults: bool, disturbed: bool, views: Views, seeds: std::ops::Range<u64>) {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, attention) = common::translator_with(views);
    let _disturber = disturbed.then(|| Disturber::new(attention));
    for ram in [&reference_ram, &ram] {
        services::install(ram, PAGES[SWAPPED], OTHER);
    }
    for seed in seeds.clone() {
        let mut random = Random::new(seed ^ 0x5eed << 32);
        let (user, smap) = (seed % 2 == 1, seed % 8 == 2);
        let kind = Kind { faults, user, pcids: seed % 3 == 1, smap };
        let mut places = Vec::new();
        for page in 0..PAGES.len() {
            for (number, start) in STARTS.into_iter().enumerate() {
                places.push(block(&mut random, page, number, kind));
                if page == SWAPPED {
                    let mut other = block(&mut random, page, number, kind);
                    other.stored = Some(OTHER + start);
                    places.push(other);
                }
            }
        }
        places.push(Place { bytes: vec![0xf4], ..Place::at(END) });
        let mut start = common::state();
        if kind.user {
            services::to_user(&mut start);
        }
        for register in (0..16).filter(|&register| register != 4) {
            start.gpr[register] = random.next();
        }
        for pointer in POINTERS {
            start.gpr[pointer] = DATA + 0x2000 - 0x40 * (random.next() % 4);
        }
        start.gpr[15] = 50 + random.next() % 3000;
        start.gpr[4] = common::STACK - 0x7f0 - 8 * (random.next() % 3);
        start.rip = PAGES[0];
        // No x87 exceptions: whether a pending one or the fault of the operand comes first is not compared here.
        start.vector.x87[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        if smap {
            start.control.cr4 |= 1 << 21;
        }
        if kind.pcids {
            start.control.cr3 |= 1;
            start.control.cr4 |= 1 << 17;
        }
        let data: Vec<u8> = (0..common::DATA_SIZE).map(|_| random.next() as u8).collect();
        for ram in [&reference_ram, &ram] {
            write(ram, DATA, &data);
            services::map(ram, PAGES[SWAPPED], PAGES[SWAPPED]);
            for page in PAGES.into_iter().chain([END]) {
                services::map(ram, page + u64::from(AWAY), page);
            }
            services::give_pages_to(ram, !smap);
            services::second_tables(ram, PAGES[SWAPPED], OTHER);
            for place in &places {
                assert!(place.bytes.len() <= 0x280, "{:x} {:x}", place.start, place.bytes.len());
                place.store(ram);
            }
        }
        let [want, got] = [
            (&mut reference as &mut dyn Engine, &reference_ram),
            (&mut engine as &mut dyn Engine, &ram),
        ]
        .map(|(engine, ram)| common::place::run(engine, ram, &start));
        let dump = || {
            let places =
                places.iter().map(|place| format!("{:x}: {:02x?}", place.start, place.bytes));
            format!("seed {seed} faults {faults}\n{}", places.collect::<Vec<_>>().join("\n"))
        };
        let (want_data, got_data) = (want.1, got.1);
        same(&got.0, &want.0, faults, &dump);
        let different = got_data.iter().zip(&want_data).position(|(a, b)| a != b);
        assert_eq!(different.filter(|_| !faults), None, "data {}", dump());
    }
    let statistics = engine.statistics();
    assert!(!disturbed || statistics.polls > 0, "{statistics:?}");
    let programs = seeds.end - seeds.start;
    assert!(statistics.links > 6 * programs && statistics.far_misses > programs, "{statistics:?}");
}

/// A thread that keeps on asking an engine to stop.
struct Disturber(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Disturber {
    fn new(attention: Arc<Attention>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let asker = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                attention.raise(Request::STOP);
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        Self(over, Some(asker))
    }
}

impl Drop for Disturber {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(asker) = self.1.take() {
            asker.join().unwrap();
        }
    }
}

fn same(got: &CpuState, want: &CpuState, faults: bool, dump: &dyn Fn() -> String) {
    let mask = if faults { !0x8d5 } else { u64::MAX };
    assert_eq!(got.rip, want.rip, "{}", dump());
    assert_eq!(got.gpr, want.gpr, "{:x?} {:x?} {}", got.gpr, want.gpr, dump());
    assert_eq!(got.rflags & mask, want.rflags & mask, "flags {}", dump());
    let [seen, expected] = [got, want].map(|state| common::x87::visible(&state.vector.x87));
    assert_eq!(seen, expected, "x87 {}", dump());
    assert_eq!(got.vector.mxcsr, want.vector.mxcsr, "{}", dump());
    assert_eq!(got.vector.zmm, want.vector.zmm, "vectors {}", dump());
    assert_eq!(got.control, want.control, "{}", dump());
}

#[test]
fn programs_without_faults() {
    compare(false, false, Views::Never, 0..2000);
}

#[test]
fn programs_with_page_faults() {
    compare(true, false, Views::Never, 0..2000);
}

#[test]
fn programs_that_are_stopped_again_and_again() {
    compare(false, true, Views::Never, 0..400);
}

#[test]
fn programs_with_views() {
    compare(false, false, Views::Always, 2000..2500);
    compare(true, false, Views::Always, 2500..3000);
}

#[test]
fn programs_with_views_that_are_stopped_again_and_again() {
    compare(false, true, Views::Always, 3000..3150);
}
