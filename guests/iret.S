/* IRET in long mode. */
#include "long.h"

#define FRAME(ss, rsp, flags, cs, rip) pushq $(ss); pushq rsp; pushq $(flags); pushq $(cs); \
    pushq $(rip)

main:
    movq %rsp, %r12
    /* Always pops SS:RSP, also at the same level. */
    leaq -0x80(%rsp), %rax
    FRAME(KERNEL_DATA, %rax, CF | 2, KERNEL_CODE, 1f)
    iretq
1:  CHECK(c)
    leaq -0x80(%r12), %rax
    cmpq %rax, %rsp
    CHECK(e)
    movq %r12, %rsp
    /* A null SS is fine for 64-bit code of level 0. */
    FRAME(0, %r12, 2, KERNEL_CODE, 1f)
    iretq
1:  movl %ss, %eax
    testl %eax, %eax
    CHECK(z)
    movl $KERNEL_DATA, %eax
    movl %eax, %ss

    /* NT: there is no task to return to. */
    pushq $NT | 2
    popfq
    FRAME(KERNEL_DATA, %r12, 2, KERNEL_CODE, 1f)
    FAULT
    iretq
1:  RAISES(13, 0)
    pushq $2
    popfq
    movq %r12, %rsp

    /* Selectors that will not do. */
    FRAME(KERNEL_DATA, %r12, 2, 0, 1f)
    FAULT
    iretq
1:  RAISES(13, 0)
    movq %r12, %rsp
    FRAME(KERNEL_DATA, %r12, 2, KERNEL_DATA, 1f)
    FAULT
    iretq
1:  RAISES(13, KERNEL_DATA)
    movq %r12, %rsp
    FRAME(KERNEL_DATA, %r12, 2, 0x7ff8, 1f)
    FAULT
    iretq
1:  RAISES(13, 0x7ff8)
    movq %r12, %rsp
    FRAME(KERNEL_DATA, %r12, 2, USER_CODE, 1f)  /* level 3 with a stack of level 0 */
    FAULT
    iretq
1:  RAISES(13, KERNEL_DATA)
    movq %r12, %rsp
    FRAME(0, %r12, 2, USER_CODE, 1f)
    FAULT
    iretq
1:  RAISES(13, 0)
    movq %r12, %rsp
    FRAME(ABSENT_DATA | 3, %r12, 2, USER_CODE, 1f)
    FAULT
    iretq
1:  RAISES(13, ABSENT_DATA)         /* its level is wrong, too, which comes first */
    movq %r12, %rsp
    /* Level 3 cannot return to level 0. */
    USER
    movq %rsp, %r13
    FRAME(KERNEL_DATA, %r13, 2, KERNEL_CODE, 1f)
    FAULT
    iretq
1:  RAISES(13, KERNEL_CODE)
    movq %r13, %rsp
    /* An address that is not canonical. */
    pushq $USER_DATA
    pushq %r13
    pushq $IOPL3 | 2
    pushq $USER_CODE
    movabsq $0x0000800000000000, %rax
    pushq %rax
    FAULT
    iretq
99: CHECK_EQ(13, got_vector)
    movq %r13, %rsp
    /* Level 3 changes IF and IOPL only as it may. */
    FRAME(USER_DATA, %r13, CF | 2, USER_CODE, 1f)
    iretq
1:  pushfq
    popq %rax
    andl $IOPL3 | CF, %eax
    cmpl $IOPL3 | CF, %eax
    CHECK(e)
    END_USER

    /* To compatibility mode and back by an interrupt. */
    movq %rsp, kernel_rsp
    pushq $USER_DATA
    pushq $user_stack_top
    pushq $IOPL3 | 2
    pushq $USER_CODE32
    pushq $1f
    iretq
    .code32
1:  pushl $5
    popl %eax
    incl %eax                       /* a REX prefix in 64-bit mode */
    movl %cs, %ecx
    movl %esp, %edx
    int $0x80
    .code64
    cmpl $6, %eax
    CHECK(e)
    cmpl $USER_CODE32, %ecx
    CHECK(e)
    cmpl $user_stack_top, %edx
    CHECK(e)

    /* 32-bit operands: IRETD pops five doublewords. */
    movq %rsp, %r12
    subq $20, %rsp
    movl $1f, (%rsp)
    movl $KERNEL_CODE, 4(%rsp)
    movl $CF | 2, 8(%rsp)
    movl %r12d, 12(%rsp)
    movl $KERNEL_DATA, 16(%rsp)
    iret
1:  CHECK(c)
    cmpq %r12, %rsp
    CHECK(e)

    /* Data segments of a higher level do not survive the way to level 3; flat user data does. */
    movl $KERNEL_DATA, %eax
    movl %eax, %ds
    movl $USER_DATA, %eax
    movl %eax, %es
    USER
    movl %ds, %ebx
    movl %es, %ecx
    END_USER
    testl %ebx, %ebx
    CHECK(z)
    cmpl $USER_DATA, %ecx
    CHECK(e)
    ret
