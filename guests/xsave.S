/* FXSAVE and the XSAVE family: round trips, formats, what is refused. */
#include "long.h"

#define MXCSR_AT 24
#define XSTATE_BV 512
#define XCOMP_BV 520

main:
    /* Undefined until enabled. */
    FAULT
    xgetbv
    RAISES(6, 0)
    FAULT
    xsave area
    RAISES(6, 0)
    SET_CR(4, CR4_OSXSAVE)
    movl $1, %eax                   /* CPUID tells */
    cpuid
    btl $27, %ecx
    CHECK(c)
    xorl %ecx, %ecx
    xgetbv
    cmpl $1, %eax
    CHECK(e)

    /* XSETBV refuses what makes no sense. */
    xorl %edx, %edx
    movl $6, %eax
    FAULT
    xsetbv
    RAISES(13, 0)
    movl $5, %eax
    FAULT
    xsetbv
    RAISES(13, 0)
    movl $7, %eax
    movl $1, %ecx
    FAULT
    xsetbv
    RAISES(13, 0)
    xorl %ecx, %ecx
    /* AVX needs XCR0. */
    FAULT
    vxorps %ymm0, %ymm0, %ymm0
    RAISES(6, 0)
    USER
    FAULT
    xsetbv
    RAISES(13, 0)
    END_USER
    movl $7, %eax
    xorl %edx, %edx
    xorl %ecx, %ecx
    xsetbv
    movl $0xd, %eax
    xorl %ecx, %ecx
    cpuid
    cmpl $576 + 256, %ebx           /* the size for what is enabled */
    CHECK(e)

    /* A round trip in the standard format. */
    call fill
    movl $7, %eax
    xorl %edx, %edx
    xsave area
    cmpq $7, area + XSTATE_BV
    CHECK(e)
    cmpq $0, area + XCOMP_BV
    CHECK(e)
    movq pattern + 16, %rcx         /* the upper half of YMM5 */
    cmpq %rcx, area + 576 + 5 * 16
    CHECK(e)
    movq pattern, %rcx
    cmpq %rcx, area + 160 + 5 * 16
    CHECK(e)
    call wipe
    movl $7, %eax
    xrstor area
    call compare

    /* Components that are not asked for stay. */
    call fill
    movl $4, %eax
    vxorps %xmm6, %xmm6, %xmm6
    xsave area
    call wipe
    movl $4, %eax
    xrstor area
    vextractf128 $1, %ymm5, %xmm7
    movq %xmm7, %rcx
    cmpq %rcx, pattern + 16
    CHECK(e)
    movq %xmm5, %rcx
    testq %rcx, %rcx
    CHECK(z)

    /* A cleared bit in XSTATE_BV resets its component. */
    call fill
    movl $7, %eax
    xsave area
    andq $~4, area + XSTATE_BV
    movl $7, %eax
    xrstor area
    vextractf128 $1, %ymm5, %xmm7
    movq %xmm7, %rcx
    testq %rcx, %rcx
    CHECK(z)
    movq %xmm5, %rcx
    cmpq %rcx, pattern
    CHECK(e)
    movq $0, area + XSTATE_BV
    movl $7, %eax
    xrstor area
    movq %xmm5, %rcx
    testq %rcx, %rcx
    CHECK(z)
    fnstcw area
    cmpw $0x37f, area
    CHECK(e)

    /* The compacted format. */
    movl $0xd, %eax
    movl $1, %ecx
    cpuid
    testl $2, %eax
    jz 1f
    call fill
    movl $6, %eax
    xorl %edx, %edx
    xsavec area
    btq $63, area + XCOMP_BV
    CHECK(c)
    movq area + XCOMP_BV, %rcx
    btrq $63, %rcx
    cmpq $6, %rcx
    CHECK(e)
    call wipe
    movl $7, %eax
    xrstor area
    vextractf128 $1, %ymm5, %xmm7
    movq %xmm7, %rcx
    cmpq %rcx, pattern + 16
    CHECK(e)
    movq %xmm5, %rcx
    cmpq %rcx, pattern
    CHECK(e)
    /* XSTATE_BV may not go beyond XCOMP_BV. */
    orq $1, area + XSTATE_BV
    FAULT
    xrstor area
    RAISES(13, 0)
    movq $0, area + XCOMP_BV
1:
    /* What XRSTOR refuses: reserved bits of the header and of MXCSR, misalignment. */
    call fill
    movl $7, %eax
    xorl %edx, %edx
    xsave area
    movl $7, %eax
    btsq $60, area + XSTATE_BV
    FAULT
    xrstor area
    RAISES(13, 0)
    btrq $60, area + XSTATE_BV
    movq $1, area + XCOMP_BV + 8
    FAULT
    xrstor area
    RAISES(13, 0)
    movq $0, area + XCOMP_BV + 8
    orl $0x80000000, area + MXCSR_AT
    FAULT
    xrstor area
    RAISES(13, 0)
    andl $0x7fffffff, area + MXCSR_AT
    FAULT
    xrstor area + 16
    RAISES(13, 0)
    FAULT
    xsave area + 32
    RAISES(13, 0)
    FAULT
    fxsave area + 8
    RAISES(13, 0)

    /* XSAVEOPT must leave an image that restores the same. */
    movl $0xd, %eax
    movl $1, %ecx
    cpuid
    testl $1, %eax
    jz 1f
    call fill
    movl $7, %eax
    xorl %edx, %edx
    xsave area
    movl $7, %eax
    xsaveopt area
    call wipe
    movl $7, %eax
    xrstor area
    call compare
1:
    /* FXSAVE in its turn. */
    call fill
    fxsave64 area
    call wipe
    fxrstor64 area
    movq %xmm5, %rcx
    cmpq %rcx, pattern
    CHECK(e)
    fstpl number
    movabsq $0x400921fb54442d18, %rcx
    cmpq %rcx, number
    CHECK(e)

    /* CR0.TS stops them all. */
    SET_CR(0, CR0_TS)
    FAULT
    xsave area
    RAISES(7, 0)
    FAULT
    fxrstor area
    RAISES(7, 0)
    clts
    ret

fill:
    fninit
    fldpi
    vmovups pattern, %ymm5
    ret
wipe:
    fninit
    vxorps %ymm5, %ymm5, %ymm5
    ret
compare:
    vmovups %ymm5, number
    movq number, %rcx
    cmpq %rcx, pattern
    CHECK(e)
    movq number + 24, %rcx
    cmpq %rcx, pattern + 24
    CHECK(e)
    fstpl number
    movabsq $0x400921fb54442d18, %rcx
    cmpq %rcx, number
    CHECK(e)
    ret

    .data
    .balign 64
area:   .skip 1024
pattern: .quad 0x1111222233334444, 0x5555666677778888, 0x9999aaaabbbbcccc, 0xddddeeeeffff0000
number: .skip 32
    .text
