/* Hardware tasks: a task gate for double faults, CALL and JMP to a TSS, IRET back. */
#include "protected.h"

#define OTHER FREE
#define DF_TASK (FREE + 8)
#define GATE (FREE + 16)

main:
    movl $other, %eax
    movw $0x67, gdt + OTHER
    movw %ax, gdt + OTHER + 2
    movw $0x8900, gdt + OTHER + 4
    movl $df, %eax
    movw $0x67, gdt + DF_TASK
    movw %ax, gdt + DF_TASK + 2
    movw $0x8900, gdt + DF_TASK + 4
    movw $OTHER, gdt + GATE + 2
    movw $0x8500, gdt + GATE + 4

    /* CALL to a TSS: registers, flags, back link, NT, busy bits. */
    movl $0x1234, %ebx
    lcall $OTHER, $0
    cmpl $0x1234, %ebx
    CHECK(e)
    cmpl $1, runs
    CHECK(e)
    cmpl $0x77, seen_ebx
    CHECK(e)
    movl seen_eflags, %eax
    testl $NT, %eax
    CHECK(nz)
    cmpw $TASK, other
    CHECK(e)
    cmpb $0x8b, seen_busy           /* both were busy inside */
    CHECK(e)
    cmpb $0x8b, seen_busy + 1
    CHECK(e)
    cmpb $0x89, gdt + OTHER + 5
    CHECK(e)
    cmpb $0x8b, gdt + TASK + 5
    CHECK(e)
    pushfl
    popl %eax
    testl $NT, %eax
    CHECK(z)
    /* CR0.TS is set by a switch. */
    movl %cr0, %eax
    testl $CR0_TS, %eax
    CHECK(nz)
    clts
    str %ax
    cmpw $TASK, %ax
    CHECK(e)
    /* It goes on where it was when called again, here through a gate. */
    lcall $GATE, $0
    cmpl $2, runs
    CHECK(e)
    /* A busy task cannot be called. */
    FAULT
    lcall $TASK, $0
    RAISES(13, TASK)
    /* By JMP there and back: no link. */
    movl $1, jump_back
    ljmp $OTHER, $0
1:  cmpl $3, runs
    CHECK(e)
    testl $NT, seen_eflags
    CHECK(z)
    cmpb $0x89, seen_busy + 1
    CHECK(e)

    /* #DF through a task gate: whatever state the processor is in, there is a stack. */
    movw $DF_TASK, idt + 8 * 8 + 2
    movw $0x8500, idt + 8 * 8 + 4
    movl %esp, %ebp
    movw $FREE + 0x40, idt + 8 * 6 + 2  /* a selector of nothing: #GP */
    movw $FREE + 0x40, idt + 8 * 13 + 2 /* and so once more */
    movl $0xdeadbee0, %esp
    ud2
after_df:
    cmpl $1, df_runs
    CHECK(e)
    cmpl $0, df_error
    CHECK(e)
    /* The interrupted task's registers are in its TSS. */
    cmpl $0xdeadbee0, seen_esp
    CHECK(e)
    movl %ebp, %esp
    ret

    /* The other task. */
other_task:
    incl runs
    movl %ebx, seen_ebx
    pushfl
    popl seen_eflags
    movb gdt + OTHER + 5, %al
    movb %al, seen_busy
    movb gdt + TASK + 5, %al
    movb %al, seen_busy + 1
    cmpl $0, jump_back
    jne 2f
    iret
    jmp other_task
2:  ljmp $TASK, $0
    jmp other_task

    /* The task of double faults: mends what was broken and lets the other go on after its UD2. */
df_task:
    incl df_runs
    popl df_error
    movl tss + 56, %eax
    movl %eax, seen_esp
    movl $after_df, tss + 32
    movw $KERNEL_CODE, idt + 8 * 6 + 2
    movw $KERNEL_CODE, idt + 8 * 13 + 2
    iret
    jmp df_task

    .data
    .balign 16
other:
    .fill 8, 4, 0
    .long other_task, 2             /* EIP, EFLAGS */
    .long 0, 0, 0, 0x77             /* EAX, ECX, EDX, EBX */
    .long other_stack, 0, 0, 0
    .long KERNEL_DATA, KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA
    .long 0
    .word 0, 0x68
df:
    .fill 8, 4, 0
    .long df_task, 2
    .long 0, 0, 0, 0
    .long df_stack, 0, 0, 0
    .long KERNEL_DATA, KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA, KERNEL_DATA
    .long 0
    .word 0, 0x68
runs: .long 0
df_runs: .long 0
df_error: .long -1
seen_ebx: .long 0
seen_eflags: .long 0
seen_esp: .long 0
seen_busy: .long 0
jump_back: .long 0
    .skip 256
other_stack:
    .skip 256
df_stack:
    .text
