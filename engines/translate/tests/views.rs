//! Programs whose operands are reached through views end as under the interpreter: with the same faults, the same memory,
//! and the same marks in page tables.

mod common;

use ambos_memory::GuestRam;
use ambos_random::Random;
use ambos_translate::Views;
use ambos_vcpu::CpuState;
use common::place::write;
use common::users::User;
use common::world::{
    ACCESSED, DIRTY, FULL, LOG, LOG_SIZE, PRESENT, PROGRAM, Page, USER, WRITABLE, World,
};
use vm_memory::{Bytes, GuestAddress};

/// Where runs of pages begin: low addresses, those of programs, heaps, libraries and stacks, and around where regions
/// end.
const RUNS: [u64; 15] = [
    0x4000_0000,
    0x7fff_c000,
    0xffff_c000,
    0xff_ffff_c000,
    0xc0_0000_0000,
    0x2a_1234_5678_9000,
    0x5555_5555_4000,
    0x55ff_ffff_c000,
    0x56ff_ffff_c000,
    0x7dff_ffff_c000,
    0x7eff_ffff_c000,
    0x7f12_3456_7000,
    0x7fff_ffff_8000,
    0xffff_8000_0000_0000,
    0xffff_ffff_ffff_8000,
];
/// How the pages of a run may be used.
const KINDS: [u64; 8] = [
    FULL,
    FULL | ACCESSED | DIRTY,
    PRESENT | USER | ACCESSED,
    FULL | ACCESSED | DIRTY,
    0,
    FULL,
    PRESENT | WRITABLE | ACCESSED | DIRTY,
    FULL | ACCESSED,
];

fn memory(ram: &GuestRam, from: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    ram.memory().read_slice(&mut bytes, GuestAddress(from)).unwrap();
    bytes
}

/// Maps all runs.
fn runs(world: &mut World<'_>, root: u64) -> Vec<Page> {
    let begin = world.pages.len();
    for run in RUNS {
        for (number, kind) in KINDS.into_iter().enumerate() {
            let frame = world.frame();
            world.map(root, run.wrapping_add(number as u64 * 0x1000), frame, kind);
        }
    }
    world.map_large(root, 0x4040_0000, FULL);
    world.map_large(root, 0x7f40_0000_0000, FULL | ACCESSED);
    world.pages[begin..].to_vec()
}

/// Compares what two engines have left.
fn same(
    (got, ram): (&CpuState, &GuestRam),
    (want, reference): (&CpuState, &GuestRam),
    (pages, original, exact): (&[Page], &[Vec<u8>], bool),
    dump: &dyn Fn() -> String,
) {
    // Whether a frame is as it was.
    let before = |frame: u64| {
        let number = pages.iter().position(|page| page.frame == frame)?;
        Some(memory(reference, frame, 0x1000) == original[number])
    };
    for at in (0..LOG_SIZE).step_by(64) {
        let [got, want] = [ram, reference].map(|ram| {
            let bytes = memory(ram, LOG + at as u64, 64);
            let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            words.collect::<Vec<_>>()
        });
        assert_eq!(got, want, "fault {} {:x?} {:x?} {}", at / 64, got, want, dump());
        if want[2] == 0 {
            break;
        }
    }
    assert_eq!(got.rip, want.rip, "{}", dump());
    assert_eq!(got.gpr, want.gpr, "{:x?} {:x?} {}", got.gpr, want.gpr, dump());
    assert_eq!(got.rflags, want.rflags, "{}", dump());
    assert_eq!(got.control, want.control, "{}", dump());
    assert_eq!(got.vector.mxcsr, want.vector.mxcsr, "{}", dump());
    assert_eq!(got.vector.zmm, want.vector.zmm, "{}", dump());
    for page in pages {
        let [got, want] =
            [ram, reference].map(|ram| ram.memory().read_obj::<u64>(GuestAddress(page.entry)));
        let (got, mut want) = (got.unwrap(), want.unwrap());
        if !exact {
            // A probe may find that a page can be written before another fault comes.
            want |= got & DIRTY;
        }
        // For the interpreter a page may count as written of which a wide operand would have written a part, had it not
        // faulted in the page before.
        if got & DIRTY == 0 && before(want & 0xf_ffff_f000) == Some(true) {
            want &= !DIRTY;
        }
        // Pages may count as accessed that were not, for either.
        assert_eq!(
            got & !ACCESSED,
            want & !ACCESSED,
            "entry of {:x}, {got:x} {want:x} {}",
            page.linear,
            dump()
        );
        let [got, want] = [ram, reference].map(|ram| memory(ram, page.frame, 0x1000));
        let different = (0..0x1000).find(|&at| got[at] != want[at]);
        assert_eq!(different, None, "at {:x} {}", page.linear, dump());
    }
}

/// What programs may ask for.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// Other mappings.
    remaps: bool,
    /// Address spaces.
    spaces: usize,
    /// These have identifiers.
    pcids: bool,
}

