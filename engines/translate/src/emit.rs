//! Writing host instructions: templates by hand, guest instructions through the encoder.

use crate::layout;
use iced_x86::{Encoder, Instruction};
use std::collections::VecDeque;

/// Host register numbers.
pub(crate) mod reg {
    pub(crate) const RAX: u8 = 0;
    pub(crate) const RCX: u8 = 1;
    pub(crate) const RDX: u8 = 2;
    pub(crate) const RSP: u8 = 4;
    pub(crate) const RBP: u8 = 5;
    pub(crate) const RSI: u8 = 6;
    pub(crate) const RDI: u8 = 7;
    pub(crate) const R10: u8 = 10;
    pub(crate) const R11: u8 = 11;
}

/// A memory operand of a template.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mem {
    /// `gs:[disp]`.
    Gs(i32),
    /// `gs:[base + disp]`.
    GsBase(u8, i32),
    /// `[disp]`, below 2 GiB.
    Low(u32),
    /// `[base + disp]`.
    Base(u8, i32),
    /// `fs:[base + disp]`: where FS leads, see [`crate::views`].
    Fs(u8, i32),
    /// `[base + index]`.
    Sum(u8, u8),
    /// `[base + index + disp]`.
    SumAt(u8, u8, i32),
    /// `gs:[index * 8 + disp]`.
    GsTable(u8, i32),
    /// `[base + index << shift]`.
    Scaled(u8, u8, u8),
}

/// Code being generated, with the address where it will run.
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
    base: u64,
    encoder: Encoder,
    /// Where the last jumps off the straight path are, and where they lead: see [`Code::jump_by_way`].
    ways: VecDeque<(u64, u64)>,
    /// The last places that name a window and go to a stub, with both.
    named_windows: VecDeque<(u64, u32, u64)>,
}

/// How many jumps are kept in mind for others to lead to: as many as a short jump reaches.
const WAYS: usize = 16;
/// How many places that name windows are: as many as there are stubs in use at a time.
const NAMED_WINDOWS: usize = 32;
/// How far the index of an entry in the first level of the TLB reaches in its register, in bits; above it, there is room
/// for where to go on in a window of the code.
pub(crate) const INDEX_BITS: u32 = 16;
/// Bytes of a window.
const WINDOW: u32 = 1 << (32 - INDEX_BITS);

/// The bits of a ModR/M byte that say how long the displacement is.
const NO_DISPLACEMENT: u8 = 0;
const SHORT_DISPLACEMENT: u8 = 0x40;
const LONG_DISPLACEMENT: u8 = 0x80;

/// Those for the shortest displacement from a base register. RBP and R13 have none of nothing (SDM volume 2, table 2-5).
fn mode_for(base: u8, disp: i32) -> u8 {
    match disp {
        0 if base & 7 != 5 => NO_DISPLACEMENT,
        _ if i8::try_from(disp).is_ok() => SHORT_DISPLACEMENT,
        _ => LONG_DISPLACEMENT,
    }
}

impl Code {
    pub(crate) fn new() -> Self {
        let bytes = Vec::with_capacity(4096);
        Self {
            bytes,
            base: 0,
            encoder: Encoder::new(64),
            ways: VecDeque::new(),
            named_windows: VecDeque::new(),
        }
    }

    /// Starts anew for code that will run at `base`.
    pub(crate) fn start(&mut self, base: u64) {
        self.bytes.clear();
        self.base = base;
        // What was generated for this place before is not there.
        self.ways.retain(|&(at, _)| at < base);
        self.named_windows.retain(|&(at, ..)| at < base);
    }

