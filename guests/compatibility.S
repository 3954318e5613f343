/* Compatibility mode: 32- and 16-bit code under long mode. */
#include "long.h"

#define SMALL_DATA FREE             /* base DATA, limit 0xff */
#define DOWN_DATA  (FREE + 8)       /* expand-down, limit 0xfff */
#define READ_ONLY  (FREE + 16)
#define SMALL_CODE (FREE + 24)      /* the program, limit 0xffff */
#define CODE_ONLY  (FREE + 32)      /* execute only */
#define CHECK16(condition) j##condition 98f; .byte 0x66, 0xb8; .long __LINE__; \
    ljmpl $KERNEL_CODE32, $finish32; 98:

main:
    movabsq $0x00409320000000ff, %rax
    movq %rax, gdt + SMALL_DATA
    movabsq $0x0040972000000fff, %rax
    movq %rax, gdt + DOWN_DATA
    movabsq $0x00cf91000000ffff, %rax
    movq %rax, gdt + READ_ONLY
    movabsq $0x00409b000000ffff, %rax
    movq %rax, gdt + SMALL_CODE
    movabsq $0x00cf99000000ffff, %rax
    movq %rax, gdt + CODE_ONLY
    movabsq $0x1234567800000000, %r10
    movabsq $0xaaaaaaaa00000000, %rbx
    movl $stack_top - 0x100, %esp
    ljmp *to32

    .code32
in32:
    /* What 64-bit mode does not have. */
    movl $6, %eax
    .byte 0x40                      /* inc %eax */
    cmpl $7, %eax
    CHECK(e)
    movw $0x0105, %ax
    aad
    cmpb $15, %al
    CHECK(e)
    movb $0x79, %al
    addb $0x35, %al
    daa
    CHECK(c)
    cmpb $0x14, %al
    CHECK(e)
    pushal
    popal
    pushl %cs
    popl %ecx
    cmpl $KERNEL_CODE32, %ecx
    CHECK(e)
    movl $2, %ecx
    boundl %ecx, bounds
    movl $9, %ecx
    FAULT32
    boundl %ecx, bounds
    RAISES32(5, 0)
    movb $0x7f, %al
    addb $1, %al
    FAULT32
    into
    RAISES32(4, 0)
    movl $KERNEL_DATA, %eax
    arpl %ax, %ax
    /* 64-bit instructions and encodings are other things here. */
    FAULT32
    .byte 0x0f, 0x01, 0xf8          /* swapgs */
    RAISES32(6, 0)

    /* Segment limits and types count. */
    movl $SMALL_DATA, %ecx
    movl %ecx, %fs
    movl $0x12345678, DATA + 0xfc
    cmpl $0x12345678, %fs:0xfc
    CHECK(e)
    FAULT32
    movl %fs:0xfd, %eax
    RAISES32(13, 0)
    FAULT32
    movb %al, %fs:0x100
    RAISES32(13, 0)
    movl $DOWN_DATA, %ecx
    movl %ecx, %fs
    movl %fs:0x1000, %eax
    FAULT32
    movl %fs:0xfff, %eax
    RAISES32(13, 0)
    FAULT32
    movl %fs:0, %eax
    RAISES32(13, 0)
    movl $READ_ONLY, %ecx
    movl %ecx, %fs
    movl %fs:DATA, %eax
    FAULT32
    movl %eax, %fs:DATA
    RAISES32(13, 0)
    FAULT32
    movl %ecx, %ss
    RAISES32(13, READ_ONLY)
    movl $CODE_ONLY, %ecx
    FAULT32
    movl %ecx, %fs
    RAISES32(13, CODE_ONLY)
    xorl %ecx, %ecx
    movl %ecx, %fs
    FAULT32
    movl %fs:DATA, %eax
    RAISES32(13, 0)
    FAULT32
    movl %ecx, %ss
    RAISES32(13, 0)
    FAULT32
    movl %eax, %cs:DATA
    RAISES32(13, 0)
    /* A stack with a limit. */
    movl %esp, %ebp
    movl $SMALL_DATA, %ecx
    movl %ecx, %ss
    movl $0x102, %esp
    FAULT32
    pushl %eax
    RAISES32(12, 0)
    cmpl $0x102, %esp
    CHECK(e)
    movl $0x100, %esp
    pushl %eax
    movl $KERNEL_DATA, %ecx
    movl %ecx, %ss
    movl %ebp, %esp

    /* Addresses have 32 bits: they wrap. */
    movl $0xfffffff0, %ecx
    movl $0x77, DATA + 0x10
    cmpl $0x77, DATA + 0x20(%ecx)
    CHECK(e)
    /* 16-bit addressing. */
    movl $start, %esi
    movw $0x1000, %bx
    .byte 0x67, 0x8b, 0x00          /* mov (%bx,%si), %eax */
    cmpl start + 0x1000, %eax
    CHECK(e)
    /* Code segment limits. */
    ljmp $SMALL_CODE, $1f
1:  movl $0x10000, %eax
    FAULT32
    jmp *%eax
    RAISES32(13, 0)
    ljmp $KERNEL_CODE32, $1f
1:
    /* Far calls within the level. */
    movl %esp, %ebp
    lcall $KERNEL_CODE32, $far_routine
    cmpl %esp, %ebp
    CHECK(e)
    cmpl $0x31, %eax
    CHECK(e)

    /* 16-bit code. */
    ljmp $KERNEL_CODE16, $in16
    .code16
in16:
    movw $0xfffe, %ax
    addw $3, %ax
    CHECK16(c)
    pushw $0x1234
    popw %cx
    cmpw $0x1234, %cx
    CHECK16(e)
    movl $0x12345678, %eax          /* with a prefix */
    pushl %eax
    popl %ebx
    cmpl %eax, %ebx
    CHECK16(e)
    callw routine16
    cmpw $0x99, %ax
    CHECK16(e)
    movw $3, %cx
    xorw %ax, %ax
1:  incw %ax
    loop 1b
    cmpw $3, %ax
    CHECK16(e)
    ljmpl $KERNEL_CODE32, $back32
routine16:
    movw $0x99, %ax
    retw

    .code32
finish32:
    outl %eax, $PORT_RESULT
1:  hlt
    jmp 1b
far_routine:
    movl $0x31, %eax
    lret
back32:
    ljmp $KERNEL_CODE, $in64
    .code64
in64:
    /* Registers that 32-bit code cannot name have kept their values. */
    movabsq $0x1234567800000000, %rax
    cmpq %rax, %r10
    CHECK(e)
    movl $stack_top - 8, %esp
    ret

    .data
    .balign 8
to32:   .long in32
        .word KERNEL_CODE32
    .balign 8
bounds: .long 1, 5
    .text
