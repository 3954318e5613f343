//! The ways into and out of generated code.

use crate::emit::{Code, Mem, reg};
use crate::layout::{self, SetLayout};
use crate::second::SecondLevel;
use crate::vectors;
use crate::x87;
use ambos_interpret::mmu::SETS;

/// Addresses of the stubs, which stay at the start of the code cache.
#[derive(Debug, Clone)]
pub(crate) struct Stubs {
    /// A function: loads the guest's registers and goes to [`layout::Slots::target`].
    pub(crate) enter: u64,
    /// Stores the guest's registers and returns from `enter`.
    pub(crate) exit: u64,
    /// The same at the site whose number is in R11.
    pub(crate) exit_at: u64,
    /// The same at the site [`BEFORE`], with a block's number in R11.
    pub(crate) before: u64,
    /// Where a host fault resumes: an exit with the site [`FAULT`].
    pub(crate) fault: u64,
    /// Loads the x87 state within a block.
    pub(crate) load_x87: u64,
    /// Loads the vector state within a block.
    pub(crate) load_vectors: u64,
    /// Looks into second levels.
    pub(crate) second: SecondLevel,
}

/// The site of host faults.
pub(crate) const FAULT: u32 = u32::MAX;
/// The site of blocks that something else comes before: R11 has the number of the block.
pub(crate) const BEFORE: u32 = u32::MAX - 4;

/// General-purpose registers that generated code keeps in their namesakes.
fn kept() -> impl Iterator<Item = u8> {
    (0..16).filter(|&number| !matches!(number, reg::RSP | reg::R10 | reg::R11))
}

/// `rdfsbase` (0) or `wrfsbase` (2) of RAX.
fn fs_base(code: &mut Code, which: u8) {
    code.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xc0 | which << 3]);
}

/// A jump that is taken unless code may run that reaches operands through views. Changes flags.
fn unless_seeing(code: &mut Code) -> usize {
    // cmp dword ptr [sees], 0
    code.op(false, &[0x83], 7, Mem::Gs(layout::SEES));
    code.raw(&[0]);
    code.short_jump_if(4)
}

/// Generates the stubs, for a gate of the attention at this address. With `views`, the FS base of generated code is the
/// first usual distance of its bank's views, where there is code that needs it.
///
/// The host's own code finds its thread's data by the FS base. Of that code only the handler of faults runs meanwhile,
/// which uses none: other signals wait (see [`ambos_hostcode::signals`]).
pub(crate) fn generate(code: &mut Code, sets: &[SetLayout; SETS], gate: u32, views: bool) -> Stubs {
    let enter = code.here();
    code.store(Mem::Gs(layout::HOST_RSP), reg::RSP);
    if views {
        let blind = unless_seeing(code);
        fs_base(code, 0);
        code.store(Mem::Gs(layout::HOST_FS), reg::RAX);
        code.load(reg::RAX, Mem::Gs(sets[0].usual));
        fs_base(code, 2);
        code.land(blind);
    }
    vectors::enter(code);
    x87::enter(code);
    code.load(reg::RAX, Mem::Gs(layout::FLAGS));
    // add al, 127; sahf
    code.raw(&[0x04, 127, 0x9e]);
    for number in kept() {
        code.load(number, Mem::Gs(layout::gpr(number)));
    }
    code.load(reg::RSP, Mem::Gs(layout::gpr(reg::RSP)));
    code.load(reg::R10, Mem::Gs(layout::SCRATCH));
    code.load(reg::R11, Mem::Gs(layout::SCRATCH + 8));
    // jmp [target]
    code.op(false, &[0xff], 4, Mem::Gs(layout::TARGET));

    let fault = code.here();
    code.note_site(FAULT);
    let over = code.short_jump();
    let before = code.here();
    code.note_site(BEFORE);
    let over_too = code.short_jump();
    let exit_at = code.here();
    code.name_site(reg::R11);
    code.land(over);
    code.land(over_too);
    let exit = code.here();
    for number in kept() {
        code.store(Mem::Gs(layout::gpr(number)), number);
    }
    code.store(Mem::Gs(layout::gpr(reg::RSP)), reg::RSP);
    code.store(Mem::Gs(layout::SCRATCH), reg::R10);
    code.store(Mem::Gs(layout::SCRATCH + 8), reg::R11);
    // lahf; seto al; movzx eax, ax
    code.raw(&[0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0]);
    code.store(Mem::Gs(layout::FLAGS), reg::RAX);
    code.load(reg::RSP, Mem::Gs(layout::HOST_RSP));
    if views {
        let blind = unless_seeing(code);
        code.load(reg::RAX, Mem::Gs(layout::HOST_FS));
        fs_base(code, 2);
        code.land(blind);
    }
    vectors::exit(code);
    x87::exit(code);
    code.raw(&[0xc3]);
    let second = SecondLevel::generate(code, sets, gate, exit);
    let load_x87 = x87::generate(code);
    let load_vectors = vectors::generate(code);
    Stubs { enter, exit, exit_at, before, fault, load_x87, load_vectors, second }
}
