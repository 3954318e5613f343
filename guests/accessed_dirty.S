/* Accessed and dirty bits. */
#include "long.h"

#define LEAF (SPARE + 0x1000)

main:
    movq $SPARE | P | W | U, POINTERS + 8
    movq $SPARE + 0x1000 + (P | W | U), SPARE
    movq $DATA | P | W | U, LEAF
    movq $DATA + 0x1000 + (P | U), LEAF + 8
    movq $DATA + 0x2000 + (P | W | U), LEAF + 16
    movq $DATA + 0x3000 + (P | W | U), LEAF + 24
    movl $WINDOW, %ebx

    /* A read sets accessed at every level and dirty at none. */
    movb (%rbx), %al
    cmpq $SPARE | P | W | U | A, POINTERS + 8
    CHECK(e)
    cmpq $SPARE + 0x1000 + (P | W | U | A), SPARE
    CHECK(e)
    cmpq $DATA + (P | W | U | A), LEAF
    CHECK(e)
    /* A write afterwards sets dirty although the translation is known. */
    movb %al, 5(%rbx)
    cmpq $DATA + (P | W | U | A | D), LEAF
    CHECK(e)
    cmpq $SPARE + 0x1000 + (P | W | U | A), SPARE
    CHECK(e)

    /* A write that faults sets neither. */
    FAULT
    movb %al, 0x1000(%rbx)
    RAISES(14, 3)
    testq $D, LEAF + 8
    CHECK(z)

    /* A locked comparison that fails still writes. */
    movl $1, %eax
    lock cmpxchgl %ecx, 0x2000(%rbx)
    CHECK(ne)
    testq $D, LEAF + 16
    CHECK(nz)

    /* When software clears the bits and invalidates, they are set again. */
    andq $~(A | D), LEAF
    invlpg (%rbx)
    movb (%rbx), %al
    cmpq $DATA + (P | W | U | A), LEAF
    CHECK(e)
    andq $~A, LEAF
    READ_CR(3)
    movq %rax, %cr3
    incb (%rbx)
    cmpq $DATA + (P | W | U | A | D), LEAF
    CHECK(e)

    /* Code sets accessed only. */
    movb $0xc3, DATA + 0x3000
    leaq 0x3000(%rbx), %rax
    call *%rax
    cmpq $DATA + 0x3000 + (P | W | U | A), LEAF + 24
    CHECK(e)

    /* Large pages have both bits in the directory entry. */
    movq $DATA + 0x200000 + (P | W | U | PS), SPARE + 8
    movb 0x200000(%rbx), %al
    cmpq $DATA + 0x200000 + (P | W | U | PS | A), SPARE + 8
    CHECK(e)
    movb %al, 0x2fffff(%rbx)
    cmpq $DATA + 0x200000 + (P | W | U | PS | A | D), SPARE + 8
    CHECK(e)

    /* An access that crosses two pages marks both. */
    andq $~(A | D), LEAF + 16
    andq $~(A | D), LEAF + 24
    READ_CR(3)
    movq %rax, %cr3
    movl %eax, 0x2ffe(%rbx)
    testq $D, LEAF + 16
    CHECK(nz)
    testq $D, LEAF + 24
    CHECK(nz)
    ret
