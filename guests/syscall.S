/* SYSCALL and SYSRET. */
#include "long.h"

#define MSR_STAR  0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define WRITE_MSR(number, high, low) movl $(number), %ecx; movl $(low), %eax; \
    movl $(high), %edx; wrmsr

main:
    /* SYSRET adds 16 (64-bit code) and 8 (stack) to the upper selector: 0x23 gives 0x33 and 0x2b. */
    WRITE_MSR(MSR_STAR, USER_CODE32 << 16 | KERNEL_CODE, 0)
    WRITE_MSR(MSR_LSTAR, 0, entry)
    WRITE_MSR(MSR_FMASK, 0, CF | IF)
    USER
    movq %rsp, %r12
    stc
    sti
    syscall
back:
    pushfq
    popq %r14
    cli
    cmpq %r12, %rsp
    CHECK(e)
    movl %cs, %eax
    cmpl $USER_CODE, %eax
    CHECK(e)
    movl %ss, %eax
    cmpl $USER_DATA, %eax
    CHECK(e)
    /* SYSRET has taken the flags from R11. */
    testl $CF, %r14d
    CHECK(nz)
    testl $IF, %r14d
    CHECK(nz)
    END_USER
    cmpq $back, seen_rcx
    CHECK(e)
    movq seen_r11, %rax
    andl $CF | IF | 2, %eax
    cmpl $CF | IF | 2, %eax
    CHECK(e)
    testq $CF | IF, seen_flags
    CHECK(z)
    cmpq $KERNEL_CODE, seen_cs
    CHECK(e)
    cmpq $KERNEL_DATA, seen_ss
    CHECK(e)
    /* SYSCALL leaves the stack pointer. */
    cmpq %r12, seen_rsp
    CHECK(e)

    /* RF, VM and reserved bits of R11 are not loaded. */
    USER
    movq $raw_back, target
    syscall
raw_back:
    pushfq
    popq %r14
    END_USER
    testl $RF, %r14d
    CHECK(z)

    /* To compatibility mode. */
    movq $entry32, %rcx
    movl $IOPL3 | 2, %r11d
    movl $user_stack_top, %ebp
    movq %rsp, kernel_rsp
    sysretl
    .code32
entry32:
    movl %cs, %eax
    cmpl $USER_CODE32, %eax
    CHECK(e)
    movl %ebp, %esp
    pushl $0x12345678
    popl %eax
    int $0x80
    .code64
    cmpl $0x12345678, %eax
    CHECK(e)

    /* Both are undefined unless enabled. */
    movl $MSR_EFER, %ecx
    rdmsr
    andl $~1, %eax
    wrmsr
    FAULT
    syscall
    RAISES(6, 0)
    FAULT
    sysretq
    RAISES(6, 0)
    ret

entry:
    movq %rcx, seen_rcx
    movq %r11, seen_r11
    pushfq
    popq seen_flags
    movl %cs, %eax
    movq %rax, seen_cs
    movl %ss, %eax
    movq %rax, seen_ss
    movq %rsp, seen_rsp
    cmpq $0, target
    jne 1f
    sysretq
1:  movq target, %rcx
    orq $RF, %r11
    sysretq

    .data
    .balign 8
target:     .quad 0
seen_rcx:   .quad 0
seen_r11:   .quad 0
seen_flags: .quad 0
seen_cs:    .quad 0
seen_ss:    .quad 0
seen_rsp:   .quad 0
    .text
