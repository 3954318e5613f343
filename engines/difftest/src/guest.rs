//! Running a case on an engine.
//!
//! The guest is as little as a user program in 64-bit mode needs: page tables, segments and
//! handlers that halt. The program's pages lie at the same linear addresses as on the host; what
//! belongs to the guest's kernel lies in the upper half, which programs cannot see.

use crate::case::{Case, End, Fault, MEMORY_PAGES, Memory, Outcome};
use crate::layout::{self, Page};
use crate::native::FILLING;
use crate::platform::{BarePlatform, DEVICE};
use ambos_memory::{GuestRam, MemoryError};
use ambos_vcpu::{Attention, CpuState, Engine, Segment, Stop, TableRegister};
use ambos_x86::segment::attr;
use ambos_x86::{Cr0, Cr4, Efer, PAGE_SIZE, paging, xstate};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

const RAM_SIZE: u64 = 2 << 20;
/// Linear address of guest-physical zero.
const KERNEL: u64 = 0xffff_8000_0000_0000;

// Guest-physical pages.
const PML4: u64 = 0x1000;
const LOW_POINTERS: u64 = 0x2000;
const LOW_DIRECTORY: u64 = 0x3000;
const CODE_TABLE: u64 = 0x4000;
const SCRATCH_TABLE: u64 = 0x5000;
const HIGH_POINTERS: u64 = 0x6000;
const HIGH_DIRECTORY: u64 = 0x7000;
const IDT: u64 = 0x8000;
const GDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const HANDLERS: u64 = 0xb000;
const KERNEL_STACK: u64 = 0xc000;
const CODE: u64 = 0x10000;
const SCRATCH: u64 = 0x20000;

/// Bytes of one handler.
const HANDLER: u64 = 16;
const HLT: u8 = 0xf4;
const INT3: u8 = 0xcc;
const BREAKPOINT: u8 = 3;

// Selectors as Linux has them, so that programs see the same ones on both sides.
const KERNEL_CODE: u16 = 0x10;
const USER_DATA: u16 = 0x2b;
const USER_CODE: u16 = 0x33;
const TASK: u16 = 0x40;

/// More guest instructions than any case can take.
const BUDGET: u64 = 100_000;

/// An engine with a guest around it.
#[derive(Debug)]
pub struct Guest<E> {
    engine: E,
    ram: Arc<GuestRam>,
    platform: BarePlatform,
    /// The state in which every case begins, but for its registers.
    template: CpuState,
    dirty: Vec<(u64, usize)>,
}

impl<E: Engine> Guest<E> {
    /// Makes the guest and, with `make`, the engine. `components` are the state components that the
    /// guest enables, as bits of XCR0.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the host has no room.
    pub fn new(
        make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
        components: u64,
    ) -> Result<Self, MemoryError> {
        let ram = Arc::new(GuestRam::new(RAM_SIZE)?);
        let engine = make(Arc::clone(&ram), Arc::new(Attention::default()));
        let mut guest = Self {
            engine,
            ram,
            platform: BarePlatform::default(),
            template: template(components),
            dirty: Vec::new(),
        };
        guest.lay_out();
        Ok(guest)
    }

    /// Writes guest memory; everything that is written lies inside RAM.
    fn write(&self, gpa: u64, bytes: &[u8]) {
        let written = self.ram.memory().write_slice(bytes, GuestAddress(gpa));
        debug_assert!(written.is_ok());
    }

    fn read(&self, gpa: u64, bytes: &mut [u8]) {
        let read = self.ram.memory().read_slice(bytes, GuestAddress(gpa));
        debug_assert!(read.is_ok());
    }

    fn write64(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }

