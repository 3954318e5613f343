//! Loops that only count until one of several conditions holds, as a search for an end does whose elements are known
//! without looking. Their turns are skipped: whether many more of them would go on is a few comparisons, and then the
//! counters are moved at once.
//!
//! Nothing that the guest could see depends on it. Such a loop touches no memory, so that all its turns could have happened
//! in one instant; a turn compares before it asks for flags; and it is looked at whether anything wants attention
//! before each leap. A loop with one condition is not skipped: it does nothing but
//! wait, for which a guest may have measured it.
//!
//! In a turn stand instructions that move a register by a constant (*counters*), that set one to what is the same in each turn
//! (*settled* registers), and comparisons with the jump that each is for. Each comparison is between settled values, then it
//! turns out as it did in the turn before, or of a counter with a settled value. For a counter that moves by
//! s in each turn, N turns stay in `v..=v + N s` with v its value between turns, and that they stay on their side
//! of the other value, without going around, is compared before the leap.

use crate::build::Builder;
use crate::classify::Action;
use crate::emit::reg;
use crate::flags::FlagsIn;
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind, Register};

/// Turns that are skipped at once.
const TURNS: i32 = 1024;
/// The most that a counter may move in a turn.
const MAX_STEP: i32 = 1 << 12;
/// Most registers that a turn writes.
const MAX_WRITTEN: usize = 6;

/// A register that moves by a constant in each turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counter {
    /// The 64-bit register.
    register: Register,
    /// It counts in 64 bits; else in 32, with zeros above.
    wide: bool,
    step: i32,
}

/// How a counter's value stays to another one while the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Differs,
    AtLeast,
    Above,
    AtMost,
    Below,
}

/// What a counter is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Register(Register),
    Constant(i32),
}

/// A comparison of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    counter: Counter,
    other: Other,
    /// The comparison is of 64 bits, else of 32.
    wide: bool,
    relation: Relation,
    signed: bool,
}

/// A loop whose turns can be skipped.
#[derive(Debug)]
pub(crate) struct Counting {
    counters: Vec<Counter>,
    bounds: Vec<Bound>,
    /// Number of the jump back in its block.
    pub(crate) back: usize,
}

/// What a turn does with a register that it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Counts(Counter),
    /// It is set once, before its uses.
    Settled,
}

/// The registers that a turn writes.
#[derive(Debug, Default)]
struct Registers(Vec<(Register, Written)>);

impl Registers {
    fn get(&self, register: Register) -> Option<Written> {
        let found = self.0.iter().find(|(known, _)| *known == register.full_register());
        found.map(|&(_, written)| written)
    }

    /// A register is moved by `step`; `None` if that makes it no counter.
    fn count(&mut self, register: Register, step: i32) -> Option<()> {
        let wide = register.is_gpr64();
        let full = usable(register)?;
        if step == 0 || step.abs() > MAX_STEP {
            return None;
        }
        for (known, written) in &mut self.0 {
            if *known == full {
                let Written::Counts(counter) = written else { return None };
                let sum = counter.step + step;
                if counter.wide != wide || (counter.step < 0) != (step < 0) || sum.abs() > MAX_STEP
                {
                    return None;
                }
                counter.step = sum;
                return Some(());
            }
        }
        self.0.push((full, Written::Counts(Counter { register: full, wide, step })));
        Some(())
    }

    /// A register is set to what is the same in each turn.
    fn settle(&mut self, register: Register) -> Option<()> {
        let full = usable(register)?;
        self.get(full).is_none().then(|| self.0.push((full, Written::Settled)))
    }
}

/// The whole of a general-purpose register that a turn may name by 32 or 64 bits; the stack pointer and those without a
/// host register of their own are left alone.
fn usable(register: Register) -> Option<Register> {
    let full = register.full_register();
    let named = register.is_gpr32() || register.is_gpr64();
    let odd = matches!(full, Register::RSP | Register::R10 | Register::R11);
    (named && !odd).then_some(full)
}

