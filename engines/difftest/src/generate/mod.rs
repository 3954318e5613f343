//! Making test cases.

pub(crate) mod block;
mod codes;
mod operands;
pub(crate) mod place;
mod values;

use crate::case::{Case, Memory, Registers};
use crate::layout;
use crate::random::Random;
use ambos_x86::PAGE_SIZE;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind,
};
use operands::Operands;

/// Ready-made memory images.
const IMAGES: usize = 16;
/// Longest instruction, in bytes.
const MAX_LENGTH: usize = 15;

/// Makes cases of one instruction each.
#[derive(Debug)]
pub(crate) struct Generator {
    codes: Vec<Code>,
    /// Those of them that programs mostly consist of.
    common: Vec<Code>,
    operands: Operands,
    images: Vec<Memory>,
}

/// A case of one instruction.
#[derive(Debug, Clone)]
pub(crate) struct Single {
    pub(crate) case: Case,
    /// What the code is; `Code::INVALID` for bytes that are no instruction.
    pub(crate) instruction: Instruction,
}

impl Generator {
    /// A generator of all testable instructions whose mnemonic is `filter`, if there is one.
    /// `components` are the state components of the host.
    pub(crate) fn new(components: u64, filter: Option<&str>) -> Self {
        let mut random = Random::new(0);
        let mut codes = codes::testable();
        if let Some(filter) = filter {
            codes.retain(|code| format!("{:?}", code.mnemonic()).eq_ignore_ascii_case(filter));
        }
        let images = (0..IMAGES).map(|_| values::memory(&mut random)).collect();
        let common = codes.iter().copied().filter(|&code| block::is_common(code)).collect();
        Self { codes, common, operands: Operands { components }, images }
    }

    /// What may be generated.
    pub(crate) fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// Generates only `codes` from now on.
    pub(crate) fn keep(&mut self, codes: Vec<Code>) {
        self.common = codes.iter().copied().filter(|&code| block::is_common(code)).collect();
        self.codes = codes;
    }

    /// A case of any code; `None` if this attempt found no legal one.
    pub(crate) fn single(&self, random: &mut Random) -> Option<Single> {
        let code = random.pick(&self.codes);
        self.single_of(code, random)
    }

    /// A case of `code`.
    pub(crate) fn single_of(&self, code: Code, random: &mut Random) -> Option<Single> {
        let mut instruction = self.operands.instruction(code, random)?;
        let mut registers = self.registers(random);
        let mut memory = self.images[random.below(IMAGES as u64) as usize].clone();
        let crossing = random.chance(3);
        let start = if crossing {
            layout::CODE + PAGE_SIZE - 1 - random.below(8)
        } else {
            layout::CODE_START
        };
        if !place::place(&mut instruction, &mut registers, &mut memory, random) {
            return None;
        }
        values::limit(&mut registers.vector, self.operands.components);
        let mut code = encode(&instruction, start)?;
        if random.chance(8) {
            add_prefix(&mut code, random);
        }
        let instruction = decode(&code, start)?;
        if is_direct_branch(&instruction) && instruction.near_branch_target() != layout::LANDING {
            return None;
        }
        if !instruction.is_invalid() && !place::is_safe(&instruction, &registers) {
            return None;
        }
        Some(Single { case: Case { start, code, registers, memory }, instruction })
    }

    /// Random registers.
    pub(crate) fn registers(&self, random: &mut Random) -> Registers {
        Registers {
            gpr: std::array::from_fn(|_| values::integer(random)),
            rflags: values::flags(random),
            vector: values::vector(random, self.operands.components),
        }
    }
}

/// The bytes of an instruction.
pub(crate) fn encode(instruction: &Instruction, start: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, start).ok()?;
    Some(encoder.take_buffer())
}

/// Decodes all of `code` as one instruction; `None` if it is none that may be tested.
pub(crate) fn decode(code: &[u8], start: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        // LOCK on what cannot be locked is #UD for certain, but for AMD's way to name CR8.
        let control = code.windows(2).any(|pair| matches!(pair, [0x0f, 0x20 | 0x22]));
        return (code[0] == LOCK && !control).then_some(instruction);
    }
    let whole = instruction.len() == code.len();
    // Processors disagree on branches with an operand-size prefix.
    let short_branch = instruction.flow_control() != FlowControl::Next
        && code.iter().take_while(|byte| is_prefix(**byte)).any(|&byte| byte == OPERAND_SIZE);
    // Nor do decoders agree with processors that F3 90 with a REX prefix is an exchange.
    let exchange = instruction.mnemonic() == Mnemonic::Pause && code.len() > 2;
    (whole && !short_branch && !exchange && codes::is_testable(instruction.code()))
        .then_some(instruction)
}

/// Whether the code says where it branches to.
fn is_direct_branch(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}

const LOCK: u8 = 0xf0;
const OPERAND_SIZE: u8 = 0x66;
/// Legacy prefixes.
const PREFIXES: [u8; 11] =
    [OPERAND_SIZE, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, LOCK];

fn is_prefix(byte: u8) -> bool {
    PREFIXES.contains(&byte)
}

/// Puts a prefix in front that is redundant, unusual or wrong.
fn add_prefix(code: &mut Vec<u8>, random: &mut Random) {
    let prefix = random.pick(&PREFIXES);
    if code.len() < MAX_LENGTH {
        code.insert(0, prefix);
    }
}
