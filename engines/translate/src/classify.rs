//! What the translator does with each kind of instruction.

use crate::x87::shows_pointers;
use ambos_interpret::exec::native::{Class, class_of, only_computes};
use iced_x86::{Code, EncodingKind, FlowControl, Instruction, Mnemonic as M, OpKind, Register};

/// How an instruction is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing is to be done.
    Skip,
    /// It is copied, with its memory operand rewritten.
    Copy,
    /// LEA.
    Address,
    /// PUSH of 64 bits.
    Push,
    /// POP of 64 bits into a register.
    Pop,
    /// LEAVE.
    Leave,
    /// A conditional jump.
    Branch,
    /// A direct jump.
    Jump,
    /// A direct call.
    Call,
    /// JMP through a register or memory.
    JumpTo,
    /// CALL through a register or memory.
    CallTo,
    /// RET.
    Return,
    /// A system instruction that changes no arithmetic flags, a string instruction, POPF, or a bit
    /// instruction that reaches far: translated, or the interpreter's.
    System,
    /// The interpreter's handler runs it, or it needs all flags to be known.
    Interpret,
}

fn in_64bit_operands(instruction: &Instruction) -> bool {
    instruction.stack_pointer_increment().unsigned_abs() == 8
}

/// Classifies an instruction of 64-bit code.
pub(crate) fn classify(instruction: &Instruction) -> Action {
    let kind = instruction.op0_kind();
    match instruction.mnemonic() {
        // With a REX prefix it may be an exchange; the interpreter knows.
        M::Pause if instruction.len() > 2 => Action::Interpret,
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchwt1
        | M::Reservednop => Action::Skip,
        M::Lea => Action::Address,
        M::Push if in_64bit_operands(instruction) && pushable(instruction) => Action::Push,
        M::Pop
            if in_64bit_operands(instruction)
                && kind == OpKind::Register
                && instruction.op0_register().is_gpr64() =>
        {
            Action::Pop
        }
        M::Leave if instruction.code() == Code::Leaveq => Action::Leave,
        M::Jmp if kind == OpKind::NearBranch64 => Action::Jump,
        M::Call if kind == OpKind::NearBranch64 => Action::Call,
        M::Jmp if instruction.code() == Code::Jmp_rm64 => Action::JumpTo,
        M::Call if instruction.code() == Code::Call_rm64 => Action::CallTo,
        M::Ret if matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) => Action::Return,
        M::Cli
        | M::Sti
        | M::Clac
        | M::Stac
        | M::Cld
        | M::Std
        | M::Swapgs
        | M::Rdtsc
        | M::Rdtscp
        | M::Rdpid
        | M::Serialize
        | M::Rdfsbase
        | M::Rdgsbase
        | M::Wrfsbase
        | M::Wrgsbase => Action::System,
        M::Popfq if in_64bit_operands(instruction) => Action::System,
        M::Mov if instruction.op_count() == 2 && is_system(instruction.op1_register()) => {
            Action::System
        }
        M::Bt | M::Bts | M::Btr | M::Btc
            if kind == OpKind::Memory && instruction.op1_kind() == OpKind::Register =>
        {
            Action::System
        }
        _ if instruction.is_string_instruction() && moves_string(instruction) => Action::System,
        _ if instruction.is_jcc_short_or_near() && kind == OpKind::NearBranch64 => Action::Branch,
        _ if instruction.flow_control() == FlowControl::Next && copyable(instruction) => {
            Action::Copy
        }
        _ => Action::Interpret,
    }
}

fn is_system(register: Register) -> bool {
    register.is_segment_register() || register.is_cr()
}

fn moves_string(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        M::Movsb
            | M::Movsw
            | M::Movsd
            | M::Movsq
            | M::Stosb
            | M::Stosw
            | M::Stosd
            | M::Stosq
            | M::Lodsb
            | M::Lodsw
            | M::Lodsd
            | M::Lodsq
    )
}

fn pushable(instruction: &Instruction) -> bool {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().is_gpr64(),
        OpKind::Memory => instruction.memory_base() != Register::EIP,
        _ => true,
    }
}

fn is_integer(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Mov
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Shld
            | M::Shrd
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Mul
            | M::Imul
            | M::Div
            | M::Idiv
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Bswap
            | M::Movbe
            | M::Lahf
            | M::Sahf
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Movnti
            | M::Lfence
            | M::Sfence
            | M::Mfence
            | M::Pause
            | M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
            | M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}

/// Whether the host may execute the instruction in the guest's place, its memory operand rewritten.
fn copyable(instruction: &Instruction) -> bool {
    let mut memory = false;
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let register = instruction.op_register(index);
                if register.is_segment_register()
                    || register.is_cr()
                    || register.is_dr()
                    || register.is_tr()
                    || register.is_bnd()
                    || register.is_tmm()
                {
                    return false;
                }
            }
            OpKind::Memory => memory = true,
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
            | OpKind::Immediate8_2nd => {}
            _ => return false,
        }
    }
    if memory {
        if instruction.is_vsib() || instruction.memory_size().size() == 0 {
            return false;
        }
        // Absolute 64-bit addresses exist only in these encodings of MOV.
        if instruction.memory_displ_size() == 8
            && instruction.memory_base() == Register::None
            && is_moffs(instruction.code())
        {
            return false;
        }
    }
    if is_integer(instruction.mnemonic()) && instruction.encoding() == EncodingKind::Legacy {
        return true;
    }
    if matches!(instruction.mnemonic(), M::Vzeroupper | M::Vzeroall) {
        return true;
    }
    only_computes(instruction) && !shows_pointers(instruction)
}

fn is_moffs(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    )
}

/// Which permission check a copied instruction needs.
pub(crate) fn class(instruction: &Instruction) -> Class {
    match instruction.mnemonic() {
        M::Vzeroupper | M::Vzeroall => Class::Avx,
        mnemonic if is_integer(mnemonic) => Class::General,
        _ => class_of(instruction),
    }
}

/// Whether the host may raise an exception at a copied instruction, be its memory operand at hand.
pub(crate) fn raises(instruction: &Instruction) -> bool {
    // The last one does so if its operand is not aligned.
    class(instruction) != Class::General
        || matches!(instruction.mnemonic(), M::Div | M::Idiv | M::Cmpxchg16b)
}
