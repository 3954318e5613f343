/* Programs in 32-bit protected mode without paging, at privilege level 0. Each defines `main`. The
   processor gets here by leaving long mode. */
#include "board.h"

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE   0x1b
#define USER_DATA   0x23
#define LONG_CODE   0x28
#define KERNEL_CODE16 0x30
#define KERNEL_DATA16 0x38
#define TASK        0x40
/* Free descriptors. */
#define FREE        0x48

#define CHECK_EQ(value, place) cmpl $(value), place; CHECK(e)

/* Between these two lies one instruction that must raise an exception. */
#define FAULT movl $99f, resume; movl $-1, got_vector
#define RAISES(vector, error) 99: CHECK_EQ(vector, got_vector); CHECK_EQ(error, got_error)

/* Between these two runs code at privilege level 3, with I/O privilege. */
#define USER movl %esp, kernel_esp; pushl $USER_DATA; pushl $user_stack_top; \
    pushl $(IOPL3 | 2); pushl $USER_CODE; pushl $97f; iret; 97: \
    pushl $USER_DATA; popl %ds; pushl $USER_DATA; popl %es
#define END_USER int $0x80

/* Points the gate of a vector to a handler of the program's own. Changes EAX. */
#define HANDLER(vector, label) movl $(label), %eax; movw %ax, idt + 8 * (vector); \
    shrl $16, %eax; movw %ax, idt + 8 * (vector) + 6

#define SET_CR(number, bits) movl %cr##number, %eax; orl $(bits), %eax; movl %eax, %cr##number
#define CLEAR_CR(number, bits) movl %cr##number, %eax; andl $~(bits), %eax; movl %eax, %cr##number

    .text
    .globl start
    .code64
start:
    movl $stack_top, %esp
    lgdt gdt_pointer
    pushq $KERNEL_CODE
    pushq $1f
    lretq
    .code32
1:  movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    CLEAR_CR(0, CR0_PG)
    movl $MSR_EFER, %ecx
    rdmsr
    andl $~EFER_LME, %eax
    wrmsr
    CLEAR_CR(4, CR4_PAE)
    xorl %ebx, %ebx
2:  leal stubs(%ebx,%ebx), %eax     /* stubs take 16 bytes, gates 8 */
    movw %ax, idt(%ebx)
    movw $KERNEL_CODE, idt + 2(%ebx)
    movw $0x8e00, idt + 4(%ebx)
    shrl $16, %eax
    movw %ax, idt + 6(%ebx)
    addl $8, %ebx
    cmpl $2048, %ebx
    jne 2b
    HANDLER(0x80, leave_user)
    movw $0xee00, idt + 8 * 0x80 + 4
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
    pushl $0
    .endif
    pushl $vector
    jmp exception
    .balign 16
vector = vector + 1
    .endr

/* The stack: vector, error, eip, cs, eflags, and from an outer level esp, ss. */
exception:
    pushl %eax
    movl %ds, %eax
    pushl %eax
    movl $KERNEL_DATA, %eax
    movl %eax, %ds
    movl 8(%esp), %eax
    movl %eax, got_vector
    movl 12(%esp), %eax
    movl %eax, got_error
    movl 16(%esp), %eax
    movl %eax, got_eip
    movl 20(%esp), %eax
    movl %eax, got_cs
    movl 24(%esp), %eax
    movl %eax, got_eflags
    movl 28(%esp), %eax
    movl %eax, got_esp
    movl 32(%esp), %eax
    movl %eax, got_ss
    leal 16(%esp), %eax
    movl %eax, got_frame
    movl %cr2, %eax
    movl %eax, got_cr2
    movl resume, %eax
    testl %eax, %eax
    jz 1f
    movl %eax, 16(%esp)
    movl $0, resume
    popl %eax
    movl %eax, %ds
    popl %eax
    addl $8, %esp
    iret
1:  movl got_vector, %eax
    shll $16, %eax
    movw got_eip, %ax
    orl $0x1000000, %eax
    jmp finish

leave_user:
    popl %ebp
    movl $KERNEL_DATA, %esp
    movl %esp, %ds
    movl %esp, %es
    movl %esp, %ss
    movl kernel_esp, %esp
    jmp *%ebp

    .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* kernel code */
    .quad 0x00cf93000000ffff        /* kernel data */
    .quad 0x00cffb000000ffff        /* user code */
    .quad 0x00cff3000000ffff        /* user data */
    .quad 0x00af9b000000ffff        /* 64-bit code */
    .quad 0x00009b000000ffff        /* kernel code, 16 bits */
    .quad 0x000093000000ffff        /* kernel data, 16 bits */
    .word 0x67, tss                 /* the program lies below 64 KiB */
    .byte 0, 0x89, 0, 0
    .fill 16, 8, 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 2047
    .quad idt
    .balign 16
tss:
    .long 0
tss_esp0:
    .long ring0_stack_top, KERNEL_DATA
    .fill 22, 4, 0
    .word 0, 0x68
    .balign 8
resume:     .long 0
got_vector: .long 0
got_error:  .long 0
got_eip:    .long 0
got_cs:     .long 0
got_eflags: .long 0
got_esp:    .long 0
got_ss:     .long 0
got_frame:  .long 0
got_cr2:    .long 0
kernel_esp: .long 0

    .bss
    .balign 4096
idt:        .skip 4096
            .skip 2048
stack_top:  .skip 2048
ring0_stack_top: .skip 2048
user_stack_top:
    .text