/// Random programs.
fn compare(views: Views, kind: Kind, seeds: std::ops::Range<u64>) {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator_with(views);
    let mut world = World::new(&[&reference_ram, &ram]);
    let roots: Vec<u64> = (0..kind.spaces).map(|_| world.root()).collect();
    let pages: Vec<Page> = roots.iter().flat_map(|&root| runs(&mut world, root)).collect();
    let frames: Vec<u64> = pages.iter().map(|page| page.frame).collect();
    let mut spaces = Vec::new();
    for (&root, pcid) in roots.iter().zip(1..) {
        match kind.pcids {
            true => spaces.extend([root | pcid, root | pcid | 1 << 63]),
            false => spaces.push(root),
        }
    }
    for seed in seeds {
        let mut random = Random::new(seed ^ 0x51ee << 32);
        world.begin();
        let mut original = Vec::new();
        for page in &pages {
            world.put(page.entry, page.entry_with(page.frame, page.flags));
            let data: Vec<u8> = (0..512).flat_map(|_| random.next().to_le_bytes()).collect();
            for ram in [&reference_ram, &ram] {
                ram.memory().write_slice(&data, GuestAddress(page.frame)).unwrap();
            }
            original.push(data);
        }
        let mut start = common::world::start(spaces[0]);
        start.control.cr4 |= u64::from(kind.pcids) << 17;
        for register in 0..16 {
            start.gpr[register] = random.next();
        }
        let bases = [0, 1].map(|_| random.pick(&pages).linear + 8 * random.below(0x200));
        (start.segments.fs.base, start.segments.gs.base) = (bases[0], bases[1]);
        for register in &mut start.vector.zmm {
            register.iter_mut().for_each(|word| *word = random.next() as u8);
        }
        let steps = 2 + random.index(30);
        // At different places, so that blocks begin and end anywhere.
        let at = PROGRAM + 0x10 * random.below(0x80);
        let user = User::new(&mut random, at, (&pages, &frames), bases, (kind.remaps, &spaces));
        let place = user.program(steps, 6);
        start.rip = place.start;
        for ram in [&reference_ram, &ram] {
            write(ram, PROGRAM, &[0x90; 0x4000]);
            place.store(ram);
        }
        let (want, _) = common::place::run(&mut reference, &reference_ram, &start);
        let (got, _) = common::place::run(&mut engine, &ram, &start);
        let dump = || format!("seed {seed}, at {:x}: {:02x?}", place.start, place.bytes);
        same(
            (&got, &ram),
            (&want, &reference_ram),
            (&pages, &original, views == Views::Always),
            &dump,
        );
    }
    let statistics = engine.statistics();
    let is_seen = statistics.view_faults > 0 && statistics.looks > 0;
    assert_eq!(is_seen, views == Views::Always, "{statistics:?}");
}

#[test]
fn faults_are_exact() {
    compare(Views::Always, Kind { remaps: false, spaces: 1, pcids: false }, 0..400);
}

#[test]
fn faults_of_probes_are_exact() {
    compare(Views::Never, Kind { remaps: false, spaces: 1, pcids: false }, 400..500);
    compare(Views::Never, Kind { remaps: true, spaces: 2, pcids: true }, 5150..5250);
}

#[test]
fn mappings_may_change() {
    compare(Views::Always, Kind { remaps: true, spaces: 1, pcids: false }, 1000..1400);
}

#[test]
fn address_spaces_may_change() {
    // More than there are views for.
    compare(Views::Always, Kind { remaps: true, spaces: 6, pcids: true }, 2000..2200);
    compare(Views::Always, Kind { remaps: true, spaces: 2, pcids: false }, 3000..3100);
}

#[test]
fn there_may_be_more_pages_and_regions_than_are_seen() {
    // Pages of few frames, some thousands of them side by side and others far apart.
    const MANY: u64 = 7000;
    const FRAMES: usize = 16;
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator_with(Views::Always);
    let mut world = World::new(&[&reference_ram, &ram]);
    let root = world.root();
    let frames: Vec<u64> = (0..FRAMES).map(|_| world.frame()).collect();
    let mut linears: Vec<u64> =
        (0..MANY).map(|number| 0x7f00_0000_0000 + number * 0x1000).collect();
    linears.extend((1..12).map(|region| region * 0x0700_0000_0000 + 0x5000));
    for (number, &linear) in linears.iter().enumerate() {
        world.map(root, linear, frames[number % FRAMES], FULL);
    }
    // mov ebp, 3; turn: mov rbx, first; mov ecx, MANY; page: inc qword [rbx+8]; add rax, [rbx+8]; add rbx, 0x1000;
    // dec ecx; jnz page
    let mut place = common::place::Place::of(PROGRAM, &[0xbd, 3, 0, 0, 0]);
    let turn = place.here();
    place.raw(&[0x48, 0xbb]);
    place.raw(&linears[0].to_le_bytes());
    place.raw(&[0xb9]);
    place.raw(&(MANY as u32).to_le_bytes());
    let page = place.here();
    place.raw(&[
        0x48, 0xff, 0x43, 8, 0x48, 0x03, 0x43, 8, 0x48, 0x81, 0xc3, 0, 0x10, 0, 0, 0xff, 0xc9,
    ]);
    place.jump_if(5, page);
    for linear in &linears[MANY as usize..] {
        // mov rbx, linear; add [rbx+16], rax; mov rax, [rbx+8]
        place.raw(&[0x48, 0xbb]);
        place.raw(&linear.to_le_bytes());
        place.raw(&[0x48, 0x01, 0x43, 16, 0x48, 0x8b, 0x43, 8]);
    }
    // dec ebp; jnz turn; ud2
    place.raw(&[0xff, 0xcd]);
    place.jump_if(5, turn);
    place.raw(&[0x0f, 0x0b]);
    place.store(&reference_ram);
    place.store(&ram);
    let start = common::world::start(root);
    let (want, _) = common::place::run(&mut reference, &reference_ram, &start);
    let (got, _) = common::place::run(&mut engine, &ram, &start);
    assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
    for &frame in &frames {
        assert_eq!(memory(&ram, frame, 0x1000), memory(&reference_ram, frame, 0x1000));
    }
    let statistics = engine.statistics();
    assert!(statistics.view_faults > 3 * MANY / 32, "{statistics:?}");
}
