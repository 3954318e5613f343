/* Non-maskable interrupts. */
#include "long.h"

#define COUNT(number) cmpl $(number), taken; CHECK(e)

main:
    HANDLER(2, nmi)
    /* IF does not matter. */
    outb %al, $PORT_NMI
after:
    nop
    COUNT(1)
    cmpq $after, seen_rip
    CHECK(e)

    /* It wakes HLT with IF clear. */
    outb %al, $PORT_NMI_AT_HALT
    hlt
after_hlt:
    COUNT(2)
    cmpq $after_hlt, seen_rip
    CHECK(e)

    /* While one is handled others wait, however many become one, until IRET. */
    movl $1, nest
    outb %al, $PORT_NMI
    nop
    COUNT(4)
    cmpl $1, deepest
    CHECK(e)

    /* Any IRET ends the blocking, also that of an exception inside. */
    movl $2, nest
    movl $0, deepest
    outb %al, $PORT_NMI
    nop
    COUNT(6)
    cmpl $2, deepest
    CHECK(e)

    /* Maskable interrupts do not come in between if IF is clear. */
    ret

nmi:
    pushq %rax
    incl taken
    incl depth
    movl depth, %eax
    cmpl %eax, deepest
    jae 1f
    movl %eax, deepest
1:  movq 8(%rsp), %rax
    movq %rax, seen_rip
    movl nest, %eax
    movl $0, nest
    testl %eax, %eax
    jz 2f
    outb %al, $PORT_NMI
    outb %al, $PORT_NMI
    nop
    cmpl $2, %eax
    jne 2f
    FAULT
    ud2
    RAISES(6, 0)
2:  decl depth
    popq %rax
    iretq

    .data
    .balign 8
taken: .long 0
depth: .long 0
deepest: .long 0
nest: .long 0
seen_rip: .quad 0
    .text
