/* Pages of 4 KiB, 2 MiB and 1 GiB, aliases, and invalidation of each. */
#include "long.h"

main:
    movl $0x12345678, DATA + 0x345678
    /* 1 GiB. */
    movq $P | W | PS, POINTERS + 8
    movl $WINDOW + DATA + 0x345678, %ebx
    cmpl $0x12345678, (%rbx)
    CHECK(e)
    movl $0x9abcdef0, (%rbx)
    cmpl $0x9abcdef0, DATA + 0x345678
    CHECK(e)
    /* The same gigabyte in 2 MiB pages, one of them moved. */
    movq $SPARE | P | W, POINTERS + 8
    movq $0x400000 | P | W | PS, SPARE
    movq $SPARE + 0x1000 + (P | W), SPARE + 8
    READ_CR(3)
    movq %rax, %cr3
    movl $WINDOW + 0x145678, %ebx
    cmpl $0x9abcdef0, (%rbx)
    CHECK(e)
    /* The next 2 MiB in 4 KiB pages, backwards. */
    xorl %ecx, %ecx
1:  movl $511, %eax
    subl %ecx, %eax
    shll $12, %eax
    leaq 0x400000 + (P | W)(%rax), %rax
    movq %rax, SPARE + 0x1000(,%rcx,8)
    incl %ecx
    cmpl $512, %ecx
    jne 1b
    movl $WINDOW + 0x200000, %ebx
    xorl %ecx, %ecx
2:  movl %ecx, %edi
    shll $12, %edi
    movl %ecx, (%rbx,%rdi)
    incl %ecx
    cmpl $512, %ecx
    jne 2b
    cmpl $511, 0x400000
    CHECK(e)
    cmpl $0, 0x5ff000
    CHECK(e)
    cmpl $256, 0x4ff000
    CHECK(e)

    /* INVLPG after a change of each size. */
    movq $0x401000 | P | W, SPARE + 0x1000
    invlpg (%rbx)
    cmpl $510, (%rbx)
    CHECK(e)
    movl $0x11111111, 0x600000
    movl $0x22222222, 0x800000
    movq $0x600000 | P | W | PS, SPARE
    movl $WINDOW, %ebx
    invlpg 0x100(%rbx)
    cmpl $0x11111111, (%rbx)
    CHECK(e)
    movq $0x800000 | P | W | PS, SPARE
    invlpg 0x1ff000(%rbx)
    cmpl $0x22222222, (%rbx)
    CHECK(e)
    /* A page that goes away. */
    movq $0, SPARE
    invlpg (%rbx)
    FAULT
    movl (%rbx), %eax
    RAISES(14, 0)
    /* One that comes needs no invalidation. */
    movq $0x800000 | P | W | PS, SPARE
    cmpl $0x22222222, (%rbx)
    CHECK(e)
    /* More rights need none either, at worst a fault that is not real. */
    movq $0x600000 | P | PS, SPARE
    invlpg (%rbx)
    movl (%rbx), %eax
    FAULT
    movl %eax, (%rbx)
    RAISES(14, 3)
    movq $0x600000 | P | W | PS, SPARE
    invlpg (%rbx)
    movl %eax, (%rbx)

    /* Tables mapped into the space that they describe. */
    movq $PML4 | P | W, PML4 + 511 * 8
    movq $0xfffffffffffff000, %rsi
    movq PML4, %rax
    andq $~(A | D), %rax
    movq (%rsi), %rcx
    andq $~(A | D), %rcx
    cmpq %rax, %rcx
    CHECK(e)
    ret
