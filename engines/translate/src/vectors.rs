//! Vector instructions: they are copied, and work on the guest's state in the host's registers.
//!
//! Most runs of translated code in a kernel use none, and to load and store that state, two kilobytes, takes longer than all
//! the rest of an entry and an exit. So entries leave it in memory, and the first instruction of a block that needs it loads
//! it: [`layout::VECTORS_HELD`] then says that the host holds it, MXCSR included. Exits store what is held, and entries
//! load it again where code goes on in the middle of a block: within a block one look is enough. A block that is entered from
//! the monitor at its beginning finds nothing held, or a program that once used a register would make the kernel pay from
//! then on.

use crate::build::{Builder, ColdKind};
use crate::classify::{Action, class};
use crate::emit::{Code, Mem, reg};
use crate::flags::FlagsIn;
use crate::held;
use crate::layout;
use ambos_interpret::exec::native::Class;
use iced_x86::{Code as Op, Instruction, MemoryOperand, Register};

/// Control bits of MXCSR with which the monitor's own code may run.
const HARMLESS_MXCSR: u32 = 0x1f80;

/// How wide the host's vector registers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Xmm,
    Ymm,
    Zmm,
}

fn width() -> Width {
    if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw") {
        Width::Zmm
    } else if std::is_x86_feature_detected!("avx") {
        Width::Ymm
    } else {
        Width::Xmm
    }
}

fn gs(disp: i32) -> MemoryOperand {
    MemoryOperand::new(Register::None, Register::None, 1, i64::from(disp), 8, false, Register::GS)
}

/// Loads or stores all vector registers.
fn move_registers(code: &mut Code, load: bool) {
    let width = width();
    let count = if width == Width::Zmm { 32 } else { 16 };
    for number in 0..count {
        let at = gs(layout::zmm(number));
        let (register, load_op, store_op) = match width {
            Width::Zmm => (
                Register::ZMM0 + number,
                Op::EVEX_Vmovdqu64_zmm_k1z_zmmm512,
                Op::EVEX_Vmovdqu64_zmmm512_k1z_zmm,
            ),
            Width::Ymm => {
                (Register::YMM0 + number, Op::VEX_Vmovdqu_ymm_ymmm256, Op::VEX_Vmovdqu_ymmm256_ymm)
            }
            Width::Xmm => (Register::XMM0 + number, Op::Movdqu_xmm_xmmm128, Op::Movdqu_xmmm128_xmm),
        };
        let instruction = if load {
            Instruction::with2(load_op, register, at)
        } else {
            Instruction::with2(store_op, at, register)
        };
        encode(code, instruction);
    }
    if width == Width::Zmm {
        for number in 0..8 {
            let (register, at) = (Register::K0 + number, gs(layout::mask(number)));
            encode(
                code,
                if load {
                    Instruction::with2(Op::VEX_Kmovq_kr_km64, register, at)
                } else {
                    Instruction::with2(Op::VEX_Kmovq_m64_kr, at, register)
                },
            );
        }
    }
    if !load && width != Width::Xmm {
        encode::<()>(code, Ok(Instruction::with(Op::VEX_Vzeroupper)));
    }
}

/// Loads all vector registers such that the processor knows it if those of SSE code have nothing but zeros above: else
/// each such instruction waits for what its destination held before. A program that computes with doubles took three
/// times as long.
fn load_registers(code: &mut Code) {
    let width = width();
    if width == Width::Xmm {
        return move_registers(code, true);
    }
    // What is above 128 bits, of all of them at once: bytes from 16 on, and those that this does not reach.
    let parts: &[(Register, i32)] = match width {
        Width::Zmm => &[(Register::YMM0, 16), (Register::YMM1, 32)],
        _ => &[(Register::XMM0, 16)],
    };
    for &(sum, above) in parts {
        let (load, or) = match sum.is_ymm() {
            true => (Op::VEX_Vmovups_ymm_ymmm256, Op::VEX_Vorps_ymm_ymm_ymmm256),
            false => (Op::VEX_Vmovups_xmm_xmmm128, Op::VEX_Vorps_xmm_xmm_xmmm128),
        };
        encode(code, Instruction::with2(load, sum, gs(layout::zmm(0) + above)));
        for number in 1..16 {
            encode(code, Instruction::with3(or, sum, sum, gs(layout::zmm(number) + above)));
        }
    }
    if width == Width::Zmm {
        let [(sum, _), (other, _)] = [parts[0], parts[1]];
        encode(code, Instruction::with3(Op::VEX_Vorps_ymm_ymm_ymmm256, sum, sum, other));
        encode(code, Instruction::with2(Op::VEX_Vptest_ymm_ymmm256, sum, sum));
    } else {
        encode(
            code,
            Instruction::with2(Op::VEX_Vptest_xmm_xmmm128, Register::XMM0, Register::XMM0),
        );
    }
    // The flags survive this.
    move_registers(code, true);
    let above = code.short_jump_if(5);
    encode::<()>(code, Ok(Instruction::with(Op::VEX_Vzeroupper)));
    code.land(above);
}

