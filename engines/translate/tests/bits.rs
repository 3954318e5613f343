//! Bits in memory that a register names, with addresses of 32 bits: far away from the operand they are where the sum is
//! modulo 2^32.

mod common;

use common::DATA;

#[test]
fn addresses_of_32_bits_go_round() {
    // bts qword ptr [ebx], rax, without a segment and in FS; bts dword ptr [ebx], eax in 32-bit code
    let wide: &[u8] = &[0x67, 0x48, 0x0f, 0xab, 0x03];
    let segment: &[u8] = &[0x64, 0x67, 0x48, 0x0f, 0xab, 0x03];
    let narrow: &[u8] = &[0x0f, 0xab, 0x03];
    for (bits, base, pointer, is_narrow) in [
        (wide, 0, 0xffff_f000_u64, false),
        (segment, 0x1000, 0xffff_e000, false),
        (narrow, 0, 0xf800_0000, true),
    ] {
        // From the pointer on round to data.
        let away = (DATA + (1 << 32) - base - pointer) * 8 + 3;
        let (mut reference, reference_ram) = common::interpreter();
        let (mut engine, ram, _) = common::translator();
        let mut code = bits.to_vec();
        // dec ecx; jnz back; hlt
        code.extend([0xff, 0xc9, 0x75, 0xfe - 2 - bits.len() as u8, 0xf4]);
        let mut start = common::state();
        start.segments.fs.base = base;
        (start.gpr[0], start.gpr[1], start.gpr[3]) = (away, 20, pointer);
        if is_narrow {
            start.segments.cs.attributes = 0xc09b;
        }
        let [want, got] = [
            common::run(&mut reference, &reference_ram, &start, &code),
            common::run(&mut engine, &ram, &start, &code),
        ];
        assert_eq!((got.0.rip, got.0.gpr), (want.0.rip, want.0.gpr), "{bits:x?}");
        assert_eq!(want.1[0], 8, "{bits:x?}");
        assert_eq!(got.1, want.1, "{bits:x?}");
        assert!(engine.statistics().blocks > 0, "{bits:x?}");
    }
}
