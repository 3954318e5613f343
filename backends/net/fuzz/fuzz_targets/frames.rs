//! Everything that a guest can send to the network in user space, read from the fuzzer's bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::{LazyLock, Mutex};

#[path = "../../tests/hostile/guest.rs"]
mod guest;

/// One network for all inputs: it has a thread.
static GUEST: LazyLock<Mutex<guest::Guest>> = LazyLock::new(|| Mutex::new(guest::Guest::new()));

fuzz_target!(|data: &[u8]| GUEST.lock().unwrap().run(data));
