use super::testing::Cpus;
use super::*;
use crate::PicPair;
use ambos_device::PortDevice;
use ambos_vcpu::Request;
use ambos_wire::{Inputs, MsiTarget};

fn fixed(fabric: &InterruptFabric, cpu: u32, vector: u8) {
    fabric.deliver(Message {
        destination: Destination::Physical(cpu),
        mode: DeliveryMode::Fixed,
        vector,
        level_triggered: false,
    });
}

#[test]
fn interrupts_nest_by_class() {
    let cpus = Cpus::new(1);
    fixed(&cpus.fabric, 0, 0x51);
    assert_eq!(cpus.take(0), Some(0x51));
    fixed(&cpus.fabric, 0, 0x5f);
    assert!(!cpus.asked(0));
    fixed(&cpus.fabric, 0, 0x61);
    assert_eq!(cpus.take(0), Some(0x61));
    assert_eq!(cpus.read(0, 0xa0), 0x60);
    cpus.end(0);
    assert!(!cpus.asked(0));
    cpus.end(0);
    assert_eq!(cpus.take(0), Some(0x5f));
    cpus.end(0);
    assert_eq!(cpus.read(0, 0xa0), 0);
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let cpus = Cpus::new(1);
    cpus.apic(0).set_task_priority(6);
    fixed(&cpus.fabric, 0, 0x6f);
    assert!(!cpus.asked(0));
    cpus.apic(0).set_task_priority(5);
    assert!(cpus.asked(0));
    cpus.write(0, 0x80, 0x60);
    assert!(!cpus.asked(0));
    assert_eq!(cpus.apic(0).task_priority(), 6);
    cpus.write(0, 0x80, 0);
    assert_eq!(cpus.take(0), Some(0x6f));
}

#[test]
fn one_shot_timer() {
    let cpus = Cpus::new(1);
    cpus.write(0, 0x3e0, 0xb);
    cpus.write(0, 0x320, 0x40);
    cpus.write(0, 0x380, 1000);
    cpus.run(400);
    assert_eq!(cpus.read(0, 0x390), 600);
    cpus.run(599);
    assert_eq!(cpus.take(0), None);
    cpus.run(1);
    assert_eq!(cpus.take(0), Some(0x40));
    assert_eq!(cpus.read(0, 0x390), 0);
    cpus.end(0);
    cpus.run(100_000);
    assert_eq!(cpus.take(0), None);
}

#[test]
fn periodic_timer_coalesces_and_stays_in_phase() {
    let cpus = Cpus::new(1);
    cpus.write(0, 0x3e0, 3);
    cpus.write(0, 0x320, 0x2_0040);
    cpus.write(0, 0x380, 62_500);
    let mut ticks = 0;
    for _ in 0..1000 {
        cpus.run(100_000);
        if cpus.take(0).is_some() {
            ticks += 1;
            cpus.end(0);
        }
    }
    assert_eq!(ticks, 100);
    cpus.time.advance(10_500_000);
    cpus.clock.fire_due();
    assert_eq!(cpus.take(0), Some(0x40));
    cpus.end(0);
    cpus.run(499_999);
    assert_eq!(cpus.take(0), None);
    cpus.run(1);
    assert_eq!(cpus.take(0), Some(0x40));
}

#[test]
fn tsc_deadline_timer() {
    let cpus = Cpus::new(1);
    let apic = cpus.apic(0);
    apic.msr_write(0x6e0, 5).unwrap();
    assert_eq!(apic.msr_read(0x6e0), Ok(0));
    cpus.write(0, 0x320, 0x4_0044);
    apic.msr_write(0x6e0, 3000).unwrap();
    assert_eq!(apic.msr_read(0x6e0), Ok(3000));
    cpus.run(999);
    assert_eq!(cpus.take(0), None);
    cpus.run(1);
    assert_eq!(cpus.take(0), Some(0x44));
    assert_eq!(apic.msr_read(0x6e0), Ok(0));
    cpus.end(0);
    apic.msr_write(0x6e0, 1).unwrap();
    assert_eq!(cpus.take(0), Some(0x44));
    cpus.end(0);
    apic.msr_write(0x6e0, 30_000).unwrap();
    apic.msr_write(0x6e0, 0).unwrap();
    cpus.run(100_000);
    assert_eq!(cpus.take(0), None);
}

#[test]
fn masked_timers_do_not_interrupt() {
    let cpus = Cpus::new(1);
    cpus.write(0, 0x320, 0x1_0040);
    cpus.write(0, 0x380, 10);
    cpus.run(1000);
    assert_eq!(cpus.take(0), None);
}

