use super::*;
use crate::apic::testing::TripleTime;
use crate::power::PowerRequest;
use crate::testing::{Random, Requests};
use ambos_clock::ManualTime;
use ambos_device::Outcome;
use ambos_vcpu::{Attention, Request};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Bench {
    pc: PcChipset,
    clock: Arc<VmClock>,
    time: ManualTime,
    attention: Vec<Arc<Attention>>,
    requests: Arc<Requests>,
    sink: Sink,
}

impl Bench {
    fn new() -> Self {
        let (clock, time) = VmClock::manual();
        let attention: Vec<_> = (0..2).map(|_| Arc::new(Attention::default())).collect();
        let vcpus = attention.iter().map(|attention| ApicVcpu {
            attention: Arc::clone(attention),
            tsc: Arc::new(TripleTime(Arc::clone(&clock))),
        });
        let (requests, sink) = (Arc::new(Requests::default()), Sink::default());
        let pc = PcChipset::new(PcConfig {
            clock: Arc::clone(&clock),
            vcpus: vcpus.collect(),
            console: Box::new(sink.clone()),
            power: requests.clone(),
            unix_time_ns: 1_700_000_000_000_000_000,
            ram_size: 4 << 30,
            debug_exit: true,
        });
        Self { pc: pc.unwrap(), clock, time, attention, requests, sink }
    }

    fn out(&self, port: u16, value: u8) {
        assert!(self.pc.ports().write(port, &[value]).served(), "{port:#x}");
    }

    fn inb(&self, port: u16) -> u8 {
        let mut data = [0];
        assert!(self.pc.ports().read(port, &mut data).served(), "{port:#x}");
        data[0]
    }

    fn apic(&self, cpu: usize) -> &LocalApic {
        &self.pc.local_apics()[cpu]
    }

    fn take(&self, cpu: usize) -> Option<u8> {
        let asked = self.attention[cpu].pending().contains(Request::INTERRUPT);
        asked.then(|| self.apic(cpu).acknowledge_interrupt()).flatten()
    }

    /// Programs the 8259s as kernels do, all inputs unmasked.
    fn start_pics(&self) {
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0)] {
            self.out(port, value);
        }
        for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, 1), (0xa1, 0)] {
            self.out(port, value);
        }
    }

    fn io_apic(&self, pin: u8, entry: u64) {
        for (index, value) in [(0x11, (entry >> 32) as u32), (0x10, entry as u32)] {
            let index = [index + pin * 2, 0, 0, 0];
            assert!(self.pc.mmio().write(0xfec0_0000, &index).served());
            assert!(self.pc.mmio().write(0xfec0_0010, &value.to_le_bytes()).served());
        }
    }
}

#[test]
fn the_timer_reaches_the_cpu_through_the_8259s() {
    let bench = Bench::new();
    bench.start_pics();
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        bench.out(port, value);
    }
    let mut ticks = 0;
    for _ in 0..1000 {
        bench.time.run(1_000_000, 100);
        if let Some(vector) = bench.take(0) {
            assert_eq!(vector, 0x30);
            bench.out(0x20, 0x20);
            ticks += 1;
        }
    }
    assert_eq!(ticks, 99);
    assert_eq!(bench.take(1), None);
}

#[test]
fn the_timer_reaches_the_cpu_through_the_io_apic() {
    let bench = Bench::new();
    bench.apic(1).mmio_write(0xf0, &0x1ffu32.to_le_bytes()).unwrap();
    bench.io_apic(2, 1 << 56 | 0x40);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        bench.out(port, value);
    }
    bench.time.run(11_000_000, 100);
    assert_eq!(bench.take(1), Some(0x40));
}

#[test]
fn the_serial_port_talks_both_ways() {
    let bench = Bench::new();
    bench.start_pics();
    for byte in *b"hello" {
        bench.out(0x3f8, byte);
    }
    assert_eq!(*bench.sink.0.lock().unwrap(), b"hello");
    bench.out(0x3f9, 1);
    assert_eq!(bench.pc.console_input(b"yes"), 3);
    assert_eq!(bench.take(0), Some(0x34));
    assert_eq!([0; 3].map(|_| bench.inb(0x3f8)), *b"yes");
}

#[test]
fn every_way_out() {
    let bench = Bench::new();
    bench.pc.ports().write(0x604, &0x3400u16.to_le_bytes());
    bench.out(0xcf9, 6);
    bench.out(0x92, 1);
    bench.pc.ports().write(0xf4, &[3, 0]);
    let wanted = [
        PowerRequest::PowerOff,
        PowerRequest::Reset,
        PowerRequest::Reset,
        PowerRequest::DebugExit(7),
    ];
    assert_eq!(bench.requests.take(), wanted);
}

#[test]
fn the_power_button_is_an_sci() {
    let bench = Bench::new();
    bench.start_pics();
    bench.pc.ports().write(0x602, &[0, 1]);
    bench.pc.press_power_button();
    assert_eq!(bench.take(0), Some(0x39));
    bench.pc.ports().write(0x600, &[0, 1]);
    bench.out(0xa0, 0x20);
    bench.out(0x20, 0x20);
    assert_eq!(bench.take(0), None);
}