/// The value of an immediate operand that fits into 32 bits.
fn constant(instruction: &Instruction, operand: u32) -> Option<i32> {
    match instruction.op_kind(operand) {
        OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32
        | OpKind::Immediate32to64 => Some(instruction.immediate(operand) as i32),
        _ => None,
    }
}

impl Counting {
    /// The loop that a block begins with, one or more turns of it from its start at `start` on, if its turns can be skipped.
    pub(crate) fn find(instructions: &[(Instruction, Action)], start: u64) -> Option<Self> {
        let returns = |(instruction, action): &(Instruction, Action)| {
            *action == Action::Branch && instruction.near_branch_target() == start
        };
        let back = instructions.iter().position(returns)?;
        let begins = |(instruction, _): &(Instruction, Action)| instruction.ip() == start;
        let turn = &instructions[..=back];
        let turn = &turn[turn.iter().rposition(begins)?..];
        let registers = written(turn)?;
        let bounds = bounds(turn, &registers)?;
        let counters = registers.0.iter().filter_map(|(_, written)| match written {
            Written::Counts(counter) => Some(*counter),
            Written::Settled => None,
        });
        (!bounds.is_empty()).then(|| Self { counters: counters.collect(), bounds, back })
    }
}

/// What a turn writes; `None` if it does anything but count.
fn written(turn: &[(Instruction, Action)]) -> Option<Registers> {
    let mut registers = Registers::default();
    // Registers whose values were used.
    let mut used = Vec::new();
    for (instruction, action) in turn {
        let register = instruction.op0_register();
        let plain = instruction.op0_kind() == OpKind::Register;
        match (action, instruction.mnemonic()) {
            (Action::Skip | Action::Branch, _) => {}
            (Action::Copy, Mnemonic::Inc) if plain => registers.count(register, 1)?,
            (Action::Copy, Mnemonic::Dec) if plain => registers.count(register, -1)?,
            (Action::Copy, Mnemonic::Add) if plain => {
                registers.count(register, constant(instruction, 1)?)?;
            }
            (Action::Copy, Mnemonic::Sub) if plain => {
                registers.count(register, constant(instruction, 1)?.checked_neg()?)?;
            }
            (Action::Address, _) => {
                let alone = instruction.memory_base() == register
                    && instruction.memory_index() == Register::None;
                let distance = i32::try_from(instruction.memory_displacement64() as i64).ok()?;
                registers.count(alone.then_some(register)?, distance)?;
            }
            (Action::Copy, Mnemonic::Xor) if plain => {
                let zero = instruction.op1_kind() == OpKind::Register
                    && instruction.op1_register() == register
                    && !used.contains(&register.full_register());
                registers.settle(zero.then_some(register)?)?;
            }
            (Action::Copy, Mnemonic::Mov) if plain => {
                constant(instruction, 1)?;
                let unused = !used.contains(&register.full_register());
                registers.settle(unused.then_some(register)?)?;
            }
            (Action::Copy, Mnemonic::Cmp | Mnemonic::Test) => {
                for operand in 0..2 {
                    if instruction.op_kind(operand) == OpKind::Register {
                        used.push(usable(instruction.op_register(operand))?);
                    } else {
                        constant(instruction, operand)?;
                    }
                }
            }
            _ => return None,
        }
        if registers.0.len() > MAX_WRITTEN {
            return None;
        }
    }
    Some(registers)
}

/// The comparisons of counters; `None` if the turn has less than two conditions or one that is not known to hold on.
fn bounds(turn: &[(Instruction, Action)], registers: &Registers) -> Option<Vec<Bound>> {
    let mut bounds = Vec::new();
    let mut conditions = 0;
    let mut compared: Option<&Instruction> = None;
    for (index, (instruction, action)) in turn.iter().enumerate() {
        if *action == Action::Branch {
            conditions += 1;
            let mut leaving = *instruction;
            if index + 1 == turn.len() {
                leaving.negate_condition_code();
            }
            bounds.extend(bound(compared?, leaving.condition_code(), registers)?);
        } else if matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            compared = Some(instruction);
        } else if instruction.rflags_modified() != 0 {
            compared = None;
        }
    }
    (conditions >= 2).then_some(bounds)
}

