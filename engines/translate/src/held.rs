//! State of the guest that the host's registers hold only from when a block needs it: what [`crate::x87`] and
//! [`crate::vectors`] have in common. A word in memory says whether the host holds it.

use crate::emit::{Code, Mem};

/// Sets ZF unless the state is held, as the word at `held` says.
pub(crate) fn compare(code: &mut Code, held: i32) {
    // cmp dword ptr [held], 0
    code.op(false, &[0x83], 7, Mem::Gs(held));
    code.raw(&[0]);
}

/// Emits what is to be done only if the state is held. Changes flags.
pub(crate) fn only_if(code: &mut Code, held: i32, emit: impl FnOnce(&mut Code)) {
    compare(code, held);
    let not_held = code.jump_if(4, 0);
    emit(code);
    let here = code.here();
    code.bind(not_held, here);
}
