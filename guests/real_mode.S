/* Real mode: segments, interrupts, limits, and the way to protected mode and back. */
#include "board.h"

#define CHECK16(condition) j##condition 98f; .byte 0x66, 0xb8; .long __LINE__; jmp finish; 98:

    .code16
    .text
    .globl start
start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $stack_top, %sp

    /* A segment is sixteen times its number, also above 64 KiB and up to the last byte below it. */
    movw $0x2000, %ax
    movw %ax, %es
    movl $0x12345678, %es:(0x10)
    movw $0x2001, %ax
    movw %ax, %es
    cmpl $0x12345678, %es:(0)
    CHECK16(e)
    movw $0xffff, %ax
    movw %ax, %es
    movb $0x5a, %es:(0x10)          /* one megabyte and more */
    cmpb $0x5a, %es:(0x10)
    CHECK16(e)

    /* Interrupts go through the table at zero and push three words. */
    movw $handler, 0x60 * 4
    movw $0, 0x60 * 4 + 2
    movw %sp, %bx
    stc
    int $0x60
after_int:
    cmpw $0xbeef, %ax
    CHECK16(e)
    cmpw %sp, %bx
    CHECK16(e)
    cmpw $after_int, seen_ip
    CHECK16(e)
    testw $CF, seen_flags
    CHECK16(nz)
    subw seen_sp, %bx
    cmpw $6, %bx
    CHECK16(e)

    /* Faults have no error code and point to the instruction. */
    movw $divide, 0
    movw $0, 2
    xorw %cx, %cx
bad_divide:
    divw %cx
    cmpw $1, faults
    CHECK16(e)
    movw $general, 13 * 4
    movw $0, 13 * 4 + 2
    movw $2f, next
    movl %ds:0xfffd, %eax           /* beyond 64 KiB */
2:  cmpw $2, faults
    CHECK16(e)
    movw $general, 12 * 4
    movw $0, 12 * 4 + 2
    movw $2f, next
    movw $0xffff, %bp
    movw (%bp), %ax                 /* the stack segment's limit */
2:  cmpw $3, faults
    CHECK16(e)
    /* #UD: instructions of protected mode. */
    movw $general, 6 * 4
    movw $0, 6 * 4 + 2
    movw $2f, next
    .byte 0x0f, 0x00, 0xd8          /* ltr %ax */
2:  cmpw $4, faults
    CHECK16(e)
    /* Beyond the table: #GP, whose own entry is inside. */
    movw $2f, next
    lidt short_table
    int $0x60
2:  lidt whole_table
    cmpw $5, faults
    CHECK16(e)

    /* Far calls, returns and jumps. */
    lcall $0x0800, $routine - 0x8000
    cmpw $0x4321, %ax
    CHECK16(e)
    movw $0x8000 >> 4, far_pointer + 2
    movw $1f - 0x8000, far_pointer
    ljmp *far_pointer
1:  movw %cs, %ax
    cmpw $0x800, %ax
    CHECK16(e)
    ljmp $0, $1f
1:
    /* 32-bit operands and addresses by prefix; offsets still end at 64 KiB. */
    movl $0x89abcdef, %eax
    movl $0x2000, %ebx
    movl %eax, 0x10(%ebx)
    cmpl %eax, 0x2010
    CHECK16(e)
    movw $2f, next
    movl $0x10000, %ebx
    movb (%ebx), %al
2:  cmpw $6, faults
    CHECK16(e)
    /* 16-bit addresses wrap within the segment. */
    movw $0xffff, %bx
    movw $3, %si
    movb $0x11, 0x2
    cmpb $0x11, (%bx,%si)
    CHECK16(e)
    /* PUSH at zero wraps the stack pointer. */
    movw %sp, %bp
    xorw %sp, %sp
    pushw $0x7788
    cmpw $0xfffe, %sp
    CHECK16(e)
    movw %bp, %sp
    cmpw $0x7788, 0xfffe
    CHECK16(e)
    /* String instructions with segments. */
    movw $0x3000, %ax
    movw %ax, %es
    movw $text, %si
    xorw %di, %di
    movw $8, %cx
    cld
    rep movsb
    cmpl $0x64636261, %es:(0)
    CHECK16(e)
    cmpw $text + 8, %si
    CHECK16(e)
    /* ENTER and LEAVE, PUSHA and POPA, PUSHF. */
    movw %sp, %bx
    enter $8, $0
    leave
    pushaw
    popaw
    cmpw %sp, %bx
    CHECK16(e)
    /* An interrupt from outside. */
    movw $external, 0x70 * 4
    movw $0, 0x70 * 4 + 2
    movb $0x70, %al
    outb %al, $PORT_INTERRUPT_AT_HALT
    sti
    hlt
    cli
    cmpw $1, externals
    CHECK16(e)

    /* To protected mode and back; a segment loaded there keeps its limit. */
    lgdt gdt_pointer
    movl %cr0, %eax
    orb $CR0_PE, %al
    movl %eax, %cr0
    movw $0x10, %bx                 /* still 16-bit code */
    movw %bx, %fs
    ljmpl $0x08, $in32
    .code32
in32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl $0x13572468, DATA
    smsw %eax
    testl $1, %eax
    CHECK(nz)
    ljmp $0x18, $in16
    .code16
in16:
    movw $0x20, %bx
    movw %bx, %ds
    movw %bx, %ss
    movw %bx, %es
    movl %cr0, %eax
    andb $~CR0_PE, %al
    movl %eax, %cr0
    ljmp $0, $back
back:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw %ax, %es
    movl $DATA, %ebx
    cmpl $0x13572468, %fs:(%ebx)
    CHECK16(e)
    /* LMSW cannot leave protected mode, but it can change other bits. */
    movw $CR0_TS, %ax
    lmsw %ax
    smsw %ax
    testw $CR0_TS, %ax
    CHECK16(nz)
    clts

    xorl %eax, %eax
finish:
    outl %eax, $PORT_RESULT
1:  hlt
    jmp 1b

handler:
    pushw %bp
    movw %sp, %bp
    pushw 2(%bp)
    popw seen_ip
    pushw 6(%bp)
    popw seen_flags
    leaw 2(%bp), %ax
    movw %ax, seen_sp
    popw %bp
    movw $0xbeef, %ax
    iretw
divide:
    incw faults
    movw %sp, %bp
    cmpw $bad_divide, (%bp)
    CHECK16(e)
    addw $2, (%bp)
    iretw
general:
    incw faults
    movw %sp, %bp
    pushw next
    popw (%bp)
    iretw
routine:
    movw $0x4321, %ax
    lretw
external:
    incw externals
    iretw

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 32-bit code */
    .quad 0x00cf93000000ffff        /* 32-bit data */
    .quad 0x00009b000000ffff        /* 16-bit code */
    .quad 0x000093000000ffff        /* 16-bit data */
gdt_pointer:
    .word 39
    .long gdt
short_table:
    .word 0x5f * 4 + 3
    .long 0
whole_table:
    .word 0x3ff
    .long 0
seen_ip: .word 0
seen_flags: .word 0
seen_sp: .word 0
faults: .word 0
next: .word 0
externals: .word 0
far_pointer: .word 0, 0
text: .ascii "abcdefgh"
    .balign 16
    .skip 256
stack_top:
    .text
