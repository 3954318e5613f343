/* Each exception with its error code, and that the frame points to the faulting instruction or
   after the trapping one. */
#include "long.h"

main:
    /* #DE: division by zero, and a quotient that does not fit. */
    xorl %ecx, %ecx
    movl $1, %eax
    xorl %edx, %edx
    FAULT
fault:
    divl %ecx
    RAISES(0, 0)
    cmpq $fault, got_rip
    CHECK(e)
    CHECK_EQ(KERNEL_CODE, got_cs)
    movl $0x80000000, %eax
    cltd
    movl $-1, %ecx
    FAULT
    idivl %ecx
    RAISES(0, 0)

    /* #BP and #DB by instruction are traps. */
    FAULT
    int3
trap:
    RAISES(3, 0)
    cmpq $trap, got_rip
    CHECK(e)
    FAULT
    .byte 0xf1
trap2:
    RAISES(1, 0)
    cmpq $trap2, got_rip
    CHECK(e)

    /* #UD. */
    FAULT
    ud2
    RAISES(6, 0)
    FAULT
    .byte 0xf0, 0x90                /* LOCK NOP */
    RAISES(6, 0)
    FAULT
    .byte 0x06                      /* PUSH ES */
    RAISES(6, 0)

    /* #NM. */
    SET_CR(0, CR0_TS)
    FAULT
    fld1
    RAISES(7, 0)
    FAULT
    addps %xmm0, %xmm0
    RAISES(7, 0)
    FAULT
    fwait
    RAISES(7, 0)
    clts
    fninit
    /* CR0.EM makes SSE undefined. */
    SET_CR(0, CR0_EM)
    FAULT
    addps %xmm0, %xmm0
    RAISES(6, 0)
    FAULT
    fld1
    RAISES(7, 0)
    CLEAR_CR(0, CR0_EM)

    /* #NP, #SS and #GP with selectors. */
    movl $ABSENT_DATA, %ecx
    FAULT
    movl %ecx, %ds
    RAISES(11, ABSENT_DATA)
    FAULT
    movl %ecx, %ss
    RAISES(12, ABSENT_DATA)
    movl $USER_DATA, %ecx
    FAULT
    movl %ecx, %ss
    RAISES(13, USER_DATA & ~3)
    movl $0x7ff8, %ecx
    FAULT
    movl %ecx, %es
    RAISES(13, 0x7ff8)
    xorl %ecx, %ecx
    movl %ecx, %es
    movl $KERNEL_DATA, %ecx
    movl %ecx, %es

    /* #GP and #SS for addresses that are not canonical. */
    movabsq $0x0000800000000000, %rbx
    FAULT
    movb (%rbx), %al
    RAISES(13, 0)
    /* The handler needs a stack of its own then. */
    movb $1, idt + 16 * 12 + 4
    movq %rbp, %r12
    movq %rbx, %rbp
    FAULT
    movq (%rbp), %rax
    RAISES(12, 0)
    movq %r12, %rbp
    movb $0, idt + 16 * 12 + 4

    /* #GP for INT beyond the table and without privilege. */
    lidt short_idt
    FAULT
    int $0x40
    RAISES(13, 0x40 << 3 | 2)
    lidt idt_pointer
    USER
    FAULT
    int $0x41
    RAISES(13, 0x41 << 3 | 2)
    FAULT
    hlt
    RAISES(13, 0)
    CHECK_EQ(USER_CODE, got_cs)
    CHECK_EQ(USER_DATA, got_ss)
    END_USER

    /* #PF. */
    movl $WINDOW + 0x123, %ebx
    FAULT
    movb %al, (%rbx)
    RAISES(14, 2)
    CHECK_EQ(WINDOW + 0x123, got_cr2)
    FAULT
    movb (%rbx), %al
    RAISES(14, 0)
    FAULT
    jmp *%rbx
    RAISES(14, 0x10)
    CHECK_EQ(WINDOW + 0x123, got_rip)

    /* #MF comes with the next waiting instruction. */
    fninit
    pushq $0x37b                    /* division by zero unmasked */
    fldcw (%rsp)
    popq %rcx
    fld1
    fldz
    fdivrp
    FAULT
    fwait
    RAISES(16, 0)
    fnclex
    fninit

    /* #AC only at level 3 with AC and AM set. */
    SET_CR(0, CR0_AM)
    USER_WITH(AC | IOPL3 | 2)
    FAULT
    movl odd + 1, %eax
    RAISES(17, 0)
    END_USER

    /* #XM. */
    SET_CR(4, 0x400)
    pushq $0x1d80                   /* division by zero unmasked */
    ldmxcsr (%rsp)
    movl $0x3f800000, (%rsp)
    movss (%rsp), %xmm0
    popq %rcx
    xorps %xmm1, %xmm1
    FAULT
    divss %xmm1, %xmm0
    RAISES(19, 0)
    CLEAR_CR(4, 0x400)
    FAULT
    divss %xmm1, %xmm0
    RAISES(6, 0)
    ret

    .data
    .balign 8
odd:    .quad 0
short_idt:
    .word 0x40 * 16 - 1
    .quad idt
    .text
