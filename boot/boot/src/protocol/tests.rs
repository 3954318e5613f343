use super::*;
use crate::bytes::{text_at, u16_at, u32_at, u64_at};
use crate::image::Compression;
use crate::testing::*;
use ambos_memory::{Bytes, GuestPhysAddr};
use ambos_x86::{Cr0, Efer, gpr};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn ram(mib: u64) -> GuestRam {
    GuestRam::new(mib * MIB).unwrap()
}

fn config(bytes: Vec<u8>) -> BootConfig {
    BootConfig::new(KernelImage::parse("/boot/my kernel", bytes).unwrap())
}

fn read(ram: &GuestRam, address: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    ram.memory().read_slice(&mut bytes, GuestPhysAddr(address)).unwrap();
    bytes
}

fn text(ram: &GuestRam, address: u64) -> String {
    text_at(&read(ram, address, 4096), 0, 4096).unwrap()
}

/// The entry as the processor sees it through the page tables of a long-mode state.
fn mapped_to_itself(ram: &GuestRam, cr3: u64, address: u64) -> bool {
    let entry = |table: u64, index: u64| u64_at(&read(ram, table + index * 8, 8), 0).unwrap();
    let mask = ambos_x86::paging::ADDRESS_MASK;
    let pml4e = entry(cr3, address >> 39 & 511);
    let pdpte = entry(pml4e & mask, address >> 30 & 511);
    let pde = entry(pdpte & mask, address >> 21 & 511);
    let present_writable = |entry: u64| entry & 3 == 3;
    [pml4e, pdpte, pde].into_iter().all(present_writable)
        && pde & ambos_x86::paging::PAGE_SIZE != 0
        && pde & mask & !0x1f_ffff == address & !0x1f_ffff
}

#[test]
fn linux64_starts_a_bzimage_with_a_zero_page() {
    let ram = ram(128);
    let file = bzimage(Compression::Xz, &vmlinux());
    let mut config = config(file.clone());
    config.protocol = Protocol::Linux64;
    config.command_line = "console=ttyS0 quiet".into();
    config.initrd = Some(b"cpio".repeat(1000));
    let state = load(&ram, &config).unwrap();

    assert_eq!(state.rip, 0x100_0200);
    assert_eq!(read(&ram, 0x100_0000, 0x400), file[0x800..0xc00]);
    assert_eq!(state.control.efer, (Efer::LME | Efer::LMA).bits());
    assert!(Cr0::from_bits_retain(state.control.cr0).contains(Cr0::PG | Cr0::PE));
    assert_eq!(state.rflags, 2);
    assert_eq!((state.segments.cs.selector, state.segments.ds.selector), (0x10, 0x18));
    let cs = u64_at(&read(&ram, state.gdtr.base + 0x10, 8), 0).unwrap();
    let (_, limit, attributes) = ambos_x86::segment::decode(cs);
    assert_eq!((limit, attributes), (u32::MAX, state.segments.cs.attributes));
    for address in [0, 0x100_0200, state.gpr[gpr::RSI], 0xffff_ffff] {
        assert!(mapped_to_itself(&ram, state.control.cr3, address), "{address:#x}");
    }

    let zero_page = read(&ram, state.gpr[gpr::RSI], 4096);
    let word = |offset| u32_at(&zero_page, offset).unwrap();
    assert_eq!(&zero_page[0x202..0x206], b"HdrS");
    assert_eq!(zero_page[0x210], 0xff);
    assert_eq!(u16_at(&zero_page, 0x206), Some(0x020f));
    assert_eq!(u64_at(&zero_page, 0x70), Some(0xe_0000));
    assert_eq!(text(&ram, word(0x228).into()), "console=ttyS0 quiet");
    let initrd = u64::from(word(0x218));
    assert_eq!((initrd, word(0x21c)), (128 * MIB - 4096, 4000));
    assert_eq!(&read(&ram, initrd, 4), b"cpio");
    assert_eq!(zero_page[0x1e8], 4);
    assert_eq!(u64_at(&zero_page, 0x2d0 + 20), Some(0x9_fc00));
    assert_eq!(word(0x2d0 + 36), 2);
}

#[test]
fn linux64_starts_a_vmlinux_at_its_entry() {
    let ram = ram(64);
    let mut config = config(vmlinux());
    config.protocol = Protocol::Linux64;
    let state = load(&ram, &config).unwrap();
    assert_eq!(state.rip, 0x100_0000);
    assert_eq!(read(&ram, 0x100_0000, 1), [0x90]);
    let zero_page = read(&ram, state.gpr[gpr::RSI], 4096);
    assert_eq!(&zero_page[0x202..0x206], b"HdrS");
}

