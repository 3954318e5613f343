use super::*;
use crate::testing::Random;
use ambos_clock::ManualTime;
use ambos_wire::Inputs;

/// Rising edges and levels by line: 0 and 8 for the ISA interrupts, 20–23 for the I/O APIC.
#[derive(Default)]
struct Lines {
    edges: [usize; 24],
    levels: [bool; 24],
}

impl Inputs for Lines {
    fn set_input(&mut self, line: u32, level: bool) {
        self.levels[line as usize] = level;
        self.edges[line as usize] += usize::from(level);
    }
}

struct Bench {
    hpet: Arc<Mutex<Hpet>>,
    lines: Arc<Mutex<Lines>>,
    pit: Wire,
    clock: Arc<VmClock>,
    time: ManualTime,
}

impl Bench {
    fn new() -> Self {
        let (clock, time) = VmClock::manual();
        let lines = Arc::new(Mutex::new(Lines::default()));
        let pin = |line: u32| InputPin::new(lines.clone(), line);
        let switch = LegacySwitch::new(pin(0).wire("IRQ 0"), pin(8).wire("IRQ 8"));
        let legacy = Arc::new(Mutex::new(switch));
        let pit = InputPin::new(legacy.clone(), LegacySwitch::PIT).wire("8254");
        let io_apic = [pin(20), pin(21), pin(22), pin(23)];
        let hpet = Hpet::new(&clock, HpetOutputs { legacy, io_apic });
        Self { hpet, lines, pit, clock, time }
    }

    fn write(&self, offset: u64, value: u64) {
        self.hpet.lock().unwrap().write(offset, &value.to_le_bytes()).unwrap();
    }

    fn read(&self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.hpet.lock().unwrap().read(offset, &mut data).unwrap();
        u64::from_le_bytes(data)
    }

    /// Rising edges of a line within `ns`.
    fn edges(&self, line: usize, ns: u64) -> usize {
        self.lines.lock().unwrap().edges = [0; 24];
        self.time.run(ns, 1_000_000);
        self.lines.lock().unwrap().edges[line]
    }
}

#[test]
fn the_counter_counts_while_enabled() {
    let bench = Bench::new();
    assert_eq!(bench.read(0), 0x0098_9680_8086_a201);
    bench.time.advance(1000);
    assert_eq!(bench.read(0xf0), 0);
    bench.write(0xf0, 0xffff_ffff);
    bench.write(0x10, 1);
    bench.time.advance(1000);
    assert_eq!(bench.read(0xf0), 0x1_0000_0063);
    let mut half = [0; 4];
    bench.hpet.lock().unwrap().read(0xf4, &mut half).unwrap();
    assert_eq!(half, [1, 0, 0, 0]);
    bench.write(0x10, 0);
    bench.time.advance(1000);
    assert_eq!(bench.read(0xf0), 0x1_0000_0063);
}

#[test]
fn periodic_ticks_as_kernels_program_them() {
    let bench = Bench::new();
    bench.write(0x10, 3);
    bench.write(0x100, 0x14c);
    bench.write(0x108, bench.read(0xf0) + 100_000);
    bench.write(0x108, 100_000);
    assert_eq!(bench.edges(0, 1_000_000_000), 1000);
    bench.time.advance(10_500_000);
    assert_eq!(bench.edges(0, 0), 1);
    assert_eq!(bench.edges(0, 499_999), 0);
    assert_eq!(bench.edges(0, 1), 1);
}

#[test]
fn one_shots_fire_once_per_turn_of_the_counter() {
    let bench = Bench::new();
    bench.write(0x10, 3);
    bench.write(0x100, 0x104);
    bench.write(0x108, 1000);
    assert_eq!(bench.edges(0, 9_999), 0);
    assert_eq!(bench.edges(0, 1), 1);
    assert_eq!(bench.edges(0, 1_000_000), 0);
    assert_eq!(bench.edges(0, (1 << 32) * 10), 1);
}

#[test]
fn legacy_replacement_switches_the_8254_off() {
    let bench = Bench::new();
    bench.pit.pulse();
    assert_eq!(bench.lines.lock().unwrap().edges[0], 1);
    bench.write(0x10, 3);
    bench.pit.pulse();
    assert_eq!(bench.lines.lock().unwrap().edges[0], 1);
    bench.write(0x10, 1);
    bench.pit.pulse();
    assert_eq!(bench.lines.lock().unwrap().edges[0], 2);
}

#[test]
fn levels_stay_until_cleared() {
    let bench = Bench::new();
    bench.write(0x10, 1);
    bench.write(0x140, 21 << 9 | 6);
    bench.write(0x148, 1000);
    assert_eq!(bench.edges(21, 10_000), 1);
    assert!(bench.lines.lock().unwrap().levels[21]);
    assert_eq!(bench.read(0x20), 4);
    bench.write(0x20, 4);
    assert!(!bench.lines.lock().unwrap().levels[21]);
    assert_eq!(bench.read(0x20), 0);
}

#[test]
fn a_guest_cannot_ask_for_a_storm() {
    let bench = Bench::new();
    bench.write(0x10, 3);
    bench.write(0x100, 0x4c);
    bench.write(0x108, bench.read(0xf0) + 1);
    bench.write(0x108, 1);
    assert!(bench.edges(0, 1_000_000_000) <= 20_001);
}

#[test]
fn odd_accesses_are_refused() {
    let bench = Bench::new();
    let mut hpet = bench.hpet.lock().unwrap();
    assert_eq!(hpet.read(0xf1, &mut [0; 4]), Err(AccessError::Size));
    assert_eq!(hpet.read(0xf4, &mut [0; 8]), Err(AccessError::Size));
    assert_eq!(hpet.read(0x160, &mut [0; 8]), Err(AccessError::NoRegister));
    assert_eq!(hpet.write(0x18, &[0; 8]), Err(AccessError::NoRegister));
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let bench = Bench::new();
    let mut random = Random::new(9);
    for _ in 0..200_000 {
        let offset = random.next() & 0x1ff & if random.below(4) == 0 { !0 } else { !7 };
        let value = (random.next() >> random.below(64)).to_le_bytes();
        let width = if random.below(2) == 0 { 8 } else { random.below(9) };
        let _ = bench.hpet.lock().unwrap().write(offset, &value[..width]);
        let _ = bench.hpet.lock().unwrap().read(offset, &mut [0; 8][..width]);
        bench.time.advance(random.next() >> random.below(64) >> 20);
        bench.clock.fire_due();
    }
}
