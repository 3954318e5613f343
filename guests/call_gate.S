/* Call gates in long mode: the switch of stack and level, and the way back. */
#include "long.h"

#define GATE FREE

main:
    /* A gate that level 3 may use, to level 0. */
    movl $inner, %eax
    movw %ax, gdt + GATE
    movw $KERNEL_CODE, gdt + GATE + 2
    movw $0xec00, gdt + GATE + 4
    shrl $16, %eax
    movw %ax, gdt + GATE + 6
    movq $0, gdt + GATE + 8
    USER
    movq %rsp, %r12
    lcall *pointer
back:
    movq %rsp, %r13
    movl %cs, %r14d
    END_USER
    cmpq %r12, %r13
    CHECK(e)
    cmpl $USER_CODE, %r14d
    CHECK(e)
    cmpq $ring0_stack_top - 32, seen_rsp
    CHECK(e)
    cmpq $KERNEL_CODE, seen_cs
    CHECK(e)
    cmpq $back, frame
    CHECK(e)
    cmpq $USER_CODE, frame + 8
    CHECK(e)
    cmpq %r12, frame + 16
    CHECK(e)
    cmpq $USER_DATA, frame + 24
    CHECK(e)
    cmpq $0, seen_ss
    CHECK(e)

    /* With an operand of 64 bits, the pointer's offset has as many on Intel's processors, 32 on AMD's. */
    movl $long_pointer, %r12d
    xorl %eax, %eax
    cpuid
    cmpl $0x68747541, %ebx          /* "Auth" */
    jne 1f
    addl $4, %r12d
1:  movq $0, seen_cs
    USER
    rex.w lcall *(%r12)
    END_USER
    cmpq $KERNEL_CODE, seen_cs
    CHECK(e)

    /* A far jump cannot raise the level. */
    USER
    FAULT
    ljmp *pointer
    RAISES(13, KERNEL_CODE)
    END_USER

    /* A gate of level 0 is not level 3's. */
    movw $0x8c00, gdt + GATE + 4
    USER
    FAULT
    lcall *pointer
    RAISES(13, GATE)
    END_USER
    /* An absent gate. */
    movw $0x6c00, gdt + GATE + 4
    USER
    FAULT
    lcall *pointer
    RAISES(11, GATE)
    END_USER
    /* The second half must have type zero. */
    movw $0xec00, gdt + GATE + 4
    movw $0x100, gdt + GATE + 12
    USER
    FAULT
    lcall *pointer
    RAISES(13, GATE)
    END_USER
    movw $0, gdt + GATE + 12

    /* From level 0 the gate switches no stack. */
    movq %rsp, %r12
    lcall *pointer
back2:
    cmpq %r12, %rsp
    CHECK(e)
    leaq -16(%r12), %rax
    cmpq %rax, seen_rsp
    CHECK(e)
    cmpq $back2, frame
    CHECK(e)
    ret

inner:
    movq %rsp, seen_rsp
    movl %cs, %eax
    movq %rax, seen_cs
    movl %ss, %eax
    movq %rax, seen_ss
    movq (%rsp), %rax
    movq %rax, frame
    movq 8(%rsp), %rax
    movq %rax, frame + 8
    movq 16(%rsp), %rax
    movq %rax, frame + 16
    movq 24(%rsp), %rax
    movq %rax, frame + 24
    lretq

    .data
    .balign 8
pointer:
    .long 0                         /* the gate knows the offset */
    .word GATE | 3
    .balign 8
long_pointer:
    .quad 0
    .word GATE | 3
    .balign 8
seen_rsp: .quad 0
seen_cs:  .quad 0
seen_ss:  .quad -1
frame:    .quad 0, 0, 0, 0
    .text