#[test]
fn pvh_hands_over_start_info_map_and_initrd() {
    let kernel = vmlinux();
    for file in [kernel.clone(), bzimage(Compression::Gzip, &kernel)] {
        let ram = ram(64);
        // The remains of an earlier run must not show in the kernel's zeroed part.
        ram.memory().write_slice(&[0xaa; 0x3000], GuestPhysAddr(0x100_2000)).unwrap();
        let mut config = config(file);
        config.command_line = "root=/dev/vda".into();
        config.initrd = Some(b"0707".to_vec());
        let state = load(&ram, &config).unwrap();
        assert_eq!(state.rip, 0x100_0200);
        assert_eq!(state.control.cr0 & Cr0::PG.bits(), 0);
        assert_eq!((state.segments.cs.base, state.segments.cs.limit), (0, u32::MAX));
        assert_eq!(read(&ram, 0x100_1fff, 2), [0x90, 0]);
        assert!(read(&ram, 0x100_2000, 0x3000).iter().all(|byte| *byte == 0));

        let info = read(&ram, state.gpr[gpr::RBX], 56);
        let [magic, version, modules, entries] =
            [0, 4, 12, 48].map(|offset| u32_at(&info, offset).unwrap());
        assert_eq!((magic, version, modules, entries), (0x336e_c578, 1, 1, 4));
        assert_eq!(text(&ram, u64_at(&info, 24).unwrap()), "root=/dev/vda");
        assert_eq!(u64_at(&info, 32), Some(0xe_0000));
        let module = read(&ram, u64_at(&info, 16).unwrap(), 32);
        assert_eq!(u64_at(&module, 8), Some(4));
        assert_eq!(read(&ram, u64_at(&module, 0).unwrap(), 4), b"0707");
        let map = read(&ram, u64_at(&info, 40).unwrap(), 96);
        assert_eq!((u64_at(&map, 48), u64_at(&map, 56)), (Some(MIB), Some(63 * MIB)));
    }
}

#[test]
fn multiboot_starts_an_elf_file_with_modules() {
    let ram = ram(64);
    let mut code = multiboot_header(3, &[]);
    code.resize(0x100, 0x90);
    let mut config = config(elf32(0x10_0020, &[TestSegment::at(0x10_0000, &code, 0x2345)]));
    config.command_line = "a b".into();
    config.modules = vec![
        Module { data: b"first".to_vec(), text: "one 1".into() },
        Module { data: vec![7; 5000], text: String::new() },
    ];
    let state = load(&ram, &config).unwrap();
    assert_eq!((state.rip, state.gpr[gpr::RAX]), (0x10_0020, 0x2bad_b002));
    let info = read(&ram, state.gpr[gpr::RBX], 88);
    let word = |offset| u32_at(&info, offset).unwrap();
    assert_eq!(word(0), 0b10_0100_1101);
    assert_eq!((word(4), word(8)), (639, 63 << 10));
    assert_eq!(text(&ram, word(16).into()), "my_kernel a b");
    assert_eq!(text(&ram, word(64).into()), "Ambos");
    assert_eq!(word(20), 2);
    let list = read(&ram, word(24).into(), 32);
    let module = |index: usize, field: usize| u32_at(&list, index * 16 + field * 4).unwrap();
    assert_eq!((module(0, 0), module(0, 1)), (0x10_3000, 0x10_3005));
    assert_eq!((module(1, 0), module(1, 1)), (0x10_4000, 0x10_4000 + 5000));
    assert_eq!(read(&ram, 0x10_3000, 5), b"first");
    assert_eq!(text(&ram, module(0, 2).into()), "one 1");
    let map = read(&ram, word(48).into(), word(44) as usize);
    assert_eq!(map.len(), 4 * 24);
    assert_eq!((u32_at(&map, 0), u64_at(&map, 12)), (Some(20), Some(0x9_fc00)));
}

#[test]
fn multiboot_starts_a_flat_file_by_its_addresses() {
    let ram = ram(16);
    ram.memory().write_slice(&[0xaa; 64], GuestPhysAddr(0x20_0040)).unwrap();
    let mut file = vec![0x11; 16];
    file.extend(multiboot_header(
        0x1_0000,
        &[0x20_0010, 0x20_0000, 0x20_0040, 0x20_0080, 0x20_0030],
    ));
    file.resize(0x100, 0x22);
    let state = load(&ram, &config(file.clone())).unwrap();
    assert_eq!(state.rip, 0x20_0030);
    assert_eq!(read(&ram, 0x20_0000, 0x40), file[..0x40]);
    assert_eq!(read(&ram, 0x20_0040, 0x40), [0; 0x40]);
}

