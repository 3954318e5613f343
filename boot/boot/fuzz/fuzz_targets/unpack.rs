//! Payloads of every packing.
#![no_main]

use ambos_boot::image::{MAX_UNPACKED, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(unpacked) = unpack(bytes) {
        assert!(unpacked.len() as u64 <= MAX_UNPACKED);
    }
});
