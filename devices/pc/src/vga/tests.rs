use super::*;
use crate::testing::Random;
use ambos_device::{DeviceTable, MmioBus, PortBus};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Bench {
    vga: Arc<Mutex<Vga>>,
    ram: Arc<GuestRam>,
    ports: Arc<PortBus>,
    mmio: Arc<MmioBus>,
    flushes: Arc<AtomicUsize>,
}

impl Bench {
    fn new(mode: VideoMode) -> Self {
        let ram = Arc::new(GuestRam::with_display(1 << 20, map::DISPLAY_MEMORY_SIZE).unwrap());
        let (ports, mmio) = (Arc::new(PortBus::default()), Arc::new(MmioBus::default()));
        let row = DeviceTable::default().add("VGA");
        let flushes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&flushes);
        let vga = Vga::new(VgaParts {
            ram: Arc::clone(&ram),
            mapper: BarMapper::new("VGA", row, Arc::downgrade(&ports), Arc::downgrade(&mmio)),
            mode,
            flush: Box::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            }),
        });
        Self { vga: vga.unwrap(), ram, ports, mmio, flushes }
    }

    fn out(&self, port: u16, value: u8) {
        PortDevice::write(&mut *lock(&self.vga), port - 0x3b0, &[value]).unwrap();
    }

    fn inb(&self, port: u16) -> u8 {
        let mut data = [0];
        PortDevice::read(&mut *lock(&self.vga), port - 0x3b0, &mut data).unwrap();
        data[0]
    }

    /// Writes an indexed register.
    fn set(&self, port: u16, index: u8, value: u8) {
        PortDevice::write(&mut *lock(&self.vga), port - 0x3b0, &[index, value]).unwrap();
    }

    fn poke(&self, address: u64, data: &[u8]) {
        MmioDevice::write(&mut *lock(&self.vga), address - 0xa_0000, data).unwrap();
    }

    fn peek(&self, address: u64) -> u8 {
        let mut data = [0];
        MmioDevice::read(&mut *lock(&self.vga), address - 0xa_0000, &mut data).unwrap();
        data[0]
    }

    fn screen(&self) -> Screen {
        lock(&self.vga).screen()
    }

    fn dispi(&self, index: u16, value: u16) {
        for (port, value) in [(0, index), (1, value)] {
            let data = value.to_le_bytes();
            PortDevice::write(&mut *lock(&self.vga), Vga::DISPI_PORTS + port, &data).unwrap();
        }
    }

    /// Four planes, sixteen colours, 640 × 480 as far as it matters.
    fn planar(&self) {
        self.set(0x3c4, 4, 6);
        self.set(0x3ce, 6, 5);
        self.set(0x3ce, 5, 0);
        self.set(0x3d4, 0x11, 0x0c);
        for (index, value) in [(1, 79), (7, 2), (9, 0x40), (0x12, 0xdf), (0x13, 40), (0x17, 0xe3)] {
            self.set(0x3d4, index, value);
        }
    }
}

fn dot(screen: &Screen, x: usize, y: usize) -> [u8; 3] {
    screen.rgb[(y * screen.width + x) * 3..][..3].try_into().unwrap()
}

