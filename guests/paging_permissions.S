/* Every combination of a page's permissions, CR0.WP, SMEP, SMAP with and without RFLAGS.AC, kind of
   access and privilege level. */
#include "long.h"

/* The program once more, for level 3. */
#define USER_VIEW 0x3fe00000

main:
    /* The program itself belongs to level 0 only; level 3 has a view of it elsewhere. */
    movq $P | W | U | PS | A | D, DIRECTORY + 511 * 8
    andq $~U, DIRECTORY
    READ_CR(3)
    movq %rax, %cr3
    movq $SPARE | P | W | U, POINTERS + 8
    movq $SPARE + 0x1000 + (P | W | U), SPARE
    movw $0xe1ff, DATA              /* jmp *%rcx; data accesses leave it so */
    HANDLER(14, page_fault)
    HANDLER(0x81, back_from_user)
    movw $0xee00, idt + 16 * 0x81 + 4
    xorl %r12d, %r12d               /* 1 writable, 2 user, 4 no execute */
next_page:
    movl $DATA | P, %eax
    testl $1, %r12d
    jz 1f
    orl $W, %eax
1:  testl $2, %r12d
    jz 1f
    orl $U, %eax
1:  testl $4, %r12d
    jz 1f
    btsq $63, %rax
1:  movq %rax, SPARE + 0x1000
    movl $WINDOW, %ebx
    invlpg (%rbx)
    xorl %r13d, %r13d               /* 1 WP, 2 SMEP, 4 SMAP, 8 AC */
next_mode:
    CLEAR_CR(0, CR0_WP)
    CLEAR_CR(4, CR4_SMEP | CR4_SMAP)
    testl $1, %r13d
    jz 1f
    SET_CR(0, CR0_WP)
1:  testl $2, %r13d
    jz 1f
    SET_CR(4, CR4_SMEP)
1:  testl $4, %r13d
    jz 1f
    SET_CR(4, CR4_SMAP)
1:  xorl %r14d, %r14d               /* 0 read, 1 write, 2 execute */
next_access:
    xorl %r15d, %r15d               /* 1 at level 3 */
next_level:
    call expectation
    movq %rdx, expected
    movq %rsp, kernel_rsp
    movq $judge, continue
    movl $WINDOW, %ebx
    leaq accesses(,%r14,8), %rsi
    movl $IOPL3 | 2, %eax
    testl $8, %r13d
    jz 1f
    orl $AC, %eax
1:  testl %r15d, %r15d
    jnz 1f
    movl $done_in_kernel, %ecx
    pushq %rax
    popfq
    jmp *(%rsi)
1:  movl $done_in_user + USER_VIEW, %ecx
    movq (%rsi), %rsi
    addq $USER_VIEW, %rsi
    pushq $USER_DATA
    pushq $0
    pushq %rax
    pushq $USER_CODE
    pushq %rsi
    iretq

judge:
    pushq $2
    popfq
    cmpq %rdx, expected
    CHECK(e)
    incl %r15d
    cmpl $2, %r15d
    jne next_level
    incl %r14d
    cmpl $3, %r14d
    jne next_access
    incl %r13d
    cmpl $16, %r13d
    jne next_mode
    incl %r12d
    cmpl $8, %r12d
    jne next_page
    CLEAR_CR(4, CR4_SMEP | CR4_SMAP)
    SET_CR(0, CR0_WP)

    /* Permissions of the upper levels count, too. */
    movq $DATA | P | W | U, SPARE + 0x1000
    movq $directory_tests, %rsi
    jmp upper

/* RDX: the error code expected, or -1. */
expectation:
    movq $-1, %rdx
    testl %r15d, %r15d
    jz 1f
    testl $2, %r12d                 /* level 3: only user pages */
    jz denied
    cmpl $1, %r14d
    jne 2f
    testl $1, %r12d
    jz denied
    ret
1:  cmpl $2, %r14d
    je 1f
    testl $4, %r13d                 /* SMAP: no user data without AC */
    jz 3f
    testl $2, %r12d
    jz 3f
    testl $8, %r13d
    jz denied
3:  cmpl $1, %r14d
    jne 4f
    testl $1, %r12d                 /* WP: no writes to read-only pages */
    jnz 4f
    testl $1, %r13d
    jnz denied
4:  ret
1:  testl $2, %r13d                 /* SMEP: no user code */
    jz 2f
    testl $2, %r12d
    jnz denied
2:  cmpl $2, %r14d
    jne 1f
    testl $4, %r12d
    jnz denied
1:  ret
denied:
    leal 1(,%r15,4), %edx
    cmpl $1, %r14d
    jb 1f
    movl $2, %eax
    movl $0x10, %ecx
    cmovel %eax, %ecx
    orl %ecx, %edx
1:  ret

/* These run at either level and at either address. */
read:
    movb (%rbx), %al
    jmp *%rcx
write:
    movb $0xff, (%rbx)
    jmp *%rcx
execute:
    jmp *%rbx

done_in_user:
    int $0x81
back_from_user:
    movq kernel_rsp, %rsp
done_in_kernel:
    movq $-1, %rdx
    jmp *continue

page_fault:
    popq %rdx
    movq kernel_rsp, %rsp
    movq %cr2, %rax
    cmpq %rax, %rbx
    CHECK(e)
    jmp *continue

upper:
    movq 0(%rsi), %rax
    testq %rax, %rax
    jz 1f
    movq %rax, SPARE
    READ_CR(3)
    movq %rax, %cr3
    movq %rsp, kernel_rsp
    movq $2f, continue
    movl $WINDOW, %ebx
    movl $done_in_user + USER_VIEW, %ecx
    pushq $USER_DATA
    pushq $0
    pushq $2
    pushq $USER_CODE
    pushq 8(%rsi)
    iretq
2:  cmpq %rdx, 16(%rsi)
    CHECK(e)
    addq $24, %rsi
    jmp upper
1:  ret

    .data
    .balign 8
accesses: .quad read, write, execute
expected: .quad 0
continue: .quad 0
directory_tests:
    .quad SPARE + 0x1000 + (P | W), read + USER_VIEW, 5
    .quad SPARE + 0x1000 + (P | U), write + USER_VIEW, 7
    .quad SPARE + 0x1000 + (P | W | U) + (1 << 63), execute + USER_VIEW, 0x15
    .quad SPARE + 0x1000 + (W | U), execute + USER_VIEW, 0x14
    .quad SPARE + 0x1000 + (W | U), write + USER_VIEW, 6
    /* Reserved: address bits of a 2 MiB page below its size. */
    .quad DATA + 0x2000 + (P | W | U | PS), read + USER_VIEW, 0xd
    .quad 0
    .text