#[test]
fn inter_processor_interrupts() {
    let cpus = Cpus::new(4);
    let sent = |from: usize, high: u32, low: u32| {
        cpus.write(from, 0x310, high);
        cpus.write(from, 0x300, low);
        let got: Vec<bool> = (0..4)
            .map(|cpu| {
                let vector = cpus.take(cpu);
                vector.inspect(|_| cpus.end(cpu)).is_some()
            })
            .collect();
        got
    };
    assert_eq!(sent(0, 2 << 24, 0x40), [false, false, true, false]);
    assert_eq!(sent(1, 0, 0x4_0040), [false, true, false, false]);
    assert_eq!(sent(1, 0, 0x8_0040), [true; 4]);
    assert_eq!(sent(1, 0, 0xc_0040), [true, false, true, true]);
    assert_eq!(sent(1, 0xff << 24, 0x40), [true; 4]);
    assert_eq!(sent(1, 9 << 24, 0x40), [false; 4]);
}

#[test]
fn logical_destinations() {
    let cpus = Cpus::new(4);
    for cpu in 0..4 {
        cpus.write(cpu, 0xd0, 1 << (24 + cpu));
    }
    let logical = |destination| {
        cpus.fabric.deliver(Message {
            destination: Destination::Logical(destination),
            mode: DeliveryMode::Fixed,
            vector: 0x70,
            level_triggered: false,
        });
        let got: Vec<bool> =
            (0..4).map(|cpu| cpus.take(cpu).inspect(|_| cpus.end(cpu)).is_some()).collect();
        got
    };
    assert_eq!(logical(0b0101), [true, false, true, false]);
    assert_eq!(logical(0xff), [true; 4]);
    for cpu in 0..4 {
        cpus.write(cpu, 0xe0, 0x0fff_ffff);
        cpus.write(cpu, 0xd0, ((cpu as u32 / 2) << 4 | 1 << (cpu % 2)) << 24);
    }
    assert_eq!(logical(0x13), [false, false, true, true]);
    assert_eq!(logical(0xf1), [true, false, true, false]);
    for cpu in 0..4 {
        cpus.apic(cpu).msr_write(0x1b, cpus.apic(cpu).msr_read(0x1b).unwrap() | 0xc00).unwrap();
        assert_eq!(cpus.apic(cpu).msr_read(0x80d), Ok(1 << cpu));
        assert_eq!(cpus.apic(cpu).mmio_page(), None);
    }
    cpus.fabric.deliver(Message {
        destination: Destination::Logical(0b1010),
        mode: DeliveryMode::LowestPriority,
        vector: 0x70,
        level_triggered: false,
    });
    assert_eq!([0, 1, 2, 3].map(|cpu| cpus.asked(cpu)), [false, true, false, false]);
}

#[test]
fn x2apic_registers() {
    let cpus = Cpus::new(2);
    let apic = cpus.apic(0);
    assert_eq!(apic.msr_read(0x802), Err(MsrFault));
    apic.msr_write(0x1b, 0xfee0_0d00).unwrap();
    assert_eq!(apic.msr_read(0x802), Ok(0));
    assert_eq!(apic.msr_read(0x803), Ok(0x5_0014));
    for absent in [0x80b, 0x809, 0x80c, 0x80e, 0x831, 0x83f, 0x8ff, 0x800] {
        assert_eq!(apic.msr_read(absent), Err(MsrFault), "{absent:#x}");
    }
    for (index, value) in [(0x80b, 1), (0x828, 1), (0x802, 0), (0x808, 0x100), (0x830, 1 << 20)] {
        assert_eq!(apic.msr_write(index, value), Err(MsrFault), "{index:#x}");
    }
    apic.msr_write(0x830, 1 << 32 | 0x55).unwrap();
    assert_eq!(apic.msr_read(0x830), Ok(1 << 32 | 0x55));
    assert_eq!(cpus.take(1), Some(0x55));
    apic.msr_write(0x83f, 0x66).unwrap();
    assert_eq!(cpus.take(0), Some(0x66));
    apic.msr_write(0x80b, 0).unwrap();
    apic.msr_write(0x830, 0xffff_ffff << 32 | 0x77).unwrap();
    assert_eq!(cpus.take(0), Some(0x77));
    assert!(apic.mmio_read(0x20, &mut [0; 4]).is_err());
}

#[test]
fn mode_changes() {
    let cpus = Cpus::new(1);
    let apic = cpus.apic(0);
    assert_eq!(apic.msr_read(0x1b), Ok(0xfee0_0900));
    assert_eq!(apic.msr_write(0x1b, 0xfee0_0500), Err(MsrFault));
    assert_eq!(apic.msr_write(0x1b, 0xfee0_0901), Err(MsrFault));
    apic.msr_write(0x1b, 0xfee0_0d00).unwrap();
    assert_eq!(apic.msr_write(0x1b, 0xfee0_0900), Err(MsrFault));
    apic.msr_write(0x1b, 0xfee0_0100).unwrap();
    assert_eq!(apic.msr_write(0x1b, 0xfee0_0d00), Err(MsrFault));
    apic.msr_write(0x1b, 0xfed0_0900).unwrap();
    assert_eq!(apic.mmio_page(), Some(0xfed0_0000));
}

