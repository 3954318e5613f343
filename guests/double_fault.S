/* Which exceptions in a row make a double fault. */
#include "long.h"

main:
    /* #PF while the handler of #PF is absent: #NP is contributory, so #DF. */
    movb $0x0e, idt + 16 * 14 + 5
    movl $WINDOW, %ebx
    FAULT
fault:
    movb (%rbx), %al
    RAISES(8, 0)
    cmpq $fault, got_rip
    CHECK(e)
    movb $0x8e, idt + 16 * 14 + 5

    /* #UD while its handler is absent: #UD is benign, so plainly #NP of the gate. */
    movb $0x0e, idt + 16 * 6 + 5
    FAULT
    ud2
    RAISES(11, 6 << 3 | 3)
    movb $0x8e, idt + 16 * 6 + 5

    /* #GP while the handler of #GP is no gate: contributory twice. */
    movb $0x80, idt + 16 * 13 + 5
    FAULT
    movabsb 0x0000800000000000, %al
    RAISES(8, 0)
    movb $0x8e, idt + 16 * 13 + 5

    /* #DE whose handler's code segment is beyond the table. */
    movw $0x7ff8, idt + 2
    xorl %ecx, %ecx
    FAULT
    divl %ecx
    RAISES(8, 0)
    movw $KERNEL_CODE, idt + 2

    /* A page fault while pushing the frame of a page fault: on a stack of its own #DF works. */
    movb $1, idt + 16 * 8 + 4
    movq %rsp, %r12
    movl $WINDOW + 0x1000, %esp
    FAULT
    movb (%rbx), %al
99: movq %r12, %rsp
    CHECK_EQ(8, got_vector)
    CHECK_EQ(0, got_error)
    movl $WINDOW + 0x1000, %eax
    cmpq %rax, got_rsp
    CHECK(e)
    /* CR2 is that of the push. */
    CHECK_EQ(WINDOW + 0xff8, got_cr2)

    /* An interrupt gate without its page: #PF with the address in the table. */
    ret
