//! What generated code reaches relative to the GS base.
//!
//! The base points into a window of the TLB's banks: a [`Head`] is seen at the start of each, and the tail is the bank in
//! use.

use crate::counts::{Counted, Counts};
use crate::emit::INDEX_BITS;
use crate::plan::GROUPS;
use crate::x87::XsaveArea;
use ambos_hostcode::ThunkFrame;
use ambos_interpret::Cpu;
use ambos_interpret::cpu::{Mode, NativeState};
use ambos_interpret::mmu::{Bank, BankViews, Entry, GUARD_OFFSET, PageSlot, Set, Tlb, page_slots};
use ambos_interpret::supervised::Supervised;
use ambos_vcpu::{Control, Msrs, Segment, VectorState};
use std::mem::offset_of;

/// Scratch memory of generated code and of its entries and exits.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Slots {
    /// What the fault guard writes to.
    pub(crate) frame: ThunkFrame,
    /// The monitor's stack pointer while generated code runs.
    pub(crate) host_rsp: u64,
    /// One if code may run that reaches operands through views, else zero; it changes between runs only.
    pub(crate) sees: u64,
    /// The host's FS base while that of generated code is another: see [`crate::views`].
    pub(crate) host_fs: u64,
    /// Where to enter generated code.
    pub(crate) target: u64,
    /// The host's R10 and R11 at an exit and at an entry.
    pub(crate) scratch: [u64; 2],
    /// Arithmetic flags at an exit and at an entry: OF in bit 0, the others as LAHF has them.
    pub(crate) flags: u64,
    /// The guest's arithmetic flags while the host's are used for something else, as in `flags`. What is above
    /// its 32 bits is zero, and what is above its lower 16 means nothing.
    pub(crate) kept_flags: u64,
    /// The guest's RAX while the host's holds flags.
    pub(crate) saved_rax: u64,
    /// RCX while it is used to compare without flags.
    pub(crate) saved_rcx: u64,
    /// RAX while the second level of a cache is looked into; it may hold flags.
    pub(crate) spilled_rax: u64,
    /// A value that waits for the next memory operand.
    pub(crate) waiting: u64,
    /// Where code that looks into the second level of a cache goes on.
    pub(crate) found: u64,
    /// The lower half of the address of the window of the code in which that is, and the upper half of all code.
    pub(crate) window: u64,
    pub(crate) upper_half: u64,
    /// Number of the exit taken.
    pub(crate) site: u64,
    /// Linear address of the page that position-independent code runs in.
    pub(crate) code_base: u64,
    /// Where the pointers of a repeated string instruction will be.
    pub(crate) pointers: [u64; 2],
    /// Host addresses of groups of operands.
    pub(crate) groups: [[u64; 32]; GROUPS / 32],
    /// Masks of the index of a bit in an operand, by the logarithm of its bytes.
    pub(crate) bit_index: [u64; 4],
    /// Which bits of a linear address number its region, and which lead to its byte in the guard.
    pub(crate) view_mask: u64,
    pub(crate) guard_mask: u64,
    /// Where the epoch of the code versions is, and the one that translated code is current for.
    pub(crate) epoch_at: u64,
    pub(crate) epoch: u64,
    /// Interceptions that translated code served itself.
    pub(crate) counts: Counts,
    /// MXCSR of the monitor.
    pub(crate) host_mxcsr: u32,
    /// MXCSR as it is, for comparing.
    pub(crate) now_mxcsr: u32,
    /// RDX while the x87 state is loaded.
    pub(crate) spilled_rdx: u64,
    /// R11, and where to go on, while the vector state is loaded.
    pub(crate) spilled_r11: u64,
    pub(crate) loaded: u64,
    /// One if the host holds the guest's vector state in translated code, else zero.
    pub(crate) vectors_held: u64,
    /// One if the host holds the guest's x87 state in translated code, else zero.
    pub(crate) x87_held: u64,
    /// Where the x87 state is loaded from and stored to.
    pub(crate) x87_area: XsaveArea,
}

/// The shared head of all windows.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Head {
    pub(crate) slots: Slots,
    pub(crate) cpu: Cpu,
}

/// What the GS base points at, from the start of a window: the first level of pages of the set that lies first in banks,
/// that of a kernel's accesses, which are most of those that generated code probes for. With short displacements, code is 3 %
/// shorter, and a Xen guest, whose kernel is a user, took 1.3 % less time to boot.
pub(crate) const GS_BASE: usize = HEAD_BYTES + offset_of!(Bank, sets) + offset_of!(Set, pages);
/// Bytes of the head of a window: whole pages.
pub(crate) const HEAD_BYTES: usize = size_of::<Head>().next_multiple_of(0x1000);
/// Binary logarithm of the bytes of a slot in a first level of pages.
const PAGE_SLOT_BITS: u32 = size_of::<PageSlot>().trailing_zeros();
const _: () = assert!(page_slots(Tlb::USER)[0] << PAGE_SLOT_BITS <= 1 << INDEX_BITS);
/// How far a linear address is rotated or shifted right so that a mask leaves its place in a first level of pages.
pub(crate) const PAGE_ROTATION: u8 = 12 - PAGE_SLOT_BITS as u8;

