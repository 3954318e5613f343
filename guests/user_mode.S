/* Level 3: what the switch to level 0 saves and loads, and what level 3 may not do. */
#include "long.h"

main:
    USER_WITH(2)
    movq %rsp, %r12
    FAULT
    cli
    RAISES(13, 0)
    END_USER
    CHECK_EQ(USER_CODE, got_cs)
    CHECK_EQ(USER_DATA, got_ss)
    cmpq %r12, got_rsp
    CHECK(e)
    /* The frame lies at the top of the stack that the TSS names. */
    CHECK_EQ(ring0_stack_top - 40, got_frame)
    testq $RF, got_rflags
    CHECK(nz)

    USER_WITH(2)
    FAULT
    sti
    RAISES(13, 0)
    FAULT
    hlt
    RAISES(13, 0)
    FAULT
    movq %cr0, %rax
    RAISES(13, 0)
    FAULT
    movq %rax, %cr3
    RAISES(13, 0)
    FAULT
    movq %dr7, %rax
    RAISES(13, 0)
    FAULT
    lgdt gdt_pointer
    RAISES(13, 0)
    FAULT
    lidt idt_pointer
    RAISES(13, 0)
    FAULT
    ltr %ax
    RAISES(13, 0)
    FAULT
    lldt %ax
    RAISES(13, 0)
    FAULT
    clts
    RAISES(13, 0)
    FAULT
    lmsw %ax
    RAISES(13, 0)
    FAULT
    invlpg (%rax)
    RAISES(13, 0)
    FAULT
    wbinvd
    RAISES(13, 0)
    FAULT
    rdmsr
    RAISES(13, 0)
    FAULT
    wrmsr
    RAISES(13, 0)
    FAULT
    swapgs
    RAISES(13, 0)
    FAULT
    sysretq
    RAISES(13, 0)
    FAULT
    inb $PORT_LATCH, %al
    RAISES(13, 0)
    FAULT
    outb %al, $PORT_LATCH
    RAISES(13, 0)
    movl $KERNEL_DATA, %eax
    FAULT
    movl %eax, %ds
    RAISES(13, KERNEL_DATA)
    END_USER

    /* With I/O privilege ports and the interrupt flag are level 3's, too. */
    USER_WITH(IOPL3 | 2)
    movb $0x5a, %al
    outb %al, $PORT_LATCH
    xorl %eax, %eax
    inb $PORT_LATCH, %al
    cmpl $0x5a, %eax
    CHECK(e)
    sti
    pushfq
    popq %rax
    testl $IF, %eax
    CHECK(nz)
    cli
    /* But the privilege itself is not: POPF leaves it. */
    pushq $2
    popfq
    pushfq
    popq %rax
    andl $IOPL3, %eax
    cmpl $IOPL3, %eax
    CHECK(e)
    END_USER

    /* Without it POPF leaves the interrupt flag as well, silently. */
    USER_WITH(IF | 2)
    pushq $2
    popfq
    pushfq
    popq %r12
    END_USER
    testl $IF, %r12d
    CHECK(nz)

    /* CR4.UMIP hides the descriptor tables. */
    USER
    sidt scratch
    END_USER
    SET_CR(4, CR4_UMIP)
    USER
    FAULT
    sidt scratch
    RAISES(13, 0)
    FAULT
    sgdt scratch
    RAISES(13, 0)
    FAULT
    str %eax
    RAISES(13, 0)
    FAULT
    sldt %eax
    RAISES(13, 0)
    FAULT
    smsw %eax
    RAISES(13, 0)
    END_USER

    /* CR4.TSD keeps the time from level 3, CR4.PCE the counters. */
    SET_CR(4, 4)
    USER
    FAULT
    rdtsc
    RAISES(13, 0)
    FAULT
    rdpmc
    RAISES(13, 0)
    END_USER
    ret

    .data
scratch: .skip 16
    .text
