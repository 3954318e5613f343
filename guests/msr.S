/* Model-specific registers of the processor itself. */
#include "long.h"

#define READ(number) movl $(number), %ecx; rdmsr
#define WRITE(number, high, low) movl $(number), %ecx; movl $(low), %eax; \
    movl $(high), %edx; wrmsr
#define FS_BASE 0xc0000100
#define GS_BASE 0xc0000101
#define KERNEL_GS_BASE 0xc0000102
#define TSC_AUX 0xc0000103

main:
    /* There are none of these. */
    FAULT
    READ(0x12345678)
    RAISES(13, 0)
    FAULT
    WRITE(0x12345678, 0, 0)
    RAISES(13, 0)

    /* Results fill both halves and clear the upper parts of the registers. */
    movq $-1, %rax
    movq $-1, %rdx
    READ(MSR_EFER)
    shrq $32, %rax
    CHECK(z)
    shrq $32, %rdx
    CHECK(z)
    READ(MSR_EFER)
    andl $0x500, %eax
    cmpl $0x500, %eax               /* LME and LMA */
    CHECK(e)
    /* LME cannot change while paging is on; LMA is read-only; the rest is reserved. */
    READ(MSR_EFER)
    andl $~EFER_LME, %eax
    FAULT
    wrmsr
    RAISES(13, 0)
    READ(MSR_EFER)
    orl $2, %eax
    FAULT
    wrmsr
    RAISES(13, 0)
    READ(MSR_EFER)
    orl $1, %edx
    FAULT
    wrmsr
    RAISES(13, 0)

    /* Bases: loads through them, canonical addresses only. */
    movq $0x5a, cell
    WRITE(FS_BASE, 0, cell - 0x100)
    cmpq $0x5a, %fs:0x100
    CHECK(e)
    WRITE(GS_BASE, 0xffffffff, 0xfffffff0)
    movl $cell + 0x10, %ebx
    cmpq $0x5a, %gs:(%rbx)
    CHECK(e)
    FAULT
    WRITE(FS_BASE, 0x8000, 0)
    RAISES(13, 0)
    FAULT
    WRITE(KERNEL_GS_BASE, 0x8000, 0)
    RAISES(13, 0)
    FAULT
    WRITE(0xc0000082, 0x8000, 0)    /* LSTAR */
    RAISES(13, 0)
    FAULT
    WRITE(0x175, 0x8000, 0)         /* SYSENTER_ESP */
    RAISES(13, 0)
    /* SWAPGS. */
    WRITE(GS_BASE, 0, 0x1111)
    WRITE(KERNEL_GS_BASE, 0, 0x2222)
    swapgs
    READ(GS_BASE)
    cmpl $0x2222, %eax
    CHECK(e)
    READ(KERNEL_GS_BASE)
    cmpl $0x1111, %eax
    CHECK(e)
    /* The instructions for bases, if enabled. */
    FAULT
    rdgsbase %rax
    RAISES(6, 0)
    SET_CR(4, 0x10000)
    rdgsbase %rax
    cmpq $0x2222, %rax
    CHECK(e)
    movabsq $0xffff800012345678, %rax
    wrfsbase %rax
    READ(FS_BASE)
    cmpl $0x12345678, %eax
    CHECK(e)
    cmpl $0xffff8000, %edx
    CHECK(e)
    movabsq $0x0000800000000000, %rax
    FAULT
    wrgsbase %rax
    RAISES(13, 0)
    /* A load of a selector takes the base from the table, which has 32 bits. */
    movl $USER_DATA, %eax
    movl %eax, %fs
    rdfsbase %rax
    testq %rax, %rax
    CHECK(z)

    /* TSC_AUX shows in RDTSCP; the counter goes up. */
    WRITE(TSC_AUX, 0, 0x77)
    rdtscp
    cmpl $0x77, %ecx
    CHECK(e)
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, %rbx
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    cmpq %rbx, %rax
    CHECK(ae)
    /* The counter can be set. */
    WRITE(0x10, 0x100000, 0)
    rdtsc
    cmpl $0x100000, %edx
    CHECK(ae)
    cmpl $0x100010, %edx
    CHECK(b)

    /* The memory types of the PAT. */
    READ(0x277)
    FAULT
    WRITE(0x277, 0, 2)
    RAISES(13, 0)
    ret

    .data
    .balign 8
cell: .quad 0
    .text