/// What is so far from the start of a window, as a displacement from the GS base.
const fn at(offset: usize) -> i32 {
    offset as i32 - GS_BASE as i32
}

macro_rules! slot {
    ($name:ident, $field:ident) => {
        pub(crate) const $name: i32 = at(offset_of!(Head, slots) + offset_of!(Slots, $field));
    };
}
slot!(HOST_RSP, host_rsp);
slot!(SEES, sees);
slot!(HOST_FS, host_fs);
slot!(TARGET, target);
slot!(SCRATCH, scratch);
slot!(FLAGS, flags);
slot!(KEPT_FLAGS, kept_flags);
slot!(SAVED_RAX, saved_rax);
slot!(SAVED_RCX, saved_rcx);
slot!(SPILLED_RAX, spilled_rax);
slot!(WAITING, waiting);
slot!(FOUND, found);
slot!(WINDOW, window);
slot!(UPPER_HALF, upper_half);
slot!(EPOCH_AT, epoch_at);
slot!(EPOCH, epoch);
slot!(SITE, site);
slot!(CODE_BASE, code_base);
slot!(POINTERS, pointers);
slot!(GROUP_SLOTS, groups);
slot!(BIT_INDEX, bit_index);
slot!(VIEW_MASK, view_mask);
slot!(GUARD_MASK, guard_mask);
slot!(COUNTS, counts);
slot!(HOST_MXCSR, host_mxcsr);
slot!(NOW_MXCSR, now_mxcsr);
slot!(SPILLED_RDX, spilled_rdx);
slot!(SPILLED_R11, spilled_r11);
slot!(LOADED, loaded);
slot!(VECTORS_HELD, vectors_held);
slot!(X87_HELD, x87_held);
slot!(X87_AREA, x87_area);

const CPU: usize = offset_of!(Head, cpu);
const NATIVE: usize = CPU + offset_of!(Cpu, native);
const VECTOR: usize = NATIVE + offset_of!(NativeState, vector);

/// RFLAGS, whose arithmetic part is elsewhere while translated code runs.
pub(crate) const RFLAGS: i32 = at(NATIVE + offset_of!(NativeState, rflags));
const CONTROL: usize = CPU + offset_of!(Cpu, control);
const MSRS: usize = CPU + offset_of!(Cpu, msrs);

/// Interrupts are inhibited for one instruction.
pub(crate) const INTERRUPT_SHADOW: i32 = at(CPU + offset_of!(Cpu, interrupt_shadow));
/// Something must be looked at before the next instruction.
pub(crate) const SLOW: i32 = at(CPU + offset_of!(Cpu, slow));
/// CLI and STI do nothing.
pub(crate) const IGNORES_INTERRUPT_FLAG: i32 =
    at(CPU + offset_of!(Cpu, supervised) + offset_of!(Supervised, ignores_interrupt_flag));
/// The set of the TLB that is in use.
pub(crate) const MMU_INDEX: i32 = at(CPU + offset_of!(Cpu, mmu_index));
/// The privilege level.
pub(crate) const CPL: i32 = at(CPU + offset_of!(Cpu, mode) + offset_of!(Mode, cpl));
/// CR0 to CR4, where they are in memory.
pub(crate) const CONTROL_REGISTERS: [Option<i32>; 5] = [
    Some(at(CONTROL + offset_of!(Control, cr0))),
    None,
    Some(at(CONTROL + offset_of!(Control, cr2))),
    Some(at(CONTROL + offset_of!(Control, cr3))),
    Some(at(CONTROL + offset_of!(Control, cr4))),
];
/// Selectors that SYSCALL and SYSRET load.
pub(crate) const STAR: i32 = at(MSRS + offset_of!(Msrs, star));
/// Where SYSCALL leads.
pub(crate) const LSTAR: i32 = at(MSRS + offset_of!(Msrs, lstar));
/// Flags that SYSCALL clears.
pub(crate) const FMASK: i32 = at(MSRS + offset_of!(Msrs, fmask));
/// What RDTSCP and RDPID read.
pub(crate) const TSC_AUX: i32 = at(MSRS + offset_of!(Msrs, tsc_aux));
/// The base that SWAPGS swaps in.
pub(crate) const KERNEL_GS_BASE: i32 = at(MSRS + offset_of!(Msrs, kernel_gs_base));
/// What is added to the host's time-stamp counter.
pub(crate) const TSC_OFFSET: i32 = at(MSRS + offset_of!(Msrs, tsc_offset));
/// The guest's x87 state, in the format of FXSAVE64.
pub(crate) const X87: i32 = at(VECTOR + offset_of!(VectorState, x87));
/// The guest's MXCSR.
pub(crate) const MXCSR: i32 = at(VECTOR + offset_of!(VectorState, mxcsr));

