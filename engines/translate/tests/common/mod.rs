//! A bare guest in 64-bit mode: identity-mapped memory, an interrupt table whose handlers halt.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod instructions;
pub(crate) mod place;
pub(crate) mod services;
pub(crate) mod users;
pub(crate) mod world;
pub(crate) mod x87;

use ambos_intercept::{Ledger, UnservedLog};
use ambos_memory::GuestRam;
use ambos_translate::Views;
use ambos_vcpu::{Attention, CpuState, Engine, MsrFault, Platform, PortWidth, Segment, Stop};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

pub(crate) const CODE: u64 = 0x1_0000;
pub(crate) const DATA: u64 = 0x2_0000;
pub(crate) const DATA_SIZE: usize = 0x4000;
pub(crate) const ABSENT: u64 = 0x2_8000;
pub(crate) const STACK: u64 = 0x3_0000;
const HANDLER: u64 = 0x9000;

/// The machine around the vCPU: nothing.
#[derive(Default)]
pub(crate) struct Nothing {
    ledger: Ledger,
    unserved: UnservedLog,
    /// Interrupts to deliver.
    pub(crate) interrupts: Vec<u8>,
}

impl Platform for Nothing {
    fn port_read(&mut self, _: u16, _: PortWidth) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _: u16, _: PortWidth, _: u32) {}
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        data.fill(gpa as u8);
    }
    fn mmio_write(&mut self, _: u64, _: &[u8]) {}
    fn msr_read(&mut self, _: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }
    fn msr_write(&mut self, _: u32, _: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }
    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [7; 4]
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.interrupts.pop()
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn flush_others(&mut self) {}
    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}

/// Ends a program: unless `decrement` makes a register zero it goes back to its start, then it halts.
pub(crate) fn close_loop(code: &mut Vec<u8>, decrement: &[u8]) {
    code.extend(decrement);
    // jnz start; hlt
    code.extend([0x0f, 0x85]);
    let back = -(code.len() as i32 + 4);
    code.extend(back.to_le_bytes());
    code.push(0xf4);
}

/// RAM with page tables, descriptor tables and handlers.
pub(crate) fn ram() -> Arc<GuestRam> {
    let ram = GuestRam::new(16 << 20).unwrap();
    let memory = ram.memory();
    let write = |value: u64, at: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
    write(0x2007, 0x1000);
    write(0x3007, 0x2000);
    write(0x4007, 0x3000);
    for page in 0..512 {
        if page << 12 != ABSENT {
            write(page << 12 | 7, 0x4000 + page * 8);
        }
    }
    // A 64-bit code segment and a data segment.
    write(0x00af_9b00_0000_ffff, 0xa008);
    write(0x00cf_9300_0000_ffff, 0xa010);
    for vector in 0..256 {
        write(HANDLER & 0xffff | 8 << 16 | 0x8e00 << 32, 0x8000 + vector * 16);
        write(0, 0x8008 + vector * 16);
    }
    memory.write_slice(&[0xf4], GuestAddress(HANDLER)).unwrap();
    Arc::new(ram)
}

/// The state in which the guest starts at [`CODE`], in kernel or user mode.
pub(crate) fn state() -> CpuState {
    let mut state = CpuState::reset();
    state.control.cr0 = 0x8005_0033;
    state.control.cr3 = 0x1000;
    // PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.
    state.control.cr4 = 0x5_0620;
    state.control.efer = 0xd01;
    state.control.xcr0 = 7;
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc093 };
    let segments = &mut state.segments;
    (segments.ds, segments.es, segments.ss, segments.fs, segments.gs) =
        (data, data, data, data, data);
    segments.cs = Segment { selector: 8, base: 0, limit: u32::MAX, attributes: 0xa09b };
    segments.fs.base = 0x1000;
    state.gdtr.base = 0xa000;
    state.gdtr.limit = 0xff;
    state.idtr.base = 0x8000;
    state.idtr.limit = 0xfff;
    state.rip = CODE;
    state.gpr[4] = STACK;
    state
}

/// Runs `code` until it halts and returns the state and the data.
pub(crate) fn run(
    engine: &mut dyn Engine,
    ram: &GuestRam,
    start: &CpuState,
    code: &[u8],
) -> (CpuState, Vec<u8>) {
    ram.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    engine.set_state(start);
    let stop = engine.run(&mut Nothing::default(), None);
    assert_eq!(stop, Stop::Halted, "{:x?}", engine.state().control);
    let mut data = vec![0; DATA_SIZE + 0x1000];
    ram.memory().read_slice(&mut data[..DATA_SIZE], GuestAddress(DATA)).unwrap();
    ram.memory().read_slice(&mut data[DATA_SIZE..], GuestAddress(STACK - 0x1000)).unwrap();
    (engine.state(), data)
}

pub(crate) fn interpreter() -> (ambos_interpret::Cpu, Arc<GuestRam>) {
    let ram = ram();
    (ambos_interpret::Cpu::new(Arc::clone(&ram), Arc::new(Attention::default())).unwrap(), ram)
}

pub(crate) fn translator() -> (ambos_translate::Translator, Arc<GuestRam>, Arc<Attention>) {
    translator_with(Views::Auto)
}

/// One that reaches the operands of programs through views always, never, or when it likes.
pub(crate) fn translator_with(
    views: Views,
) -> (ambos_translate::Translator, Arc<GuestRam>, Arc<Attention>) {
    let ram = ram();
    let attention = Arc::new(Attention::default());
    let options =
        ambos_translate::Options { threshold: 2, views, ..ambos_translate::Options::default() };
    let engine =
        ambos_translate::Translator::new(Arc::clone(&ram), Arc::clone(&attention), options);
    (engine.unwrap(), ram, attention)
}

/// Supervisor mode, and user mode without and with views.
pub(crate) const MODES: [(bool, Views); 3] =
    [(false, Views::Never), (true, Views::Never), (true, Views::Always)];

/// Ends the process unless it is dropped soon: what must not go on for ever is run under it.
pub(crate) struct Watchdog(std::sync::mpsc::Sender<()>);

pub(crate) fn watch() -> Watchdog {
    let (alive, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(std::time::Duration::from_secs(60))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            eprintln!("translated code does not end");
            std::process::abort();
        }
    });
    Watchdog(alive)
}
