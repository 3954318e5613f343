//! x87 and MMX instructions: they are copied, and work on the guest's state in the host's registers.
//!
//! Most runs of translated code use none, and loading that state takes as long as dozens of
//! instructions. So entries leave it in memory, and the first instruction that needs it loads it:
//! [`layout::X87_HELD`] then says that the host holds it. Exits store what is held, and the next entry loads
//! it again, so within a block one look is enough. Exceptions that the guest unmasks are the host's too: the
//! fault guard takes them where they are raised, which is the instruction after, and the interpreter
//! raises them for the guest.
//!
//! Pointers to the last instruction and its operand are not kept: they are zero. Instructions that store
//! them are the interpreter's.

use crate::build::Builder;
use crate::emit::{Code, Mem, reg};
use crate::held;
use crate::layout;
use ambos_interpret::exec::native::Class;
use iced_x86::{Instruction, Mnemonic};

/// The component bitmap of XSAVE and XRSTOR: x87 alone.
const X87: u64 = 1;
/// XSAVE and XRSTOR in the group of `0f ae`.
const XSAVE: u8 = 4;
const XRSTOR: u8 = 5;
/// Control, status, tag and opcode words.
const WORDS: i32 = 0;
/// Pointers to the last instruction and its operand.
const POINTERS: [i32; 2] = [8, 16];
/// The registers, 16 bytes each.
const REGISTERS: std::ops::Range<i32> = 32..160;

/// Memory in the format of XSAVE: the legacy region and the header.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct XsaveArea([u64; 72]);

impl Default for XsaveArea {
    fn default() -> Self {
        const HEADER: usize = 512 / 8;
        let mut area = [0; 72];
        area[HEADER] = X87;
        Self(area)
    }
}

/// Whether instructions of a class need the x87 state.
fn uses(class: Class) -> bool {
    matches!(class, Class::X87 | Class::Mmx | Class::Wait)
}

/// Whether an instruction names the pointers to the last instruction and its operand.
pub(crate) fn shows_pointers(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Fldenv
            | Mnemonic::Fstenv
            | Mnemonic::Fnstenv
            | Mnemonic::Fsave
            | Mnemonic::Fnsave
            | Mnemonic::Frstor
    )
}

/// The parts of the state that are kept.
fn parts() -> impl Iterator<Item = i32> {
    std::iter::once(WORDS).chain(REGISTERS.step_by(8))
}

/// Loads the state from memory. Changes RAX and RDX, not the flags.
fn load(code: &mut Code) {
    for at in parts() {
        code.load(reg::RAX, Mem::Gs(layout::X87 + at));
        code.store(Mem::Gs(layout::X87_AREA + at), reg::RAX);
    }
    // What is in its initial configuration was not noted as in use when it was stored.
    code.store_imm(Mem::Gs(layout::X87_AREA + 512), X87 as i32);
    code.constant(reg::RAX, X87);
    code.constant(reg::RDX, 0);
    code.op(true, &[0x0f, 0xae], XRSTOR, Mem::Gs(layout::X87_AREA));
}

/// At an entry: loads the state if it was held. Changes RAX, RDX and flags.
pub(crate) fn enter(code: &mut Code) {
    held::only_if(code, layout::X87_HELD, load);
}

/// At an exit: stores the state if it is held. Changes RAX, RDX and flags.
pub(crate) fn exit(code: &mut Code) {
    held::only_if(code, layout::X87_HELD, store);
}

/// Stores the state to memory. Changes RAX, RDX and flags.
fn store(code: &mut Code) {
    code.constant(reg::RAX, X87);
    code.constant(reg::RDX, 0);
    code.op(true, &[0x0f, 0xae], XSAVE, Mem::Gs(layout::X87_AREA));
    // fninit: the monitor's own code expects that state.
    code.raw(&[0xdb, 0xe3]);
    for at in parts() {
        code.load(reg::RAX, Mem::Gs(layout::X87_AREA + at));
        code.store(Mem::Gs(layout::X87 + at), reg::RAX);
    }
    for at in POINTERS {
        code.store_imm(Mem::Gs(layout::X87 + at), 0);
    }
}

/// Generates the stub that loads the state within a block; it goes on at the address in R11 and changes
/// nothing else.
pub(crate) fn generate(code: &mut Code) -> u64 {
    let start = code.here();
    code.store(Mem::Gs(layout::SPILLED_RAX), reg::RAX);
    code.store(Mem::Gs(layout::SPILLED_RDX), reg::RDX);
    load(code);
    code.store_imm(Mem::Gs(layout::X87_HELD), 1);
    code.load(reg::RAX, Mem::Gs(layout::SPILLED_RAX));
    code.load(reg::RDX, Mem::Gs(layout::SPILLED_RDX));
    // jmp r11
    code.raw(&[0x41, 0xff, 0xe3]);
    start
}

impl Builder<'_> {
    /// Sees to it that the host holds the state that instructions of a class need. It changes R11, and flags
    /// that are alive are kept in memory.
    pub(crate) fn hold_x87(&mut self, class: Class, flags_live: bool) {
        if !uses(class) || self.x87_held {
            return;
        }
        let scratch = self.take_scratch(1);
        if flags_live {
            self.keep_flags(scratch);
        }
        held::compare(self.code, layout::X87_HELD);
        let held = self.code.short_jump_if(5);
        let ready = self.code.address(scratch, 0);
        self.code.jump(self.stubs.load_x87);
        self.code.land(held);
        let here = self.code.here();
        self.code.bind(ready, here);
        self.x87_held = true;
    }
}
