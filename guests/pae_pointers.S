/* Reserved bits in the directory-pointer table of PAE paging are found when it comes into use. */
#include "protected.h"

main:
    movl $0x3000, %edi
    xorl %eax, %eax
    movl $0x1000, %ecx
    rep stosl
    movl $0x4000 | P, 0x3000
    movl $0x5000 | P | W, 0x3028    /* W is reserved */
    movl $0x4000 | P, 0x3020
    movl $P | W | U | PS, 0x4000
    movl $0x200000 | P | W | U | PS, 0x4008
    SET_CR(4, CR4_PAE)
    /* By turning on paging. */
    movl $0x3020, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $CR0_PG, %eax
    FAULT
    movl %eax, %cr0
    RAISES(13, 0)
    movl %cr0, %eax
    testl $CR0_PG, %eax
    CHECK(z)
    movl $0x3000, %eax
    movl %eax, %cr3
    SET_CR(0, CR0_PG)
    /* By MOV to CR3. */
    movl $0x3020, %eax
    FAULT
    movl %eax, %cr3
    RAISES(13, 0)
    movl %cr3, %eax
    cmpl $0x3000, %eax
    CHECK(e)
    /* By MOV to CR4; entries that are not present have no reserved bits. */
    movl $0x5000 | W, 0x3008
    movl %cr4, %eax
    xorl $CR4_PGE, %eax
    movl %eax, %cr4
    movl $0x5000 | P | W, 0x3008
    xorl $CR4_PGE, %eax
    FAULT
    movl %eax, %cr4
    RAISES(13, 0)
    movl $0, 0x3008
    movl $0x80000000, 0x3014
    movl $0x5000 | P, 0x3010
    FAULT
    movl %eax, %cr4
    RAISES(13, 0)
    ret
