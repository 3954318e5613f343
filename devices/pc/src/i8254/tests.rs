use super::*;
use ambos_clock::ManualTime;
use ambos_wire::{InputPin, Inputs};

/// Counts rising edges.
#[derive(Default)]
struct Edges(usize);

impl Inputs for Edges {
    fn set_input(&mut self, _line: u32, level: bool) {
        self.0 += usize::from(level);
    }
}

struct Bench {
    pit: Arc<Mutex<Pit>>,
    clock: Arc<VmClock>,
    time: ManualTime,
    edges: Arc<Mutex<Edges>>,
}

impl Bench {
    fn new() -> Self {
        let (clock, time) = VmClock::manual();
        let edges = Arc::new(Mutex::new(Edges::default()));
        let pit = Pit::new(&clock, InputPin::new(edges.clone(), 0).wire("irq 0"));
        Self { pit, clock, time, edges }
    }

    fn write(&self, offset: u16, value: u8) {
        self.pit.lock().unwrap().write(offset, &[value]).unwrap();
    }

    fn read(&self, offset: u16) -> u8 {
        let mut data = [0];
        self.pit.lock().unwrap().read(offset, &mut data).unwrap();
        data[0]
    }

    fn program(&self, channel: u16, mode: u8, count: u16) {
        let [low, high] = count.to_le_bytes();
        self.write(3, (channel as u8) << 6 | 0x30 | mode << 1);
        self.write(channel, low);
        self.write(channel, high);
    }

    fn count(&self, channel: u16) -> u16 {
        self.write(3, (channel as u8) << 6);
        u16::from_le_bytes([self.read(channel), self.read(channel)])
    }

    /// Advances to the beginning of the tick that is `ticks` after machine start.
    fn at(&self, ticks: u64) {
        self.time.advance(time_of(ticks) - self.clock.now());
    }

    /// Rising edges since the last call, with timers served on the way.
    fn edges_within(&self, ns: u64) -> usize {
        self.edges.lock().unwrap().0 = 0;
        self.time.run(ns, 100_000);
        self.edges.lock().unwrap().0
    }
}

#[test]
fn periodic_modes_tick() {
    for mode in [2, 3] {
        let bench = Bench::new();
        bench.program(0, mode, 11932);
        assert_eq!(bench.edges_within(NANOSECONDS), 99);
        assert_eq!(bench.edges_within(NANOSECONDS), 100);
    }
}

#[test]
fn missed_ticks_are_coalesced_and_stay_in_phase() {
    let bench = Bench::new();
    bench.program(0, 2, 11932);
    bench.edges_within(0);
    bench.time.advance(105_000_000);
    bench.clock.fire_due();
    bench.clock.fire_due();
    assert_eq!(bench.edges.lock().unwrap().0, 1);
    assert_eq!(bench.edges_within(6_000_000), 1);
}

#[test]
fn one_shot_modes_fire_once() {
    for mode in [0, 4] {
        let bench = Bench::new();
        bench.program(0, mode, 1193);
        assert_eq!(bench.edges_within(999_000), 0, "mode {mode}");
        assert_eq!(bench.edges_within(100_000_000), 1, "mode {mode}");
    }
}

#[test]
fn a_guest_cannot_ask_for_a_storm() {
    let bench = Bench::new();
    bench.program(0, 2, 1);
    assert!(bench.edges_within(NANOSECONDS) <= 20_001);
    bench.program(0, 3, 2);
    assert!(bench.edges_within(NANOSECONDS) <= 20_001);
}

#[test]
fn counts_run_down() {
    let bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.at(1);
    assert_eq!(bench.count(0), 999);
    bench.at(1000);
    assert_eq!(bench.count(0), 1000);
    bench.program(0, 3, 1000);
    bench.at(1100);
    assert_eq!(bench.count(0), 800);
    bench.at(1600);
    assert_eq!(bench.count(0), 800);
    bench.program(0, 0, 10);
    bench.at(1611);
    assert_eq!(bench.count(0), 0xffff);
}

#[test]
fn decimal_counts() {
    let bench = Bench::new();
    bench.write(3, 0x31);
    bench.write(0, 0x00);
    bench.write(0, 0x10);
    bench.at(1);
    assert_eq!(bench.count(0), 0x0999);
    bench.at(1001);
    assert_eq!(bench.count(0), 0x9999);
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.at(500);
    bench.write(0, 100);
    bench.write(0, 0);
    assert_eq!(bench.count(0), 500);
    bench.at(1010);
    assert_eq!(bench.count(0), 90);
}

#[test]
fn latches_hold_until_read() {
    let bench = Bench::new();
    bench.program(0, 2, 1000);
    bench.at(10);
    bench.write(3, 0xc2);
    bench.at(20);
    assert_eq!(bench.read(0), 0x80 | 0x30 | 2 << 1);
    assert_eq!(u16::from_le_bytes([bench.read(0), bench.read(0)]), 990);
    assert_eq!(u16::from_le_bytes([bench.read(0), bench.read(0)]), 980);
}

#[test]
fn port_61_gates_channel_2() {
    let bench = Bench::new();
    bench.write(Pit::PORT_61, 0);
    bench.program(2, 0, 1000);
    bench.at(5000);
    assert_eq!(bench.read(Pit::PORT_61) & 0x2f, 0);
    bench.write(Pit::PORT_61, 1);
    bench.at(5999);
    assert_eq!(bench.read(Pit::PORT_61) & 0x2f, 0x01);
    bench.at(6000);
    assert_eq!(bench.read(Pit::PORT_61) & 0x2f, 0x21);
}

#[test]
fn a_gate_triggers_the_one_shot() {
    let bench = Bench::new();
    bench.program(2, 1, 100);
    assert_eq!(bench.read(Pit::PORT_61) & 0x20, 0x20);
    bench.write(Pit::PORT_61, 1);
    assert_eq!(bench.read(Pit::PORT_61) & 0x20, 0);
    bench.at(100);
    assert_eq!(bench.read(Pit::PORT_61) & 0x20, 0x20);
}

#[test]
fn the_refresh_bit_toggles() {
    let bench = Bench::new();
    let before = bench.read(Pit::PORT_61) & 0x10;
    bench.time.advance(spec::REFRESH_NS);
    assert_ne!(bench.read(Pit::PORT_61) & 0x10, before);
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let bench = Bench::new();
    let mut random = crate::testing::Random::new(3);
    for _ in 0..200_000 {
        let offset = random.below(7) as u16;
        random.access(&mut *bench.pit.lock().unwrap(), offset);
        bench.time.advance(random.next() >> random.below(64) >> 24);
        bench.clock.fire_due();
    }
}
