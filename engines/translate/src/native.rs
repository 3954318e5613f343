//! The call into generated code, and the memory that it shares with the monitor.

use crate::layout::{GS_BASE, HEAD_BYTES, Head};
use ambos_hostcode::Windows;
use std::arch::asm;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// The one owner of a [`Head`] that lies at the start of every window.
#[derive(Debug)]
pub(crate) struct SharedHead {
    head: *mut Head,
    windows: Arc<Windows>,
}

impl SharedHead {
    /// Moves `head` into the windows' heads, which must be large enough and used by nothing else.
    pub(crate) fn new(head: Head, windows: Arc<Windows>) -> Self {
        assert_eq!(windows.head_size(), HEAD_BYTES, "the windows are made for a Head");
        let at = windows.start(0) as *mut Head;
        #[expect(unsafe_code, reason = "the head lies in memory shared with generated code")]
        // SAFETY: `at` is page-aligned, mapped, large enough and used by nothing else.
        unsafe {
            at.write(head);
        }
        Self { head: at, windows }
    }

    /// Enters generated code through the function at `enter`, with bank `bank`.
    ///
    /// `enter` must be the entry stub and the target in the slots generated code of this head.
    pub(crate) fn enter(&mut self, enter: u64, bank: usize) {
        thread_local! {
            static CURRENT: Cell<usize> = const { Cell::new(0) };
        }
        let base = self.windows.start(bank) + GS_BASE;
        if CURRENT.replace(base) != base {
            #[expect(unsafe_code, reason = "generated code finds its data by the GS base")]
            // SAFETY: the host allows the instruction (checked when the translator was made);
            // nothing else on x86-64 Linux uses GS in user space.
            unsafe {
                asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
            }
        }
        #[expect(unsafe_code, reason = "this is the call into generated code")]
        // SAFETY: the entry stub returns with the stack pointer as it was; it and generated code
        // change registers, all declared or saved here, and memory of the head, the TLB and guest RAM,
        // none of which is borrowed while `self` is borrowed exclusively.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "call rax",
                "pop rbp",
                "pop rbx",
                inout("rax") enter => _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                clobber_abi("sysv64"),
            );
        }
    }
}

impl Deref for SharedHead {
    type Target = Head;

    fn deref(&self) -> &Head {
        #[expect(unsafe_code, reason = "the head lies in memory shared with generated code")]
        // SAFETY: `head` was written by `new` and lives until `drop`; generated code, which
        // changes it, runs only while `self` is borrowed exclusively by `enter`.
        unsafe {
            &*self.head
        }
    }
}

impl DerefMut for SharedHead {
    fn deref_mut(&mut self) -> &mut Head {
        #[expect(unsafe_code, reason = "the head lies in memory shared with generated code")]
        // SAFETY: as in `deref`; `self` is borrowed exclusively.
        unsafe {
            &mut *self.head
        }
    }
}

impl Drop for SharedHead {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the head lies in memory shared with generated code")]
        // SAFETY: `head` was written by `new` and is not used after this.
        unsafe {
            self.head.drop_in_place();
        }
    }
}
