/* Code that changes itself: later in the same block, elsewhere in the page, through another mapping,
   across pages, by string instructions, many times over. */
#include "long.h"

#define LEAF (SPARE + 0x1000)

main:
    /* The very next instructions. */
    movl $0, %eax
    movb $7, patched + 1
patched:
    movb $1, %al
    cmpl $7, %eax
    CHECK(e)
    /* A loop that changes its own immediate each time. */
    xorl %ecx, %ecx
    xorl %ebx, %ebx
1:  incb inner + 1
inner:
    movb $0, %al
    movzbl %al, %eax
    addl %eax, %ebx
    incl %ecx
    cmpl $100, %ecx
    jne 1b
    cmpl $5050, %ebx
    CHECK(e)

    /* A routine elsewhere in the page, rewritten between calls. */
    xorl %ecx, %ecx
2:  movl %ecx, routine + 1
    call routine
    cmpl %ecx, %eax
    CHECK(e)
    incl %ecx
    cmpl $1000, %ecx
    jne 2b

    /* Through another mapping of the same page. */
    movq $SPARE | P | W, POINTERS + 8
    movq $LEAF | P | W, SPARE
    movl $routine, %eax
    andl $~0xfff, %eax
    orl $P | W, %eax
    movq %rax, LEAF
    movl $routine, %ebx
    andl $0xfff, %ebx
    addl $WINDOW, %ebx
    movl $0x1111, 1(%rbx)
    call routine
    cmpl $0x1111, %eax
    CHECK(e)
    /* Written here, executed there. */
    movl $0x2222, routine + 1
    call *%rbx
    cmpl $0x2222, %eax
    CHECK(e)

    /* Code in two pages that are not neighbours in memory: mov $imm32 across the boundary. */
    movq $DATA | P | W, LEAF
    movq $DATA + 0x5000 + (P | W), LEAF + 8
    READ_CR(3)
    movq %rax, %cr3
    movb $0xb8, DATA + 0xffe
    movb $0x44, DATA + 0xfff
    movl $0xc3000033, DATA + 0x5000
    movl $WINDOW + 0xffe, %ebx
    call *%rbx
    cmpl $0x3344, %eax
    CHECK(e)
    movb $0x55, DATA + 0x5000
    call *%rbx
    cmpl $0x5544, %eax
    CHECK(e)
    movb $0x66, WINDOW + 0xfff
    call *%rbx
    cmpl $0x5566, %eax
    CHECK(e)
    /* The second page is exchanged for another one. */
    movl $0xc3000077, DATA + 0x6000
    movq $DATA + 0x6000 + (P | W), LEAF + 8
    invlpg WINDOW + 0x1000
    call *%rbx
    cmpl $0x7766, %eax
    CHECK(e)
    /* The first page, too. */
    movl $0xb8 | 0x99 << 8, %eax
    movw %ax, DATA + 0x2ffe
    movq $DATA + 0x2000 + (P | W), LEAF
    invlpg WINDOW
    call *%rbx
    cmpl $0x7799, %eax
    CHECK(e)

    /* Filled in by a string instruction, many sizes. */
    movl $1, %edx
3:  movl $DATA + 0x8000, %edi
    movl %edx, %ecx
    movb $0x40, %al                 /* REX prefixes do nothing; then RET */
    rep stosb
    movb $0xc3, (%rdi)
    movl $DATA + 0x8000, %eax
    call *%rax
    incl %edx
    cmpl $14, %edx
    jne 3b
    /* Copied over by another routine, both called in turn. */
    movl $50, %edx
4:  movl $DATA + 0x9000, %edi
    movl $one, %esi
    movl $6, %ecx
    rep movsb
    movl $DATA + 0x9000, %ebx
    call *%rbx
    cmpl $1, %eax
    CHECK(e)
    movl $DATA + 0x9000, %edi
    movl $two, %esi
    movl $6, %ecx
    rep movsb
    call *%rbx
    cmpl $2, %eax
    CHECK(e)
    decl %edx
    jnz 4b

    /* A page that holds data and code, both busy. */
    movl $DATA + 0xa000, %ebx
    movb $0xc3, (%rbx)
    movl $1000, %ecx
5:  incl 8(%rbx)
    call *%rbx
    decl %ecx
    jnz 5b
    cmpl $1000, 8(%rbx)
    CHECK(e)

    /* Pushed onto the stack and run there. */
    subq $16, %rsp
    movl $0xc3c8ff48, (%rsp)        /* dec %rax; ret */
    movl $6, %eax
    call *%rsp
    cmpl $5, %eax
    CHECK(e)
    movl $0xc3c0ff48, (%rsp)        /* inc %rax; ret */
    call *%rsp
    cmpl $6, %eax
    CHECK(e)
    addq $16, %rsp
    ret

    .balign 64
routine:
    movl $0, %eax
    ret
one:
    movl $1, %eax
    ret
two:
    movl $2, %eax
    ret
