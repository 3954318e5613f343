/* Tasks with a 16-bit TSS: CALL, JMP and IRET from and to 32-bit tasks and each other, error codes. */
#include "protected.h"

#define FIRST FREE
#define SECOND (FREE + 8)
#define GATE (FREE + 16)
#define SHORT (FREE + 24)

main:
    movl $first, %eax
    movw $0x2b, gdt + FIRST
    movw %ax, gdt + FIRST + 2
    movw $0x8100, gdt + FIRST + 4
    movw $0x2a, gdt + SHORT
    movw %ax, gdt + SHORT + 2
    movw $0x8100, gdt + SHORT + 4
    movl $second, %eax
    movw $0x2b, gdt + SECOND
    movw %ax, gdt + SECOND + 2
    movw $0x8100, gdt + SECOND + 4
    movw $SECOND, gdt + GATE + 2
    movw $0x8500, gdt + GATE + 4

    /* CALL from a 32-bit task: all 32 bits of it are saved. */
    movl $0x12345678, %ebx
    movl $0x9abcdef0, %edi
    lcall $FIRST, $0
    cmpl $0x12345678, %ebx
    CHECK(e)
    cmpl $0x9abcdef0, %edi
    CHECK(e)
    cmpl $1, runs
    CHECK(e)
    cmpw $0x77, seen_bx
    CHECK(e)
    cmpw $0x88, seen_di
    CHECK(e)
    testw $NT, seen_flags
    CHECK(nz)
    cmpw $TASK, first
    CHECK(e)
    cmpb $0x83, seen_busy
    CHECK(e)
    cmpb $0x8b, seen_busy + 1
    CHECK(e)
    cmpb $0x81, gdt + FIRST + 5
    CHECK(e)
    cmpb $0x8b, gdt + TASK + 5
    CHECK(e)
    pushfl
    popl %eax
    testl $NT, %eax
    CHECK(z)
    movl %cr0, %eax
    testl $CR0_TS, %eax
    CHECK(nz)
    clts
    str %ax
    cmpw $TASK, %ax
    CHECK(e)
    /* What the IRET saved: 16 bits of each register, and no more than the 44 bytes. */
    cmpw $0x99, first + 18
    CHECK(e)
    cmpw $KERNEL_DATA16, first + 38
    CHECK(e)
    cmpl $0x5a5a5a5a, first + 44
    CHECK(e)

    /* From one 16-bit task to another, through a gate, and back. */
    movl $1, go_on
    lcall $FIRST, $0
    cmpl $2, runs
    CHECK(e)
    cmpl $1, second_runs
    CHECK(e)
    cmpw $FIRST, second
    CHECK(e)
    cmpb $0x83, seen_busy
    CHECK(e)

    /* JMP there and back leaves no link. */
    movl $2, go_on
    movw $0, first
    ljmp $FIRST, $0
    cmpl $3, runs
    CHECK(e)
    testw $NT, seen_flags
    CHECK(z)
    cmpw $0, first
    CHECK(e)
    cmpb $0x89, seen_busy + 1
    CHECK(e)

    /* A TSS that is too short, and one that is busy. */
    FAULT
    lcall $SHORT, $0
    RAISES(10, SHORT)
    movb $0x83, gdt + FIRST + 5
    FAULT
    lcall $FIRST, $0
    RAISES(13, FIRST)
    movb $0x81, gdt + FIRST + 5

    /* A fault in the new task's segments is the new task's. */
    movw $KERNEL_DATA, first + 36
    movl %esp, saved_esp
    movl $1f, resume
    movl $-1, got_vector
    movl $first_task, got_eip
    lcall $FIRST, $0
