//! Which arithmetic flags are still needed where.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// The flags that live in the host's flag register.
pub(crate) const ALL: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// Flags that an instruction certainly overwrites.
pub(crate) fn killed(instruction: &Instruction) -> u32 {
    let counted = matches!(
        instruction.mnemonic(),
        Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Shld
            | Mnemonic::Shrd
    );
    if counted {
        // A count of zero changes nothing.
        let last = instruction.op_count() - 1;
        let by_register = instruction.op_kind(last) == OpKind::Register
            && instruction.op_register(last) == Register::CL;
        if by_register || instruction.immediate(last) & 0x1f == 0 {
            return 0;
        }
    }
    // Moves of control registers do not leave flags undefined here.
    if instruction.is_string_instruction()
        || matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::INVALID)
    {
        return 0;
    }
    // Flags that these leave undefined they leave alone, on some processors.
    let undefined_kept = matches!(
        instruction.mnemonic(),
        Mnemonic::Mul
            | Mnemonic::Imul
            | Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::Bt
            | Mnemonic::Bts
            | Mnemonic::Btr
            | Mnemonic::Btc
            | Mnemonic::Bsf
            | Mnemonic::Bsr
    );
    let modified = instruction.rflags_modified() & ALL;
    if undefined_kept { modified & !instruction.rflags_undefined() } else { modified }
}

/// Flags needed before an instruction, given those needed after it.
pub(crate) fn before(instruction: &Instruction, after: u32) -> u32 {
    if leaves(instruction) {
        // System code and handlers may look at all flags.
        return ALL;
    }
    after & !killed(instruction) | instruction.rflags_read() & ALL
}

/// Whether control may leave to where all flags count.
fn leaves(instruction: &Instruction) -> bool {
    !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch)
}

/// Flags needed where the straight-line code `instructions` begins; all that it leaves undecided.
pub(crate) fn at_start<'a>(instructions: impl Iterator<Item = &'a Instruction>) -> u32 {
    let (mut undecided, mut needed) = (ALL, 0);
    for instruction in instructions {
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        needed |= instruction.rflags_read() & undecided;
        undecided &= !killed(instruction);
        if undecided == 0 {
            break;
        }
    }
    needed | undecided
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn decode(bytes: &[u8]) -> Vec<Instruction> {
        Decoder::new(64, bytes, DecoderOptions::NONE).into_iter().collect()
    }

    #[test]
    fn an_addition_ends_the_life_of_all_flags() {
        // mov rax, [rbx]; add rax, rcx
        let code = decode(&[0x48, 0x8b, 0x03, 0x48, 0x01, 0xc8]);
        assert_eq!(at_start(code.iter()), 0);
        // adc rax, rcx
        let code = decode(&[0x48, 0x11, 0xc8]);
        assert_eq!(at_start(code.iter()), RflagsBits::CF);
    }

    #[test]
    fn what_changes_only_some_flags_keeps_the_others_alive() {
        // inc rax keeps CF
        assert_eq!(before(&decode(&[0x48, 0xff, 0xc0])[0], ALL), RflagsBits::CF);
        // shl rax, cl may keep all
        assert_eq!(before(&decode(&[0x48, 0xd3, 0xe0])[0], ALL), ALL);
        // mov keeps all; jz needs ZF
        assert_eq!(before(&decode(&[0x48, 0x89, 0xc3])[0], 0), 0);
        assert_eq!(before(&decode(&[0x74, 0x00])[0], 0), RflagsBits::ZF);
    }
}
