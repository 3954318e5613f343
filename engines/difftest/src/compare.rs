//! What counts as a difference.

use crate::case::{Case, End, Fault, Memory, Outcome, Registers};
use crate::generate::place;
use ambos_x86::RFlags;
use iced_x86::{Code, Instruction, Mnemonic as M};
use std::fmt::Write;

/// Names of the general-purpose registers.
pub(crate) const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Bytes of an x87 image that hold what software sees: control, status and tag words.
const X87_HEAD: usize = 6;

/// What a non-canonical address raises.
const GENERAL_PROTECTION: u8 = 13;

/// What an instruction leaves undefined or up to the processor's model.
#[derive(Debug, Default)]
pub(crate) struct Tolerance {
    /// Flags that are not compared.
    flags: u64,
    /// Ranges of memory that are not compared.
    memory: Vec<(u64, u64)>,
    /// Which byte of the page a page fault is reported for is the processor's choice.
    fault_offset: bool,
    /// An instruction with two operands either of which may be found absent first. With a REPE prefix
    /// Zen 4 looks at RSI first, without one and with REPNE at RDI, as its predecessors always do.
    either_operand: Option<Instruction>,
    /// Flags that are not compared after a fault. A repeated comparison has either those of its last
    /// round or, as Intel's manual has it and as AMD's processors do where they compare many bytes at
    /// a time, those before it.
    flags_of_fault: u64,
}

impl Tolerance {
    /// A tolerance of what these `flags` are when an instruction faults.
    pub(crate) fn of_faults(flags: u64) -> Self {
        Self { flags_of_fault: flags, ..Self::default() }
    }