1:  CHECK_EQ(10, got_vector)
    CHECK_EQ(KERNEL_DATA, got_error)
    str %ax
    cmpw $FIRST, %ax
    CHECK(e)
    movw first + 14, %ax
    cmpw %ax, got_eip
    CHECK(e)
    /* Back to where the handler may be entered from. */
    movb $0x89, gdt + TASK + 5
    movl $TASK, %eax
    ltr %ax
    movb $0x81, gdt + FIRST + 5
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl saved_esp, %esp
    pushl $2
    popfl
    clts

    /* The error code of an exception takes 16 bits on a 16-bit task's stack. */
    movw $SECOND, idt + 8 * 13 + 2
    movw $0x8500, idt + 8 * 13 + 4
    movl $3, go_on
    movl $FREE + 0x40, %eax
    movl %eax, %fs                  /* nothing is there */
after_gp:
    cmpw $FREE + 0x40, seen_error
    CHECK(e)
    cmpw $second_stack, seen_sp
    CHECK(e)

    /* There is no bitmap in a 16-bit TSS: level 3 has no ports. */
    movl $KERNEL_CODE, %eax
    movw %ax, idt + 8 * 13 + 2
    movw $0x8e00, idt + 8 * 13 + 4
    movl $gp_handler, %eax
    movw %ax, idt + 8 * 13
    movw $user_task, first + 14
    movw $2, first + 16
    movw $USER_CODE, first + 36
    movw $USER_DATA, first + 34
    movw $USER_DATA, first + 38
    movw $USER_DATA, first + 40
    movw $ring0_stack_top, first + 2
    movw $KERNEL_DATA, first + 4
    movl %esp, saved_esp
    movl $1f, gp_resume
    lcall $FIRST, $0
1:  cmpl $0, gp_error
    CHECK(e)
    movl saved_esp, %esp
    ret

gp_handler:
    movl $KERNEL_DATA, %eax
    movl %eax, %ds
    popl gp_error
    jmp *gp_resume

    /* Code of 16-bit tasks may be 32-bit code. */
first_task:
    incl runs
    movw %bx, seen_bx
    movw %di, seen_di
    movw $0x99, %ax
    pushf
    popl seen_flags
    movb gdt + FIRST + 5, %cl
    movb %cl, seen_busy
    movb gdt + TASK + 5, %cl
    movb %cl, seen_busy + 1
    cmpl $1, go_on
    je 1f
    cmpl $2, go_on
    je 2f
    iret
    jmp first_task
1:  movl $0, go_on
    lcall $GATE, $0
    str %dx
    cmpw $FIRST, %dx
    CHECK(e)
    cmpw $0x99, %ax
    CHECK(e)
    iret
    jmp first_task
2:  ljmp $TASK, $0
    jmp first_task

second_task:
    cmpl $3, go_on
    je 1f
    incl second_runs
    movb gdt + FIRST + 5, %cl
    movb %cl, seen_busy
    iret
    jmp second_task
1:  popw seen_error
    movw %sp, seen_sp
    movl $after_gp, tss + 32
    iret
    jmp second_task

user_task:
    inb $0x80, %al
    ud2

    .data
    .balign 16
first:
    .word 0, 0, 0, 0, 0, 0, 0
    .word first_task, 2             /* IP, FLAGS */
    .word 0, 0, 0, 0x77             /* AX, CX, DX, BX */
    .word first_stack, 0, 0, 0x88   /* SP, BP, SI, DI */
    .word KERNEL_DATA, KERNEL_CODE, KERNEL_DATA16, KERNEL_DATA
    .word 0                         /* LDT */
    .long 0x5a5a5a5a
    .balign 16
second:
    .word 0, 0, 0, 0, 0, 0, 0
    .word second_task, 2
    .word 0, 0, 0, 0
    .word second_stack, 0, 0, 0
    .word KERNEL_DATA, KERNEL_CODE, KERNEL_DATA16, KERNEL_DATA
    .word 0
runs: .long 0
second_runs: .long 0
go_on: .long 0
seen_flags: .long 0
gp_error: .long -1
gp_resume: .long 0
saved_esp: .long 0
seen_bx: .word 0
seen_di: .word 0
seen_sp: .word 0
seen_error: .word 0
seen_busy: .word 0
    .skip 256
first_stack:
    .skip 256
second_stack:
    .text
