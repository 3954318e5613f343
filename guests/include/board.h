/* The board that test programs run on: ports, and where things lie. */

/* Writing ends the program: zero is success, anything else the line of the check that failed, or
   1 << 24 | vector << 16 | rip & 0xffff of an exception that nobody expected. */
#define PORT_RESULT     0xf4
/* A latch: reads return what was written. Four ports. */
#define PORT_LATCH      0xe0
/* Requests the interrupt with the vector written, at once or when the processor halts. */
#define PORT_INTERRUPT  0xe8
#define PORT_INTERRUPT_AT_HALT 0xe9
/* The same for an NMI; the value does not matter. */
#define PORT_NMI        0xea
#define PORT_NMI_AT_HALT 0xeb

/* Guest-physical addresses. Page tables with 2 MiB pages map the first GiB to itself, open to
   everything. */
#define PML4            0x1000
#define POINTERS        0x2000
#define DIRECTORY       0x3000
/* Zeroed pages for tables of the program's own. */
#define SPARE           0x4000
#define SPARE_PAGES     4
#define PROGRAM         0x8000
#define DATA            0x200000
#define RAM_END         0x1000000
/* Linear addresses from here on are unmapped. */
#define WINDOW          0x40000000

/* Page-table bits. */
#define P   0x001
#define W   0x002
#define U   0x004
#define A   0x020
#define D   0x040
#define PS  0x080
#define G   0x100

/* Flags. */
#define CF  0x0001
#define ZF  0x0040
#define TF  0x0100
#define IF  0x0200
#define NT  0x4000
#define RF  0x10000
#define AC  0x40000
#define IOPL3 0x3000

/* Control registers. */
#define CR0_PE 0x1
#define CR0_MP 0x2
#define CR0_EM 0x4
#define CR0_TS 0x8
#define CR0_WP 0x10000
#define CR0_AM 0x40000
#define CR0_PG 0x80000000
#define CR4_DE 0x8
#define CR4_PSE 0x10
#define CR4_PAE 0x20
#define CR4_PGE 0x80
#define CR4_OSFXSR 0x200
#define CR4_UMIP 0x800
#define CR4_PCIDE 0x20000
#define CR4_OSXSAVE 0x40000
#define CR4_SMEP 0x100000
#define CR4_SMAP 0x200000

#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define EFER_NXE 0x800

/* Ends the program with the number of this line unless the condition holds. */
#define CHECK(condition) j##condition 98f; movl $__LINE__, %eax; jmp finish; 98:
