//! What interrupts translated code: writes to it, requests of other threads, faults of the host.

mod common;

use ambos_interpret::mmu::ENTRIES;
use ambos_vcpu::{Engine, Request, Stop};
use common::{CODE, DATA};
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn code_that_changes_itself_runs_as_changed() {
    let (mut engine, ram, _) = common::translator();
    let mut start = common::state();
    start.gpr[1] = 1000;
    start.gpr[3] = CODE + 2;
    // again: mov al, 0 (its immediate is at rbx-1); movzx eax, al; add edx, eax; inc byte [rbx-1];
    // dec rcx; jnz again; hlt
    let code = [
        0xb0, 0x00, 0x0f, 0xb6, 0xc0, 0x01, 0xc2, 0xfe, 0x43, 0xff, 0x48, 0xff, 0xc9, 0x75, 0xf1,
        0xf4,
    ];
    let (state, _) = common::run(&mut engine, &ram, &start, &code);
    let expected: u64 = (0..1000u64).map(|value| value & 0xff).sum();
    assert_eq!(state.gpr[2].wrapping_sub(0x600), expected);
    assert!(engine.statistics().invalidated > 0);
}

#[test]
fn a_request_ends_an_endless_loop() {
    let (mut engine, ram, attention) = common::translator();
    // again: inc rax; jmp again
    ram.memory().write_slice(&[0x48, 0xff, 0xc0, 0xeb, 0xfb], GuestAddress(CODE)).unwrap();
    engine.set_state(&common::state());
    let other = Arc::clone(&attention);
    let asker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        other.raise(Request::STOP);
    });
    assert_eq!(engine.run(&mut common::Nothing::default(), None), Stop::Asked);
    asker.join().unwrap();
    assert!(engine.state().gpr[0] > 100_000);
}

#[test]
fn an_interrupt_is_delivered_to_chained_code() {
    let (mut engine, ram, attention) = common::translator();
    // again: add rax, 1; jnc again — the flags are live where the loop begins
    let code = [0x48, 0x83, 0xc0, 0x01, 0x73, 0xfa];
    ram.memory().write_slice(&code, GuestAddress(CODE)).unwrap();
    let mut start = common::state();
    start.rflags |= 0x200;
    engine.set_state(&start);
    let other = Arc::clone(&attention);
    let asker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        other.raise(Request::INTERRUPT);
    });
    let mut platform = common::Nothing::default();
    platform.interrupts.push(0x40);
    // The handler halts.
    assert_eq!(engine.run(&mut platform, None), Stop::Halted);
    asker.join().unwrap();
    let returns_to: u64 = ram.memory().read_obj(GuestAddress(engine.state().gpr[4])).unwrap();
    assert!((CODE..CODE + 6).contains(&returns_to));
}

#[test]
fn an_interrupt_behind_sti_finds_the_flags() {
    let (mut engine, ram, attention) = common::translator();
    // stc; sti; mov rax, [rbx]; adc rax, 0; hlt
    let code = [0xf9, 0xfb, 0x48, 0x8b, 0x03, 0x48, 0x83, 0xd0, 0, 0xf4];
    ram.memory().write_slice(&code, GuestAddress(CODE)).unwrap();
    let mut start = common::state();
    start.gpr[3] = DATA;
    for turn in 0..8 {
        engine.set_state(&start);
        let mut platform = common::Nothing::default();
        let interrupted = turn > 4;
        if interrupted {
            platform.interrupts.push(0x40);
            attention.raise(Request::INTERRUPT);
        }
        assert_eq!(engine.run(&mut platform, None), Stop::Halted);
        attention.lower(Request::INTERRUPT);
        if interrupted {
            let frame = engine.state().gpr[4];
            let read = |at| ram.memory().read_obj::<u64>(GuestAddress(at)).unwrap();
            // The carry is what STC has set.
            assert_eq!((read(frame), read(frame + 16)), (CODE + 5, 0x203));
        }
    }
    assert!(engine.statistics().blocks > 0, "{:?}", engine.statistics());
}

#[test]
fn faults_of_the_host_become_the_guests() {
    let divide: &[u8] = &[0x48, 0xf7, 0xf6];
    // movaps xmm1, [rbx+1]
    let misaligned: &[u8] = &[0x0f, 0x28, 0x4b, 0x01];
    // cmpxchg16b [rbx+8], after mov rax, [rbx]; mov r11, r15: with the operand at hand
    let exchange: &[u8] = &[0x48, 0x0f, 0xc7, 0x4b, 0x08];
    let before: &[u8] = &[0x48, 0x8b, 0x03, 0x4d, 0x89, 0xfb];
    for (before, last, error_code) in
        [(&[][..], divide, false), (&[], misaligned, true), (before, exchange, true)]
    {
        let (mut engine, ram, _) = common::translator();
        let (mut reference, reference_ram) = common::interpreter();
        // again: mov rax, r15; xor edx, edx; mov r10, r15; (loops with rsi counting down)
        let mut code = vec![0x4c, 0x89, 0xf8, 0x31, 0xd2, 0x4d, 0x89, 0xfa];
        // dec rsi; jnz again; the faulting instruction; hlt
        code.extend([0x48, 0xff, 0xce, 0x75, 0xf3]);
        code.extend(before);
        let fault_at = CODE + code.len() as u64;
        code.extend(last);
        code.push(0xf4);
        let mut start = common::state();
        (start.gpr[6], start.gpr[15], start.gpr[3]) = (100, 77, DATA);
        // Twice, so that the tail is hot as well.
        for _ in 0..5 {
            let (got, _) = common::run(&mut engine, &ram, &start, &code);
            let (want, _) = common::run(&mut reference, &reference_ram, &start, &code);
            assert_eq!(got.gpr, want.gpr);
            assert_eq!(got.rip, want.rip);
            let frame = got.gpr[4] + if error_code { 8 } else { 0 };
            let at: u64 = ram.memory().read_obj(GuestAddress(frame)).unwrap();
            assert_eq!(at, fault_at);
        }
        assert!(engine.statistics().host_faults > 0, "{:?}", engine.statistics());
    }
}

