//! The ways into and out of generated code.

use crate::emit::{Code, Mem, reg};
use crate::layout::{self, SetLayout};
use crate::second::SecondLevel;
use crate::x87;
use ambos_interpret::mmu::SETS;
use iced_x86::{Code as Op, Instruction, MemoryOperand, Register};

/// Addresses of the stubs, which stay at the start of the code cache.
#[derive(Debug, Clone)]
pub(crate) struct Stubs {
    /// A function: loads the guest's registers and goes to [`layout::Slots::target`].
    pub(crate) enter: u64,
    /// Stores the guest's registers and returns from `enter`.
    pub(crate) exit: u64,
    /// The same at the site whose number is in R11.
    pub(crate) exit_at: u64,
    /// The same at the site [`BEFORE`], with a block's number in R11.
    pub(crate) before: u64,
    /// Where a host fault resumes: an exit with the site [`FAULT`].
    pub(crate) fault: u64,
    /// Loads the x87 state within a block.
    pub(crate) load_x87: u64,
    /// Looks into second levels.
    pub(crate) second: SecondLevel,
}

/// The site of host faults.
pub(crate) const FAULT: u32 = u32::MAX;
/// The site of blocks that something else comes before: R11 has the number of the block.
pub(crate) const BEFORE: u32 = u32::MAX - 4;

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
fn vectors(code: &mut Code, load: bool) {
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
fn load_vectors(code: &mut Code) {
    let width = width();
    if width == Width::Xmm {
        return vectors(code, true);
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
    vectors(code, true);
    let above = code.short_jump_if(5);
    encode::<()>(code, Ok(Instruction::with(Op::VEX_Vzeroupper)));
    code.land(above);
}

fn encode<E>(code: &mut Code, instruction: Result<Instruction, E>) {
    let encoded = instruction.is_ok_and(|instruction| code.instruction(&instruction));
    assert!(encoded, "a stub's instruction has an encoding");
}

/// General-purpose registers that generated code keeps in their namesakes.
fn kept() -> impl Iterator<Item = u8> {
    (0..16).filter(|&number| !matches!(number, reg::RSP | reg::R10 | reg::R11))
}

/// `ldmxcsr` (2) or `stmxcsr` (3).
fn mxcsr(code: &mut Code, which: u8, at: i32) {
    code.op(false, &[0x0f, 0xae], which, Mem::Gs(at));
}

/// `rdfsbase` (0) or `wrfsbase` (2) of RAX.
fn fs_base(code: &mut Code, which: u8) {
    code.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xc0 | which << 3]);
}

/// Generates the stubs, for a gate of the attention at this address. With `views`, the FS base of generated code is the
/// first usual distance of its bank's views.
///
/// The host's own code finds its thread's data by the FS base. Of that code only the handler of faults runs meanwhile,
/// which uses none: other signals wait (see [`ambos_hostcode::signals`]).
pub(crate) fn generate(code: &mut Code, sets: &[SetLayout; SETS], gate: u32, views: bool) -> Stubs {
    let enter = code.here();
    code.store(Mem::Gs(layout::HOST_RSP), reg::RSP);
    if views {
        fs_base(code, 0);
        code.store(Mem::Gs(layout::HOST_FS), reg::RAX);
        code.load(reg::RAX, Mem::Gs(sets[0].usual));
        fs_base(code, 2);
    }
    // Loading MXCSR is expensive: only if it differs.
    mxcsr(code, 3, layout::NOW_MXCSR);
    code.op(false, &[0x8b], reg::RAX, Mem::Gs(layout::NOW_MXCSR));
    code.op(false, &[0x3b], reg::RAX, Mem::Gs(layout::MXCSR));
    let equal = code.jump_if(4, 0);
    mxcsr(code, 2, layout::MXCSR);
    let here = code.here();
    code.bind(equal, here);
    load_vectors(code);
    x87::enter(code);
    code.load(reg::RAX, Mem::Gs(layout::FLAGS));
    // add al, 127; sahf
    code.raw(&[0x04, 127, 0x9e]);
    for number in kept() {
        code.load(number, Mem::Gs(layout::gpr(number)));
    }
    code.load(reg::RSP, Mem::Gs(layout::gpr(reg::RSP)));
    code.load(reg::R10, Mem::Gs(layout::SCRATCH));
    code.load(reg::R11, Mem::Gs(layout::SCRATCH + 8));
    // jmp [target]
    code.op(false, &[0xff], 4, Mem::Gs(layout::TARGET));

    let fault = code.here();
    code.note_site(FAULT);
    let over = code.short_jump();
    let before = code.here();
    code.note_site(BEFORE);
    let over_too = code.short_jump();
    let exit_at = code.here();
    code.name_site(reg::R11);
    code.land(over);
    code.land(over_too);
    let exit = code.here();
    for number in kept() {
        code.store(Mem::Gs(layout::gpr(number)), number);
    }
    code.store(Mem::Gs(layout::gpr(reg::RSP)), reg::RSP);
    code.store(Mem::Gs(layout::SCRATCH), reg::R10);
    code.store(Mem::Gs(layout::SCRATCH + 8), reg::R11);
    // lahf; seto al; movzx eax, ax
    code.raw(&[0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0]);
    code.store(Mem::Gs(layout::FLAGS), reg::RAX);
    code.load(reg::RSP, Mem::Gs(layout::HOST_RSP));
    if views {
        code.load(reg::RAX, Mem::Gs(layout::HOST_FS));
        fs_base(code, 2);
    }
    vectors(code, false);
    x87::exit(code);
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
    code.raw(&[0xc3]);
    let second = SecondLevel::generate(code, sets, gate, exit);
    let load_x87 = x87::generate(code);
    Stubs { enter, exit, exit_at, before, fault, load_x87, second }
}
