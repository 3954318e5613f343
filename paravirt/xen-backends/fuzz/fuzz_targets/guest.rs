//! Everything that a guest can do to the back ends: ring contents, indices, notifications, requests to
//! xenstore, and states of the devices, read from the fuzzer's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/guest.rs"]
mod guest;

fuzz_target!(|data: &[u8]| guest::run(data));