#[test]
fn an_operand_that_is_not_aligned_faults_for_that_even_if_it_is_absent() {
    let (mut engine, ram, _) = common::translator();
    let (mut reference, reference_ram) = common::interpreter();
    // again: movaps xmm1, [rbx]; movups xmm2, [rbx]; lea rbx, [rbx+rdi]; dec ecx; jnz again; hlt
    let mut code = vec![0x0f, 0x28, 0x0b, 0x0f, 0x10, 0x13, 0x48, 0x8d, 0x1c, 0x3b];
    common::close_loop(&mut code, &[0xff, 0xc9]);
    for away in [8, 16] {
        let mut start = common::state();
        let absent = common::ABSENT + away;
        let step = 16;
        (start.gpr[1], start.gpr[3], start.gpr[7]) = (100, absent - 50 * step, step);
        if away % 16 != 0 {
            // One step that is not aligned, into the page that is absent.
            (start.gpr[3], start.gpr[7]) = (DATA, absent - DATA);
        }
        for _ in 0..5 {
            let (got, _) = common::run(&mut engine, &ram, &start, &code);
            let (want, _) = common::run(&mut reference, &reference_ram, &start, &code);
            assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
            assert_eq!(got.control.cr2, want.control.cr2);
        }
    }
}

#[test]
fn a_full_code_cache_starts_anew() {
    let ram = common::ram();
    let attention = Arc::new(ambos_vcpu::Attention::default());
    let options =
        ambos_translate::Options { code_cache: 1 << 20, threshold: 0, ..Default::default() };
    let mut engine =
        ambos_translate::Translator::new(Arc::clone(&ram), attention, options).unwrap();
    // Many small blocks, each translated when it is first run, and again once it is another.
    for step in 1..=8 {
        let mut at = CODE;
        while at + 0x20 < common::ABSENT {
            // add rax, step; jmp +0
            let block = [0x48, 0x83, 0xc0, step, 0xeb, 0];
            ram.memory().write_slice(&block, GuestAddress(at)).unwrap();
            at += 6;
        }
        ram.memory().write_slice(&[0xf4], GuestAddress(at)).unwrap();
        for page in CODE >> 12..=at >> 12 {
            ram.page_flags().bump_version(page as usize);
        }
        engine.set_state(&common::state());
        assert_eq!(engine.run(&mut common::Nothing::default(), None), Stop::Halted);
        assert_eq!(engine.state().gpr[0], u64::from(step) * ((at - CODE) / 6));
    }
    assert!(engine.statistics().flushes > 0, "{:?}", engine.statistics());
    // What is known of code takes a small part of what that does.
    assert!(engine.statistics().table_bytes < 1 << 19, "{:?}", engine.statistics());
}

#[test]
fn an_odd_operand_is_found_in_the_second_level_of_the_tlb() {
    let (mut engine, ram, _) = common::translator();
    // The same pages again, where each shares its slot of the first level with the page's other address.
    const AWAY: u64 = (ENTRIES as u64) << 12;
    ram.memory().write_obj(0x4007u64, GuestAddress(0x3000 + (AWAY >> 21) * 8)).unwrap();
    let mut start = common::state();
    (start.gpr[3], start.gpr[7], start.gpr[1], start.gpr[2]) = (DATA, DATA + AWAY, 1000, 0);
    // again: fld1; fstp tbyte [rbx]; mov rax, [rdi]; mov [rdi + 16], rax; dec rcx; jnz again; hlt, with
    // lea rbx, [rbx + rdx] and lea rdi, [rdi + rdx] so that no operands share a probe.
    let (rbx, rdi) = ([0x48, 0x8d, 0x1c, 0x13], [0x48, 0x8d, 0x3c, 0x17]);
    let mut code = vec![0xd9, 0xe8, 0xdb, 0x3b];
    code.extend([0x48, 0x8b, 0x07]);
    code.extend(rdi);
    code.extend([0x48, 0x89, 0x47, 0x10]);
    code.extend(rbx);
    code.extend(rdi);
    common::close_loop(&mut code, &[0x48, 0xff, 0xc9]);
    let (state, data) = common::run(&mut engine, &ram, &start, &code);
    assert_eq!(state.gpr[0], 1 << 63);
    assert_eq!(data[..8], data[16..24]);
    // Operands of this size leave translated code each time.
    assert!(engine.statistics().tlb_misses > 900);
}

#[test]
fn an_instruction_that_the_interpreter_runs_is_where_it_is() {
    let (mut engine, ram, _) = common::translator();
    let (mut reference, reference_ram) = common::interpreter();
    // sgdt [rip + distance], twice: the same bytes, which name two places.
    let distance = (DATA - CODE) as i32 - 7;
    let mut code = Vec::new();
    for _ in 0..2 {
        code.extend([0x0f, 0x01, 0x05]);
        code.extend(distance.to_le_bytes());
    }
    common::close_loop(&mut code, &[0xff, 0xc9]);
    let mut start = common::state();
    start.gpr[1] = 100;
    let (got, got_data) = common::run(&mut engine, &ram, &start, &code);
    let (want, want_data) = common::run(&mut reference, &reference_ram, &start, &code);
    assert_eq!((got.rip, got.gpr), (want.rip, want.gpr));
    assert_eq!(got_data, want_data);
    assert_ne!(want_data[..17], [0; 17]);
    assert!(engine.statistics().handled > 100);
}
