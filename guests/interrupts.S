/* External interrupts: when they are taken and what they change. */
#include "long.h"

#define REQUEST(vector) movb $(vector), %al; outb %al, $PORT_INTERRUPT
#define COUNT(number) cmpl $(number), taken; CHECK(e)

main:
    HANDLER(0x40, interrupt)
    HANDLER(0x41, interrupt)
    movw $0x8f00, idt + 16 * 0x41 + 4   /* a trap gate */

    /* Nothing happens while IF is clear. */
    REQUEST(0x40)
    nop
    COUNT(0)
    /* STI holds interrupts off for one more instruction. */
    sti
    movl taken, %ebx
after_shadow:
    cli
    testl %ebx, %ebx
    CHECK(z)
    COUNT(1)
    cmpq $after_shadow, seen_rip
    CHECK(e)
    testq $IF, seen_flags
    CHECK(nz)
    testq $IF, flags_inside         /* an interrupt gate clears IF */
    CHECK(z)

    /* STI directly before CLI opens no window. */
    REQUEST(0x40)
    sti
    cli
    nop
    COUNT(1)
    /* A second STI holds nothing off. */
    sti
    sti
second_sti:
    nop
    cli
    COUNT(2)

    /* POPF opens it at once. */
    REQUEST(0x40)
    pushq $IF | 2
    popfq
after_popf:
    cli
    COUNT(3)
    cmpq $after_popf, seen_rip
    CHECK(e)

    /* So does IRET. */
    REQUEST(0x40)
    movq %rsp, %rax
    pushq $KERNEL_DATA
    pushq %rax
    pushq $IF | 2
    pushq $KERNEL_CODE
    pushq $after_iret
    iretq
after_iret:
    cli
    COUNT(4)
    cmpq $after_iret, seen_rip
    CHECK(e)

    /* A load of SS holds interrupts off for one instruction. */
    sti
    nop
    movl $KERNEL_DATA, %ecx
    movb $0x40, %al
    outb %al, $PORT_INTERRUPT       /* taken right here */
at_once:
    movl %ecx, %ss
    nop
    cli
    COUNT(5)
    cmpq $at_once, seen_rip
    CHECK(e)
    movb $0x40, %al
    sti
    nop
    movl %ecx, %ss
    outb %al, $PORT_INTERRUPT
    cli
    COUNT(6)

    /* `sti; hlt` sleeps until the interrupt and goes on after HLT. */
    movb $0x40, %al
    outb %al, $PORT_INTERRUPT_AT_HALT
    sti
    hlt
after_hlt:
    cli
    COUNT(7)
    cmpq $after_hlt, seen_rip
    CHECK(e)
    /* An interrupt that is pending before must wake it as well. */
    REQUEST(0x40)
    sti
    hlt
after_hlt2:
    cli
    COUNT(8)
    cmpq $after_hlt2, seen_rip
    CHECK(e)

    /* A trap gate leaves IF. */
    REQUEST(0x41)
    sti
    nop
    cli
    COUNT(9)
    testq $IF, flags_inside
    CHECK(nz)

    /* TF, NT and RF are cleared inside, the flags outside come back. */
    REQUEST(0x40)
    pushq $IF | NT | CF | 2
    popfq
    pushfq
    popq %rax
    cli
    andl $IF | NT | CF, %eax
    cmpl $IF | NT | CF, %eax
    CHECK(e)
    testq $NT, flags_inside
    CHECK(z)
    pushq $2
    popfq

    /* From level 3 to the stack of level 0, also out of a loop. */
    movb $0x40, %al
    movl $0, taken
    USER_WITH(IOPL3 | IF | 2)
    movb $0x40, %al
    outb %al, $PORT_INTERRUPT
1:  cmpl $0, taken
    je 1b
    END_USER
    COUNT(1)
    cmpq $ring0_stack_top - 40, seen_rsp
    CHECK(e)

    /* Several wait their turn. */
    movl $0, taken
    REQUEST(0x40)
    REQUEST(0x40)
    REQUEST(0x41)
    sti
    nop
    nop
    cli
    COUNT(3)
    ret

interrupt:
    pushq %rax
    incl taken
    movq 8(%rsp), %rax
    movq %rax, seen_rip
    movq 24(%rsp), %rax
    movq %rax, seen_flags
    leaq 8(%rsp), %rax
    movq %rax, seen_rsp
    pushfq
    popq flags_inside
    popq %rax
    iretq

    .data
    .balign 8
taken: .long 0, 0
seen_rip: .quad 0
seen_flags: .quad 0
seen_rsp: .quad 0
flags_inside: .quad 0
    .text
