/* STAC and CLAC with SMAP, also within a stretch of straight code and over calls. */
#include "long.h"

#define READ_KERNEL 1
#define WRITE_KERNEL 3

main:
    /* Code, stack and tables belong to the supervisor; DATA remains the user's. */
    andq $~U, DIRECTORY
    SET_CR(4, CR4_SMAP)
    movl $5, %r15d
again:
    FAULT
    movl %eax, DATA
    RAISES(14, WRITE_KERNEL)
    stac
    movl $0x1234, DATA
    movl DATA, %ebx
    clac
    cmpl $0x1234, %ebx
    CHECK(e)
    FAULT
    movl DATA, %eax
    RAISES(14, READ_KERNEL)

    /* Flags live across both. */
    movl $7, %ebx
    cmpl $7, %ebx
    stac
    movl DATA, %ecx
    movl %ecx, own
    clac
    CHECK(e)
    cmpl $0x1234, own
    CHECK(e)

    /* Calls and jumps in between. */
    stac
    call touch
    jmp 1f
1:  call touch
    clac
    FAULT
    call touch
    RAISES(14, WRITE_KERNEL)
    addq $8, %rsp                   /* the return address */

    /* Strings. */
    movl $own, %esi
    movl $DATA + 8, %edi
    movl $3, %ecx
    stac
    rep movsb
    clac
    movl $DATA + 8, %esi
    movl $own + 8, %edi
    movl $3, %ecx
    FAULT
    rep movsb
    RAISES(14, READ_KERNEL)
    cmpl $3, %ecx
    CHECK(e)

    /* POPF changes the flag as well. */
    pushq $AC | 2
    popfq
    incl DATA
    pushq $2
    popfq
    FAULT
    incl DATA
    RAISES(14, WRITE_KERNEL)
    decl %r15d
    jnz again

    /* Without SMAP the flag is only a flag. */
    CLEAR_CR(4, CR4_SMAP)
    stac
    pushfq
    popq %rax
    clac
    pushfq
    popq %rbx
    testl $AC, %eax
    CHECK(nz)
    testl $AC, %ebx
    CHECK(z)
    movl DATA, %eax
    orq $U, DIRECTORY
    movq %cr3, %rax
    movq %rax, %cr3
    /* At level 3 both are undefined. */
    USER
    FAULT
    stac
    RAISES(6, 0)
    FAULT
    clac
    RAISES(6, 0)
    END_USER
    ret

touch:
    incl DATA
    ret

    .data
    .balign 8
own:    .quad 0, 0
