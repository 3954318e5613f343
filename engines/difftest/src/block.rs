//! Testing blocks of instructions.

use crate::case::{Case, End, MEMORY_SIZE, Memory, Outcome};
use crate::compare::{self, Tolerance};
use crate::generate::Generator;
use crate::generate::block::Block;
use crate::guest::Guest;
use crate::native::Native;
use crate::random::Random;
use crate::{DifftestError, Options, Report, shrink, single};
use ambos_memory::GuestRam;
use ambos_vcpu::{Attention, Engine, VectorState};
use ambos_x86::RFlags;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

/// Attempts to make a block before its number is skipped.
const ATTEMPTS: u64 = 50;
/// How failures of blocks are called in the report.
const NAME: &str = "block";

pub(crate) fn run<E: Engine>(
    options: &Options,
    exact: bool,
    make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
) -> Result<Report, DifftestError> {
    let mut native = Native::new()?;
    let mut generator = Generator::new(native.components(), options.filter.as_deref());
    let (present, absent) = single::split(&generator, &mut native);
    if present.is_empty() {
        return Err(DifftestError::NoSuchInstruction(options.filter.clone().unwrap_or_default()));
    }
    let mut report = Report { absent: absent.len(), ..Report::default() };
    generator.keep(present);
    let guest = Guest::new(make, native.components())?;
    let mut sides = Sides { native, guest, exact };
    let mut seen = HashSet::new();
    for number in options.cases.clone() {
        let mut random = Random::new(options.seed.wrapping_mul(0x1_0000_0001) ^ number << 20);
        let Some(block) = (0..ATTEMPTS).find_map(|_| generator.block(&mut random)) else {
            continue;
        };
        let (expected, difference) = sides.compare(&block.case);
        report.ran += 1;
        report.faulted += u64::from(matches!(expected.end, End::Faulted { .. }));
        seen.extend(decode(&block.case).iter().map(Instruction::code));
        if difference.is_some() {
            report.fail(NAME, number, || sides.describe(block));
        }
    }
    report.codes = seen.len();
    Ok(report)
}

/// The host and the engine.
struct Sides<E> {
    native: Native,
    guest: Guest<E>,
    exact: bool,
}

impl<E: Engine> Sides<E> {
    /// What the host does, and what the engine does differently.
    fn compare(&mut self, case: &Case) -> (Outcome, Option<String>) {
        let expected = self.native.run(case);
        let got = self.guest.run(case);
        let tolerance = match expected.end {
            End::Faulted { rip, .. } if !self.exact => Tolerance::of_faults(dead_flags(case, rip)),
            _ => Tolerance::default(),
        };
        let difference = compare::difference(case, &tolerance, &expected, &got);
        (expected, difference)
    }

    /// The failure in a simple form.
    fn describe(&mut self, original: Block) -> String {
        let mut best = original;
        let mut attempt = |best: &mut Block, change: &dyn Fn(&mut Block)| {
            let mut candidate = best.clone();
            change(&mut candidate);
            if self.compare(&candidate.case).1.is_some() {
                *best = candidate;
            }
        };
        for piece in best.pieces.clone() {
            attempt(&mut best, &|block| block.take_out(&piece));
        }
        attempt(&mut best, &|block| block.case.registers.rflags = RFlags::IF.bits() | 2);
        attempt(&mut best, &|block| block.case.registers.vector = VectorState::default());
        let fixed = best.fixed;
        for number in (0..16).filter(|number| fixed >> number & 1 == 0) {
            attempt(&mut best, &|block| block.case.registers.gpr[number] = 0);
        }
        attempt(&mut best, &|block| block.case.memory = Memory(Box::new([0; MEMORY_SIZE])));
        let (_, difference) = self.compare(&best.case);
        let difference = difference.unwrap_or_else(|| "only sometimes".to_owned());
        format!("{}| {difference} | {}", text(&best.case), shrink::state(&best.case))
    }
}

/// All instructions of a block, in the order in which they lie.
fn decode(case: &Case) -> Vec<Instruction> {
    Decoder::with_ip(64, &case.code, case.start, DecoderOptions::NONE).into_iter().collect()
}

/// A block as text, without what was taken out of it.
fn text(case: &Case) -> String {
    let mut text = String::new();
    for instruction in decode(case).iter().filter(|instruction| !is_nop(instruction)) {
        let start = (instruction.ip() - case.start) as usize;
        let bytes = &case.code[start..start + instruction.len()];
        let _ = write!(text, "{:x}: {} [", instruction.ip(), shrink::disassemble(instruction));
        let _ = bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"));
        text.push_str("]; ");
    }
    text
}

fn is_nop(instruction: &Instruction) -> bool {
    instruction.len() == 1 && instruction.mnemonic() == iced_x86::Mnemonic::Nop
}

/// The arithmetic flags that no way through the block from the instruction at `rip` looks at before it
/// overwrites them.
fn dead_flags(case: &Case, rip: u64) -> u64 {
    let arithmetic = RFlags::ARITHMETIC.bits();
    let code = decode(case);
    let mut live = vec![0_u64; code.len()];
    loop {
        let mut changed = false;
        for (index, instruction) in code.iter().enumerate().rev() {
            let at = |address: u64| {
                let target = code.iter().position(|other| other.ip() == address);
                target.map_or(arithmetic, |target| live[target])
            };
            let after = match instruction.flow_control() {
                FlowControl::Next => at(instruction.next_ip()),
                FlowControl::ConditionalBranch => {
                    at(instruction.next_ip()) | at(instruction.near_branch_target())
                }
                FlowControl::UnconditionalBranch => at(instruction.near_branch_target()),
                _ => arithmetic,
            };
            let killed = u64::from(instruction.rflags_modified());
            let before = after & !killed | u64::from(instruction.rflags_read()) & arithmetic;
            changed |= live[index] != before;
            live[index] = before;
        }
        if !changed {
            break;
        }
    }
    let at = code.iter().position(|instruction| instruction.ip() == rip);
    at.map_or(0, |index| arithmetic & !live[index])
}
