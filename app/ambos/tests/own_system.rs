//! Operating systems of one's own: a Multiboot image reports through the debug-exit port.

use std::process::Command;

/// A Multiboot image that ends the monitor with its module count, or 100 if the boot loader's magic
/// number is wrong. The flat file is loaded and entered at 1 MiB by the header's address fields.
fn image() -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const CODE: u32 = BASE + 48;
    let flags: u32 = 1 << 16 | 2;
    let header = [
        0x1bad_b002,
        flags,
        0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags),
        BASE,
        BASE,
        0,
        0,
        CODE,
    ];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.resize(48, 0);
    image.extend([0x3d]); // cmp eax, magic
    image.extend(0x2bad_b002u32.to_le_bytes());
    image.extend([0xb8]); // mov eax, 100
    image.extend(100u32.to_le_bytes());
    image.extend([0x75, 0x03]); // jne
    image.extend([0x8b, 0x43, 0x14]); // mov eax, [ebx + mods_count]
    image.extend([0xe6, 0xf4]); // out 0xf4, al
    image.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp
    image
}

#[test]
fn debug_exit_tells_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("os");
    std::fs::write(&kernel, image()).unwrap();
    let module = folder.path().join("module");
    std::fs::write(&module, b"data").unwrap();
    let status = |modules: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
        command.args(["run", "--debug-exit", "--memory", "16M", "--kernel"]).arg(&kernel);
        for _ in 0..modules {
            command.arg("--module").arg(&module);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(status(0), Some(1));
    assert_eq!(status(3), Some(7));
}

#[test]
fn a_triple_fault_is_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("os");
    let mut image = image();
    image.truncate(48);
    image.extend([0x0f, 0x0b]); // ud2, without an interrupt table
    std::fs::write(&kernel, image).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("triple fault"), "{text}");
}
