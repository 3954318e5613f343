//! Making failures simple and showing them.

use crate::case::{Case, MEMORY_SIZE, Memory};
use crate::compare::{GPR, bytes};
use crate::generate::{Single, place};
use ambos_vcpu::VectorState;
use iced_x86::{Formatter, GasFormatter, Instruction};
use std::fmt::Write;

/// Replaces as much of the state before by zeros as `fails` allows.
pub(crate) fn single(original: &Single, mut fails: impl FnMut(&Single) -> bool) -> Single {
    let mut best = original.clone();
    let mut attempt = |best: &mut Single, change: &dyn Fn(&mut Case)| {
        let mut candidate = best.clone();
        change(&mut candidate.case);
        let safe = candidate.instruction.is_invalid()
            || place::is_safe(&candidate.instruction, &candidate.case.registers);
        if safe && fails(&candidate) {
            *best = candidate;
        }
    };
    attempt(&mut best, &|case| case.registers.rflags = 0x202);
    attempt(&mut best, &|case| case.registers.vector = VectorState::default());
    attempt(&mut best, &|case| case.registers.vector.x87 = VectorState::default().x87);
    attempt(&mut best, &|case| case.registers.vector.mxcsr = ambos_x86::xstate::MXCSR_RESET);
    for number in 0..16 {
        attempt(&mut best, &|case| case.registers.gpr[number] = 0);
    }
    for number in 0..32 {
        attempt(&mut best, &|case| case.registers.vector.zmm[number] = [0; 64]);
    }
    attempt(&mut best, &|case| case.memory = Memory(Box::new([0; MEMORY_SIZE])));
    best
}

/// An instruction as text with its bytes.
pub(crate) fn text(single: &Single) -> String {
    format!("{} [{}]", disassemble(&single.instruction), hex(&single.case.code))
}

/// An instruction as text.
pub(crate) fn disassemble(instruction: &Instruction) -> String {
    let mut text = String::new();
    GasFormatter::new().format(instruction, &mut text);
    text
}

fn hex(code: &[u8]) -> String {
    code.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The state before, without what is zero.
pub(crate) fn state(case: &Case) -> String {
    let registers = &case.registers;
    let mut text = format!("before: rip={:#x} rflags={:#x}", case.start, registers.rflags);
    for (name, value) in GPR.iter().zip(registers.gpr) {
        if value != 0 {
            let _ = write!(text, " {name}={value:#x}");
        }
    }
    for (number, register) in registers.vector.zmm.iter().enumerate() {
        if let Some(last) = register.iter().rposition(|&byte| byte != 0) {
            let _ = write!(text, " v{number}={}", bytes(&register[..=last]));
        }
    }
    for (number, mask) in registers.vector.k.iter().enumerate().filter(|(_, mask)| **mask != 0) {
        let _ = write!(text, " k{number}={mask:#x}");
    }
    let default = VectorState::default();
    if registers.vector.mxcsr != default.mxcsr {
        let _ = write!(text, " mxcsr={:#x}", registers.vector.mxcsr);
    }
    if registers.vector.x87 != default.x87 {
        let _ = write!(text, " x87={}", bytes(&registers.vector.x87[..5]));
        for (number, register) in registers.vector.x87[32..160].chunks_exact(16).enumerate() {
            let _ = write!(text, " st{number}={}", bytes(&register[..10]));
        }
    }
    if case.memory.0.iter().any(|&byte| byte != 0) {
        text.push_str(" memory=random");
    }
    text
}
