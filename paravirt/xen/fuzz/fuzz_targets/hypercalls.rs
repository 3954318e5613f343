//! Everything that a guest can ask of the hypervisor: hypercalls with any arguments, alone and in lists,
//! page tables of any content, exceptions and writes to page tables, read from the fuzzer's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/cpu.rs"]
mod cpu;
#[path = "../../tests/hostile/guest.rs"]
mod guest;

fuzz_target!(|data: &[u8]| guest::run(data));
