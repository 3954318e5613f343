//! Hostile guests: any bytes as code and state. Whatever they do, the engine must come back.

use crate::board::Board;
use crate::start;
use ambos_memory::{DmaRange, GuestRam};
use ambos_vcpu::{Attention, CpuState, Engine, Request, Segment, Stop, TableRegister};
use ambos_x86::segment::attr;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Guest instructions, or exceptions, that a guest gets.
const BUDGET: u64 = 3000;
/// Bytes of the input that shape the state.
const HEADER: usize = 24;
/// Where tables of descriptors and gates lie that the input fills.
const TABLES: u64 = 0x6000;
const STACK: u64 = 0x5f00;
const CODE: u64 = 0x8000;
/// Most bytes of code.
const CODE_SIZE: usize = 0x3000;

/// An engine and its board for one hostile guest after another.
#[derive(Debug)]
pub struct Hostile<E> {
    engine: E,
    board: Board,
    ram: Arc<GuestRam>,
    attention: Arc<Attention>,
}

impl<E: Engine> Hostile<E> {
    /// With the engine that `make` makes.
    ///
    /// # Panics
    ///
    /// If the host has no memory for the guest.
    pub fn new(make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E) -> Self {
        let ram = Arc::new(GuestRam::new(start::RAM_SIZE).expect("the host has some memory"));
        let attention = Arc::new(Attention::default());
        let engine = make(Arc::clone(&ram), Arc::clone(&attention));
        Self { engine, board: Board::new(Arc::clone(&attention)), ram, attention }
    }

    /// Runs one guest: the first bytes of `input` shape the state, the others are the code. Returns why
    /// it stopped.
    pub fn run(&mut self, input: &[u8]) -> Stop {
        let mut header = [0; HEADER];
        let shape = input.len().min(HEADER);
        header[..shape].copy_from_slice(&input[..shape]);
        let code = &input[shape..];
        let code = &code[..code.len().min(CODE_SIZE)];
        // Tables and data are what the code is: descriptors and gates of any kind.
        let filler: Vec<u8> = code.iter().copied().cycle().take(0x2000).collect();
        let written = self.ram.memory().write_slice(&filler, GuestAddress(TABLES));
        debug_assert!(written.is_ok());
        start::lay_out(&self.ram, code);
        // The engine may hold code of the guest before.
        self.ram.device_wrote(&[DmaRange { address: 0, length: start::RAM_SIZE as u32 }]);
        self.board = Board::new(Arc::clone(&self.attention));
        self.attention.lower(Request::all());
        self.engine.set_state(&state(&header));
        self.engine.run(&mut self.board, Some(BUDGET))
    }
}

/// A state of any mode, with registers that point near something and privileges of any kind.
fn state(header: &[u8; HEADER]) -> CpuState {
    let [mode, level, flags, options, seeds @ ..] = header;
    let mut state = start::initial_state(if mode % 5 == 0 { "real_" } else { "" });
    let flat = |kind: u32, base: u64| Segment {
        selector: 8,
        base,
        limit: u32::MAX,
        attributes: attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | attr::G | kind,
    };
    let level = if level % 3 == 0 { 3 } else { 0 };
    let dpl = level << attr::DPL_SHIFT;
    match mode % 5 {
        0 => {}
        // 64-bit and compatibility code.
        1 | 2 => {
            let kind = if mode % 5 == 1 { attr::L } else { attr::DB };
            state.segments.cs = flat(attr::CODE | kind | dpl, 0);
            state.segments.ss = flat(attr::DB | dpl, 0);
        }
        // Protected mode of 32 and 16 bits, with and without paging.
        _ => {
            state.control.efer = 0;
            state.control.cr0 &= !(1 << 31) | u64::from(options & 1) << 31;
            state.control.cr3 = 0x2000;
            let kind = if mode % 5 == 3 { attr::DB } else { 0 };
            state.segments.cs = flat(attr::CODE | kind | dpl, 0);
            state.segments.ss = flat(kind | dpl, 0);
        }
    }
    for segment in [&mut state.segments.cs, &mut state.segments.ss] {
        segment.selector |= level as u16;
    }
    state.gdtr = TableRegister { base: TABLES, limit: 0x7ff };
    state.idtr = TableRegister { base: TABLES + 0x800, limit: 0x7ff };
    state.segments.tr = Segment { base: TABLES + 0x100, ..state.segments.tr };
    state.control.cr4 |= u64::from(options & 0xfe) << 3 & 0x6f0 | 0x4_0200;
    state.control.xcr0 = 7;
    state.rflags = 2 | u64::from(*flags) << 4 & 0x3_7f00 | u64::from(flags & 1) << 9;
    for (index, register) in state.gpr.iter_mut().enumerate() {
        let seed = u64::from(seeds[index]);
        *register = match seed & 3 {
            0 => seed,
            1 => TABLES + seed * 8,
            2 => CODE + (seed << 4),
            _ => (seed << 56) | (0x1000 - (seed >> 4)),
        };
    }
    state.gpr[4] = STACK - u64::from(seeds[4] & 0x3f);
    state
}

/// Makes hostile guests from a seed: well-spread numbers.
#[derive(Debug)]
pub struct Guests(u64);

impl Guests {
    /// The guests of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// The next guest, as input of [`Hostile::run`]: any bytes, with prefixes, two-byte opcodes and system instructions more often than by
    /// chance.
    pub fn guest(&mut self) -> Vec<u8> {
        const FREQUENT: [u8; 24] = [
            0x0f, 0x0f, 0x48, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0xc4, 0xc5, 0x62, 0xcf, 0xcd, 0xff,
            0x8e, 0x9d, 0x00, 0x01, 0xc7, 0xae, 0xa4, 0xe2, 0xea, 0xcb,
        ];
        let length = 24 + self.number() % 120;
        let byte = |random: &mut Self| {
            let number = random.number();
            if number.is_multiple_of(3) {
                FREQUENT[(number >> 8) as usize % 24]
            } else {
                (number >> 8) as u8
            }
        };
        (0..length).map(|_| byte(self)).collect()
    }
}
