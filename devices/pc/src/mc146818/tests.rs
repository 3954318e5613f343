use super::*;
use crate::testing::Random;
use ambos_clock::ManualTime;

struct Bench {
    rtc: Arc<Mutex<Rtc>>,
    clock: Arc<VmClock>,
    time: ManualTime,
}

impl Bench {
    /// 2024-02-28 23:59:50.25 UTC, a Wednesday.
    fn new() -> Self {
        let (clock, time) = VmClock::manual();
        let config = RtcConfig {
            unix_time_ns: 1_709_164_790_250_000_000,
            low_ram: 3 << 30,
            high_ram: 5 << 30,
            cpus: 2,
        };
        let rtc = Rtc::new(&clock, Wire::unconnected("IRQ 8"), &config);
        Self { rtc, clock, time }
    }

    fn read(&self, index: u8) -> u8 {
        let mut data = [0];
        let mut rtc = self.rtc.lock().unwrap();
        rtc.write(Rtc::INDEX, &[index]).unwrap();
        rtc.read(Rtc::DATA, &mut data).unwrap();
        data[0]
    }

    fn write(&self, index: u8, value: u8) {
        let mut rtc = self.rtc.lock().unwrap();
        rtc.write(Rtc::INDEX, &[index]).unwrap();
        rtc.write(Rtc::DATA, &[value]).unwrap();
    }

    fn time_registers(&self) -> [u8; 8] {
        TIME.map(|register| self.read(register))
    }

    fn interrupt(&self) -> bool {
        self.rtc.lock().unwrap().interrupt.level()
    }

    /// Interrupts within `ns`, each acknowledged at once.
    fn interrupts_within(&self, ns: u64) -> usize {
        let end = self.clock.now() + ns;
        let mut count = 0;
        while let Some(deadline) = self.clock.next_deadline().filter(|time| *time <= end) {
            self.time.advance(deadline - self.clock.now());
            self.clock.fire_due();
            if self.interrupt() {
                assert_ne!(self.read(0x0c) & 0x80, 0);
                count += 1;
            }
        }
        self.time.advance(end - self.clock.now());
        count
    }
}

#[test]
fn the_time_of_day_in_every_format() {
    let bench = Bench::new();
    assert_eq!(bench.time_registers(), [0x50, 0x59, 0x23, 0x04, 0x28, 0x02, 0x24, 0x20]);
    bench.time.advance(10 * NANOSECONDS);
    assert_eq!(bench.time_registers(), [0x00, 0x00, 0x00, 0x05, 0x29, 0x02, 0x24, 0x20]);
    bench.write(0x0b, 0x04);
    assert_eq!(bench.time_registers(), [0, 0, 12, 5, 29, 2, 24, 20]);
    bench.time.advance(13 * 3600 * NANOSECONDS);
    assert_eq!(bench.read(spec::HOUR), 0x81);
    bench.write(0x0b, 0x00);
    assert_eq!(bench.read(spec::HOUR), 0x81);
}

#[test]
fn setting_the_time() {
    let bench = Bench::new();
    bench.write(0x0b, 0x82);
    let set = [0x30, 0x20, 0x10, 0x01, 0x31, 0x12, 0x99, 0x19];
    for (register, value) in TIME.into_iter().zip(set) {
        bench.write(register, value);
    }
    bench.time.advance(5 * NANOSECONDS);
    assert_eq!(bench.read(spec::SECOND), 0x30);
    bench.write(0x0b, 0x02);
    assert_eq!(bench.time_registers(), [0x30, 0x20, 0x10, 0x06, 0x31, 0x12, 0x99, 0x19]);
    bench.write(spec::MINUTE, 0x59);
    bench.time.advance(30 * NANOSECONDS);
    assert_eq!(bench.time_registers()[..3], [0x00, 0x00, 0x11]);
}

#[test]
fn updates_are_announced() {
    let bench = Bench::new();
    assert_eq!(bench.read(0x0a), 0x26);
    bench.time.advance(749_800_000);
    assert_eq!(bench.read(0x0a), 0xa6);
    bench.time.advance(200_000);
    assert_eq!(bench.read(0x0a), 0x26);
    assert_eq!(bench.read(spec::SECOND), 0x51);
}

#[test]
fn periodic_interrupts() {
    let bench = Bench::new();
    bench.read(0x0c);
    bench.write(0x0b, 0x42);
    assert_eq!(bench.interrupts_within(NANOSECONDS), 1024);
    bench.write(0x0a, 0x23);
    assert_eq!(bench.interrupts_within(NANOSECONDS), 8192);
    bench.write(0x0a, 0x20);
    bench.read(0x0c);
    assert_eq!(bench.interrupts_within(NANOSECONDS), 0);
}

#[test]
fn update_interrupts_and_flags() {
    let bench = Bench::new();
    bench.read(0x0c);
    bench.write(0x0b, 0x12);
    assert_eq!(bench.interrupts_within(10 * NANOSECONDS), 10);
    bench.write(0x0b, 0x02);
    bench.read(0x0c);
    bench.time.advance(NANOSECONDS);
    assert_eq!(bench.read(0x0c) & 0x90, 0x10);
    assert_eq!(bench.read(0x0c), 0);
}

#[test]
fn alarms() {
    let bench = Bench::new();
    bench.read(0x0c);
    for (register, value) in [(1, 0x05), (3, 0x00), (5, 0xff)] {
        bench.write(register, value);
    }
    bench.write(0x0b, 0x22);
    assert_eq!(bench.interrupts_within(14 * NANOSECONDS), 0);
    assert_eq!(bench.interrupts_within(NANOSECONDS), 1);
    assert_eq!(bench.interrupts_within(2 * 3600 * NANOSECONDS), 2);
    bench.write(1, 0x75);
    assert_eq!(bench.interrupts_within(2 * 3600 * NANOSECONDS), 0);
}

#[test]
fn memory_sizes() {
    let bench = Bench::new();
    let word = |index| u16::from_le_bytes([bench.read(index), bench.read(index + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x34), 0xbf00);
    assert_eq!([0x5b, 0x5c, 0x5d].map(|index| bench.read(index)), [0x00, 0x40, 0x01]);
    assert_eq!(bench.read(0x5f), 1);
    bench.write(0x0f, 0x0a);
    assert_eq!(bench.read(0x8f), 0x0a);
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let bench = Bench::new();
    let mut random = Random::new(6);
    for _ in 0..100_000 {
        if random.below(2) == 0 {
            let index = random.below(16) as u8;
            bench.rtc.lock().unwrap().write(Rtc::INDEX, &[index]).unwrap();
        }
        let offset = random.below(3) as u16;
        random.access(&mut *bench.rtc.lock().unwrap(), offset);
        bench.time.advance(random.next() >> random.below(64) >> 24);
        bench.clock.fire_due();
    }
}