/// What has to hold so that a comparison after which the loop is left with a condition never ends it: nothing if
/// its operands are settled. The outer `None` stands for what is not known.
fn bound(
    comparison: &Instruction,
    leaves: ConditionCode,
    registers: &Registers,
) -> Option<Option<Bound>> {
    use ConditionCode as C;
    let counter = |operand| match comparison.op_kind(operand) {
        OpKind::Register => match registers.get(comparison.op_register(operand)) {
            Some(Written::Counts(counter)) => Some(counter),
            Some(Written::Settled) | None => None,
        },
        _ => None,
    };
    let (counter, other, reversed) = match (counter(0), counter(1)) {
        (None, None) => return Some(None),
        (Some(counter), None) => (counter, 1, false),
        (None, Some(counter)) => (counter, 0, true),
        (Some(_), Some(_)) => return None,
    };
    if comparison.mnemonic() != Mnemonic::Cmp {
        return None;
    }
    let wide = comparison.op0_register().is_gpr64();
    if wide && !counter.wide {
        return None;
    }
    let other = match comparison.op_kind(other) {
        OpKind::Register => Other::Register(comparison.op_register(other).full_register()),
        _ => Other::Constant(constant(comparison, other)?),
    };
    let (relation, signed) = match leaves {
        C::e => (Relation::Differs, false),
        C::b => (Relation::AtLeast, false),
        C::be => (Relation::Above, false),
        C::a => (Relation::AtMost, false),
        C::ae => (Relation::Below, false),
        C::l => (Relation::AtLeast, true),
        C::le => (Relation::Above, true),
        C::g => (Relation::AtMost, true),
        C::ge => (Relation::Below, true),
        _ => return None,
    };
    let relation = match (reversed, relation) {
        (true, Relation::AtLeast) => Relation::AtMost,
        (true, Relation::Above) => Relation::Below,
        (true, Relation::AtMost) => Relation::AtLeast,
        (true, Relation::Below) => Relation::Above,
        (_, relation) => relation,
    };
    Some(Some(Bound { counter, other, wide, relation, signed }))
}

/// Conditions of jumps.
const BELOW: u8 = 2;
const ABOVE_OR_EQUAL: u8 = 3;
const BELOW_OR_EQUAL: u8 = 6;
const ABOVE: u8 = 7;

