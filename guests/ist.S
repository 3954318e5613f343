/* Interrupt stacks: the stack table of the TSS, alignment, and RSP0. */
#include "long.h"

main:
    /* The same level: the frame is pushed where the stack is, aligned to 16 bytes. */
    movq %rsp, %r12
    subq $3, %rsp
    movq %rsp, %r13
    FAULT
    ud2
    RAISES(6, 0)
    movq %r12, %rsp
    cmpq %r13, got_rsp
    CHECK(e)
    movq %r13, %rax
    andq $~15, %rax
    subq $40, %rax
    cmpq %rax, got_frame
    CHECK(e)

    /* With an entry in the stack table, from level 0 as well. */
    movb $2, idt + 16 * 6 + 4
    FAULT
    ud2
    RAISES(6, 0)
    CHECK_EQ(ist2_top - 40, got_frame)
    /* And it begins anew each time: a nested one overwrites. */
    HANDLER(6, nested)
    movb $2, idt + 16 * 6 + 4
    movl $0, depth
    movq %rsp, %r12
    ud2
done:
    cmpl $2, depth
    CHECK(e)
    cmpq $ist2_top - 40, second_frame
    CHECK(e)

    /* An error code does not change where the frame's end is. */
    movb $1, idt + 16 * 13 + 4
    FAULT
    movabsb 0x0000800000000000, %al
    RAISES(13, 0)
    CHECK_EQ(ist1_top - 40, got_frame)

    /* From level 3 the stack table wins over RSP0. */
    USER
    FAULT
    hlt
    RAISES(13, 0)
    END_USER
    CHECK_EQ(ist1_top - 40, got_frame)

    /* A stack that is not canonical: #SS, for which there is one. */
    movb $0, idt + 16 * 13 + 4
    movb $2, idt + 16 * 12 + 4
    movq $0x7fffffff, %rax
    shlq $32, %rax
    movq %rax, tss_ist
    movb $1, idt + 16 * 13 + 4
    FAULT
    movabsb 0x0000800000000000, %al
99: CHECK_EQ(8, got_vector)
    ret

nested:
    incl depth
    movq %rsp, second_frame
    cmpl $2, depth
    je 1f
    ud2
1:  movq %r12, %rsp
    jmp done

    .data
    .balign 8
depth: .long 0, 0
second_frame: .quad 0
    .text
