/* Many system calls in a loop: registers, flags and privilege stay right, and an interrupt that the
   kernel holds off is taken in user mode. */
#include "long.h"

#define MSR_STAR  0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FMASK 0xc0000084
#define WRITE_MSR(number, high, low) movl $(number), %ecx; movl $(low), %eax; \
    movl $(high), %edx; wrmsr
#define ROUNDS 200

main:
    HANDLER(0x40, interrupt)
    WRITE_MSR(MSR_STAR, USER_CODE32 << 16 | KERNEL_CODE, 0)
    WRITE_MSR(MSR_LSTAR, 0, entry)
    WRITE_MSR(MSR_FMASK, 0, IF | CF | AC | 0x400)
    USER_WITH(IOPL3 | IF | 2)
    movl $ROUNDS, %ebx
1:  movl %ebx, %edi
    movl $11, %r10d
    cmpl %ebx, %ebx                 /* ZF */
    stc
    syscall
back:
    CHECK(e)                        /* the flags are those of before */
    CHECK(c)
    leal 1(%rbx,%rbx), %ecx
    cmpl %ecx, %eax
    CHECK(e)
    cmpl $12, %r10d
    CHECK(e)
    movl %cs, %eax
    cmpl $USER_CODE, %eax
    CHECK(e)
    decl %ebx
    jnz 1b
    END_USER
    cmpl $ROUNDS, calls
    CHECK(e)
    cmpl $1, taken
    CHECK(e)
    cmpq $back, seen_rip
    CHECK(e)
    cmpq $USER_CODE, seen_cs
    CHECK(e)
    /* 32-bit code has an entry of its own. */
    WRITE_MSR(MSR_CSTAR, 0, entry32)
    movq %rsp, kernel_rsp
    pushq $USER_DATA
    pushq $user_stack_top
    pushq $(IOPL3 | 2)
    pushq $USER_CODE32
    pushq $in32
    iretq
    .code32
in32:
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl $ROUNDS, %ebx
1:  movl %ebx, %edi
    syscall
    leal 1(%ebx,%ebx), %ecx
    cmpl %ecx, %eax
    CHECK(e)
    movl %cs, %eax
    cmpl $USER_CODE32, %eax
    CHECK(e)
    decl %ebx
    jnz 1b
    END_USER
    .code64
    /* Not to a place that is not canonical: the fault is the kernel's. */
    movq $0x800000000000, %rcx
    movl $2, %r11d
    FAULT
    sysretq
    RAISES(13, 0)
    cmpq $KERNEL_CODE, got_cs
    CHECK(e)
    ret

entry:
    pushfq
    popq %r9
    testl $IF | CF, %r9d
    CHECK(z)
    testl $ZF, %r9d
    CHECK(nz)
    movl %cs, %r8d
    cmpl $KERNEL_CODE, %r8d
    CHECK(e)
    swapgs
    swapgs
    incl calls
    incl %r10d
    leal 1(%rdi,%rdi), %r8d
    cmpl $ROUNDS / 2, calls
    jne 1f
    movb $0x40, %al
    outb %al, $PORT_INTERRUPT
    nop
    cmpl $0, taken
    CHECK(e)
1:  movl %r8d, %eax
    sysretq

entry32:
    movl %cs, %r8d
    cmpl $KERNEL_CODE, %r8d
    CHECK(e)
    leal 1(%rdi,%rdi), %eax
    sysretl

interrupt:
    incl taken
    pushq 0(%rsp)
    popq seen_rip
    pushq 8(%rsp)
    popq seen_cs
    iretq

    .data
    .balign 8
calls:      .long 0
taken:      .long 0
seen_rip:   .quad 0
seen_cs:    .quad 0