impl Builder<'_> {
    /// The jump back of a loop that counts, to `target` if `condition` holds: skips turns if so many go on.
    pub(crate) fn skip_turns(&mut self, counting: &Counting, target: u64, condition: u8) {
        self.free_scratch();
        self.want_flags(self.idle());
        let flags = self.flags;
        // The opposite condition has the number with the lowest bit changed.
        let over = self.code.jump_if(condition ^ 1, 0);
        let mut ends = Vec::new();
        for bound in &counting.bounds {
            self.check_bound(bound, &mut ends);
        }
        for counter in &counting.counters {
            let register = of_width(counter.register, counter.wide);
            self.with_constant(ADD, register, counter.step * TURNS);
        }
        let here = self.code.here();
        for end in ends {
            self.code.bind(end, here);
        }
        self.flags = FlagsIn::Host;
        self.edge(target, None, 0);
        let here = self.code.here();
        self.code.bind(over, here);
        self.flags = flags;
    }

    /// Compares whether a counter stays on its side; adds jumps for the case that it may not.
    fn check_bound(&mut self, bound: &Bound, ends: &mut Vec<u64>) {
        let wide = bound.wide;
        let value = of_width(Register::R11, wide);
        let other = of_width(Register::R10, wide);
        self.with_register(MOV, value, of_width(bound.counter.register, wide));
        match bound.other {
            Other::Register(register) => self.with_register(MOV, other, of_width(register, wide)),
            Other::Constant(constant) => {
                let bits =
                    if wide { i64::from(constant) as u64 } else { u64::from(constant as u32) };
                self.code.constant(reg::R10, bits);
            }
        }
        if bound.signed {
            for register in [value, other] {
                self.flip_sign(register);
            }
        }
        let distance = bound.counter.step.abs() * TURNS;
        let up = bound.counter.step > 0;
        let mut unless = |builder: &mut Self, condition| {
            ends.push(builder.code.jump_if(condition, 0));
        };
        match (bound.relation, up) {
            (Relation::Differs, _) => {
                let (from, to) = if up { (value, other) } else { (other, value) };
                self.with_register(SUB, to, from);
                self.with_constant(CMP, to, distance);
                unless(self, BELOW_OR_EQUAL);
            }
            (Relation::AtLeast | Relation::Above, true) => {
                let fails = if bound.relation == Relation::Above { BELOW_OR_EQUAL } else { BELOW };
                self.with_register(CMP, value, other);
                unless(self, fails);
                self.invert(value);
                self.with_constant(CMP, value, distance);
                unless(self, BELOW);
            }
            (Relation::AtLeast | Relation::Above, false) => {
                let fails = if bound.relation == Relation::Above { BELOW_OR_EQUAL } else { BELOW };
                self.with_register(SUB, value, other);
                unless(self, fails);
                self.with_constant(CMP, value, distance);
                unless(self, fails);
            }
            (Relation::AtMost | Relation::Below, true) => {
                let fails = if bound.relation == Relation::Below { BELOW_OR_EQUAL } else { BELOW };
                self.with_register(SUB, other, value);
                unless(self, fails);
                self.with_constant(CMP, other, distance);
                unless(self, fails);
            }
            (Relation::AtMost | Relation::Below, false) => {
                let fails = if bound.relation == Relation::Below { ABOVE_OR_EQUAL } else { ABOVE };
                self.with_register(CMP, value, other);
                unless(self, fails);
                self.with_constant(CMP, value, distance);
                unless(self, BELOW);
            }
        }
    }

    fn with_register(&mut self, operation: Operation, to: Register, from: Register) {
        let code = if to.is_gpr64() { operation.registers.1 } else { operation.registers.0 };
        self.put_new(Instruction::with2(code, to, from));
    }

    fn with_constant(&mut self, operation: Operation, to: Register, value: i32) {
        let code = if to.is_gpr64() { operation.constant.1 } else { operation.constant.0 };
        self.put_new(Instruction::with2(code, to, value));
    }

    fn invert(&mut self, register: Register) {
        let code = if register.is_gpr64() { Code::Not_rm64 } else { Code::Not_rm32 };
        self.put_new(Instruction::with1(code, register));
    }

    /// Changes the sign, which brings signed values into the order of unsigned ones.
    fn flip_sign(&mut self, register: Register) {
        let (code, bit) = match register.is_gpr64() {
            true => (Code::Btc_rm64_imm8, 63),
            false => (Code::Btc_rm32_imm8, 31),
        };
        self.put_new(Instruction::with2(code, register, bit));
    }

    fn put_new(&mut self, instruction: Result<Instruction, iced_x86::IcedError>) {
        match instruction {
            Ok(instruction) => self.put(&instruction),
            Err(_) => self.failed = true,
        }
    }

    fn put(&mut self, instruction: &Instruction) {
        if !self.code.instruction(instruction) {
            self.failed = true;
        }
    }
}

/// An operation in its forms of 32 and 64 bits.
#[derive(Debug, Clone, Copy)]
struct Operation {
    /// Of two registers.
    registers: (Code, Code),
    /// Of a register and a constant.
    constant: (Code, Code),
}

const MOV: Operation = Operation {
    registers: (Code::Mov_rm32_r32, Code::Mov_rm64_r64),
    constant: (Code::Mov_rm32_imm32, Code::Mov_rm64_imm32),
};
const ADD: Operation = Operation {
    registers: (Code::Add_rm32_r32, Code::Add_rm64_r64),
    constant: (Code::Add_rm32_imm32, Code::Add_rm64_imm32),
};
const SUB: Operation = Operation {
    registers: (Code::Sub_rm32_r32, Code::Sub_rm64_r64),
    constant: (Code::Sub_rm32_imm32, Code::Sub_rm64_imm32),
};
const CMP: Operation = Operation {
    registers: (Code::Cmp_rm32_r32, Code::Cmp_rm64_r64),
    constant: (Code::Cmp_rm32_imm32, Code::Cmp_rm64_imm32),
};