/// General-purpose register `number`.
pub(crate) fn gpr(number: u8) -> i32 {
    at(NATIVE + offset_of!(NativeState, gpr)) + i32::from(number) * 8
}

/// Vector register `number`.
pub(crate) fn zmm(number: u32) -> i32 {
    at(VECTOR + offset_of!(VectorState, zmm)) + number as i32 * 64
}

/// Opmask register `number`.
pub(crate) fn mask(number: u32) -> i32 {
    at(VECTOR + offset_of!(VectorState, k)) + number as i32 * 8
}

/// Base of segment `number`.
pub(crate) fn segment_base(number: usize) -> i32 {
    at(CPU + offset_of!(Cpu, linear_base)) + number as i32 * 8
}

/// Field at `field` of the segment register `number`.
fn segment(number: usize, field: usize) -> i32 {
    at(CPU + offset_of!(Cpu, segments) + number * size_of::<Segment>() + field)
}

/// Selector in the segment register `number`.
pub(crate) fn selector(number: usize) -> i32 {
    segment(number, offset_of!(Segment, selector))
}

/// Base in the segment register `number`, whether or not it counts.
pub(crate) fn hidden_base(number: usize) -> i32 {
    segment(number, offset_of!(Segment, base))
}

/// Limit in the segment register `number`.
pub(crate) fn limit(number: usize) -> i32 {
    segment(number, offset_of!(Segment, limit))
}

/// Attributes in the segment register `number`.
pub(crate) fn attributes(number: usize) -> i32 {
    segment(number, offset_of!(Segment, attributes))
}

/// The host address of group `number` of a block.
pub(crate) fn group(number: usize) -> i32 {
    GROUP_SLOTS + number as i32 * 8
}

/// The count of `what`.
pub(crate) fn count(what: Counted) -> i32 {
    COUNTS + what as i32 * 8
}

/// Offsets within the bank of one set's caches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetLayout {
    /// What leaves the place of an entry of the set's caches of pages, in both levels.
    pub(crate) page_masks: [u32; 2],
    /// Cache of pages that may be read.
    pub(crate) read: i32,
    /// Cache of pages that may be written.
    pub(crate) write: i32,
    /// Jump cache.
    pub(crate) jumps: i32,
    /// Linear addresses of pages of code.
    pub(crate) code_pages: i32,
    /// What to add to the addresses of each region: see [`crate::views`].
    pub(crate) distances: i32,
    /// What is usual, and for which regions it is.
    pub(crate) usual: i32,
    pub(crate) is_usual: i32,
    /// Guard of the first usual distance.
    pub(crate) guard: i32,
    /// Second level of the cache of pages that may be read.
    pub(crate) read_second: i32,
    /// Second level of the cache of pages that may be written.
    pub(crate) write_second: i32,
    /// Second level of the jump cache.
    pub(crate) jumps_second: i32,
}

impl SetLayout {
    /// Where the linear address of the page of code with a number is.
    pub(crate) fn code_page(&self, number: u16) -> i32 {
        self.code_pages + i32::from(number) * 8
    }

    /// The layout of set `set`, which lies at `place` in a bank.
    pub(crate) fn new(set: usize, place: usize) -> Self {
        let guard = at(HEAD_BYTES + GUARD_OFFSET);
        let views = HEAD_BYTES + offset_of!(Bank, views);
        let [first, second] = page_slots(set).map(|slots| (slots - 1) as u32);
        let page_masks = [first << PAGE_SLOT_BITS, second * size_of::<Entry>() as u32];
        let set = HEAD_BYTES + offset_of!(Bank, sets) + place * size_of::<Set>();
        Self {
            page_masks,
            read: at(set + offset_of!(Set, pages)),
            write: at(set + offset_of!(Set, pages) + size_of::<Entry>()),
            jumps: at(set + offset_of!(Set, jumps)),
            code_pages: at(set + offset_of!(Set, code_pages)),
            distances: at(views + offset_of!(BankViews, distances)),
            usual: at(views + offset_of!(BankViews, usual)),
            guard,
            is_usual: at(views + offset_of!(BankViews, is_usual)),
            read_second: at(set + offset_of!(Set, read_second)),
            write_second: at(set + offset_of!(Set, write_second)),
            jumps_second: at(set + offset_of!(Set, jumps_second)),
        }
    }
}
