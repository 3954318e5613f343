/* Repeated string instructions that fault on the way and go on. */
#include "long.h"

#define LEAF (SPARE + 0x1000)

main:
    movq $SPARE | P | W, POINTERS + 8
    movq $LEAF | P | W, SPARE
    movq $DATA | P | W, LEAF
    HANDLER(14, map_more)
    movb $1, idt + 16 * 14 + 4

    /* MOVS over four pages of which three are brought in by the handler. */
    movl $DATA + 0x10000, %edi
    movl $0x4000, %ecx
1:  movb %cl, (%rdi)
    incl %edi
    decl %ecx
    jnz 1b
    movl $DATA + 0x10000, %esi
    movl $WINDOW, %edi
    movl $0x800, %ecx
    rep movsq
    testl %ecx, %ecx
    CHECK(z)
    cmpl $WINDOW + 0x4000, %edi
    CHECK(e)
    cmpl $DATA + 0x14000, %esi
    CHECK(e)
    cmpl $3, faults
    CHECK(e)
    cmpq $WINDOW + 0x3000, last_address
    CHECK(e)
    /* At the fault the registers told how far it was. */
    cmpq $0x200, last_count
    CHECK(e)
    movl $DATA + 0x10000, %esi
    movl $WINDOW, %edi
    movl $0x4000, %ecx
    repe cmpsb
    CHECK(e)
    testl %ecx, %ecx
    CHECK(z)

    /* STOS backwards into fresh pages, elements across the boundaries. */
    movl $0, faults
    std
    movl $WINDOW + 0x7003, %edi
    movl $0x900, %ecx
    movl $0x5a5a5a5a, %eax
    rep stosl
    cld
    testl %ecx, %ecx
    CHECK(z)
    cmpl $WINDOW + 0x4c03, %edi
    CHECK(e)
    cmpl $4, faults
    CHECK(e)
    cmpl $0x5a5a5a5a, WINDOW + 0x4c07
    CHECK(e)
    cmpl $0x5a5a5a5a, WINDOW + 0x5ffe
    CHECK(e)
    cmpb $0, WINDOW + 0x4c06
    CHECK(e)

    /* SCAS stops at the match, before the page that is absent. */
    movl $0, faults
    movl $WINDOW + 0x6f00, %edi
    movb $0x77, WINDOW + 0x6fff
    movl $0x1000, %ecx
    movb $0x77, %al
    repne scasb
    CHECK(e)
    cmpl $WINDOW + 0x7000, %edi
    CHECK(e)
    cmpl $0xf00, %ecx
    CHECK(e)
    cmpl $0, faults
    CHECK(e)
    /* And faults when there is none. */
    movl $WINDOW + 0x7f00, %edi
    movl $0x180, %ecx
    movb $0x12, %al
    repne scasb
    CHECK(ne)
    cmpl $1, faults
    CHECK(e)
    /* CMPS ends at the difference. */
    movl $DATA + 0x10000, %esi
    movl $DATA + 0x10000, %edi
    movb $1, DATA + 0x10a00
    movl $DATA + 0x12000, %edi
    movl $0x1000, %ecx
    movb $0xee, DATA + 0x12345
    repe cmpsb
    CHECK(ne)
    cmpl $DATA + 0x12346, %edi
    CHECK(e)
    cmpl $0x1000 - 0x346, %ecx
    CHECK(e)
    /* Nothing to do: no access, no change. */
    xorl %ecx, %ecx
    movl $0, faults
    movl $WINDOW + 0x100000, %esi
    movl $WINDOW + 0x100000, %edi
    stc
    rep movsb
    repe cmpsb
    CHECK(c)
    cmpl $0, faults
    CHECK(e)
    /* LODS, overlapping MOVS. */
    movl $DATA + 0x10000, %esi
    movl $0x300, %ecx
    rep lodsw
    cmpl $DATA + 0x10600, %esi
    CHECK(e)
    movl $DATA, %edi
    movl $DATA + 1, %esi
    movb $0x42, DATA
    movl $DATA, %esi
    movl $DATA + 1, %edi
    movl $0x1800, %ecx
    rep movsb
    cmpb $0x42, DATA + 0x1800
    CHECK(e)

    /* INS and OUTS through the latch. */
    movl $PORT_LATCH, %edx
    movl $text, %esi
    movl $3, %ecx
    rep outsb
    inb %dx, %al
    cmpb $'c', %al
    CHECK(e)
    movl $WINDOW + 0x9ffe, %edi
    movl $0, faults
    movl $2, %ecx
    rep insw
    cmpl $2, faults
    CHECK(ae)
    cmpb $'c', WINDOW + 0xa000
    CHECK(e)
    ret

/* Maps a fresh page wherever it faults. */
map_more:
    pushq %rax
    pushq %rdx
    incl faults
    movq %rcx, last_count
    movq %cr2, %rax
    movq %rax, last_address
    subl $WINDOW, %eax
    shrl $12, %eax
    movl %eax, %edx
    shll $12, %edx
    leaq DATA + 0x100000 + (P | W)(%rdx), %rdx
    movq %rdx, LEAF(,%rax,8)
    popq %rdx
    popq %rax
    addq $8, %rsp
    iretq

    .data
    .balign 8
last_count: .quad 0
last_address: .quad 0
faults: .long 0
text: .ascii "abc"
    .text
