/* The I/O permission bitmap: a TSS with one, and level 3 without I/O privilege. */
#include "long.h"

#define IN_USER USER_WITH(2)

main:
    /* A descriptor for the larger TSS. */
    movl $big, %eax
    movw %ax, gdt + FREE + 2
    movw $big_end - big - 1, gdt + FREE
    movb $0, gdt + FREE + 4
    movb $0x89, gdt + FREE + 5
    movl $FREE, %eax
    ltr %ax
    movl $ring0_stack_top, big + 4

    /* Allowed ports of each width. */
    IN_USER
    movl $0x44332211, %eax
    outl %eax, $PORT_LATCH
    inb $PORT_LATCH + 1, %al
    cmpb $0x22, %al
    CHECK(e)
    inw $PORT_LATCH + 2, %ax
    cmpw $0x4433, %ax
    CHECK(e)
    movl $PORT_LATCH, %edx
    inl %dx, %eax
    cmpl $0x44332211, %eax
    CHECK(e)
    /* One bit of a wide access suffices to forbid it. */
    FAULT
    inl $PORT_LATCH + 1, %eax
    RAISES(13, 0)
    FAULT
    inb $PORT_LATCH + 4, %al
    RAISES(13, 0)
    FAULT
    outw %ax, $PORT_LATCH + 3
    RAISES(13, 0)
    FAULT
    outb %al, $0x80
    RAISES(13, 0)
    movl $PORT_LATCH + 4, %edx
    FAULT
    insb
    RAISES(13, 0)
    /* Ports whose bits lie beyond the segment. */
    movl $0x400, %edx
    FAULT
    inb %dx, %al
    RAISES(13, 0)
    /* The byte after the last one must be there, too. */
    movl $0x107, %edx
    FAULT
    inb %dx, %al
    RAISES(13, 0)
    END_USER

    /* Level 0 does not ask. */
    inb $0x80, %al
    inl $PORT_LATCH + 1, %eax
    /* With I/O privilege nor does level 3. */
    USER
    inb $0x80, %al
    END_USER
    ret

    .data
    .balign 16
big:
    .skip 0x66
    .word big_bitmap - big
big_bitmap:
    .fill 0xe0 / 8, 1, 0xff
    .byte 0xf0                      /* the four ports of the latch */
    .byte 0xff
    .byte 0xef                      /* the port of results */
    .byte 0xff
    .byte 0x00                      /* ports 0x100 to 0x107 */
big_end:
    .text
