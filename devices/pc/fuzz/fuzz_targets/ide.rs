//! Everything that a guest can do to one device, read from the fuzzer's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/guest.rs"]
mod guest;

fuzz_target!(|data: &[u8]| guest::run(guest::Device::Ide, data));
