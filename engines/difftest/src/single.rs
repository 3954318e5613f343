//! Testing one instruction at a time.

use crate::case::End;
use crate::compare::{self, Tolerance};
use crate::generate::{Generator, Single};
use crate::guest::Guest;
use crate::native::Native;
use crate::random::Random;
use crate::{DifftestError, Options, Report, shrink};
use ambos_memory::GuestRam;
use ambos_vcpu::{Attention, Engine};
use iced_x86::Code;
use std::collections::HashSet;
use std::sync::Arc;

/// Attempts to execute an instruction before it counts as absent.
const PROBES: u64 = 12;
/// Attempts to make a case before its number is skipped.
const ATTEMPTS: u64 = 50;
/// The exception of an instruction that does not exist.
const INVALID_OPCODE: u8 = 6;

pub(crate) fn run<E: Engine>(
    options: &Options,
    make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
) -> Result<Report, DifftestError> {
    let mut native = Native::new()?;
    let mut generator = Generator::new(native.components(), options.filter.as_deref());
    let mut guest = Guest::new(make, native.components())?;
    let mut report = Report::default();
    let (present, absent) = split(&generator, &mut native);
    report.absent = absent.len();
    if present.is_empty() {
        return Err(DifftestError::NoSuchInstruction(options.filter.clone().unwrap_or_default()));
    }
    generator.keep(present);
    let mut seen = HashSet::new();
    for number in options.cases.clone() {
        let mut random = Random::new(options.seed.wrapping_mul(0x1_0000_0001) ^ number << 20);
        let Some(single) = (0..ATTEMPTS).find_map(|_| {
            // Instructions that the host lacks are #UD; a few must do.
            if !absent.is_empty() && random.below(1000) == 0 {
                let code = random.pick(&absent);
                return generator.single_of(code, &mut random);
            }
            generator.single(&mut random)
        }) else {
            continue;
        };
        seen.insert(single.instruction.code());
        let tolerance = Tolerance::of(&single.instruction, &single.case.registers);
        let expected = native.run(&single.case);
        let got = guest.run(&single.case);
        report.ran += 1;
        report.faulted += u64::from(matches!(expected.end, End::Faulted { .. }));
        if compare::difference(&single.case, &tolerance, &expected, &got).is_some() {
            let name = format!("{:?}", single.instruction.mnemonic());
            report.fail(&name, number, || describe(single, &mut native, &mut guest));
        }
    }
    report.codes = seen.len();
    Ok(report)
}

/// Which codes the host executes and which it does not.
pub(crate) fn split(generator: &Generator, native: &mut Native) -> (Vec<Code>, Vec<Code>) {
    generator.codes().iter().partition(|&&code| {
        let mut random = Random::new(code as u64);
        (0..PROBES).any(|_| {
            let single = generator.single_of(code, &mut random);
            single.is_some_and(|single| match native.run(&single.case).end {
                End::Faulted { fault, .. } => fault.vector != INVALID_OPCODE,
                _ => true,
            })
        })
    })
}

/// The failure in its simplest form.
fn describe<E: Engine>(single: Single, native: &mut Native, guest: &mut Guest<E>) -> String {
    let mut differs = |single: &Single| {
        let tolerance = Tolerance::of(&single.instruction, &single.case.registers);
        let expected = native.run(&single.case);
        let got = guest.run(&single.case);
        compare::difference(&single.case, &tolerance, &expected, &got)
    };
    let simple = shrink::single(&single, |single| differs(single).is_some());
    let difference = differs(&simple).unwrap_or_else(|| "only sometimes".to_owned());
    format!("{} | {difference} | {}", shrink::text(&simple), shrink::state(&simple.case))
}
