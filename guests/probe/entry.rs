//! The two entries, the notes that name them, and the handlers of traps and interrupts.

#![expect(unsafe_code, reason = "the entries of a kernel")]

use core::arch::global_asm;

// Notes of the Xen ABI (public/elfnote.h): name "Xen", then a type and a value.
global_asm!(
    ".macro note type, size",
    ".balign 4",
    ".long 4, \\size, \\type",
    ".asciz \"Xen\"",
    ".endm",
    ".pushsection .note.Xen, \"a\", @note",
    // The entry of a domain, the address space it expects, and how the host may load it.
    "note 1, 8",
    ".quad xen_entry",
    "note 3, 8",
    ".quad 0",
    "note 4, 8",
    ".quad 0",
    "note 5, 8",
    ".asciz \"xen-3.0\"",
    "note 6, 6",
    ".asciz \"ambos\"",
    ".balign 4",
    "note 8, 8",
    ".asciz \"generic\"",
    "note 9, 4",
    ".asciz \"yes\"",
    "note 12, 8",
    ".quad 0xffff800000000000",
    // The entry of a PC, by the PVH protocol.
    "note 18, 4",
    ".long pvh_entry",
    ".popsection",
);

// A PC: 32-bit protected mode without paging. The first four GiB are mapped to themselves.
global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".code32",
    ".globl pvh_entry",
    "pvh_entry:",
    "cli",
    "mov edi, offset page_directories",
    "mov eax, 0x83",
    "mov ecx, 2048",
    "2:",
    "mov [edi], eax",
    "mov dword ptr [edi + 4], 0",
    "add eax, 0x200000",
    "add edi, 8",
    "loop 2b",
    "mov edi, offset page_pointers",
    "mov eax, offset page_directories + 3",
    "mov ecx, 4",
    "3:",
    "mov [edi], eax",
    "add eax, 0x1000",
    "add edi, 8",
    "loop 3b",
    "mov eax, offset page_pointers + 3",
    "mov [page_root], eax",
    // CR4: PAE, PGE, and SSE, which the compiler uses.
    "mov eax, 0x6a0",
    "mov cr4, eax",
    "mov eax, offset page_root",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, 0x80010033",
    "mov cr0, eax",
    "lgdt [descriptors_register]",
    // A far jump to selector 8.
    ".byte 0xea",
    ".long long_mode",
    ".word 8",
    ".code64",
    "long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "lea rsp, [rip + stack_top]",
    "call {pc}",
    "ud2",
    // A domain: 64-bit mode with paging, the start information in RSI.
    ".globl xen_entry",
    "xen_entry:",
    "cld",
    "lea rsp, [rip + stack_top]",
    "mov rdi, rsi",
    "call {xen}",
    "ud2",
    // A trap on a PC: nothing but the way there and back.
    ".globl pc_trap",
    "pc_trap:",
    "iretq",
    // An interrupt on a PC: counted, and its end told to the local APIC.
    ".globl pc_interrupt",
    "pc_interrupt:",
    "push rax",
    "inc qword ptr [rip + interrupts]",
    "mov eax, 0xfee000b0",
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    // A trap of a domain: the host pushed RCX and R11 below the frame, and takes the return as a
    // hypercall whose frame begins with RAX, R11, RCX and flags.
    ".globl xen_trap",
    "xen_trap:",
    "pop rcx",
    "pop r11",
    "xen_return:",
    "push 0",
    "push rcx",
    "push r11",
    "push rax",
    "mov eax, 23",
    "syscall",
    "ud2",
    // An event of a domain: counted, and taken from the shared page.
    ".globl xen_event",
    "xen_event:",
    "pop rcx",
    "pop r11",
    "push rax",
    "push rbx",
    "inc qword ptr [rip + interrupts]",
    "lea rbx, [rip + shared_page]",
    // Nothing is pending any more: flag, selector, and the bits of the first 64 ports.
    "mov byte ptr [rbx], 0",
    "mov qword ptr [rbx + 8], 0",
    "mov qword ptr [rbx + 2048], 0",
    "mov byte ptr [rbx + 1], 0",
    "pop rbx",
    "pop rax",
    "jmp xen_return",
    // No such thing is expected.
    ".globl xen_failsafe",
    "xen_failsafe:",
    "ud2",
    ".popsection",
    ".pushsection .data.entry, \"aw\"",
    ".balign 8",
    "descriptors:",
    ".quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "descriptors_register:",
    ".word 23",
    ".long descriptors",
    ".popsection",
    ".pushsection .bss.entry, \"aw\", @nobits",
    ".balign 4096",
    "page_root: .skip 4096",
    "page_pointers: .skip 4096",
    "page_directories: .skip 16384",
    ".globl shared_page",
    "shared_page: .skip 4096",
    ".globl spare_page",
    "spare_page: .skip 4096",
    "stack: .skip 16384",
    "stack_top:",
    ".globl interrupts",
    "interrupts: .skip 8",
    ".popsection",
    pc = sym crate::pc::main,
    xen = sym crate::xen::main,
);

unsafe extern "C" {
    static interrupts: u64;
    static page_root: u8;
    static shared_page: u8;
    static spare_page: u8;
    fn pc_trap();
    fn pc_interrupt();
    fn xen_trap();
    fn xen_event();
    fn xen_failsafe();
}

/// How many interrupts or events came.
pub(crate) fn interrupt_count() -> u64 {
    // SAFETY: the counter is aligned, and written by handlers on this processor only.
    unsafe { (&raw const interrupts).read_volatile() }
}

/// Addresses of what is defined above.
pub(crate) fn addresses() -> Addresses {
    Addresses {
        page_root: (&raw const page_root) as u64,
        shared_page: (&raw const shared_page) as u64,
        spare_page: (&raw const spare_page) as u64,
        pc_trap: pc_trap as *const () as u64,
        pc_interrupt: pc_interrupt as *const () as u64,
        xen_trap: xen_trap as *const () as u64,
        xen_event: xen_event as *const () as u64,
        xen_failsafe: xen_failsafe as *const () as u64,
    }
}

/// See [`addresses`].
pub(crate) struct Addresses {
    /// The top of a PC's page tables.
    pub(crate) page_root: u64,
    /// Where a domain maps the page that it shares with its host.
    pub(crate) shared_page: u64,
    /// A page whose mapping may be changed.
    pub(crate) spare_page: u64,
    pub(crate) pc_trap: u64,
    pub(crate) pc_interrupt: u64,
    pub(crate) xen_trap: u64,
    pub(crate) xen_event: u64,
    pub(crate) xen_failsafe: u64,
}