    fn read64(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn lay_out(&mut self) {
        let all = paging::PRESENT | paging::WRITE | paging::USER;
        let index = |linear: u64, level: u32| linear >> (12 + 9 * level) & 0x1ff;
        self.write64(PML4, LOW_POINTERS | all);
        self.write64(PML4 + index(KERNEL, 3) * 8, HIGH_POINTERS | all);
        self.write64(LOW_POINTERS, LOW_DIRECTORY | all);
        self.write64(LOW_DIRECTORY + index(layout::CODE, 1) * 8, CODE_TABLE | all);
        self.write64(LOW_DIRECTORY + index(layout::SCRATCH, 1) * 8, SCRATCH_TABLE | all);
        for page in 0..layout::CODE_SIZE / PAGE_SIZE {
            let entry = CODE_TABLE + (index(layout::CODE, 0) + page) * 8;
            let frame = CODE + page * PAGE_SIZE;
            self.write64(entry, frame | paging::PRESENT | paging::USER);
        }
        for page in 0..layout::SCRATCH_PAGES {
            let user = paging::PRESENT | paging::USER | paging::NO_EXECUTE;
            let frame = SCRATCH + page * PAGE_SIZE;
            let value = match layout::page(page) {
                Page::Unmapped => 0,
                Page::Writable(_) => frame | user | paging::WRITE,
                Page::Device(_) => DEVICE | user | paging::WRITE,
                Page::ReadOnly => {
                    let content: Vec<u8> =
                        (0..PAGE_SIZE as usize).map(layout::read_only_byte).collect();
                    self.write(frame, &content);
                    frame | user
                }
            };
            self.write64(SCRATCH_TABLE + (index(layout::SCRATCH, 0) + page) * 8, value);
        }
        self.write64(HIGH_POINTERS, HIGH_DIRECTORY | all);
        let kernel = paging::PRESENT | paging::WRITE | paging::PAGE_SIZE;
        self.write64(HIGH_DIRECTORY, kernel);

        let user_dpl = 3 << (40 + attr::DPL_SHIFT);
        let code = 0x00af_9b00_0000_ffff;
        let data = 0x00cf_9300_0000_ffff;
        self.write64(GDT + u64::from(KERNEL_CODE), code);
        self.write64(GDT + u64::from(USER_DATA & !7), data | user_dpl);
        self.write64(GDT + u64::from(USER_CODE & !7), code | user_dpl);
        self.write64(TSS + 4, KERNEL + KERNEL_STACK + PAGE_SIZE);
        // No I/O permission bitmap: it would begin past the segment's end.
        self.write(TSS + 0x66, &0xffff_u16.to_le_bytes());
        for vector in 0..256 {
            let handler = KERNEL + HANDLERS + vector * HANDLER;
            let dpl = if vector == u64::from(BREAKPOINT) { 3 } else { 0 };
            let low = handler & 0xffff
                | u64::from(KERNEL_CODE) << 16
                | (0x8e | dpl << 5) << 40
                | (handler >> 16 & 0xffff) << 48;
            self.write64(IDT + vector * 16, low);
            self.write64(IDT + vector * 16 + 8, handler >> 32);
            self.write(HANDLERS + vector * HANDLER, &[HLT]);
        }
        self.write(CODE, &[FILLING; layout::CODE_SIZE as usize]);
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        for (start, length) in std::mem::take(&mut self.dirty) {
            self.write(start - layout::CODE + CODE, &vec![FILLING; length]);
        }
        let code_end = case.start + case.code.len() as u64;
        let pieces: [(u64, &[u8]); 3] =
            [(case.start, &case.code), (code_end, &[INT3]), (layout::LANDING, &[INT3])];
        for (start, bytes) in pieces {
            self.write(start - layout::CODE + CODE, bytes);
            self.dirty.push((start, bytes.len()));
        }
        for number in 0..MEMORY_PAGES {
            match self.home(number) {
                Some(gpa) => self.write(gpa, case.memory.page(number)),
                None => self.platform.device.copy_from_slice(case.memory.page(number)),
            }
        }
        let mut state = self.template.clone();
        state.gpr = case.registers.gpr;
        state.rflags = case.registers.rflags;
        state.rip = case.start;
        state.vector.clone_from(&case.registers.vector);
        self.engine.set_state(&state);
        let stop = self.engine.run(&mut self.platform, Some(BUDGET));
        let after = self.engine.state();

        let mut registers = case.registers.clone();
        registers.gpr = after.gpr;
        registers.vector.clone_from(&after.vector);
        registers.rflags = after.rflags;
        let end = if stop == Stop::Halted {
            self.end(&after, code_end, &mut registers)
        } else {
            End::Lost { what: lost(&stop), rip: after.rip }
        };
        let mut memory = Memory(Box::new([0; crate::case::MEMORY_SIZE]));
        for number in 0..MEMORY_PAGES {
            match self.home(number) {
                Some(gpa) => self.read(gpa, memory.page_mut(number)),
                None => memory.page_mut(number).copy_from_slice(&self.platform.device[..]),
            }
        }
        Outcome { end, registers, memory }
    }

    /// Where writable scratch page `number` lies in RAM; device memory does not.
    fn home(&self, number: usize) -> Option<u64> {
        let offset = Memory::address(number * PAGE_SIZE as usize) - layout::SCRATCH;
        match layout::page(offset / PAGE_SIZE) {
            Page::Writable(_) => Some(SCRATCH + offset),
            _ => None,
        }
    }

    /// Reads the frame that the exception left on the kernel's stack.
    fn end(&self, after: &CpuState, code_end: u64, registers: &mut crate::case::Registers) -> End {
        let handler = after.rip.wrapping_sub(KERNEL + HANDLERS);
        let (vector, offset) = (handler / HANDLER, handler % HANDLER);
        let stack = after.gpr[ambos_x86::gpr::RSP].wrapping_sub(KERNEL);
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let frame = KERNEL_STACK + PAGE_SIZE - if has_error { 48 } else { 40 };
        if vector >= 256 || offset != 1 || stack != frame {
            return End::Lost { what: "halted outside a handler", rip: after.rip };
        }
        let error = if has_error { self.read64(frame) } else { 0 };
        let rip_at = frame + if has_error { 8 } else { 0 };
        let rip = self.read64(rip_at);
        registers.rflags = self.read64(rip_at + 16);
        registers.gpr[ambos_x86::gpr::RSP] = self.read64(rip_at + 24);
        if vector == u64::from(BREAKPOINT) && rip == code_end + 1 {
            return End::Completed;
        }
        if vector == u64::from(BREAKPOINT) && rip == layout::LANDING + 1 {
            return End::Landed;
        }
        let address = if vector == 14 { after.control.cr2 } else { 0 };
        End::Faulted { rip, fault: Fault { vector: vector as u8, error, address } }
    }
}

fn lost(stop: &Stop) -> &'static str {
    match stop {
        Stop::Halted => "halted",
        Stop::Asked => "stopped as if asked",
        Stop::WaitForStartUp => "waits for a start-up message",
        Stop::Crashed(_) => "triple fault",
        Stop::Failed(_) => "the engine failed",
        Stop::Budget => "never came to an end",
    }
}