#[test]
fn characters_are_shown() {
    let bench = Bench::new(VideoMode::Text);
    let screen = bench.screen();
    assert_eq!((screen.width, screen.height), (720, 400));
    let blank = vec![" ".repeat(80); 25];
    assert_eq!(screen.text, Some(blank));
    bench.poke(0xb_8000 + 162, b"H\x1fi\x07");
    assert_eq!(
        (bench.peek(0xb_80a2), bench.peek(0xb_80a3), bench.peek(0xb_80a4)),
        (b'H', 0x1f, b'i')
    );
    assert_eq!((bench.peek(0xa_0000), bench.peek(0xb_0000)), (0xff, 0xff));
    let screen = bench.screen();
    assert!(screen.text.as_ref().unwrap()[1].starts_with(" Hi "));
    // White on blue, and grey on black.
    let colours = |x: usize| {
        let dots = (0..144).map(|index| dot(&screen, x + index % 9, 16 + index / 9));
        dots.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(colours(9), [[0, 0, 0xaa], [0xff; 3]]);
    assert_eq!(colours(18), [[0; 3], [0xaa; 3]]);
    // The cursor stands at the beginning, below the first character.
    assert_eq!(
        (dot(&screen, 0, 12), dot(&screen, 0, 13), dot(&screen, 9, 13)),
        ([0; 3], [0xaa; 3], [0; 3])
    );
    bench.set(0x3d4, 0x0a, 0x20);
    assert_eq!(dot(&bench.screen(), 0, 13), [0; 3]);
    // Scrolling moves the start.
    bench.set(0x3d4, 0x0d, 80);
    assert!(bench.screen().text.unwrap()[0].starts_with(" Hi "));
    bench.set(0x3c4, 1, 0x20);
    let dark = bench.screen();
    assert!(dark.text.is_none() && dark.rgb.iter().all(|value| *value == 0));
}

#[test]
fn a_font_of_the_guests_is_used() {
    let bench = Bench::new(VideoMode::Text);
    bench.poke(0xb_8000, b"A");
    // As kernels load fonts: plane 2 alone, without odd and even addresses.
    for (port, index, value) in
        [(0x3c4, 2, 4), (0x3c4, 4, 7), (0x3ce, 4, 2), (0x3ce, 5, 0), (0x3ce, 6, 4)]
    {
        bench.set(port, index, value);
    }
    let glyph = 0xa_0000 + u64::from(b'A') * 32;
    assert!((0..16).any(|line| bench.peek(glyph + line) != 0));
    bench.poke(glyph, &[0x81; 16]);
    for (port, index, value) in
        [(0x3c4, 2, 3), (0x3c4, 4, 2), (0x3ce, 4, 0), (0x3ce, 5, 0x10), (0x3ce, 6, 0xe)]
    {
        bench.set(port, index, value);
    }
    let screen = bench.screen();
    let line: Vec<bool> = (0..9).map(|x| dot(&screen, x, 3) != [0; 3]).collect();
    assert_eq!(line, [true, false, false, false, false, false, false, true, false]);
    assert!(screen.text.unwrap()[0].starts_with('A'));
}

#[test]
fn planes_are_written_in_all_modes() {
    let bench = Bench::new(VideoMode::Text);
    bench.planar();
    bench.set(0x3c4, 2, 0xf);
    let all = |address: u64| -> [u8; 4] {
        std::array::from_fn(|plane| {
            bench.set(0x3ce, 4, plane as u8);
            bench.peek(address)
        })
    };
    bench.set(0x3ce, 3, 1);
    bench.poke(0xa_0000, &[0x03]);
    assert_eq!(all(0xa_0000), [0x81; 4]);
    bench.set(0x3ce, 3, 0);
    // Set and reset, restricted to some bits.
    bench.set(0x3ce, 0, 5);
    bench.set(0x3ce, 1, 0xf);
    bench.set(0x3ce, 8, 0xf0);
    bench.peek(0xa_0000);
    bench.poke(0xa_0000, &[0]);
    assert_eq!(all(0xa_0000), [0xf1, 0x01, 0xf1, 0x01]);
    // Copies of latches.
    bench.set(0x3ce, 5, 1);
    bench.peek(0xa_0000);
    bench.poke(0xa_0010, &[0x55]);
    assert_eq!(all(0xa_0010), [0xf1, 0x01, 0xf1, 0x01]);
    // A colour, in exclusive or.
    bench.set(0x3ce, 5, 2);
    bench.set(0x3ce, 8, 0xff);
    bench.set(0x3ce, 3, 0x18);
    bench.peek(0xa_0000);
    bench.poke(0xa_0000, &[1]);
    assert_eq!(all(0xa_0000), [0x0e, 0x01, 0xf1, 0x01]);
    // The processor's byte as a mask.
    bench.set(0x3ce, 5, 3);
    bench.set(0x3ce, 3, 0);
    bench.peek(0xa_0000);
    bench.poke(0xa_0000, &[0x0f]);
    assert_eq!(all(0xa_0000), [0x0f, 0x00, 0xff, 0x00]);
    // Comparison with a colour.
    bench.set(0x3ce, 5, 8);
    bench.set(0x3ce, 2, 4);
    bench.set(0x3ce, 7, 0xf);
    assert_eq!(bench.peek(0xa_0000), 0xf0);
    let screen = bench.screen();
    assert_eq!((screen.width, screen.height), (640, 480));
    assert_eq!((dot(&screen, 0, 0), dot(&screen, 7, 0)), ([0xaa, 0, 0], [0xaa, 0, 0xaa]));
}

#[test]
fn bytes_are_colours_in_chained_planes() {
    let bench = Bench::new(VideoMode::Text);
    bench.planar();
    bench.set(0x3c4, 4, 0xe);
    bench.set(0x3c4, 2, 0xf);
    bench.set(0x3ce, 5, 0x40);
    bench.set(0x3d4, 7, 0x1f);
    bench.set(0x3d4, 0x12, 0x8f);
    bench.set(0x3d4, 9, 0x41);
    for value in [9, 63, 0, 21] {
        bench.out(if value == 9 { 0x3c8 } else { 0x3c9 }, value);
    }
    bench.poke(0xa_0000 + 320 * 2 + 4, &[0, 9]);
    let screen = bench.screen();
    assert_eq!((screen.width, screen.height), (320, 200));
    assert_eq!((dot(&screen, 5, 2), dot(&screen, 4, 2)), ([0xff, 0, 0x55], [0; 3]));
    for (port, value) in [(0x3c7, 9), (0x3c6, 0xff)] {
        bench.out(port, value);
    }
    assert_eq!([0; 3].map(|_| bench.inb(0x3c9)), [63, 0, 21]);
}

#[test]
fn a_linear_mode_shows_memory_that_is_like_ram() {
    let bench = Bench::new(VideoMode::Text);
    for (index, value) in [(4, 0), (3, 32), (1, 800), (2, 600), (4, 0x41)] {
        bench.dispi(index, value);
    }
    let (page, _) = bench.ram.host_page(map::DISPLAY_MEMORY + 800 * 4).unwrap();
    assert_eq!(page, bench.ram.host_page(map::DISPLAY_MEMORY).unwrap().0);
    bench.ram.display().unwrap().store(800 * 4 + 8, [1, 2, 3, 0]);
    let screen = bench.screen();
    assert_eq!((screen.width, screen.height, screen.text.is_none()), (800, 600, true));
    assert_eq!((dot(&screen, 2, 1), dot(&screen, 1, 1)), ([3, 2, 1], [0; 3]));
    // The window shows a bank of it.
    assert_eq!(bench.peek(0xa_0000 + 800 * 4 + 9), 2);
    bench.dispi(5, 1);
    bench.poke(0xa_0004, &[7, 8, 9]);
    assert_eq!(bench.ram.display().unwrap().load(0x1_0004), [7, 8, 9, 0]);
    // The page of registers does what the ports do.
    let mut data = [0; 2];
    bench.mmio.read(map::DISPLAY_REGISTERS + 0x502, &mut data);
    assert_eq!(u16::from_le_bytes(data), 800);
    bench.mmio.write(map::DISPLAY_REGISTERS + 0x508, &[0, 0]);
    assert_eq!(bench.screen().width, 720);
    bench.mmio.read(map::DISPLAY_REGISTERS + 0x41a, &mut data[..1]);
    assert_eq!(data[0] & !9, 0);
}

#[test]
fn high_colour_is_widened() {
    let bench = Bench::new(VideoMode::Text);
    for (index, value) in [(3, 16), (1, 640), (2, 480), (4, 0x41)] {
        bench.dispi(index, value);
    }
    bench.ram.display().unwrap().store(0, [0x1f, 0xf8, 0xe0, 0x07]);
    let screen = bench.screen();
    assert_eq!((dot(&screen, 0, 0), dot(&screen, 1, 0)), ([0xff, 0, 0xff], [0, 0xff, 0]));
    for (index, value) in [(4, 0), (3, 15), (4, 0xc1)] {
        bench.dispi(index, value);
    }
    bench.ram.display().unwrap().store(0, [0xe0, 0x03, 0, 0x7c]);
    let screen = bench.screen();
    assert_eq!((dot(&screen, 0, 0), dot(&screen, 1, 0)), ([0, 0xff, 0], [0xff, 0, 0]));
}

#[test]
fn memory_moves_with_its_register() {
    let bench = Bench::new(VideoMode::Linear { width: 1024, height: 768 });
    let screen = bench.screen();
    assert_eq!((screen.width, screen.height), (1024, 768));
    assert!(screen.rgb.iter().all(|value| *value == 0));
    let write = |offset, data: &[u8]| lock(&bench.vga).config_write(offset, data);
    write(0x10, &0xe100_0000u32.to_le_bytes());
    assert!(bench.ram.host_page(0xe100_0000).is_some());
    assert!(bench.ram.host_page(map::DISPLAY_MEMORY).is_none());
    assert_eq!(bench.flushes.load(Ordering::SeqCst), 1);
    write(4, &[1]);
    assert!(bench.ram.host_page(0xe100_0000).is_none());
    assert_eq!(bench.flushes.load(Ordering::SeqCst), 2);
    write(4, &[3]);
    assert_eq!(bench.flushes.load(Ordering::SeqCst), 2);
    // A new adapter, as after a reset, begins anew.
    bench.ram.display().unwrap().store(0x10_0000, [1; 4]);
    let parts = VgaParts {
        ram: Arc::clone(&bench.ram),
        mapper: BarMapper::new(
            "VGA",
            DeviceTable::default().add("VGA"),
            Arc::downgrade(&bench.ports),
            Arc::downgrade(&bench.mmio),
        ),
        mode: VideoMode::Text,
        flush: Box::new(|| {}),
    };
    let vga = Vga::new(parts).unwrap();
    assert_eq!(bench.ram.display().unwrap().load(0x10_0000), [0; 4]);
    assert!(lock(&vga).screen().text.is_some());
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let bench = Bench::new(VideoMode::Text);
    let mut random = Random::new(5);
    for round in 0..50_000 {
        let value = random.next().to_le_bytes();
        let width = random.below(8) + 1;
        match random.below(6) {
            0 | 1 => {
                let port = random.below(0x30) as u16;
                let _ = PortDevice::write(&mut *lock(&bench.vga), port, &value[..width.min(4)]);
                let _ = PortDevice::read(&mut *lock(&bench.vga), port, &mut [0; 4][..width.min(4)]);
            }
            2 => bench.dispi(
                random.below(12) as u16,
                u16::from_le_bytes([value[0], value[1] & value[2]]),
            ),
            3 => {
                let offset = random.next() & 0x1_ffff;
                MmioDevice::write(&mut *lock(&bench.vga), offset, &value[..width]).unwrap();
                MmioDevice::read(&mut *lock(&bench.vga), offset, &mut [0; 8][..width]).unwrap();
            }
            4 => {
                let offset = Vga::PAGE + random.next() % 0x1010;
                let _ = MmioDevice::write(&mut *lock(&bench.vga), offset, &value[..width]);
                let _ = MmioDevice::read(&mut *lock(&bench.vga), offset, &mut [0; 8][..width]);
                let linear = Vga::LINEAR + random.next() % (map::DISPLAY_MEMORY_SIZE + 16);
                MmioDevice::write(&mut *lock(&bench.vga), linear, &value[..width]).unwrap();
            }
            _ if round % 64 == 0 => {
                let screen = bench.screen();
                assert_eq!(screen.rgb.len(), screen.width * screen.height * 3);
            }
            _ => lock(&bench.vga).config_write(random.below(64) as u16 & !3, &value[..4]),
        }
    }
}