#[test]
fn a_kernel_is_told_of_the_screen() {
    let screen = |display: Display| {
        let ram = ram(64);
        let mut config = config(bzimage(Compression::Lz4, &vmlinux()));
        config.display = Some(display);
        let state = load(&ram, &config).unwrap();
        // The kernel proper is in place, and entered in long mode.
        assert_eq!((state.rip, state.control.efer != 0), (0x100_0000, true));
        read(&ram, state.gpr[gpr::RSI], 0x40)
    };
    let text = screen(Display::Text);
    assert_eq!((text[0x06], text[0x07], text[0x0e], text[0x0f], text[0x10]), (3, 80, 25, 1, 16));
    let linear = screen(Display::Linear { width: 1024, height: 768 });
    assert_eq!((linear[0x0f], u32_at(&linear, 0x18).unwrap()), (0x23, 0xfd00_0000));
    let words = [0x12, 0x14, 0x16, 0x24].map(|offset| u16_at(&linear, offset).unwrap());
    assert_eq!(words, [1024, 768, 32, 4096]);
}

#[test]
fn auto_takes_the_quickest_way() {
    let pvh = |state: &CpuState| state.control.efer == 0 && state.rip == 0x100_0200;
    let kernel = vmlinux();
    assert!(pvh(&load(&ram(64), &config(kernel.clone())).unwrap()));
    // Without the note, the 64-bit protocol.
    let text = TestSegment::at(0x100_0000, &[0x90; 64], 64);
    let plain = elf64(0x100_0000, &[text], &[]);
    let state = load(&ram(64), &config(bzimage(Compression::Lz4, &plain))).unwrap();
    assert_eq!((state.rip, state.control.efer != 0), (0x100_0200, true));
    // A payload that only the kernel itself can unpack.
    let mut file = bzimage(Compression::Lz4, &kernel);
    file[0xc00..0xc03].copy_from_slice(b"BZh");
    let state = load(&ram(64), &config(file)).unwrap();
    assert_eq!((state.rip, state.control.efer != 0), (0x100_0200, true));
}

#[test]
fn a_kernel_without_the_protocol_is_refused() {
    let refused = |file: Vec<u8>, protocol| {
        let mut config = config(file);
        config.protocol = protocol;
        matches!(load(&ram(64), &config), Err(BootError::Protocol { .. }))
    };
    let plain = elf64(0x10_0000, &[TestSegment::at(0x10_0000, &[0], 1)], &[]);
    assert!(refused(plain.clone(), Protocol::Pvh));
    assert!(refused(plain, Protocol::Multiboot));
    assert!(refused(bzimage(Compression::Lz4, &vmlinux()), Protocol::Multiboot));
    let elf = elf32(0x10_0000, &[TestSegment::at(0x10_0000, &[0], 1)]);
    assert!(refused(elf, Protocol::Linux64));
    let flat = multiboot_header(0x1_0000, &[0x10_0000, 0x10_0000, 0, 0, 0x10_0000]);
    assert!(refused(flat.clone(), Protocol::Linux64));
    assert!(refused(flat, Protocol::Pvh));
    let mut i386 = bzimage(Compression::Gzip, &vmlinux());
    i386[0x236] = 0;
    assert!(refused(i386, Protocol::Linux64));
    let mut config = config(vmlinux());
    config.modules.push(Module { data: Vec::new(), text: String::new() });
    assert!(matches!(load(&ram(64), &config), Err(BootError::Protocol { .. })));
}

#[test]
fn command_lines_are_bounded() {
    let mut linux = config(bzimage(Compression::Lz4, &vmlinux()));
    linux.protocol = Protocol::Linux64;
    linux.command_line = "x".repeat(2047);
    load(&ram(64), &linux).unwrap();
    linux.command_line.push('x');
    let error = load(&ram(64), &linux).unwrap_err().to_string();
    assert!(error.contains("2048") && error.contains("2047"), "{error}");
    linux.command_line = "a\0b".into();
    assert!(matches!(load(&ram(64), &linux), Err(BootError::CommandLineNul)));
    let mut pvh = config(vmlinux());
    pvh.command_line = "x".repeat(4096);
    assert!(matches!(load(&ram(64), &pvh), Err(BootError::CommandLineTooLong { .. })));
}

#[test]
fn too_little_memory_is_named_with_what_would_do() {
    for protocol in [Protocol::Pvh, Protocol::Linux64] {
        let mut config = config(bzimage(Compression::Lz4, &vmlinux()));
        config.protocol = protocol;
        let error = load(&ram(16), &config).unwrap_err().to_string();
        assert!(error.contains("16 MiB") && error.contains("64 MiB"), "{error}");
        config.initrd = Some(vec![0; 48 << 20]);
        let error = load(&ram(64), &config).unwrap_err();
        assert!(matches!(error, BootError::NoRoom { what: "the initrd", .. }), "{error}");
    }
    let kib = GuestRam::new(64 << 10).unwrap();
    assert!(matches!(load(&kib, &config(vmlinux())), Err(BootError::Acpi(_))));
}

