//! What differs, and how it is said.

use ambos_interpret::Cpu;
use ambos_translate::Translator;
use ambos_vcpu::CpuState;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use std::fmt::Write;

/// Names of the general-purpose registers.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
/// Arithmetic flags.
const ARITHMETIC: u64 = 0x8d5;
/// Most differing bytes that are listed for one page.
const LISTED: usize = 8;
/// Offsets from the stack pointer of the flags in an exception's frame, without and with error code.
const FRAME_FLAGS: [u64; 2] = [16, 24];

/// The first difference found.
#[derive(Debug)]
pub(crate) struct Difference {
    /// What differs, a line each: translated first, interpreted second.
    pub(crate) lines: Vec<String>,
    /// The state that the interpreter came to.
    pub(crate) interpreted: CpuState,
}

impl Difference {
    /// The whole report.
    pub(crate) fn describe(
        &self,
        translator: &Translator,
        before: &CpuState,
        translated: &CpuState,
        block: u32,
    ) -> String {
        let mut text = format!(
            "a translated block at {:#x} does not do what the interpreter does\n",
            before.rip
        );
        let mut say = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        say("differences (translated and interpreted):");
        for line in &self.lines {
            say(&format!("  {line}"));
        }
        for (name, state) in
            [("before", before), ("translated", translated), ("interpreted", &self.interpreted)]
        {
            say(&format!("state {name}:"));
            for line in registers(state) {
                say(&format!("  {line}"));
            }
        }
        if let Some((offsets, start, bytes)) = translator.explain(block) {
            say("guest code:");
            for offset in offsets {
                let rip = before.rip & !0xfff | u64::from(offset);
                let code = translator.code_bytes(rip);
                for line in disassemble(&code, rip, 1) {
                    say(&format!("  {line}"));
                }
            }
            say("host code:");
            for line in disassemble(&bytes, start, usize::MAX) {
                say(&format!("  {line}"));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn registers(state: &CpuState) -> Vec<String> {
    let mut lines = Vec::new();
    for (names, values) in NAMES.chunks(4).zip(state.gpr.chunks(4)) {
        let mut line = String::new();
        for (name, value) in names.iter().zip(values) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{name:>3} {value:016x}  ");
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.push(format!(
        "rip {:016x}  rflags {:08x}  cr2 {:x}  cr3 {:x}",
        state.rip, state.rflags, state.control.cr2, state.control.cr3
    ));
    lines
}

fn disassemble(bytes: &[u8], rip: u64, most: usize) -> Vec<String> {
    let mut formatter = GasFormatter::new();
    let decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
    let describe = |instruction| {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        format!("{:x}: {line}", instruction.ip())
    };
    decoder.into_iter().take(most).map(describe).collect()
}

/// What differs between two states but for the flags in `ignored`.
pub(crate) fn states(translated: &CpuState, interpreted: &CpuState, ignored: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let mut word = |name: &str, left: u64, right: u64| {
        if left != right {
            lines.push(format!("{name}: {left:#x} and {right:#x}"));
        }
    };
    for (index, name) in NAMES.iter().enumerate() {
        word(name, translated.gpr[index], interpreted.gpr[index]);
    }
    word("rip", translated.rip, interpreted.rip);
    if (translated.rflags ^ interpreted.rflags) & !ignored != 0 {
        word("rflags", translated.rflags, interpreted.rflags);
    }
    word("mxcsr", translated.vector.mxcsr.into(), interpreted.vector.mxcsr.into());
    for (index, (left, right)) in
        translated.vector.zmm.iter().zip(&interpreted.vector.zmm).enumerate()
    {
        if left != right {
            lines.push(format!("zmm{index}: {left:02x?} and {right:02x?}"));
        }
    }
    if translated.vector.k != interpreted.vector.k {
        lines.push(format!("k: {:x?} and {:x?}", translated.vector.k, interpreted.vector.k));
    }
    if x87(translated) != x87(interpreted) {
        lines.push(format!("x87: {:02x?} and {:02x?}", x87(translated), x87(interpreted)));
    }
    if translated.segments != interpreted.segments {
        lines.push(format!("segments: {:x?} and {:x?}", translated.segments, interpreted.segments));
    }
    if translated.control != interpreted.control {
        lines.push(format!("control: {:x?} and {:x?}", translated.control, interpreted.control));
    }
    if translated.msrs != interpreted.msrs {
        lines.push(format!("MSRs: {:x?} and {:x?}", translated.msrs, interpreted.msrs));
    }
    if translated.debug != interpreted.debug {
        lines.push(format!("debug: {:x?} and {:x?}", translated.debug, interpreted.debug));
    }
    let rest = |state: &CpuState| {
        (state.gdtr, state.idtr, state.interrupt_shadow, state.nmi_blocked, state.vector.pkru)
    };
    if rest(translated) != rest(interpreted) {
        lines.push(format!("others: {:x?} and {:x?}", rest(translated), rest(interpreted)));
    }
    lines
}

/// The x87 state without the addresses of the last instruction and operand, which say where code ran.
fn x87(state: &CpuState) -> (&[u8], &[u8]) {
    (&state.vector.x87[..6], &state.vector.x87[32..160])
}

/// What differs between the contents of a page after the two runs. `frame` is the state after an
/// exception was delivered: in the flags it stored, only those that are not arithmetic count.
pub(crate) fn pages(
    cpu: &Cpu,
    host_page: usize,
    translated: &[u8; 0x1000],
    interpreted: &[u8; 0x1000],
    frame: Option<&CpuState>,
) -> Option<String> {
    if translated == interpreted {
        return None;
    }
    let is_dead = |offset: usize, difference: u8| {
        frame.is_some_and(|state| {
            let rsp = state.gpr[4];
            FRAME_FLAGS.iter().any(|at| {
                let flags = rsp.wrapping_add(*at);
                let byte = (offset as u64).wrapping_sub(flags & 0xfff);
                byte < 2 && u64::from(difference) << (8 * byte) & !ARITHMETIC == 0
            })
        })
    };
    let differing: Vec<_> = translated
        .iter()
        .zip(interpreted)
        .enumerate()
        .filter(|&(offset, (left, right))| left != right && !is_dead(offset, left ^ right))
        .collect();
    if differing.is_empty() {
        return None;
    }
    let ram = cpu.ram.regions().iter().find_map(|region| {
        let offset = host_page.wrapping_sub(region.hva) as u64;
        (offset < region.size).then(|| region.start + offset)
    });
    let mut line = format!("memory, page {:#x}:", ram.unwrap_or_default());
    for (offset, (left, right)) in differing.iter().take(LISTED) {
        // Writing to a string cannot fail.
        let _ = write!(line, " [{offset:#x}] {left:02x} and {right:02x}");
    }
    Some(line)
}
