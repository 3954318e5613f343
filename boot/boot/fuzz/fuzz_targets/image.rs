//! Kernel files of every kind: headers, notes, banner, configuration, report.
#![no_main]

use ambos_boot::KernelImage;
use ambos_boot::inspect::examine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = KernelImage::parse("vmlinuz", bytes.to_vec()) {
        let report = examine(&image, |_| None);
        assert!(!report.to_string().is_empty());
    }
});
