/* Locked instructions, compare and exchange. */
#include "long.h"

main:
    /* CMPXCHG8B and CMPXCHG16B, equal and not. */
    movl $1, %eax
    movl $2, %edx
    movl $3, %ebx
    movl $4, %ecx
    movl $1, cell
    movl $2, cell + 4
    lock cmpxchg8b cell
    CHECK(z)
    cmpl $3, cell
    CHECK(e)
    cmpl $4, cell + 4
    CHECK(e)
    lock cmpxchg8b cell
    CHECK(nz)
    cmpl $3, %eax
    CHECK(e)
    cmpl $4, %edx
    CHECK(e)
    movq $5, cell
    movq $6, cell + 8
    movl $5, %eax
    movl $6, %edx
    movq $-7, %rbx
    movq $-8, %rcx
    lock cmpxchg16b cell
    CHECK(z)
    cmpq $-7, cell
    CHECK(e)
    cmpq $-8, cell + 8
    CHECK(e)
    cmpxchg16b cell
    CHECK(nz)
    cmpq $-8, %rdx
    CHECK(e)
    FAULT
    cmpxchg16b cell + 8
    RAISES(13, 0)

    /* CMPXCHG of each size; a failing one clears the accumulator's upper half only if it has 32 bits. */
    movq $-1, %rax
    movq $0x11223344, cell
    cmpxchgb %bl, cell
    CHECK(nz)
    cmpq $-188, %rax                /* ..ff44 */
    CHECK(e)
    movq $-1, %rax
    cmpxchgl %ebx, cell
    cmpq $0x11223344, %rax
    CHECK(e)
    cmpxchgl %ebx, cell
    CHECK(z)
    /* XADD and XCHG. */
    movl $10, cell
    movl $32, %eax
    lock xaddl %eax, cell
    cmpl $42, cell
    CHECK(e)
    cmpl $10, %eax
    CHECK(e)
    xchgl %eax, cell
    cmpl $42, %eax
    CHECK(e)
    /* Bit strings far away. */
    movl $64 * 8 + 5, %eax
    lock btsq %rax, cell
    CHECK(nc)
    cmpb $0x20, cell + 64
    CHECK(e)
    lock btrq %rax, cell
    CHECK(c)
    movq $-3, %rax
    lock btcq %rax, cell
    cmpb $0x20, cell - 1
    CHECK(e)
    /* Across a cache line and a page. */
    lock addl $1, edge - 2
    cmpl $1, edge - 2
    CHECK(e)

    /* LOCK on anything else is undefined: registers, instructions that only read, loads. */
    FAULT
    .byte 0xf0, 0x01, 0xc0          /* lock add %eax, %eax */
    RAISES(6, 0)
    FAULT
    .byte 0xf0, 0x39, 0x04, 0x24    /* lock cmp %eax, (%rsp) */
    RAISES(6, 0)
    FAULT
    .byte 0xf0, 0x8b, 0x04, 0x24    /* lock mov (%rsp), %eax */
    RAISES(6, 0)
    FAULT
    .byte 0xf0, 0x0f, 0xa3, 0x04, 0x24  /* lock bt %eax, (%rsp) */
    RAISES(6, 0)
    /* A locked read-modify-write of what cannot be written faults and changes nothing. */
    movq $SPARE | P | W, POINTERS + 8
    movq $SPARE + 0x1000 + (P | W), SPARE
    movq $DATA | P, SPARE + 0x1000
    movl $7, DATA
    FAULT
    lock incl WINDOW
    RAISES(14, 3)
    movl $9, %eax
    FAULT
    lock cmpxchgl %ebx, WINDOW      /* would not even store */
    RAISES(14, 3)
    cmpl $9, %eax
    CHECK(e)
    cmpl $7, DATA
    CHECK(e)
    ret

    .data
    .balign 64
    .skip 64
cell: .skip 128
    .bss
    .balign 4096
    .skip 4096
edge: .skip 64
    .text
