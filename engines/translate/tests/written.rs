//! Code that is written through views is noticed: by its own program, and by another vCPU that runs it.

mod common;

use ambos_intercept::{Ledger, UnservedLog};
use ambos_memory::GuestRam;
use ambos_translate::{Options, Translator, Views};
use ambos_vcpu::{Attention, CpuState, Engine, MsrFault, Platform, PortWidth, Request, Stop};
use common::place::Place;
use common::world::{ACCESSED, DIRTY, FULL, PRESENT, PROGRAM, USER, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where functions are run and where they are written: the same page.
const RUN: u64 = 0x7f00_0000_0000;
const WRITTEN: u64 = 0x5555_5555_5000;
/// A function that returns a number, which is written.
const FUNCTION: [u8; 6] = [0xb8, 0, 0, 0, 0, 0xc3];

/// An address space in which the function can be run and written; returns its root.
fn space(rams: &[&GuestRam]) -> u64 {
    let mut world = World::new(rams);
    let root = world.root();
    let frame = world.frame();
    world.map(root, RUN, frame, PRESENT | USER | ACCESSED);
    world.map(root, WRITTEN, frame, FULL | ACCESSED | DIRTY);
    for ram in rams {
        Place { stored: Some(frame), ..Place::of(RUN, &FUNCTION) }.store(ram);
    }
    root
}

/// The state in which a program starts: with the function in RSI, its number in RBX, and a stack.
fn start(root: u64) -> CpuState {
    let mut state = common::world::start(root);
    (state.gpr[3], state.gpr[4], state.gpr[6]) = (WRITTEN + 1, common::DATA + 0x1000, RUN);
    state
}

#[test]
fn a_program_runs_what_it_has_written() {
    // inc dword ptr [rbx]; mov eax, [rbx], mov [rbx], eax; inc rax, mov [rbx], rax after a look at what is behind
    let writes: [&[u8]; 3] = [
        &[0xff, 0x03],
        &[0x8b, 0x03, 0xff, 0xc0, 0x89, 0x03],
        // mov rax, [rbx-1]; mov rcx, 0x100; add rax, rcx; movq xmm0, rax; movq [rbx-1], xmm0
        &[
            0x48, 0x8b, 0x43, 0xff, 0xb9, 0, 1, 0, 0, 0x48, 0x01, 0xc8, 0x66, 0x48, 0x0f, 0x6e,
            0xc0, 0x66, 0x0f, 0xd6, 0x43, 0xff,
        ],
    ];
    for write in writes {
        let (mut reference, reference_ram) = common::interpreter();
        let (mut engine, ram, _) = common::translator_with(Views::Always);
        let root = space(&[&reference_ram, &ram]);
        // mov ecx, 40; again: write; dec ecx; jnz again: the page is seen as writable before it is code.
        let mut program = Place::of(PROGRAM, &[0xbd, 40, 0, 0, 0]);
        let again = program.here();
        program.raw(write);
        program.raw(&[0xff, 0xcd]);
        program.jump_if(5, again);
        // mov ebp, 300; then: write; call rsi; add rdx, rax; dec ebp; jnz then; ud2
        program.raw(&[0xbd, 0x2c, 1, 0, 0]);
        let then = program.here();
        program.raw(write);
        program.raw(&[0xff, 0xd6, 0x48, 0x01, 0xc2, 0xff, 0xcd]);
        program.jump_if(5, then);
        program.raw(&[0x0f, 0x0b]);
        program.store(&reference_ram);
        program.store(&ram);
        let (want, _) = common::place::run(&mut reference, &reference_ram, &start(root));
        let (got, _) = common::place::run(&mut engine, &ram, &start(root));
        assert_eq!(want.gpr[2], 0x600 + (41..=340).sum::<u64>(), "{write:x?}");
        assert_eq!((got.rip, got.gpr), (want.rip, want.gpr), "{write:x?}");
        let statistics = engine.statistics();
        assert!(statistics.invalidated > 0 && statistics.looks > 0, "{statistics:?}");
    }
}

/// A vCPU as another one sees it.
struct Member {
    attention: Arc<Attention>,
    running: AtomicBool,
}

/// The machine around a vCPU that has a companion.
struct Shared {
    own: Arc<Member>,
    other: Arc<Member>,
    ledger: Ledger,
    unserved: UnservedLog,
}

impl Platform for Shared {
    fn port_read(&mut self, _: u16, _: PortWidth) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _: u16, _: PortWidth, _: u32) {}
    fn mmio_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    fn msr_read(&mut self, _: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }
    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn flush_others(&mut self) {
        self.own.running.store(false, Ordering::SeqCst);
        self.other.attention.raise(Request::FLUSH);
        while self.other.running.load(Ordering::SeqCst)
            && self.other.attention.pending().contains(Request::FLUSH)
        {
            std::thread::yield_now();
        }
        self.own.running.store(true, Ordering::SeqCst);
    }
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}

