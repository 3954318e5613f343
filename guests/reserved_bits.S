/* Reserved bits of page-table entries with four levels: each of them at each level, met by every kind
   of access at either privilege level. */
#include "long.h"

/* The first address of the second PML4 entry, which is the program's own. */
#define ADDRESS 0x8000000000
#define LEVEL4 (PML4 + 8)
#define LEVEL3 SPARE
#define LEVEL2 (SPARE + 0x1000)
#define LEVEL1 (SPARE + 0x2000)

main:
    movl $0x80000008, %eax
    cpuid
    movzbl %al, %eax
    movl %eax, physical_bits
    movb $0xc3, DATA
    call restore
    call all_open
    /* Address bits that the processor does not have. */
    movl physical_bits, %r12d
1:  cmpl $52, %r12d
    jae 2f
    call each_level
    incl %r12d
    jmp 1b
    /* Bits 52 to 62 mean nothing. */
2:  movl $52, %r12d
1:  movq $tables, %r13
2:  movq (%r13), %rdi
    movq 8(%r13), %rax
    btsq %r12, %rax
    movq %rax, (%rdi)
    addq $16, %r13
    cmpq $tables_end, %r13
    jne 2b
    call all_open
    incl %r12d
    cmpl $63, %r12d
    jne 1b
    call restore
    /* Address bits below the size of a large page, but for the PAT bit. */
    movl $13, %r12d
1:  movl $P | W | U | PS, %esi
    btsq %r12, %rsi
    movl $LEVEL3, %edi
    call refused
    cmpl $21, %r12d
    jae 2f
    movl $DATA | P | W | U | PS, %esi
    btsq %r12, %rsi
    movl $LEVEL2, %edi
    call refused
2:  incl %r12d
    cmpl $30, %r12d
    jne 1b
    movq $DATA | P | W | U | PS | 0x1000, LEVEL2
    call all_open
    call restore
    /* There are no pages of 512 GiB. */
    movl $LEVEL3 | P | W | U | PS, %esi
    movl $LEVEL4, %edi
    call refused
    /* Nothing is reserved in an entry that is not present. */
    movq $-2, %rax
    movq %rax, LEVEL1
    call forget
    FAULT
    movb (%rbx), %al
    RAISES(14, 0)
    call restore
    /* The no-execute bit while that is off; fetches are not told from reads then. */
    movl $MSR_EFER, %ecx
    rdmsr
    andl $~EFER_NXE, %eax
    wrmsr
    movl $0, fetch_bit
    movl $63, %r12d
    call each_level
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_NXE, %eax
    wrmsr
    call all_open

    /* CR3 has them, too. */
    movl physical_bits, %ecx
    cmpl $52, %ecx
    jae 1f
    READ_CR(3)
    btsq %rcx, %rax
    FAULT
    movq %rax, %cr3
    RAISES(13, 0)
1:  ret

/* Bit R12 set in each of the four entries in turn. */
each_level:
    movq $tables, %r13
1:  movq (%r13), %rdi
    movq 8(%r13), %rsi
    btsq %r12, %rsi
    call refused
    addq $16, %r13
    cmpq $tables_end, %r13
    jne 1b
    ret

/* No access is allowed while the entry at RDI is RSI. */
refused:
    movq %rsi, (%rdi)
    call forget
    FAULT
    movb (%rbx), %al
    RAISES(14, 9)
    cmpq %rbx, got_cr2
    CHECK(e)
    FAULT
    movb %al, (%rbx)
    RAISES(14, 0xb)
    FAULT
    jmp *%rbx
99: CHECK_EQ(14, got_vector)
    movl fetch_bit, %eax
    orl $9, %eax
    cmpl %eax, got_error
    CHECK(e)
    USER
    FAULT
    movb (%rbx), %al
    RAISES(14, 0xd)
    FAULT
    movb %al, (%rbx)
    RAISES(14, 0xf)
    FAULT
    jmp *%rbx
99: CHECK_EQ(14, got_vector)
    movl fetch_bit, %eax
    orl $0xd, %eax
    cmpl %eax, got_error
    CHECK(e)
    END_USER
restore:
    movq $tables, %rsi
1:  movq (%rsi), %rdi
    movq 8(%rsi), %rax
    movq %rax, (%rdi)
    addq $16, %rsi
    cmpq $tables_end, %rsi
    jne 1b
forget:
    READ_CR(3)
    movq %rax, %cr3
    movabsq $ADDRESS, %rbx
    ret

/* Every access is allowed. */
all_open:
    call forget
    movb (%rbx), %al
    movb %al, (%rbx)
    call *%rbx
    USER
    movb (%rbx), %al
    movb %al, (%rbx)
    call *%rbx
    END_USER
    ret

    .data
    .balign 8
tables:
    .quad LEVEL4, LEVEL3 + (P | W | U)
    .quad LEVEL3, LEVEL2 + (P | W | U)
    .quad LEVEL2, LEVEL1 + (P | W | U)
    .quad LEVEL1, DATA + (P | W | U)
tables_end:
physical_bits: .long 0
fetch_bit: .long 0x10
    .text
