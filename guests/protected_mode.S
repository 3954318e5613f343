/* 32-bit protected mode: levels, gates, error codes, segments. */
#include "protected.h"

#define GATE FREE
#define LDT (FREE + 8)
#define CONFORMING (FREE + 16)

main:
    /* A frame within the level has three words, from an outer one five. */
    movl %esp, %ecx
    FAULT
    ud2
    RAISES(6, 0)
    leal -12(%ecx), %eax
    cmpl %eax, got_frame
    CHECK(e)
    USER
    movl %esp, %ebx
    FAULT
    hlt
    RAISES(13, 0)
    END_USER
    cmpl $ring0_stack_top - 20, got_frame
    CHECK(e)
    CHECK_EQ(USER_DATA, got_ss)
    CHECK_EQ(USER_CODE, got_cs)
    cmpl %ebx, got_esp
    CHECK(e)

    /* A call gate copies parameters to the inner stack, and RET releases them on both. */
    movl $inner, %eax
    movw %ax, gdt + GATE
    movw $KERNEL_CODE, gdt + GATE + 2
    movw $0xec03, gdt + GATE + 4    /* three doublewords */
    shrl $16, %eax
    movw %ax, gdt + GATE + 6
    USER
    movl %esp, %ebx
    pushl $0x33
    pushl $0x22
    pushl $0x11
    lcall $GATE | 3, $0
    cmpl %esp, %ebx
    CHECK(e)
    cmpl $0x112233, %eax
    CHECK(e)
    movl %ss, %eax
    cmpl $USER_DATA, %eax
    CHECK(e)
    END_USER
    cmpl $KERNEL_DATA, seen_ss
    CHECK(e)
    cmpl $ring0_stack_top - 28, seen_esp
    CHECK(e)

    /* Conforming code runs at the caller's level. */
    movl $0x0000ffff, gdt + CONFORMING
    movl $0x00cf9f00, gdt + CONFORMING + 4
    USER
    lcall $CONFORMING, $conforming
    andl $3, %eax
    cmpl $3, %eax
    CHECK(e)
    /* Other code of level 0 cannot be called. */
    FAULT
    lcall $KERNEL_CODE, $conforming
    RAISES(13, KERNEL_CODE)
    FAULT
    ljmp $KERNEL_CODE, $conforming
    RAISES(13, KERNEL_CODE)
    FAULT
    lcall $0x7f8, $conforming
    RAISES(13, 0x7f8)
    FAULT
    lcall $0, $conforming
    RAISES(13, 0)
    /* Data of level 0 cannot be loaded, nor a stack of another level. */
    movl $KERNEL_DATA, %eax
    FAULT
    movl %eax, %ds
    RAISES(13, KERNEL_DATA)
    FAULT
    movl %eax, %ss
    RAISES(13, KERNEL_DATA)
    /* Interrupts need a gate of this level; INT3 and INTO, too. */
    FAULT
    int $0x20
    RAISES(13, 0x20 << 3 | 2)
    FAULT
    int3
    RAISES(13, 3 << 3 | 2)
    END_USER

    /* A far return to the outer level, releasing data segments that it may not have. */
    movl %esp, kernel_esp
    movl $KERNEL_DATA, %eax
    movl %eax, %fs
    pushl $USER_DATA
    pushl $user_stack_top
    pushl $USER_CODE
    pushl $1f
    pushfl
    orl $IOPL3, (%esp)
    popfl
    lret