fn of_width(register: Register, wide: bool) -> Register {
    if wide { register.full_register() } else { register.full_register32() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::classify;
    use iced_x86::{Decoder, DecoderOptions};

    const START: u64 = 0x1000;

    /// What is found in code at the start, as one turn.
    fn find(bytes: &[u8]) -> Option<Counting> {
        let instructions: Vec<_> = Decoder::with_ip(64, bytes, START, DecoderOptions::NONE)
            .into_iter()
            .map(|instruction| (instruction, classify(&instruction)))
            .collect();
        Counting::find(&instructions, START)
    }

    #[test]
    fn loops_with_several_conditions_are_found() {
        // cmp rdi, r9; jb out; xor r8d, r8d; cmp esi, r8d; jne out; inc edx; inc rdi; cmp edx, eax; jne again
        let found = find(&[
            0x4c, 0x39, 0xcf, 0x72, 0x20, 0x45, 0x31, 0xc0, 0x44, 0x39, 0xc6, 0x75, 0x20, 0xff,
            0xc2, 0x48, 0xff, 0xc7, 0x39, 0xc2, 0x75, 0xea,
        ])
        .unwrap();
        let edx = Counter { register: Register::RDX, wide: false, step: 1 };
        let rdi = Counter { register: Register::RDI, wide: true, step: 1 };
        assert_eq!(found.counters, [edx, rdi]);
        let bound = |counter: Counter, other, relation| Bound {
            counter,
            other: Other::Register(other),
            wide: counter.wide,
            relation,
            signed: false,
        };
        let first = bound(rdi, Register::R9, Relation::AtLeast);
        assert_eq!(found.bounds, [first, bound(edx, Register::RAX, Relation::Differs)]);
    }

    #[test]
    fn others_are_not() {
        let others: [(&str, &[u8]); 6] = [
            ("inc rdi; cmp rdi, rax; jne again", &[0x48, 0xff, 0xc7, 0x48, 0x39, 0xc7, 0x75, 0xf8]),
            (
                "cmp rdi, [rax]; je out; inc rdi; cmp rdi, rax; jne again",
                &[0x48, 0x3b, 0x38, 0x74, 9, 0x48, 0xff, 0xc7, 0x48, 0x39, 0xc7, 0x75, 0xf3],
            ),
            (
                "cmp rdi, rsi; je out; inc rdi; inc rsi; cmp rdi, rax; jne again",
                &[
                    0x48, 0x39, 0xf7, 0x74, 9, 0x48, 0xff, 0xc7, 0x48, 0xff, 0xc6, 0x48, 0x39,
                    0xc7, 0x75, 0xf0,
                ],
            ),
            (
                "cmp esi, r8d; jne out; xor r8d, r8d; inc rdi; cmp rdi, rax; jne again",
                &[
                    0x44, 0x39, 0xc6, 0x75, 9, 0x45, 0x31, 0xc0, 0x48, 0xff, 0xc7, 0x48, 0x39,
                    0xc7, 0x75, 0xf0,
                ],
            ),
            (
                "cmp rsi, rbx; je out; add edi, 1; cmp rdi, rax; jne again",
                &[0x48, 0x39, 0xde, 0x74, 9, 0x83, 0xc7, 1, 0x48, 0x39, 0xc7, 0x75, 0xf3],
            ),
            (
                "cmp rsi, rbx; je out; inc r10; cmp r10, rax; jne again",
                &[0x48, 0x39, 0xde, 0x74, 9, 0x49, 0xff, 0xc2, 0x49, 0x39, 0xc2, 0x75, 0xf3],
            ),
        ];
        for (what, bytes) in others {
            assert!(find(bytes).is_none(), "{what}");
        }
    }
}
