/* Single-step and debug registers. */
#include "long.h"

#define STEP 0x4000
#define CLEAR_DR6 xorl %eax, %eax; movq %rax, %dr6
#define WATCH(number, address, control) movl $(address), %eax; movq %rax, %dr##number; \
    movl $(control), %eax; movq %rax, %dr7
#define NO_WATCH xorl %eax, %eax; movq %rax, %dr7
#define COUNT(number) cmpl $(number), taken; CHECK(e); movl $0, taken

main:
    HANDLER(1, debug)
    CLEAR_DR6

    /* TF traps after the instruction that follows the one that set it. */
    pushfq
    orl $TF, (%rsp)
    popfq
    nop
first:
    nop
second:
    andl $~TF, keep                 /* tells the handler to stop after this one */
third:
    nop
    cmpl $3, taken
    CHECK(e)
    movl $0, taken
    cmpq $first, trace
    CHECK(e)
    cmpq $second, trace + 8
    CHECK(e)
    cmpq $third, trace + 16
    CHECK(e)
    movq seen_dr6, %rax
    testl $STEP, %eax
    CHECK(nz)
    movl $-1, keep

    /* Each iteration of a repeated instruction is one step. */
    movl $DATA, %esi
    movl $DATA + 0x100, %edi
    movl $3, %ecx
    pushfq
    orl $TF, (%rsp)
    popfq
    rep movsb
    andl $~TF, keep
    movl $-1, keep
    COUNT(4)
    testl %ecx, %ecx
    CHECK(z)

    /* A load of SS delays the trap by one instruction. */
    movl $KERNEL_DATA, %edx
    pushfq
    orl $TF, (%rsp)
    popfq
    movl %edx, %ss
    nop
after_ss:
    andl $~TF, keep
    movl $-1, keep
    COUNT(2)
    cmpq $after_ss, trace
    CHECK(e)

    /* A software interrupt clears TF; its handler is not stepped. */
    movw $0x8e00, idt + 16 * 0x42 + 4
    HANDLER(0x42, plain)
    pushfq
    orl $TF, (%rsp)
    popfq
    int $0x42
    andl $~TF, keep
    movl $-1, keep
    /* The instruction after INT is stepped again, because IRET brings TF back. */
    cmpl $0, taken
    CHECK(ne)
    movl $0, taken

    /* Stepping at level 3, system calls of the kernel are not stepped. */
    USER_WITH(TF | IOPL3 | 2)
    nop
    nop
    END_USER
    cmpl $2, taken
    CHECK(ae)
    movl $0, taken

    /* Instruction breakpoints are faults; RF in the frame lets the instruction run. */
    CLEAR_DR6
    WATCH(0, breakpoint, 1)
    nop
breakpoint:
    nop
    NO_WATCH
    COUNT(1)
    cmpq $breakpoint, trace
    CHECK(e)
    testl $1, seen_dr6
    CHECK(nz)
    testq $RF, seen_flags
    CHECK(nz)
    /* In a loop once each time around. */
    WATCH(1, around, 4)
    movl $3, %ecx
1:  nop
around:
    decl %ecx
    jnz 1b
    NO_WATCH
    COUNT(3)
    testl $2, seen_dr6
    CHECK(nz)

    /* Data breakpoints are traps: after the instruction, which is complete. */
    CLEAR_DR6
    WATCH(0, cell, 1 << 16 | 3 << 18 | 1)   /* writes, 4 bytes */
    movl $0x55, cell
after_write:
    movl cell, %ebx
    NO_WATCH
    COUNT(1)
    cmpq $after_write, trace
    CHECK(e)
    cmpl $0x55, %ebx
    CHECK(e)
    /* Reads or writes. */
    WATCH(0, cell, 3 << 16 | 3 << 18 | 1)
    movl cell, %ebx
    movb cell + 3, %bl
    movb cell + 4, %bl              /* misses */
    movl cell - 3, %ebx             /* touches */
    NO_WATCH
    COUNT(3)
    /* One byte. */
    WATCH(2, cell + 1, 1 << 24 | 1 << 4)
    movb $1, cell
    movb $1, cell + 1
    movb $1, cell + 2
    movw $1, cell
    NO_WATCH
    COUNT(2)
    testl $4, seen_dr6
    CHECK(nz)
    /* On the stack, by a push and by a call. */
    leaq -8(%rsp), %rdx
    movq %rdx, %dr3
    movl $1 << 28 | 2 << 30 | 1 << 6, %eax
    movq %rax, %dr7
    pushq %rdx
    popq %rdx
    call 2f
2:  addq $8, %rsp
    NO_WATCH
    COUNT(2)
    /* String instructions tell after the iteration. */
    WATCH(0, DATA + 0x102, 1 << 16 | 1)
    movl $DATA + 0x100, %edi
    movl $8, %ecx
    movb $0x33, %al
    rep stosb
    NO_WATCH
    COUNT(1)
    cmpb $0x33, DATA + 0x107
    CHECK(e)

    /* General detect: DR7.GD faults on the next access to a debug register and clears itself. */
    CLEAR_DR6
    movl $0x2000, %eax
    movq %rax, %dr7
guarded:
    movq %dr0, %rbx
after_guarded:
    COUNT(1)
    cmpq $guarded, trace
    CHECK(e)
    testl $0x2000, seen_dr6
    CHECK(nz)
    movq %dr7, %rax
    testl $0x2000, %eax
    CHECK(z)

    /* Fixed bits, and DR4 as another name of DR6 unless CR4.DE. */
    movq $0, %rax
    movq %rax, %dr6
    movq %dr6, %rax
    movl $0xffff0ff0, %ebx
    cmpq %rbx, %rax
    CHECK(e)
    movq %dr4, %rbx
    cmpq %rax, %rbx
    CHECK(e)
    SET_CR(4, CR4_DE)
    FAULT
    movq %dr4, %rbx
    RAISES(6, 0)
    CLEAR_CR(4, CR4_DE)
    movq %dr7, %rax
    cmpq $0x400, %rax
    CHECK(e)
    btsq $32, %rax
    FAULT
    movq %rax, %dr7
    RAISES(13, 0)
    ret

plain:
    iretq

debug:
    pushq %rax
    pushq %rcx
    movl taken, %ecx
    incl taken
    cmpl $8, %ecx
    jae 1f
    movq 16(%rsp), %rax
    movq %rax, trace(,%rcx,8)
1:  movq 32(%rsp), %rax
    movq %rax, seen_flags
    movl keep, %ecx
    orl $~TF, %ecx
    andl %ecx, 32(%rsp)
    movq %dr6, %rax
    movq %rax, seen_dr6
    popq %rcx
    popq %rax
    iretq

    .data
    .balign 8
    .quad 0
cell:  .quad 0
taken: .long 0
keep:  .long -1
seen_dr6: .quad 0
seen_flags: .quad 0
trace: .fill 8, 8, 0
    .text