#[test]
fn another_vcpu_runs_what_was_written() {
    let _watchdog = common::watch();
    // cpuid; serialize
    for synchronizes in [&[0x0f, 0xa2][..], &[0x0f, 0x01, 0xe8]] {
        write_for_another(synchronizes);
    }
}

/// One vCPU writes a function again and again, which another one calls after an instruction that synchronizes.
fn write_for_another(synchronizes: &[u8]) {
    const LAST: u32 = 60;
    let ram = common::ram();
    let root = space(&[&ram]);
    // mov ebp, LAST; again: inc dword ptr [rbx]; wait: mov eax, [r12]; cmp eax, [rbx]; jne wait; dec ebp; jnz again; ud2
    let mut writer = Place::of(PROGRAM, &[0xbd]);
    writer.raw(&LAST.to_le_bytes());
    let again = writer.here();
    writer.raw(&[0xff, 0x03]);
    let wait = writer.here();
    writer.raw(&[0x41, 0x8b, 0x04, 0x24, 0x3b, 0x03]);
    writer.jump_if(5, wait);
    writer.raw(&[0xff, 0xcd]);
    writer.jump_if(5, again);
    writer.raw(&[0x0f, 0x0b]);
    // again: synchronize; call rsi; mov [r12], eax; cmp eax, LAST; jne again; ud2
    let mut reader = Place::of(PROGRAM + 0x2000, synchronizes);
    reader.raw(&[0xff, 0xd6, 0x41, 0x89, 0x04, 0x24, 0x3d]);
    reader.raw(&LAST.to_le_bytes());
    reader.jump_if(5, PROGRAM + 0x2000);
    reader.raw(&[0x0f, 0x0b]);
    writer.store(&ram);
    reader.store(&ram);
    let members = [(); 2].map(|()| {
        let attention = Arc::new(Attention::default());
        Arc::new(Member { attention, running: AtomicBool::new(true) })
    });
    let vcpu = |number: usize| {
        let (own, other) = (Arc::clone(&members[number]), Arc::clone(&members[1 - number]));
        let ram = Arc::clone(&ram);
        std::thread::spawn(move || {
            let options = Options { threshold: 2, views: Views::Always, ..Options::default() };
            let mut engine = Translator::new(ram, Arc::clone(&own.attention), options).unwrap();
            let mut state = start(root);
            (state.rip, state.gpr[12]) = (PROGRAM + 0x2000 * number as u64, common::DATA);
            // Stacks of their own, of the supervisor as well.
            state.gpr[4] += 0x1000 * number as u64;
            state.segments.tr.base += 0x200 * number as u64;
            engine.set_state(&state);
            let ledger = Ledger::default();
            let mut platform =
                Shared { own: Arc::clone(&own), other, ledger, unserved: UnservedLog::default() };
            let stop = engine.run(&mut platform, None);
            own.running.store(false, Ordering::SeqCst);
            assert_eq!(stop, Stop::Halted);
            (engine.state(), engine.statistics())
        })
    };
    use vm_memory::{Bytes, GuestAddress};
    ram.memory().write_obj(common::services::STACK - 0x800, GuestAddress(0xb204)).unwrap();
    let [writer, reader] = [0, 1].map(vcpu).map(|vcpu| vcpu.join().unwrap());
    assert!(writer.1.looks > 0 && reader.1.invalidated > 0, "{writer:?} {reader:?}");
    assert_eq!(reader.0.gpr[0], u64::from(LAST), "{reader:?}");
}
