//! Vector registers, which entries leave in memory until an instruction needs them: whatever leaves translated code, and
//! whatever comes from elsewhere, finds them as they are.

mod common;

use ambos_vcpu::CpuState;
use common::{DATA, close_loop};

/// `paddq xmmA, xmmB`.
fn add(to: u8, from: u8) -> [u8; 4] {
    [0x66, 0x0f, 0xd4, 0xc0 | to << 3 | from]
}

const CPUID: [u8; 2] = [0x0f, 0xa2];
/// `dec r12`.
const TURN: [u8; 3] = [0x49, 0xff, 0xcc];

/// A start whose registers depend on `seed`, with an area for data in RDI.
fn start(seed: u8) -> CpuState {
    let mut state = common::state();
    for (register, number) in state.vector.zmm[..16].iter_mut().zip(1..) {
        // XCR0 has no registers of 512 bits.
        for (byte, at) in register[..32].iter_mut().zip(0u8..) {
            *byte = at.wrapping_mul(number).wrapping_add(seed);
        }
    }
    state.vector.mxcsr = 0x1f80 | u32::from(seed & 3) << 13;
    (state.gpr[7], state.gpr[12], state.gpr[14]) = (DATA + 0x100, 40, 20);
    state
}

/// Runs under both engines, several times from different states, and compares what is left.
fn agree(code: &[u8], what: &str) {
    let (mut reference, reference_ram) = common::interpreter();
    let (mut engine, ram, _) = common::translator();
    for seed in 0..6 {
        let start = start(seed);
        let (want, want_data) = common::run(&mut reference, &reference_ram, &start, code);
        let (got, got_data) = common::run(&mut engine, &ram, &start, code);
        assert_eq!(got.gpr, want.gpr, "{what}, {seed}");
        assert_eq!(got.rflags, want.rflags, "{what}, {seed}");
        assert_eq!(got.vector.zmm, want.vector.zmm, "{what}, {seed}");
        assert_eq!(got.vector.mxcsr, want.vector.mxcsr, "{what}, {seed}");
        // Control and status, and the registers.
        for part in [0..8, 32..160] {
            assert_eq!(got.vector.x87[part.clone()], want.vector.x87[part], "{what}, {seed}");
        }
        assert_eq!(got_data, want_data, "{what}, {seed}");
    }
    assert!(engine.statistics().blocks > 0, "{what}");
}

#[test]
fn loops_that_leave_between_two_instructions_go_on_with_what_they_had() {
    let mut code = [&add(0, 1)[..], &CPUID, &add(0, 2), &add(3, 0)].concat();
    close_loop(&mut code, &TURN);
    agree(&code, "leaves");
    let mut code = [&CPUID[..], &add(0, 1), &CPUID, &add(3, 0)].concat();
    close_loop(&mut code, &TURN);
    agree(&code, "leaves first");
    // vaddps ymm0, ymm0, ymm1; vmovups [rdi], ymm0
    let mut code =
        [&[0xc5, 0xfc, 0x58, 0xc1][..], &CPUID, &[0xc5, 0xfc, 0x11, 0x07], &CPUID].concat();
    close_loop(&mut code, &TURN);
    agree(&code, "leaves, 256 bits");
}

#[test]
fn flags_that_are_alive_survive() {
    // adc r13, 0; cmp r12, r14
    let mut code = [&add(0, 1)[..], &[0x49, 0x83, 0xd5, 0, 0x4d, 0x39, 0xf4]].concat();
    close_loop(&mut code, &TURN);
    agree(&code, "alive at the start");
    // cmp r12, r14; paddq; adc r13, 0: dead at the start
    let mut code = vec![0x4d, 0x39, 0xf4];
    code.extend(add(0, 1));
    code.extend([0x49, 0x83, 0xd5, 0]);
    close_loop(&mut code, &TURN);
    agree(&code, "alive in the middle");
    // The same with an operand in memory: add rax, [rdi]; paddq xmm0, [rdi]; adc r13, r11
    let mut code = vec![0x48, 0x03, 0x07, 0x66, 0x0f, 0xd4, 0x07, 0x4d, 0x11, 0xdd];
    close_loop(&mut code, &TURN);
    agree(&code, "alive over a probe");
}

#[test]
fn blocks_that_lead_to_each_other_hold_it_together() {
    // mov ecx, 3; inner: paddq xmm0, xmm1; paddq xmm5, [rdi]; dec ecx; jnz inner
    let mut code = vec![0xb9, 3, 0, 0, 0];
    code.extend(add(0, 1));
    code.extend([0x66, 0x0f, 0xd4, 0x2f, 0xff, 0xc9, 0x75, 0xf4]);
    // inc r13; test r13b, 3; jz even; paddq xmm2, xmm1; even: paddq xmm4, xmm2; movups [rdi], xmm4
    code.extend([0x49, 0xff, 0xc5, 0x41, 0xf6, 0xc5, 3, 0x74, 4]);
    code.extend(add(2, 1));
    code.extend(add(4, 2));
    code.extend([0x0f, 0x11, 0x27]);
    // test r13b, 7; jnz on; cpuid; on:
    code.extend([0x41, 0xf6, 0xc5, 7, 0x75, 2]);
    code.extend(CPUID);
    close_loop(&mut code, &TURN);
    agree(&code, "several blocks");
}

#[test]
fn its_control_register_goes_with_it() {
    // stmxcsr [rdi]; xor dword ptr [rdi], 0x2000; ldmxcsr [rdi]; cvtsi2ss xmm0, r12d; divss xmm0, xmm1;
    // cvtss2si eax, xmm0; add r13, rax
    let change = [
        &[0x0f, 0xae, 0x1f, 0x81, 0x37, 0, 0x20, 0, 0, 0x0f, 0xae, 0x17][..],
        &[0xf3, 0x41, 0x0f, 0x2a, 0xc4, 0xf3, 0x0f, 0x5e, 0xc1],
        &[0xf3, 0x0f, 0x2d, 0xc0, 0x49, 0x01, 0xc5],
    ]
    .concat();
    for between in [&[][..], &CPUID] {
        let mut code = [&change[..], between, &add(2, 0)].concat();
        close_loop(&mut code, &TURN);
        agree(&code, "MXCSR");
    }
}

#[test]
fn other_instructions_that_know_it_find_it() {
    // fxsave [rdi]; paddq; fxrstor [rdi]; paddq
    let mut code = [&[0x0f, 0xae, 0x07][..], &add(0, 1), &[0x0f, 0xae, 0x0f], &add(2, 0)].concat();
    close_loop(&mut code, &TURN);
    agree(&code, "FXSAVE");
    // movq2dq xmm3, mm1; cvtpi2ps xmm0, mm1; cvtps2pi mm1, [rdi]; movdq2q mm1, xmm0
    let between = [0xf3, 0x0f, 0xd6, 0xd9, 0x0f, 0x2a, 0xc1, 0x0f, 0x2d, 0x0f];
    for last in [&[][..], &[0xf2, 0x0f, 0xd6, 0xc8]] {
        let mut code = [&between[..], last].concat();
        close_loop(&mut code, &TURN);
        agree(&code, "MMX");
    }
}
