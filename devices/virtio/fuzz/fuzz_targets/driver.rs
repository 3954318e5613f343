//! Everything that a driver can do to a virtio device: registers, rings, requests, and what the host
//! does meanwhile, read from the fuzzer's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/driver.rs"]
mod driver;

fuzz_target!(|data: &[u8]| driver::run(data));
