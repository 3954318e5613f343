//! Operating systems of one's own: a Multiboot image reports through the debug-exit port.

use std::process::Command;

/// Where images are loaded.
const BASE: u32 = 0x10_0000;
/// Where their code begins.
const CODE: u32 = BASE + 48;

/// A Multiboot image of `code`. The flat file is loaded and entered at 1 MiB by the header's address
/// fields; it asks for the memory map.
fn image(code: &[&[u8]]) -> Vec<u8> {
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
    image.extend(code.concat());
    image.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp
    image
}

/// Runs an image called `name` and returns what the monitor said and its exit status.
fn run(name: &str, image: &[u8], arguments: &[&str]) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join(name);
    std::fs::write(&kernel, image).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "--debug-exit", "--memory", "16M"])
        .args(arguments)
        .arg("--kernel")
        .arg(&kernel)
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

fn status(code: &[&[u8]]) -> Option<i32> {
    run("os", &image(code), &[]).1
}

#[test]
fn the_debug_exit_port_takes_all_widths() {
    let value = &[0xb8, 0x15, 0x01, 0x02, 0x03][..]; // mov eax, 0x03020115
    // The host keeps the low byte of 2v + 1.
    assert_eq!(status(&[value, &[0xe6, 0xf4]]), Some(0x2b));
    assert_eq!(status(&[value, &[0x66, 0xe7, 0xf4]]), Some(0x2b));
    assert_eq!(status(&[value, &[0xe7, 0xf4]]), Some(0x2b));
    // mov edx, 0xf5; out dx, al: the port's second byte is a write, too.
    assert_eq!(status(&[value, &[0xba, 0xf4, 0, 0, 0, 0xee]]), Some(0x2b));
}

#[test]
fn the_loader_is_known_by_its_number_and_counts_modules() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("module");
    std::fs::write(&module, b"data").unwrap();
    let code = image(&[
        &[0x3d, 0x02, 0xb0, 0xad, 0x2b],   // cmp eax, 0x2badb002
        &[0xb8, 100, 0, 0, 0, 0x75, 0x03], // mov eax, 100; jne +3
        &[0x8b, 0x43, 0x14, 0xe6, 0xf4],   // mov eax, [ebx + mods_count]; out
    ]);
    let module = module.to_str().unwrap();
    assert_eq!(run("os", &code, &[]).1, Some(1));
    let three = ["--module", module, "--module", module, "--module", module];
    assert_eq!(run("os", &code, &three).1, Some(7));
    // The first module's first byte: mov esi, [ebx + mods_addr]; mov esi, [esi]; mov al, [esi].
    let first = image(&[&[0x8b, 0x73, 0x18, 0x8b, 0x36, 0x8a, 0x06, 0xe6, 0xf4]]);
    assert_eq!(run("os", &first, &three[..2]).1, Some((i32::from(b'd') * 2 + 1) & 0xff));
}

#[test]
fn the_command_line_begins_with_the_name_of_the_file() {
    // mov esi, [ebx + cmdline]; mov al, [esi + N]; out
    let letter = |index: u8| image(&[&[0x8b, 0x73, 0x10, 0x8a, 0x46, index, 0xe6, 0xf4]]);
    let expected = b"my_kernel a b";
    for index in [0, 2, 9, 10, 12] {
        let (text, status) = run("my kernel", &letter(index), &["--append", "a b"]);
        let value = (i32::from(expected[usize::from(index)]) * 2 + 1) & 0xff;
        assert_eq!(status, Some(value), "{index}: {text}");
    }
}

#[test]
fn the_memory_map_lists_the_ram() {
    let code = [
        &[0x8b, 0x4b, 44, 0x8b, 0x73, 48][..], // mov ecx, [ebx + mmap_length]; mov esi, [.. addr]
        &[0x01, 0xf1],                         // add ecx, esi
        // next: cmp dword [esi + 4], 0x100000; jne skip
        &[0x81, 0x7e, 4, 0, 0, 0x10, 0, 0x75, 12],
        &[0x83, 0x7e, 20, 1, 0x75, 6], // cmp dword [esi + 20], 1 (RAM); jne skip
        // mov al, [esi + 14]: the length's third byte; out
        &[0x8a, 0x46, 14, 0xe6, 0xf4, 0xf4],
        // skip: add esi, [esi]; add esi, 4; cmp esi, ecx; jb next
        &[0x03, 0x36, 0x83, 0xc6, 4, 0x39, 0xce, 0x72, 226],
        &[0xb0, 0x7f, 0xe6, 0xf4], // mov al, 127; out
    ];
    // 15 MiB from 1 MiB on, or a little less: 0xf0 or 0xef times 64 KiB.
    let status = status(&code);
    assert!(matches!(status, Some(0xe1 | 0xdf)), "{status:?}");
}

#[test]
fn unserved_requests_name_their_instructions() {
    let code = image(&[
        &[0xba, 0xf5, 0x02, 0, 0, 0xee], // mov edx, 0x2f5; out dx, al
        &[0xa1, 0x10, 0, 0, 0xd0],       // mov eax, [0xd0000010]
        &[0xb9, 0x34, 0x12, 0, 0],       // mov ecx, 0x1234
        &[0xb0, 0, 0xe6, 0xf4],          // mov al, 0; out 0xf4, al
    ]);
    for engine in ["interpret", "auto"] {
        let (text, status) = run("os", &code, &["--stats", "--engine", engine]);
        assert_eq!(status, Some(1), "{text}");
        let port = format!("port 0x2f5 write at {:#x} (ee)", CODE + 5);
        assert!(text.contains(&port), "{text}");
        let memory = format!("memory 0xd0000000 read at {:#x} (a1100000d0)", CODE + 6);
        assert!(text.contains(&memory), "{text}");
    }
}

#[test]
fn a_triple_fault_is_a_crash() {
    let (text, status) = run("os", &image(&[&[0x0f, 0x0b]]), &[]); // ud2, without an interrupt table
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("triple fault"), "{text}");
}
