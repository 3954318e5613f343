/* Instructions and operands that cross into another page, present or not. */
#include "long.h"

#define LEAF (SPARE + 0x1000)
#define EDGE (WINDOW + 0x1000)

main:
    movq $SPARE | P | W, POINTERS + 8
    movq $LEAF | P | W, SPARE
    /* Two pages that are neighbours here and not in memory; the next ones are absent. */
    movq $DATA + 0x3000 + (P | W), LEAF
    movq $DATA | P | W, LEAF + 8
    movl $EDGE, %ebx

    /* Data of every size. */
    movabsq $0x1122334455667788, %rax
    movq %rax, -3(%rbx)
    cmpq %rax, -3(%rbx)
    CHECK(e)
    cmpb $0x66, DATA + 0x3fff
    CHECK(e)
    cmpl $0x22334455, DATA
    CHECK(e)
    movl $0x01020304, -1(%rbx)
    cmpl $0x01020304, -1(%rbx)
    CHECK(e)
    movw $0x0506, -1(%rbx)
    cmpb $6, DATA + 0x3fff
    CHECK(e)
    cmpb $5, DATA
    CHECK(e)
    addq %rax, -4(%rbx)
    lock incq -7(%rbx)
    xchgl %eax, -2(%rbx)
    movdqu -8(%rbx), %xmm0
    movdqu %xmm0, -15(%rbx)
    movdqu -15(%rbx), %xmm1
    pcmpeqb %xmm0, %xmm1
    pmovmskb %xmm1, %eax
    cmpl $0xffff, %eax
    CHECK(e)
    /* The stack. */
    movq %rsp, %r12
    leaq 4(%rbx), %rsp
    pushq $0x1234567
    cmpl $0x1234567, -4(%rbx)
    CHECK(e)
    popq %rax
    call 1f
1:  cmpq $1b, -4(%rbx)
    CHECK(e)
    movq %r12, %rsp

    /* Where the second page cannot be read or written, nothing is, and CR2 is in the second page. */
    leaq 0x1000(%rbx), %rbx
    movl $0xa5a5a5a5, -4(%rbx)
    movl $WINDOW + 0x2000, %ecx
    FAULT
    movl %eax, -2(%rbx)
    RAISES(14, 2)
    cmpq %rcx, got_cr2
    CHECK(e)
    cmpl $0xa5a5a5a5, -4(%rbx)
    CHECK(e)
    FAULT
    movq -1(%rbx), %rax
    RAISES(14, 0)
    cmpq %rcx, got_cr2
    CHECK(e)
    FAULT
    incl -1(%rbx)
    RAISES(14, 2)
    FAULT
    movdqu %xmm0, -9(%rbx)
    RAISES(14, 2)
    cmpb $0xa5, -1(%rbx)
    CHECK(e)
    /* A read-only second page. */
    movq $DATA + 0x6000 + P, LEAF + 16
    movl $0x77777777, DATA + 0x6000
    movl -2(%rbx), %eax
    cmpl $0x7777a5a5, %eax
    CHECK(e)
    FAULT
    movl %eax, -2(%rbx)
    RAISES(14, 3)
    cmpq %rcx, got_cr2
    CHECK(e)
    cmpl $0xa5a5a5a5, -4(%rbx)
    CHECK(e)
    /* A push whose page is absent leaves the stack pointer. */
    movq $0, LEAF + 16
    invlpg (%rcx)
    movb $1, idt + 16 * 14 + 4
    leaq 5(%rbx), %rsp
    FAULT
    pushq %rax
    RAISES(14, 2)
    leaq 5(%rbx), %rax
    cmpq %rax, %rsp
    CHECK(e)
    movq %r12, %rsp
    movb $0, idt + 16 * 14 + 4

    /* Instructions: the fault is the second page's, the address the instruction's. */
    movb $0xb8, DATA + 0xffd        /* mov $imm32, %eax */
    movw $0x2211, DATA + 0xffe
    leaq -3(%rbx), %rdx
    FAULT
    jmp *%rdx
    RAISES(14, 0x10)
    cmpq %rdx, got_rip
    CHECK(e)
    cmpq %rcx, got_cr2
    CHECK(e)
    movl $0xc34433, DATA + 0x6000
    movq $DATA + 0x6000 + P, LEAF + 16
    call *%rdx
    cmpl $0x44332211, %eax
    CHECK(e)
    /* Execution that runs into an absent page. */
    movb $0x90, DATA + 0xfff
    movq $0, LEAF + 16
    invlpg (%rcx)
    leaq -1(%rbx), %rdx
    FAULT
    jmp *%rdx
    RAISES(14, 0x10)
    cmpq %rcx, got_rip
    CHECK(e)
    /* More than fifteen bytes, across the boundary and not. */
    movl $DATA, %edi
    movl $0x2000, %ecx
    movb $0x66, %al
    rep stosb
    movl $DATA, %edx
    FAULT
    jmp *%rdx
    RAISES(13, 0)
    movl $DATA + 0xffa, %edx
    FAULT
    jmp *%rdx
    RAISES(13, 0)
    ret