#[test]
fn init_and_start_up() {
    let cpus = Cpus::new(2);
    fixed(&cpus.fabric, 1, 0x40);
    cpus.write(0, 0x310, 1 << 24);
    cpus.write(0, 0x300, 0x0000_c500);
    assert_eq!(cpus.attention[1].pending(), Request::INIT);
    cpus.attention[1].await_start_up();
    assert!(!cpus.asked(1));
    assert_eq!(cpus.read(1, 0xf0), 0xff);
    cpus.write(0, 0x300, 0x0000_8500);
    assert_eq!(cpus.attention[1].take(Request::INIT), Request::empty());
    cpus.write(0, 0x300, 0x0000_069f);
    assert_eq!(cpus.attention[1].take_start_up(), Some(0x9f));
    // The second message of the customary two.
    cpus.write(0, 0x300, 0x0000_069f);
    assert!(cpus.attention[1].pending().is_empty());
    cpus.write(0, 0x300, 0x0000_c500);
    assert_eq!(cpus.attention[1].take(Request::all()), Request::INIT);
    cpus.write(0, 0x300, 0x0000_0400);
    assert_eq!(cpus.attention[1].take(Request::NMI), Request::NMI);
    assert!(cpus.attention[0].pending().is_empty());
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let cpus = Cpus::new(1);
    cpus.write(0, 0x370, 0xfe);
    cpus.write(0, 0x300, 0x4_0005);
    assert_eq!(cpus.take(0), Some(0xfe));
    cpus.end(0);
    fixed(&cpus.fabric, 0, 3);
    assert_eq!(cpus.take(0), Some(0xfe));
    cpus.end(0);
    assert!(cpus.apic(0).mmio_read(0x3f0, &mut [0; 4]).is_err());
    assert!(cpus.apic(0).mmio_write(0xff0, &[0; 4]).is_err());
    assert_eq!(cpus.read(0, 0x280), 0);
    cpus.write(0, 0x280, 0);
    assert_eq!(cpus.read(0, 0x280), 0xe0);
}

#[test]
fn software_disable_masks_everything() {
    let cpus = Cpus::new(1);
    cpus.write(0, 0x320, 0x40);
    cpus.write(0, 0xf0, 0xff);
    assert_eq!(cpus.read(0, 0x320), 0x1_0040);
    cpus.write(0, 0x320, 0x40);
    assert_eq!(cpus.read(0, 0x320), 0x1_0040);
    fixed(&cpus.fabric, 0, 0x40);
    cpus.write(0, 0xf0, 0x1ff);
    assert_eq!(cpus.take(0), None);
}

#[test]
fn messages_of_devices() {
    let cpus = Cpus::new(2);
    cpus.fabric.signal(0xfee0_1000, 0x4041);
    assert_eq!(cpus.take(1), Some(0x41));
    cpus.fabric.signal(0xfec0_1000, 0x42);
    cpus.fabric.signal(0xfee0_1000, 0x8042);
    cpus.fabric.signal(0xfee0_1000, 0x0342);
    assert_eq!(cpus.take(1), None);
    cpus.fabric.signal(0xfeef_f000, 0x0070);
    assert_eq!(cpus.take(0), Some(0x70));
    assert_eq!(cpus.take(1), Some(0x70));
}

#[test]
fn the_8259s_come_through_lint0() {
    let cpus = Cpus::new(2);
    let pic = PicPair::new(cpus.fabric.lint0().wire("8259 INTR"), 0);
    let pic = Arc::new(Mutex::new(pic));
    cpus.fabric.connect_pic(&pic);
    for (offset, value) in [(0, 0x11), (1, 0x30), (1, 4), (1, 1), (1, 0)] {
        pic.lock().unwrap().write(offset, &[value]).unwrap();
    }
    let tick = || {
        pic.lock().unwrap().set_input(0, true);
        pic.lock().unwrap().set_input(0, false);
    };
    tick();
    assert!(!cpus.asked(1));
    cpus.apic(0).set_task_priority(15);
    assert_eq!(cpus.take(0), Some(0x30));
    assert!(!cpus.asked(0));
    pic.lock().unwrap().write(0, &[0x20]).unwrap();
    cpus.write(0, 0x350, 0x1_0700);
    tick();
    assert!(!cpus.asked(0));
    cpus.apic(0).msr_write(0x1b, 0xfee0_0100).unwrap();
    assert_eq!(cpus.take(0), Some(0x30));
}

