/* Programs that begin in 64-bit mode at privilege level 0. Each defines `main` and returns from it,
   having passed. */
#include "board.h"

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define KERNEL_CODE32 0x18
#define USER_CODE32 0x23
#define USER_DATA   0x2b
#define USER_CODE   0x33
#define KERNEL_CODE16 0x38
#define KERNEL_DATA16 0x40
#define ABSENT_DATA 0x48
#define TASK        0x50
/* Free descriptors. */
#define FREE        0x60

/* What the last exception was. */
#define CHECK_EQ(value, place) cmpq $(value), place; CHECK(e)

/* Between these two lies one instruction that must raise an exception. */
#define FAULT movq $99f, resume; movq $-1, got_vector
#define RAISES(vector, error) 99: CHECK_EQ(vector, got_vector); CHECK_EQ(error, got_error)

/* The same in 32-bit code. */
#define FAULT32 movl $99f, resume; movl $-1, got_vector
#define RAISES32(vector, error) 99: cmpl $(vector), got_vector; CHECK(e); \
    cmpl $(error), got_error; CHECK(e)

/* Between these two runs code at privilege level 3, with I/O privilege. */
#define USER USER_WITH(IOPL3 | 2)
#define USER_WITH(flags) movq %rsp, kernel_rsp; pushq $USER_DATA; pushq $user_stack_top; \
    pushq $(flags); pushq $USER_CODE; pushq $97f; iretq; 97:
#define END_USER int $0x80

/* Points the gate of a vector to a handler of the program's own. Changes RAX. */
#define HANDLER(vector, label) movl $(label), %eax; movw %ax, idt + 16 * (vector); \
    shrl $16, %eax; movw %ax, idt + 16 * (vector) + 6

#define READ_CR(number) movq %cr##number, %rax
#define SET_CR(number, bits) movq %cr##number, %rax; orq $(bits), %rax; movq %rax, %cr##number
#define CLEAR_CR(number, bits) movq %cr##number, %rax; andq $~(bits), %rax; movq %rax, %cr##number

    .code64
    .text
    .globl start
start:
    movl $stack_top, %esp
    lgdt gdt_pointer
    pushq $KERNEL_CODE
    pushq $1f
    lretq
1:  movl $KERNEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebx, %ebx
2:  leaq stubs(%rbx), %rax          /* gates and stubs both take 16 bytes */
    movw %ax, idt(%rbx)
    movw $KERNEL_CODE, idt + 2(%rbx)
    movw $0x8e00, idt + 4(%rbx)
    shrq $16, %rax
    movw %ax, idt + 6(%rbx)
    addl $16, %ebx
    cmpl $4096, %ebx
    jne 2b
    HANDLER(0x80, leave_user)
    movw $0xee00, idt + 16 * 0x80 + 4
    lidt idt_pointer
    movl $TASK, %eax
    ltr %ax
    call main
    xorl %eax, %eax
finish:
    outl %eax, $PORT_RESULT
1:  hlt
    jmp 1b

    .balign 16
stubs:
vector = 0
    .rept 256
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
    .else
    pushq $0
    .endif
    pushq $vector
    jmp exception
    .balign 16
vector = vector + 1
    .endr

/* The stack: vector, error, rip, cs, rflags, rsp, ss. */
exception:
    pushq %rax
    movq 8(%rsp), %rax
    movq %rax, got_vector
    movq 16(%rsp), %rax
    movq %rax, got_error
    movq 24(%rsp), %rax
    movq %rax, got_rip
    movq 32(%rsp), %rax
    movq %rax, got_cs
    movq 40(%rsp), %rax
    movq %rax, got_rflags
    movq 48(%rsp), %rax
    movq %rax, got_rsp
    movq 56(%rsp), %rax
    movq %rax, got_ss
    leaq 24(%rsp), %rax
    movq %rax, got_frame
    movq %cr2, %rax
    movq %rax, got_cr2
    incq got_count
    movq resume, %rax
    testq %rax, %rax
    jz 1f
    movq %rax, 24(%rsp)
    movq $0, resume
    popq %rax
    addq $16, %rsp
    iretq
1:  movl got_vector, %eax
    shll $16, %eax
    movw got_rip, %ax
    orl $0x1000000, %eax
    jmp finish

leave_user:
    movq (%rsp), %r15
    movq kernel_rsp, %rsp
    jmp *%r15

    .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        /* kernel code */
    .quad 0x00cf93000000ffff        /* kernel data */
    .quad 0x00cf9b000000ffff        /* kernel code, 32 bits */
    .quad 0x00cffb000000ffff        /* user code, 32 bits */
    .quad 0x00cff3000000ffff        /* user data */
    .quad 0x00affb000000ffff        /* user code */
    .quad 0x00009b000000ffff        /* kernel code, 16 bits */
    .quad 0x000093000000ffff        /* kernel data, 16 bits */
    .quad 0x00cf13000000ffff        /* absent data */
tss_descriptor:
    .word tss_end - tss - 1, tss    /* the program lies below 64 KiB */
    .byte 0, 0x89, 0, 0
    .quad 0
    .fill 8, 8, 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
    .balign 16
tss:
    .long 0
tss_rsp0:
    .quad ring0_stack_top, 0, 0
    .quad 0
tss_ist:
    .quad ist1_top, ist2_top, 0, 0, 0, 0, 0
    .quad 0
    .word 0
tss_bitmap:
    .word 0xffff                    /* no I/O permission bitmap */
tss_end:
    .balign 8
resume:     .quad 0
got_vector: .quad 0
got_error:  .quad 0
got_rip:    .quad 0
got_cs:     .quad 0
got_rflags: .quad 0
got_rsp:    .quad 0
got_ss:     .quad 0
got_frame:  .quad 0
got_cr2:    .quad 0
got_count:  .quad 0
kernel_rsp: .quad 0

    .bss
    .balign 4096
idt:        .skip 4096
            .skip 2048
stack_top:  .skip 2048
ring0_stack_top: .skip 1024
ist1_top:   .skip 1024
ist2_top:   .skip 2048
user_stack_top:
    .text