1:  movl %fs, %ebx
    movl $USER_DATA, %eax
    movl %eax, %ds
    END_USER
    testl %ebx, %ebx
    CHECK(z)

    /* A local descriptor table. */
    movl $table, %eax
    movw $15, gdt + LDT
    movw %ax, gdt + LDT + 2
    movw $0x8200, gdt + LDT + 4
    movw $0, gdt + LDT + 6
    movl $LDT, %eax
    lldt %ax
    movl $0xc, %eax                 /* the second entry */
    movl %eax, %fs
    movl $0x5678, DATA + 0x40
    cmpl $0x5678, %fs:0x40
    CHECK(e)
    movl $0x14, %eax                /* beyond its limit */
    FAULT
    movl %eax, %gs
    RAISES(13, 0x14)
    sldt %ax
    cmpw $LDT, %ax
    CHECK(e)
    FAULT
    movl $KERNEL_DATA, %eax
    lldt %ax
    RAISES(13, KERNEL_DATA)

    /* LAR, LSL, VERR, VERW tell without faulting. */
    movl $KERNEL_DATA, %ecx
    larl %ecx, %eax
    CHECK(z)
    cmpl $0x00cf9300, %eax
    CHECK(e)
    lsll %ecx, %eax
    CHECK(z)
    cmpl $-1, %eax
    CHECK(e)
    movl $0x7f8, %ecx
    larl %ecx, %eax
    CHECK(nz)
    movl $KERNEL_CODE, %ecx
    verw %cx
    CHECK(nz)
    verr %cx
    CHECK(z)
    /* The accessed bit is set by a load. */
    andb $~1, gdt + KERNEL_DATA16 + 5
    movl $KERNEL_DATA16, %ecx
    movl %ecx, %gs
    testb $1, gdt + KERNEL_DATA16 + 5
    CHECK(nz)
    movl $KERNEL_DATA, %ecx
    movl %ecx, %gs

    /* LSS loads both. */
    movl %esp, pointer
    movl $KERNEL_DATA, pointer + 4
    lss pointer, %esp

    /* 16-bit gates push words. */
    movl $gate16, %eax
    movw %ax, idt + 8 * 0x21
    movw $0x8600, idt + 8 * 0x21 + 4
    movl %esp, %ebx
    int $0x21
    subl %ecx, %ebx
    cmpl $6, %ebx
    CHECK(e)

    /* SYSENTER and SYSEXIT. */
    movl $0x174, %ecx
    xorl %edx, %edx
    movl $KERNEL_CODE, %eax
    wrmsr
    movl $0x175, %ecx
    movl $ring0_stack_top, %eax
    wrmsr
    movl $0x176, %ecx
    movl $enter, %eax
    wrmsr
    USER
    movl $user_stack_top, %ecx
    sysenter
1:  movl %cs, %eax
    cmpl $USER_CODE, %eax
    CHECK(e)
    cmpl $user_stack_top, %esp
    CHECK(e)
    END_USER
    cmpl $KERNEL_CODE, seen_cs
    CHECK(e)
    cmpl $KERNEL_DATA, seen_ss
    CHECK(e)
    cmpl $ring0_stack_top, seen_esp
    CHECK(e)
    movl $0x174, %ecx
    xorl %eax, %eax
    wrmsr
    USER
    FAULT
    sysenter
    RAISES(13, 0)
    FAULT
    sysexit
    RAISES(13, 0)
    END_USER
    ret

inner:
    movl %esp, seen_esp_inner
    movl %ss, %eax
    movl %eax, seen_ss
    leal (%esp), %eax
    movl %eax, seen_esp
    movl 8(%esp), %eax              /* 0x11 */
    shll $16, %eax
    movl 12(%esp), %ecx             /* 0x22 */
    shll $8, %ecx
    orl %ecx, %eax
    orl 16(%esp), %eax              /* 0x33 */
    lret $12
conforming:
    movl %cs, %eax
    lret
gate16:
    movl %esp, %ecx
    iretw
enter:
    movl %cs, %eax
    movl %eax, seen_cs
    movl %ss, %eax
    movl %eax, seen_ss
    movl %esp, seen_esp
    movl $1b, %edx
    movl $user_stack_top, %ecx
    sysexit

    .data
    .balign 8
table:  .quad 0
        .word 0xffff
        .word DATA & 0xffff
        .byte DATA >> 16
        .byte 0x93, 0xcf, 0
pointer: .quad 0
seen_ss: .long 0
seen_cs: .long 0
seen_esp: .long 0
seen_esp_inner: .long 0
    .text