/// A user program's state under an operating system that enables everything a program can use.
fn template(components: u64) -> CpuState {
    let mut state = CpuState::reset();
    let present = attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | 3 << attr::DPL_SHIFT;
    let flat = |selector, attributes| Segment { selector, base: 0, limit: u32::MAX, attributes };
    let data = flat(0, present | attr::DB | attr::G);
    state.segments.cs = flat(USER_CODE, present | attr::CODE | attr::L | attr::G);
    state.segments.ss = flat(USER_DATA, present | attr::DB | attr::G);
    (state.segments.ds, state.segments.es) = (data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.segments.gs.base = layout::GS_BASE;
    state.segments.tr = Segment {
        selector: TASK,
        base: KERNEL + TSS,
        limit: 0x67,
        attributes: attr::P | ambos_x86::segment::system_type::TSS_BUSY,
    };
    state.gdtr = TableRegister { base: KERNEL + GDT, limit: 0x7f };
    state.idtr = TableRegister { base: KERNEL + IDT, limit: 0xfff };
    let cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::AM | Cr0::PG;
    state.control.cr0 = cr0.bits();
    let mut cr4 = Cr4::PAE | Cr4::PGE | Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::FSGSBASE;
    if components & xstate::AVX != 0 {
        cr4 |= Cr4::OSXSAVE;
    }
    state.control.cr4 = cr4.bits();
    state.control.cr3 = PML4;
    state.control.efer = (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits();
    state.control.xcr0 = components | xstate::X87;
    state
}