fn encode<E>(code: &mut Code, instruction: Result<Instruction, E>) {
    let encoded = instruction.is_ok_and(|instruction| code.instruction(&instruction));
    assert!(encoded, "a stub's instruction has an encoding");
}

/// `ldmxcsr` (2) or `stmxcsr` (3).
fn mxcsr(code: &mut Code, which: u8, at: i32) {
    code.op(false, &[0x0f, 0xae], which, Mem::Gs(at));
}

/// Whether instructions of a class need the state. Those of MMX may round as MXCSR says, or name a register of SSE.
fn uses(class: Class) -> bool {
    matches!(class, Class::Sse | Class::Avx | Class::Avx512 | Class::Mmx)
}

/// Loads the state from memory. Changes RAX and flags.
fn load(code: &mut Code) {
    // Loading MXCSR is expensive: only if it differs.
    mxcsr(code, 3, layout::NOW_MXCSR);
    code.op(false, &[0x8b], reg::RAX, Mem::Gs(layout::NOW_MXCSR));
    code.op(false, &[0x3b], reg::RAX, Mem::Gs(layout::MXCSR));
    let equal = code.jump_if(4, 0);
    mxcsr(code, 2, layout::MXCSR);
    let here = code.here();
    code.bind(equal, here);
    load_registers(code);
}

/// At an entry: loads the state if it was held. Changes RAX and flags.
pub(crate) fn enter(code: &mut Code) {
    held::only_if(code, layout::VECTORS_HELD, load);
}

/// At an exit: stores the state if it is held. Changes RAX and flags.
pub(crate) fn exit(code: &mut Code) {
    held::only_if(code, layout::VECTORS_HELD, store);
}

/// Stores the state to memory. Changes RAX and flags.
fn store(code: &mut Code) {
    move_registers(code, false);
    mxcsr(code, 3, layout::MXCSR);
    code.op(false, &[0x8b], reg::RAX, Mem::Gs(layout::MXCSR));
    code.and32(reg::RAX, !0x3f);
    // cmp eax, imm32
    code.raw(&[0x3d]);
    code.raw(&HARMLESS_MXCSR.to_le_bytes());
    let harmless = code.jump_if(4, 0);
    mxcsr(code, 2, layout::HOST_MXCSR);
    let here = code.here();
    code.bind(harmless, here);
}

/// Generates the stub that loads the state within a block. It goes on at the address in R11, which then holds again what
/// [`go_to_load`] has put aside, and changes flags.
pub(crate) fn generate(code: &mut Code) -> u64 {
    let start = code.here();
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    code.store(Mem::Gs(layout::LOADED), reg::R11);
    load(code);
    code.store_imm(Mem::Gs(layout::VECTORS_HELD), 1);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
    code.load(reg::R11, Mem::Gs(layout::SPILLED_R11));
    // jmp [loaded]
    code.op(false, &[0xff], 4, Mem::Gs(layout::LOADED));
    start
}

/// Off the straight path: has the stub at `load` load the state, and goes on at `ready`.
pub(crate) fn go_to_load(code: &mut Code, load: u64, ready: u64) {
    code.store(Mem::Gs(layout::SPILLED_R11), reg::R11);
    code.address(reg::R11, ready);
    code.jump(load);
}

/// Where a block loads the state: before its first instruction that needs it, at the last place where no flags are alive if
/// there is one; where it `loops`, at its start.
pub(crate) fn place(
    instructions: &[(Instruction, Action)],
    needed: &[u32],
    loops: bool,
) -> Option<usize> {
    let uses = |(instruction, action): &(Instruction, Action)| {
        *action == Action::Copy && uses(class(instruction))
    };
    let first = instructions.iter().position(uses)?;
    if loops {
        return Some(0);
    }
    (0..=first).rev().find(|&index| needed[index] == 0).or(Some(first))
}

impl Builder<'_> {
    /// Sees to it that the host holds the vector state. Flags that are alive are kept in memory; others change.
    pub(crate) fn hold_vectors(&mut self, flags_live: bool) {
        if flags_live && self.flags != FlagsIn::Memory {
            let scratch = self.take_scratch(1);
            self.keep_flags(scratch);
        }
        held::compare(self.code, layout::VECTORS_HELD);
        let displacement = self.code.jump_if(4, 0);
        let ready = self.code.here();
        self.cold(displacement, 0, ColdKind::Vectors { ready });
        if self.index == 0 && !flags_live {
            self.begin_ready();
        }
    }

    /// Whether the host certainly holds the vector state behind the current instruction.
    pub(crate) fn holds_vectors(&self) -> bool {
        self.vectors_at.is_some_and(|at| at <= self.index)
    }
}
