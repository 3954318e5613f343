//! Loading by every protocol. The first byte chooses it, the second one says what comes along.
#![no_main]

use ambos_boot::{BootConfig, KernelImage, Module, Protocol, load};
use ambos_memory::GuestRam;
use libfuzzer_sys::fuzz_target;

/// RAM of the guest: enough for a kernel at the customary 16 MiB.
const RAM: u64 = 32 << 20;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (choice, extras, bytes) = input;
    let Ok(kernel) = KernelImage::parse("kernel", bytes.to_vec()) else { return };
    let mut config = BootConfig::new(kernel);
    config.protocol = match choice % 4 {
        0 => Protocol::Auto,
        1 => Protocol::Linux64,
        2 => Protocol::Pvh,
        _ => Protocol::Multiboot,
    };
    config.command_line = "x".repeat(usize::from(extras) * 16);
    if extras & 1 != 0 {
        config.initrd = Some(vec![1; 5000]);
    }
    if extras & 2 != 0 {
        config.modules.push(Module { data: vec![2; 5000], text: "module".into() });
    }
    let Ok(ram) = GuestRam::new(RAM) else { return };
    if let Ok(state) = load(&ram, &config) {
        let entry_in_ram = state.rip < RAM;
        assert!(entry_in_ram, "entered at {:#x}, outside of RAM", state.rip);
    }
});
