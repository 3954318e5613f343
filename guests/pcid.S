/* Process-context identifiers, global pages, INVPCID. What is cached may be seen or not; what must be
   dropped must not be seen. */
#include "long.h"

#define LEAF (SPARE + 0x1000)
#define OTHER_PML4 (SPARE + 0x2000)
#define MAP(frame) movq $(frame) | P | W, LEAF
#define INVPCID(type) movl $(type), %eax; invpcid descriptor, %rax
#define SEES(value) cmpl $(value), (%rbx); CHECK(e)

main:
    movq $SPARE | P | W, POINTERS + 8
    movq $LEAF | P | W, SPARE
    movl $1, DATA
    movl $2, DATA + 0x1000
    movl $3, DATA + 0x2000
    movl $WINDOW, %ebx
    movq $POINTERS | P | W | U, OTHER_PML4

    /* Without the feature bit 63 of CR3 is reserved. */
    movq $PML4, %rdx
    btsq $63, %rdx
    FAULT
    movq %rdx, %cr3
    RAISES(13, 0)
    /* It cannot be turned on with an identifier in CR3, nor be left on without paging. */
    movl $PML4 | 8, %eax
    movq %rax, %cr3
    movq %cr4, %rax
    orl $CR4_PCIDE, %eax
    FAULT
    movq %rax, %cr4
    RAISES(13, 0)
    movl $PML4, %ecx
    movq %rcx, %cr3
    movq %rax, %cr4

    /* A load of CR3 without bit 63 drops what its identifier has. */
    MAP(DATA)
    SEES(1)
    MAP(DATA + 0x1000)
    movl $PML4, %eax
    movq %rax, %cr3
    SEES(2)
    /* Reading CR3 never shows bit 63. */
    movq $PML4, %rdx
    btsq $63, %rdx
    movq %rdx, %cr3
    movq %cr3, %rax
    cmpq $PML4, %rax
    CHECK(e)

    /* Two address spaces under two identifiers. */
    movl $OTHER_PML4 | 5, %eax
    movq %rax, %cr3
    SEES(2)
    movq $0, LEAF
    invlpg (%rbx)
    FAULT
    movl (%rbx), %eax
    RAISES(14, 0)
    MAP(DATA)
    SEES(1)
    /* The first one forgets on a flushing switch. */
    movl $PML4, %eax
    movq %rax, %cr3
    SEES(1)
    /* INVPCID of one address in another space. */
    MAP(DATA + 0x2000)
    movq $5, descriptor
    movq $WINDOW, descriptor + 8
    INVPCID(0)
    movq $OTHER_PML4 | 5, %rax
    btsq $63, %rax
    movq %rax, %cr3
    SEES(3)
    /* Of a whole identifier: the current one. */
    MAP(DATA + 0x1000)
    INVPCID(1)
    SEES(2)
    /* Of everything, twice. */
    MAP(DATA)
    INVPCID(2)
    SEES(1)
    MAP(DATA + 0x1000)
    INVPCID(3)
    SEES(2)
    movl $PML4, %eax
    movq %rax, %cr3
    SEES(2)

    /* Global pages survive loads of CR3, but not INVLPG, INVPCID of everything, or a change of PGE. */
    SET_CR(4, CR4_PGE)
    movq $DATA | P | W | G, LEAF
    invlpg (%rbx)
    SEES(1)
    movq $DATA + 0x1000 + (P | W | G), LEAF
    invlpg (%rbx)
    SEES(2)
    movq $DATA + 0x2000 + (P | W | G), LEAF
    INVPCID(2)
    SEES(3)
    movq $DATA | P | W | G, LEAF
    CLEAR_CR(4, CR4_PGE)
    SEES(1)

    /* What INVPCID refuses. */
    movl $4, %eax
    FAULT
    invpcid descriptor, %rax
    RAISES(13, 0)
    movq $0x1000, descriptor
    xorl %eax, %eax
    FAULT
    invpcid descriptor, %rax
    RAISES(13, 0)
    movq $0, descriptor
    movabsq $0x0000800000000000, %rax
    movq %rax, descriptor + 8
    xorl %eax, %eax
    FAULT
    invpcid descriptor, %rax
    RAISES(13, 0)
    USER
    FAULT
    invpcid descriptor, %rax
    RAISES(13, 0)
    END_USER
    ret

    .data
    .balign 16
descriptor: .quad 0, 0
    .text