    /// What `instruction`, which begins with these `registers`, leaves open.
    pub(crate) fn of(instruction: &Instruction, registers: &Registers) -> Self {
        let arithmetic = RFlags::ARITHMETIC.bits();
        let flags = match instruction.mnemonic() {
            // Not executed on the host, and flags are undefined.
            M::Div | M::Idiv => arithmetic,
            _ => 0,
        };
        // Instruction and data pointers of the x87 unit.
        let open: &[(u64, u64)] = match instruction.code() {
            Code::Fnstenv_m14byte | Code::Fnsave_m94byte => &[(6, 8)],
            Code::Fnstenv_m28byte | Code::Fnsave_m108byte => &[(2, 2), (6, 2), (10, 18)],
            Code::Fxsave_m512byte | Code::Fxsave64_m512byte => &[(5, 19), (464, 48)],
            _ => &[],
        };
        let memory = match place::operand_address(instruction, registers) {
            Some(at) if !open.is_empty() => {
                open.iter().map(|&(offset, size)| (at.wrapping_add(offset), size)).collect()
            }
            _ => Vec::new(),
        };
        let fault_offset = matches!(
            instruction.mnemonic(),
            M::Fnstenv
                | M::Fnsave
                | M::Fldenv
                | M::Frstor
                | M::Fxsave
                | M::Fxsave64
                | M::Fxrstor
                | M::Fxrstor64
        );
        let compares = matches!(instruction.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
        let either_operand = compares.then_some(*instruction);
        let scans = matches!(instruction.mnemonic(), M::Scasb | M::Scasw | M::Scasd | M::Scasq);
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let flags_of_fault = if repeated && (compares || scans) { arithmetic } else { 0 };
        Self { flags, memory, fault_offset, either_operand, flags_of_fault }
    }
}

/// The first differences between what the host did and what the engine did, in one line.
pub(crate) fn difference(
    case: &Case,
    tolerance: &Tolerance,
    expected: &Outcome,
    got: &Outcome,
) -> Option<String> {
    let mut text = String::new();
    let same = same_end(&expected.end, &got.end, tolerance)
        || tolerance
            .either_operand
            .is_some_and(|instruction| faults_of_two_operands(&instruction, expected, got));
    if !same {
        note(&mut text, "end", &describe(&expected.end), &describe(&got.end));
        return Some(text);
    }
    let (a, b) = (&expected.registers, &got.registers);
    for (number, name) in GPR.iter().enumerate() {
        if a.gpr[number] != b.gpr[number] {
            note(&mut text, name, &hex(a.gpr[number]), &hex(b.gpr[number]));
        }
    }
    let faulted = matches!(expected.end, End::Faulted { .. });
    let open = tolerance.flags | if faulted { tolerance.flags_of_fault } else { 0 };
    let mask = !(open | RFlags::RF.bits());
    if (a.rflags ^ b.rflags) & mask != 0 {
        note(&mut text, "rflags", &hex(a.rflags & mask), &hex(b.rflags & mask));
    }
    vector(a, b, &mut text);
    memory(case, tolerance, &expected.memory, &got.memory, &mut text);
    (!text.is_empty()).then_some(text)
}

fn vector(a: &Registers, b: &Registers, text: &mut String) {
    let (a, b) = (&a.vector, &b.vector);
    for number in 0..32 {
        if a.zmm[number] != b.zmm[number] {
            let used = |bytes: &[u8; 64]| bytes.iter().rposition(|&byte| byte != 0);
            let size = used(&a.zmm[number]).max(used(&b.zmm[number])).map_or(16, |last| last + 1);
            let size = size.next_multiple_of(16);
            let name = format!("v{number}");
            note(text, &name, &bytes(&a.zmm[number][..size]), &bytes(&b.zmm[number][..size]));
        }
    }
    for number in 0..8 {
        if a.k[number] != b.k[number] {
            note(text, &format!("k{number}"), &hex(a.k[number]), &hex(b.k[number]));
        }
        let at = 32 + number * 16;
        let (x, y) = (&a.x87[at..at + 10], &b.x87[at..at + 10]);
        if x != y {
            note(text, &format!("st{number}"), &bytes(x), &bytes(y));
        }
    }
    if a.mxcsr != b.mxcsr {
        note(text, "mxcsr", &hex(a.mxcsr.into()), &hex(b.mxcsr.into()));
    }
    // The fifth byte is the tags, the sixth is reserved.
    if a.x87[..X87_HEAD - 1] != b.x87[..X87_HEAD - 1] {
        note(text, "x87", &bytes(&a.x87[..X87_HEAD]), &bytes(&b.x87[..X87_HEAD]));
    }
}

fn memory(case: &Case, tolerance: &Tolerance, a: &Memory, b: &Memory, text: &mut String) {
    if a == b {
        return;
    }
    let tolerated = |address: u64| {
        tolerance.memory.iter().any(|&(start, size)| address.wrapping_sub(start) < size)
    };
    let mut shown = 0;
    for index in 0..a.0.len() {
        let address = Memory::address(index);
        if a.0[index] == b.0[index] || tolerated(address) {
            continue;
        }
        if shown == 4 {
            text.push_str("; more memory");
            return;
        }
        shown += 1;
        let name = format!("[{address:#x}] (was {:02x})", case.memory.0[index]);
        note(text, &name, &format!("{:02x}", a.0[index]), &format!("{:02x}", b.0[index]));
    }
}

fn note(text: &mut String, what: &str, expected: &str, got: &str) {
    let separator = if text.is_empty() { "" } else { "; " };
    let _ = write!(text, "{separator}{what}: expected {expected}, got {got}");
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// Bytes as one number, the last first.
pub(crate) fn bytes(bytes: &[u8]) -> String {
    bytes.iter().rev().fold(String::from("0x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn same_end(expected: &End, got: &End, tolerance: &Tolerance) -> bool {
    let page = |end: &End| match *end {
        End::Faulted { rip, fault } if tolerance.fault_offset => {
            End::Faulted { rip, fault: Fault { address: fault.address & !0xfff, ..fault } }
        }
        end => end,
    };
    page(expected) == page(got)
}

/// Whether the instruction has two operands that cannot be read, and each side found one of them.
fn faults_of_two_operands(instruction: &Instruction, expected: &Outcome, got: &Outcome) -> bool {
    let (End::Faulted { rip, fault }, End::Faulted { rip: other_rip, fault: other }) =
        (&expected.end, &got.end)
    else {
        return false;
    };
    let operands = place::addresses(instruction, &got.registers).unwrap_or_default();
    let absent: Vec<u64> = operands
        .iter()
        .filter_map(|&(start, size)| {
            let mut bytes = (0..size).map(|offset| start.wrapping_add(offset));
            bytes.find(|&address| got.memory.read(address).is_none())
        })
        .collect();
    let found =
        |fault: &Fault| fault.vector == GENERAL_PROTECTION || absent.contains(&fault.address);
    rip == other_rip && absent.len() == 2 && found(fault) && found(other)
}

fn describe(end: &End) -> String {
    match end {
        End::Completed => "completion".to_owned(),
        End::Landed => "branch taken".to_owned(),
        End::Lost { what, rip } => format!("lost at {rip:#x}: {what}"),
        End::Faulted { rip, fault } => format!(
            "exception {} error {:#x} address {:#x} at rip {rip:#x}",
            fault.vector, fault.error, fault.address
        ),
    }
}
