/* Paging outside long mode: two levels, with and without 4 MiB pages, and PAE. */
#include "protected.h"

main:
    /* Two levels of 4 KiB pages: the first 4 MiB map to themselves, but for one page. */
    movl $0x2000, %edi
    movl $P | W | U, %eax
    movl $1024, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $4, %edi
    decl %ecx
    jnz 1b
    movl $0x1000, %edi
    xorl %eax, %eax
    movl $1024, %ecx
    rep stosl
    movl $0x2000 | P | W | U, 0x1000
    movl $DATA + 0x5000 + (P | W), 0x2000 + (DATA >> 12) * 4
    movl $0x1000, %eax
    movl %eax, %cr3
    movl $0x11, DATA + 0x5008
    SET_CR(0, CR0_PG)
    cmpl $0x11, DATA + 8
    CHECK(e)
    movl $0x22, DATA + 8
    cmpl $0x22, DATA + 0x5008
    CHECK(e)
    testl $A | D, 0x2000 + (DATA >> 12) * 4
    CHECK(nz)
    FAULT
    movl 0x400000, %eax
    RAISES(14, 0)
    CHECK_EQ(0x400000, got_cr2)
    FAULT
    movl %eax, 0x400004
    RAISES(14, 2)
    USER
    FAULT
    movl DATA, %eax
    RAISES(14, 5)
    END_USER
    /* Level 0 writes to read-only pages unless CR0.WP. */
    movl $DATA + 0x5000 + P, 0x2000 + (DATA >> 12) * 4
    invlpg DATA
    CLEAR_CR(0, CR0_WP)
    movl $0x33, DATA
    SET_CR(0, CR0_WP)
    FAULT
    movl $0x33, DATA
    RAISES(14, 3)

    /* 4 MiB pages need CR4.PSE; without it the bit means nothing. */
    CLEAR_CR(0, CR0_PG)
    movl $0x44, 0x800010
    SET_CR(0, CR0_PG)
    movl $0x800000 | P | W | PS, 0x1000 + 4
    SET_CR(4, CR4_PSE)
    cmpl $0x44, 0x400010
    CHECK(e)
    testl $A, 0x1004
    CHECK(nz)
    /* Address bits 32 and up would be in bits 13 to 20; bit 21 is reserved. */
    movl $0xa00000 | P | W | PS, 0x1000 + 4
    invlpg 0x400000
    FAULT
    movl 0x400010, %eax
    RAISES(14, 9)
    FAULT
    movl %eax, 0x400010
    RAISES(14, 0xb)
    /* In a 4 KiB page's entry it is an address bit, and so is it while there are no large pages. */
    CLEAR_CR(4, CR4_PSE)
    movl $0x2000 | P | W | PS, 0x1000 + 4
    movl $0x800000 | P | W, 0x2000
    invlpg 0x400000
    cmpl $0x44, 0x400010
    CHECK(e)
    movl $P | W | U, 0x2000
    CLEAR_CR(0, CR0_PG)

    /* PAE: four directories, 2 MiB pages, no-execute. */
    movl $0x3000, %edi
    xorl %eax, %eax
    movl $0x1000, %ecx
    rep stosl
    movl $0x4000 | P, 0x3000
    movl $0x5000 | P, 0x3008
    movl $P | W | U | PS, 0x4000
    movl $0x200000 | P | W | U | PS, 0x4008
    movl $0x200000 | P | W | U | PS, 0x5000
    movl $0x80000000, 0x5004        /* no execute */
    SET_CR(4, CR4_PAE)
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_NXE, %eax
    wrmsr
    movl $0x3000, %eax
    movl %eax, %cr3
    movb $0xc3, DATA + 0x100
    SET_CR(0, CR0_PG)
    movl $0x40000100, %ebx
    cmpb $0xc3, (%ebx)
    CHECK(e)
    FAULT
    jmp *%ebx
    RAISES(14, 0x11)
    movl $DATA + 0x100, %ebx
    call *%ebx
    FAULT
    movl 0x80000000, %eax
    RAISES(14, 0)
    FAULT
    movl 0x400000, %eax
    RAISES(14, 0)
    /* Bits 52 to 62 are reserved here, and address bits below the page's size are. */
    movl $0x100000, 0x500c
    movl $0x200000 | P | W | PS, 0x5008
    FAULT
    movl 0x40200000, %eax
    RAISES(14, 9)
    movl $0, 0x500c
    movl $0x202000 | P | W | PS, 0x5008
    FAULT
    movl 0x40200000, %eax
    RAISES(14, 9)
    movl $0x6000 | P | W, 0x5008
    movl $0x40000000, 0x500c
    FAULT
    movl %eax, 0x40200000
    RAISES(14, 0xb)
    movl $0, 0x500c
    movl $0x200000 | P | W, 0x6000
    movl $0x40000000, 0x6004
    FAULT
    movl 0x40200000, %eax
    RAISES(14, 9)
    movl $0, 0x6004
    movl 0x40200000, %eax

    /* And back to long mode from here: PAE is what it needs. */
    CLEAR_CR(0, CR0_PG)
    movl $0x6000, %edi
    xorl %eax, %eax
    movl $0x800, %ecx
    rep stosl
    movl $0x7000 | P | W, 0x6000
    movl $P | W | PS, 0x7000
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl $0x6000, %eax
    movl %eax, %cr3
    SET_CR(0, CR0_PG)
    movl $MSR_EFER, %ecx
    rdmsr
    testl $0x400, %eax              /* LMA */
    CHECK(nz)
    ljmp $LONG_CODE, $1f
    .code64
1:  movabsq $0x123456789, %rax
    movq %rax, %rcx
    shrq $32, %rcx
    cmpl $1, %ecx
    CHECK(e)
    /* CR4.PAE must stay now, and paging cannot be turned off in 64-bit mode. */
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    pushq $KERNEL_CODE
    pushq $1f
    lretq
    .code32
1:  CLEAR_CR(0, CR0_PG)
    movl %cr0, %eax
    testl $CR0_PG, %eax
    CHECK(z)
    ret