#[test]
fn a_message_can_ask_for_the_8259s() {
    let cpus = Cpus::new(1);
    let pic = Arc::new(Mutex::new(PicPair::new(ambos_wire::Wire::unconnected("INTR"), 0)));
    cpus.fabric.connect_pic(&pic);
    cpus.fabric.signal(0xfee0_0000, 0x0700);
    assert!(cpus.asked(0));
    assert_eq!(cpus.apic(0).acknowledge_interrupt(), None);
    assert!(!cpus.asked(0));
}

#[test]
fn threads_interrupt_each_other_without_deadlock() {
    let cpus = Arc::new(Cpus::new(4));
    let threads = (0..4).map(|cpu| {
        let cpus = Arc::clone(&cpus);
        std::thread::spawn(move || {
            for round in 0..20_000u32 {
                cpus.write(cpu, 0x300, 0xc_0000 | (0x40 + (round & 0x7f)));
                if cpus.asked(cpu) && cpus.apic(cpu).acknowledge_interrupt().is_some() {
                    cpus.end(cpu);
                }
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    for cpu in 0..4 {
        while cpus.take(cpu).is_some() {
            cpus.end(cpu);
        }
        assert_eq!(cpus.read(cpu, 0xa0), 0);
    }
}

#[test]
fn any_sequence_of_accesses_is_survived() {
    let cpus = Cpus::new(3);
    let mut random = crate::testing::Random::new(1);
    for _ in 0..300_000 {
        let apic = cpus.apic(random.below(3));
        let (offset, value) = (random.next() & 0x3fc, random.next());
        let width = 1 + random.below(8);
        match random.below(8) {
            0 => drop(apic.mmio_read(offset, &mut vec![0; width])),
            1 => drop(apic.mmio_write(offset & !0xf, &(value as u32).to_le_bytes())),
            2 => drop(apic.mmio_write(offset, &value.to_le_bytes()[..width])),
            3 => drop(apic.msr_write(0x800 + (offset >> 4) as u32, value >> random.below(64))),
            4 => drop(apic.msr_read(0x800 + (value & 0xff) as u32)),
            5 => drop(apic.msr_write(0x6e0, value >> random.below(64))),
            6 => drop(apic.acknowledge_interrupt()),
            _ => {
                apic.set_task_priority(value as u8 & 0xf);
                cpus.fabric.signal(0xfee0_0000 | value & 0xf_fffc, (value >> 32) as u32);
                cpus.time.advance(random.next() >> random.below(64) >> 20);
                cpus.clock.fire_due();
            }
        }
        if random.below(1000) == 0 {
            let _ = apic.msr_write(0x1b, 0xfee0_0000 | random.next() & 0xf00);
        }
    }
}

/// A flag as guest memory has it; the guest ends interrupts by clearing it.
#[derive(Clone, Default)]
struct Invitation(Arc<std::sync::atomic::AtomicBool>);

impl LazyEnd for Invitation {
    fn invite(&self) -> bool {
        self.0.store(true, Ordering::SeqCst);
        true
    }

    fn revoke(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

#[test]
fn interrupts_end_lazily() {
    let cpus = Cpus::new(1);
    let flag = Invitation::default();
    cpus.apic(0).set_lazy_end(Some(Box::new(flag.clone())));
    let invited = || flag.0.load(Ordering::SeqCst);
    fixed(&cpus.fabric, 0, 0x51);
    assert_eq!(cpus.take(0), Some(0x51));
    // The guest ends it; nothing else notices before the next one.
    assert!(flag.revoke());
    fixed(&cpus.fabric, 0, 0x41);
    assert_eq!(cpus.take(0), Some(0x41));
    // One of a lower class comes while the guest still serves: it must end it in the open.
    assert!(invited());
    fixed(&cpus.fabric, 0, 0x31);
    assert!(cpus.asked(0));
    assert_eq!(cpus.apic(0).acknowledge_interrupt(), None);
    assert!(!invited() && !cpus.asked(0));
    cpus.end(0);
    assert_eq!(cpus.take(0), Some(0x31));
    // A look at the registers settles it, too.
    assert!(flag.revoke());
    assert_eq!(cpus.read(0, 0xa0), 0);
    // While another one waits, and for level-triggered ones, there is no invitation.
    fixed(&cpus.fabric, 0, 0x51);
    fixed(&cpus.fabric, 0, 0x52);
    assert_eq!(cpus.take(0), Some(0x52));
    assert!(!invited());
    cpus.end(0);
    assert_eq!(cpus.take(0), Some(0x51));
    assert!(invited());
    cpus.end(0);
    assert!(!invited());
    assert_eq!(cpus.read(0, 0xa0), 0);
    cpus.fabric.deliver(Message {
        destination: Destination::Physical(0),
        mode: DeliveryMode::Fixed,
        vector: 0x51,
        level_triggered: true,
    });
    assert_eq!(cpus.take(0), Some(0x51));
    assert!(!invited());
}
