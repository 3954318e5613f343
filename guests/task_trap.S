/* The trap bit of a TSS: #DB before the new task's first instruction; and local breakpoints end. */
#include "protected.h"

#define OTHER FREE

main:
    movl $other, %eax
    movw $0x67, gdt + OTHER
    movw %ax, gdt + OTHER + 2
    movw $0x8900, gdt + OTHER + 4
    HANDLER(1, debug)
    movl $0xffff0ff0, %eax
    movl %eax, %dr6
    movl $0x703, %eax               /* L0, G0, LE, GE */
    movl %eax, %dr7
    lcall $OTHER, $0
    cmpl $1, runs
    CHECK(e)
    movl %dr6, %eax
    testl $0x8000, %eax             /* BT */
    CHECK(nz)
    testl $0x4000, %eax             /* BS */
    CHECK(z)
    movl %dr7, %eax
    andl $0x303, %eax
    cmpl $0x202, %eax
    CHECK(e)
    cmpl $other_task, at
    CHECK(e)
    ret

debug:
    popl at
    pushl at
    iret

other_task:
    cmpl $other_task, at
    CHECK(e)
    incl runs
    iret

    .data
    .balign 16
other:
    .fill 8, 4, 0
    .long other_task, 2
    .long 0, 0, 0, 0
    .long other_stack, 0, 0, 0
    .long KERNEL_DATA, KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA
    .long 0
    .word 1, 0x68
runs: .long 0
at: .long 0
    .skip 256
other_stack:
    .text