#[test]
fn kernels_keep_off_what_is_not_theirs() {
    let at = |address: u64, size: u64| {
        let segment = TestSegment::at(address, &[0x90], size);
        load(&ram(64), &config(elf64(address, &[segment], &linux_notes(address))))
    };
    assert!(at(0x7000, 0x1000).is_ok(), "conventional memory is usable");
    for (address, size) in [(0x800, 0x1000), (0x9_f000, 0x2000), (0xf_0000, 16)] {
        assert!(matches!(at(address, size), Err(BootError::Overlap { .. })), "{address:#x}");
    }
    let twice = [TestSegment::at(0x10_0000, &[0], 0x200), TestSegment::at(0x10_0100, &[0], 16)];
    let error = load(&ram(64), &config(elf64(0x10_0000, &twice, &[]))).unwrap_err();
    assert!(matches!(error, BootError::Overlap { .. }));
    let outside = elf64(0, &[TestSegment::at(0x10_0000, &[0], 1)], &linux_notes(0x20_0000));
    assert!(matches!(load(&ram(64), &config(outside)), Err(BootError::Entry(0x20_0000))));
}

#[test]
fn reserved_memory_is_left_alone() {
    let ram = ram(64);
    let mut config = config(vmlinux());
    config.initrd = Some(vec![1; 4096]);
    config.reserved = vec![Reserved { start: 63 * MIB, size: MIB }];
    let state = load(&ram, &config).unwrap();
    let info = read(&ram, state.gpr[gpr::RBX], 56);
    let module = read(&ram, u64_at(&info, 16).unwrap(), 32);
    assert_eq!(u64_at(&module, 0), Some(63 * MIB - 4096));
    config.reserved = vec![Reserved { start: 0x100_0000, size: 16 }];
    assert!(matches!(load(&ram, &config), Err(BootError::Overlap { .. })));
}

#[test]
fn hostile_multiboot_headers_are_refused() {
    let flat = |fields: [u32; 5]| {
        let mut file = multiboot_header(0x1_0000, &fields);
        file.resize(64, 0);
        load(&ram(16), &config(file))
    };
    let header = BootError::MultibootAddresses("");
    let same = |error: &BootError| std::mem::discriminant(error) == std::mem::discriminant(&header);
    assert!(same(&flat([0x10_0000, 0x10_0010, 0, 0, 0x10_0010]).unwrap_err()));
    assert!(same(&flat([0x10_0010, 0x10_0000, 0, 0, 0x10_0010]).unwrap_err()));
    assert!(same(&flat([0x10_0000, 0x10_0000, 0xf_ffff, 0, 0x10_0010]).unwrap_err()));
    assert!(same(&flat([0x10_0000, 0x10_0000, 0x10_0041, 0, 0x10_0010]).unwrap_err()));
    let error = flat([0x10_0000, 0x10_0000, 0, 0, 0x10_0040]).unwrap_err();
    assert!(matches!(error, BootError::Entry(_)));
    let error = flat([0x10_0000, 0x10_0000, 0, u32::MAX, 0x10_0000]).unwrap_err();
    assert!(matches!(error, BootError::KernelDoesNotFit { .. }));
    let mut code = multiboot_header(8, &[]);
    code.resize(0x100, 0);
    let elf = elf32(0x10_0000, &[TestSegment::at(0x10_0000, &code, 0x100)]);
    let error = load(&ram(16), &config(elf)).unwrap_err();
    assert!(matches!(error, BootError::MultibootRequirements(8)));
}

#[test]
fn a_bzimage_without_room_for_its_entry_is_refused() {
    let mut file = bzimage(Compression::None, b"\x7fELF");
    file.truncate(0x800 + 0x200);
    file[0x1f4..0x1f8].copy_from_slice(&0x20_u32.to_le_bytes());
    let mut config = config(file);
    config.protocol = Protocol::Linux64;
    assert!(matches!(load(&ram(64), &config), Err(BootError::Entry(0x100_0200))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_headers_load_or_fail(
        kind in 0..3,
        protocol in prop::sample::select(
            vec![Protocol::Auto, Protocol::Linux64, Protocol::Pvh, Protocol::Multiboot]
        ),
        changes in prop::collection::vec((0..0x480_usize, any::<u8>()), 1..8),
    ) {
        let mut file = match kind {
            0 => bzimage(Compression::Lz4, &vmlinux()),
            1 => vmlinux(),
            _ => multiboot_header(0x1_0003, &[0x10_0000, 0x10_0000, 0, 0, 0x10_0010]),
        };
        for (offset, byte) in changes {
            if let Some(place) = file.get_mut(offset) {
                *place = byte;
            }
        }
        if let Ok(kernel) = KernelImage::parse("kernel", file) {
            let config = BootConfig { protocol, ..BootConfig::new(kernel) };
            let _ = load(&ram(32), &config);
        }
    }
}