    /// Where the next byte will be.
    pub(crate) fn here(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Encodes an instruction; `false`, with nothing written, if it cannot be.
    pub(crate) fn instruction(&mut self, instruction: &Instruction) -> bool {
        self.encoder.set_buffer(std::mem::take(&mut self.bytes));
        let here = self.base;
        let length = self.encoder.encode(instruction, here);
        self.bytes = self.encoder.take_buffer();
        if length.is_err() {
            return false;
        }
        true
    }

    fn operand(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        match mem {
            Mem::Gs(disp) => {
                self.raw(&[0x04 | reg, 0x25]);
                self.raw(&disp.to_le_bytes());
            }
            Mem::Low(disp) => {
                self.raw(&[0x04 | reg, 0x25]);
                self.raw(&disp.to_le_bytes());
            }
            Mem::GsBase(base, disp) | Mem::Base(base, disp) | Mem::Fs(base, disp) => {
                self.raw(&[mode_for(base, disp) | reg | base & 7]);
                if base & 7 == 4 {
                    self.raw(&[0x24]);
                }
                self.distance(base, disp);
            }
            Mem::Sum(base, index) => {
                self.raw(&[mode_for(base, 0) | 4 | reg, (index & 7) << 3 | base & 7]);
                self.distance(base, 0);
            }
            Mem::SumAt(base, index, disp) => {
                self.raw(&[mode_for(base, disp) | 4 | reg, (index & 7) << 3 | base & 7]);
                self.distance(base, disp);
            }
            Mem::GsTable(index, disp) => {
                self.raw(&[0x04 | reg, 0xc5 | (index & 7) << 3]);
                self.raw(&disp.to_le_bytes());
            }
            Mem::Scaled(base, index, shift) => {
                let sib = shift << 6 | (index & 7) << 3 | base & 7;
                self.raw(&[mode_for(base, 0) | 4 | reg, sib]);
                self.distance(base, 0);
            }
        }
    }

    /// The displacement from `base`, as long as [`mode_for`] says.
    fn distance(&mut self, base: u8, disp: i32) {
        match (mode_for(base, disp), disp as i8) {
            (NO_DISPLACEMENT, _) => {}
            (SHORT_DISPLACEMENT, short) => self.raw(&short.to_le_bytes()),
            _ => self.raw(&disp.to_le_bytes()),
        }
    }

    fn rex(reg: u8, mem: Mem, wide: bool) -> u8 {
        let (base, index) = match mem {
            Mem::Gs(_) | Mem::Low(_) => (0, 0),
            Mem::GsBase(base, _) | Mem::Base(base, _) | Mem::Fs(base, _) => (base, 0),
            Mem::GsTable(index, _) => (0, index),
            Mem::Sum(base, index) | Mem::SumAt(base, index, _) | Mem::Scaled(base, index, _) => {
                (base, index)
            }
        };
        0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3
    }

    fn prefix(&mut self, mem: Mem) {
        match mem {
            Mem::Gs(_) | Mem::GsBase(..) | Mem::GsTable(..) => self.raw(&[0x65]),
            Mem::Fs(..) => self.raw(&[0x64]),
            _ => {}
        }
    }

    /// `opcode reg, mem` with 64- (`wide`) or 32-bit operands.
    pub(crate) fn op(&mut self, wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        self.prefix(mem);
        let rex = Self::rex(reg, mem, wide);
        if rex != 0x40 {
            self.raw(&[rex]);
        }
        self.raw(opcode);
        self.operand(reg, mem);
    }

    pub(crate) fn load(&mut self, reg: u8, mem: Mem) {
        self.op(true, &[0x8b], reg, mem);
    }

    pub(crate) fn store(&mut self, mem: Mem, reg: u8) {
        self.op(true, &[0x89], reg, mem);
    }

    /// Stores a sign-extended immediate as 64 bits.
    pub(crate) fn store_imm(&mut self, mem: Mem, value: i32) {
        self.op(true, &[0xc7], 0, mem);
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn lea(&mut self, reg: u8, mem: Mem) {
        self.op(true, &[0x8d], reg, mem);
    }

    /// `mov to, from`.
    pub(crate) fn copy(&mut self, to: u8, from: u8) {
        self.raw(&[0x48 | (from >> 3) << 2 | to >> 3, 0x89, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    /// Loads a constant without touching flags.
    pub(crate) fn constant(&mut self, reg: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if reg >= 8 {
                self.raw(&[0x41]);
            }
            self.raw(&[0xb8 | reg & 7]);
            self.raw(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.raw(&[0x48 | reg >> 3, 0xc7, 0xc0 | reg & 7]);
            self.raw(&value.to_le_bytes());
        } else {
            self.raw(&[0x48 | reg >> 3, 0xb8 | reg & 7]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// Says at which site the code leaves that goes to an exit next.
    pub(crate) fn note_site(&mut self, site: u32) {
        self.op(false, &[0xc7], 0, Mem::Gs(layout::SITE));
        self.raw(&site.to_le_bytes());
    }

    /// Says where a stub is to go on: at the code at this address. The upper half of what is there is that of all code.
    pub(crate) fn note_found(&mut self, address: u64) {
        self.op(false, &[0xc7], 0, Mem::Gs(layout::FOUND));
        self.raw(&(address as u32).to_le_bytes());
    }

    /// The same with the site's number in a register.
    pub(crate) fn name_site(&mut self, number: u8) {
        self.op(false, &[0x89], number, Mem::Gs(layout::SITE));
    }

    /// `rorx to, from, count`.
    pub(crate) fn rorx(&mut self, to: u8, from: u8, count: u8) {
        let r = if to >= 8 { 0 } else { 0x80 };
        let b = if from >= 8 { 0 } else { 0x20 };
        self.raw(&[0xc4, r | 0x40 | b | 3, 0xfb, 0xf0, 0xc0 | (to & 7) << 3 | from & 7, count]);
    }

    /// `cmp [mem], reg` on 64 bits.
    pub(crate) fn compare(&mut self, mem: Mem, reg: u8) {
        self.op(true, &[0x39], reg, mem);
    }

    /// `pext to, from, gs:[disp]`.
    pub(crate) fn pext(&mut self, to: u8, from: u8, disp: i32) {
        let r = if to >= 8 { 0 } else { 0x80 };
        let vvvv = (!from & 0xf) << 3;
        self.raw(&[0x65, 0xc4, r | 0x60 | 2, 0x82 | vvvv, 0xf5]);
        self.operand(to, Mem::Gs(disp));
    }

    /// `and reg, value` on 32 bits: changes flags.
    pub(crate) fn and32(&mut self, reg: u8, value: u32) {
        if reg >= 8 {
            self.raw(&[0x41]);
        }
        self.raw(&[0x81, 0xe0 | reg & 7]);
        self.raw(&value.to_le_bytes());
    }

    /// `cmp reg, value` on 64 bits.
    pub(crate) fn cmp(&mut self, reg: u8, value: i32) {
        self.raw(&[0x48 | reg >> 3, 0x81, 0xf8 | reg & 7]);
        self.raw(&value.to_le_bytes());
    }

    /// `sarx to, from, count`.
    pub(crate) fn sarx(&mut self, to: u8, from: u8, count: u8) {
        let r = if to >= 8 { 0 } else { 0x80 };
        let b = if from >= 8 { 0 } else { 0x20 };
        let vvvv = (!count & 0xf) << 3;
        self.raw(&[0xc4, r | 0x40 | b | 2, 0x82 | vvvv, 0xf7, 0xc0 | (to & 7) << 3 | from & 7]);
    }

    /// A short forward jump if the condition holds; [`Code::land`] takes what is returned.
    pub(crate) fn short_jump_if(&mut self, condition: u8) -> usize {
        self.raw(&[0x70 | condition, 0]);
        self.bytes.len()
    }

    /// A short forward jump.
    pub(crate) fn short_jump(&mut self) -> usize {
        self.raw(&[0xeb, 0]);
        self.bytes.len()
    }

    /// Lets a short jump lead here.
    pub(crate) fn land(&mut self, jump: usize) {
        let distance = self.bytes.len() - jump;
        debug_assert!(distance < 0x80, "a short jump does not reach");
        self.bytes[jump - 1] = distance as u8;
    }

    /// `lea reg, [rip + ...]`: the address of a place in the code, which is bound later if it is zero; returns
    /// the address of the displacement.
    pub(crate) fn address(&mut self, reg: u8, target: u64) -> u64 {
        self.raw(&[0x48 | (reg >> 3) << 2, 0x8d, 0x05 | (reg & 7) << 3]);
        self.displacement(target)
    }

    /// `imul reg, reg, value` on 64 bits.
    pub(crate) fn imul(&mut self, reg: u8, value: u32) {
        self.raw(&[0x48 | (reg >> 3) << 2 | reg >> 3, 0x69, 0xc0 | (reg & 7) << 3 | reg & 7]);
        self.raw(&value.to_le_bytes());
    }

    /// `shr reg, count` on 64 bits.
    pub(crate) fn shr(&mut self, reg: u8, count: u8) {
        self.raw(&[0x48 | reg >> 3, 0xc1, 0xe8 | reg & 7, count]);
    }

    /// `jmp target`; returns the address of the displacement.
    pub(crate) fn jump(&mut self, target: u64) -> u64 {
        self.raw(&[0xe9]);
        self.displacement(target)
    }

    /// A jump to `target` off the straight path: a short one if another jump there is near. Nothing of what it stands in may
    /// be taken back.
    pub(crate) fn jump_by_way(&mut self, target: u64) {
        let here = self.here();
        let short = |&(at, to): &(u64, u64)| {
            let distance = at.wrapping_sub(here + 2) as i64;
            i8::try_from(distance).ok().filter(|_| to == target)
        };
        if let Some(distance) = self.ways.iter().find_map(short) {
            self.raw(&[0xeb, distance as u8]);
            return;
        }
        if self.ways.len() == WAYS {
            self.ways.pop_front();
        }
        self.ways.push_back((here, target));
        self.jump(target);
    }

    /// Goes to a stub off the straight path, which then goes on at `ready`: adds that place in its window to the index in a
    /// register, and has the window named where it was last or, if that is another one, here.
    pub(crate) fn jump_to_go_on(&mut self, index: u8, stub: u64, ready: u64) {
        let (window, place) = (ready as u32 & !(WINDOW - 1), ready as u32 & (WINDOW - 1));
        self.lea(index, Mem::Base(index, (place << INDEX_BITS) as i32));
        let named =
            self.named_windows.iter().find(|&&(_, named, to)| (named, to) == (window, stub));
        if let Some(&(at, ..)) = named {
            return self.jump_by_way(at);
        }
        if self.named_windows.len() == NAMED_WINDOWS {
            self.named_windows.pop_front();
        }
        self.named_windows.push_back((self.here(), window, stub));
        // mov dword ptr [window], imm32
        self.op(false, &[0xc7], 0, Mem::Gs(layout::WINDOW));
        self.raw(&window.to_le_bytes());
        self.jump_by_way(stub);
    }

    /// `jcc target`; returns the address of the displacement.
    pub(crate) fn jump_if(&mut self, condition: u8, target: u64) -> u64 {
        self.raw(&[0x0f, 0x80 | condition]);
        self.displacement(target)
    }

    fn displacement(&mut self, target: u64) -> u64 {
        let at = self.here();
        self.raw(&relative(at, target));
        at
    }

    /// Lets the displacement at address `at`, written before, lead to `target`.
    pub(crate) fn bind(&mut self, at: u64, target: u64) {
        let index = (at - self.base) as usize;
        self.bytes[index..index + 4].copy_from_slice(&relative(at, target));
    }
}

/// The displacement at address `at` that leads to `target`.
pub(crate) fn relative(at: u64, target: u64) -> [u8; 4] {
    (target.wrapping_sub(at + 4) as i32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};

    fn text(build: impl FnOnce(&mut Code)) -> String {
        let mut code = Code::new();
        code.start(0x1000);
        build(&mut code);
        let mut decoder = Decoder::with_ip(64, &code.bytes, 0x1000, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        let mut text = String::new();
        while decoder.can_decode() {
            formatter.format(&decoder.decode(), &mut text);
            text.push(';');
        }
        text
    }

    #[test]
    fn templates_decode_as_meant() {
        assert_eq!(text(|c| c.load(11, Mem::Gs(0x40))), "mov %gs:0x40,%r11;");
        assert_eq!(text(|c| c.store(Mem::Gs(0x40), 4)), "mov %rsp,%gs:0x40;");
        assert_eq!(text(|c| c.load(3, Mem::SumAt(4, 11, -8))), "mov -8(%rsp,%r11),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::Fs(4, 8))), "mov %fs:8(%rsp),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::Base(10, 0))), "mov (%r10),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::GsBase(12, 0))), "mov %gs:(%r12),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::Base(13, 0))), "mov (%r13),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::Sum(10, 11))), "mov (%r10,%r11),%rbx;");
        assert_eq!(text(|c| c.load(3, Mem::SumAt(5, 11, 0))), "mov (%rbp,%r11),%rbx;");
        assert_eq!(text(|c| c.store(Mem::Fs(13, -999), 8)), "mov %r8,%fs:-0x3E7(%r13);");
        assert_eq!(text(|c| c.load(8, Mem::SumAt(13, 3, 999))), "mov 0x3E7(%r13,%rbx),%r8;");
        assert_eq!(text(|c| c.load(11, Mem::GsTable(11, 0x80))), "mov %gs:0x80(,%r11,8),%r11;");
        assert_eq!(text(|c| c.lea(4, Mem::Base(4, -8))), "lea -8(%rsp),%rsp;");
        assert_eq!(text(|c| c.lea(10, Mem::Scaled(10, 1, 3))), "lea (%r10,%rcx,8),%r10;");
        assert_eq!(text(|c| c.op(false, &[0x23], 11, Mem::Low(0x1000))), "and 0x1000,%r11d;");
        assert_eq!(text(|c| c.sarx(11, 3, 11)), "sarx %r11,%rbx,%r11;");
        assert_eq!(text(|c| c.sarx(11, 9, 10)), "sarx %r10,%r9,%r11;");
        assert_eq!(text(|c| c.compare(Mem::GsBase(11, 0x800), 10)), "cmp %r10,%gs:0x800(%r11);");
        assert_eq!(text(|c| c.rorx(10, 11, 8)), "rorx $8,%r11,%r10;");
        assert_eq!(text(|c| c.pext(11, 10, 0x40)), "pext %gs:0x40,%r10,%r11;");
        assert_eq!(text(|c| c.and32(11, 0x3ff0)), "and $0x3FF0,%r11d;");
        assert_eq!(text(|c| c.cmp(10, 0xff8)), "cmp $0xFF8,%r10;");
        assert_eq!(text(|c| c.copy(10, 4)), "mov %rsp,%r10;");
        assert_eq!(text(|c| c.imul(11, 0x61c8_8647)), "imul $0x61C88647,%r11;");
        assert_eq!(text(|c| c.shr(10, 20)), "shr $0x14,%r10;");
        assert_eq!(text(|c| _ = c.address(11, 0x1010)), "lea 0x1010,%r11;");
        assert_eq!(
            text(|c| c.op(true, &[0x33], 10, Mem::GsBase(11, 0x4000))),
            "xor %gs:0x4000(%r11),%r10;"
        );
    }

    #[test]
    fn jumps_go_by_way_of_those_that_are_there() {
        let mut code = Code::new();
        code.start(0x1000);
        code.jump_by_way(0x4000);
        code.jump_by_way(0x5000);
        code.jump_by_way(0x4000);
        assert_eq!(code.bytes[10..], [0xeb, -12i8 as u8]);
        code.raw(&[0x90; 128]);
        let before = code.bytes.len();
        code.jump_by_way(0x4000);
        assert_eq!(code.bytes.len(), before + 5, "it is too far away");
        // What was not kept is no way.
        code.start(0x1005);
        code.jump_by_way(0x4000);
        code.jump_by_way(0x5000);
        assert_eq!(code.bytes[..2], [0xeb, -7i8 as u8]);
        assert_eq!(code.bytes.len(), 2 + 5);
    }

    #[test]
    fn windows_are_named_where_they_change() {
        let (window, stub) = (0x7f00_1234_0000_u64, 0x7f00_2000_0000);
        let mut code = Code::new();
        code.start(stub + 0x1000);
        let lengths = [0x10, 0xfff0, 0x1_0000, 0x20].map(|place| {
            let before = code.bytes.len();
            code.jump_to_go_on(11, stub, window + place);
            code.bytes.len() - before
        });
        // The jump to where a window is named is short once another is near that leads there.
        assert_eq!(lengths, [7 + 12 + 5, 7 + 5, 3 + 12 + 2, 7 + 2]);
        let named = |at: usize| u32::from_le_bytes(code.bytes[at..at + 4].try_into().unwrap());
        assert_eq!(named(3), 0x10 << INDEX_BITS);
        assert_eq!(named(7 + 8), window as u32);
    }
}