#[test]
fn pci_lines_reach_both_controllers() {
    let bench = Bench::new();
    bench.start_pics();
    let wire = bench.pc.pci_pin(2, 0).wire("INTA#");
    wire.set_level(true);
    assert_eq!(bench.take(0), Some(0x3a));
    wire.set_level(false);
    bench.out(0xa0, 0x20);
    bench.out(0x20, 0x20);
    bench.out(0xa1, 0xff);
    bench.io_apic(18, 0x8050);
    wire.set_level(true);
    assert_eq!(bench.take(0), Some(0x50));
    wire.set_level(false);
    bench.apic(0).mmio_write(0xb0, &[0; 4]).unwrap();
    assert_eq!(bench.take(0), None);
    bench.pc.msi().signal(0xfee0_0000, 0x66);
    assert_eq!(bench.take(0), Some(0x66));
}

#[test]
fn the_bridges_are_on_the_bus() {
    let bench = Bench::new();
    let mut data = [0; 4];
    bench.pc.mmio().read(0xe000_8000, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x7000_8086);
    bench.pc.mmio().read(0xe000_8060, &mut data);
    assert_eq!(data, [10, 11, 10, 11]);
    let found: Vec<String> = bench.pc.pci().addresses().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["00:00.0", "00:01.0"]);
}

#[test]
fn every_chip_has_a_row() {
    let bench = Bench::new();
    let mut data = [0];
    let access = bench.pc.ports().read(0x40, &mut data);
    assert_eq!(bench.pc.devices().label(access.device), "8254 timer");
    let access = bench.pc.ports().read(0x2f8, &mut data);
    assert_eq!((access.outcome, data), (Outcome::Unclaimed, [0xff]));
    assert!(bench.pc.devices().labels().iter().any(|label| label == PcChipset::LOCAL_APIC));
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let bench = Bench::new();
    let mut random = Random::new(8);
    let ports: Vec<_> = bench.pc.ports().ranges().into_iter().map(|(range, _)| range).collect();
    let mmio: Vec<_> = bench.pc.mmio().ranges().into_iter().map(|(range, _)| range).collect();
    for _ in 0..300_000 {
        let value = random.next().to_le_bytes();
        let width = 1 << random.below(3);
        let mut data = [0; 8];
        match random.below(6) {
            0 | 1 => {
                let range = ports[random.below(ports.len())];
                let port = range.first + random.below(usize::from(range.count)) as u16;
                bench.pc.ports().write(port, &value[..width]);
                bench.pc.ports().read(port, &mut data[..width]);
            }
            2 => {
                let range = mmio[random.below(mmio.len())];
                let address = range.first + random.next() % range.length.min(0x4000);
                bench.pc.mmio().write(address, &value[..random.below(9)]);
                bench.pc.mmio().read(address, &mut data[..random.below(9)]);
            }
            3 => {
                let apic = bench.apic(random.below(2));
                let _ = apic.mmio_write(random.next() & 0x3f0, &value[..4]);
                apic.acknowledge_interrupt();
            }
            4 => {
                bench.pc.console_input(&value);
                let line = bench.pc.pci_pin(value[0], value[1]).wire("random");
                line.set_level(true);
                bench.pc.press_power_button();
            }
            _ => {
                bench.time.advance(random.next() >> random.below(64) >> 24);
                bench.clock.fire_due();
                bench.sink.0.lock().unwrap().clear();
                bench.requests.take();
            }
        }
    }
}

#[test]
fn threads_use_everything_without_deadlock() {
    let bench = Arc::new(Bench::new());
    let vcpus = (0..2).map(|cpu| {
        let bench = Arc::clone(&bench);
        std::thread::spawn(move || {
            let mut random = Random::new(11 + cpu as u64);
            let ports = bench.pc.ports().ranges();
            bench.apic(cpu).mmio_write(0xf0, &0x1ffu32.to_le_bytes()).unwrap();
            for _ in 0..30_000 {
                let value = random.next().to_le_bytes();
                let (range, _) = &ports[random.below(ports.len())];
                let port = range.first + random.below(usize::from(range.count)) as u16;
                bench.pc.ports().write(port, &value[..1]);
                bench.pc.ports().read(port, &mut [0; 2]);
                bench.pc.mmio().write(0xfed0_0000 | random.next() & 0x1f8, &value);
                bench.io_apic(random.below(24) as u8, random.next() & 0x0100_0000_0000_80ff);
                let wire = bench.pc.pci_pin(value[0], value[1]).wire("random");
                wire.set_level(true);
                bench.pc.msi().signal(0xfee0_0000 | random.next() & 0xff004, value[3].into());
                bench.take(cpu);
                let _ = bench.apic(cpu).mmio_write(0xb0, &[0; 4]);
                let _ =
                    bench.apic(cpu).mmio_write(0x300, &(0xc_0020 | value[2] as u32).to_le_bytes());
                bench.sink.0.lock().unwrap().clear();
            }
        })
    });
    let vcpus: Vec<_> = vcpus.collect();
    while !vcpus.iter().all(|vcpu| vcpu.is_finished()) {
        bench.time.advance(100_000);
        bench.clock.fire_due();
        bench.pc.console_input(b"input");
        bench.pc.press_power_button();
        bench.requests.take();
    }
    vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
}
