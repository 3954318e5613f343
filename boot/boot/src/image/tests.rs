use super::*;
use crate::testing::*;
use proptest::prelude::*;

fn parse(bytes: Vec<u8>) -> Result<KernelImage, ImageError> {
    KernelImage::parse("vmlinuz", bytes)
}

/// Reads everything there is to read; what comes out does not matter, only that it comes.
fn read_all(bytes: Vec<u8>) {
    if let Ok(image) = parse(bytes)
        && let Ok(Some(vmlinux)) = image.vmlinux()
    {
        vmlinux.xen_notes();
        vmlinux.banner();
        vmlinux.elf.physical_entry();
    }
}

#[test]
fn a_bzimage_of_every_packing_yields_its_vmlinux() {
    let kernel = vmlinux();
    for compression in PACKABLE {
        let image = parse(bzimage(compression, &kernel)).unwrap();
        let ImageKind::BzImage(header) = image.kind() else { panic!("no bzImage") };
        assert_eq!(header.protocol(), (2, 15));
        assert_eq!(header.version_text(), Some("6.1.0-test (us@here) #1 SMP"));
        assert_eq!(header.command_line_max(), 2047);
        assert!(header.x_load_flags().contains(XLoadFlags::KERNEL_64));
        let payload = header.payload(image.bytes()).unwrap();
        assert_eq!(Compression::detect(payload), Some(compression));
        let unpacked = image.vmlinux().unwrap().unwrap();
        assert!(*unpacked.bytes == *kernel, "{compression}");
        assert_eq!(unpacked.banner().unwrap(), "Linux version 6.1.0-test (us@here) #1 SMP");
        assert_eq!(unpacked.elf.physical_entry(), Some(0x100_0000));
    }
}

#[test]
fn notes_are_read_by_type() {
    let image = parse(vmlinux()).unwrap();
    let notes = image.vmlinux().unwrap().unwrap().xen_notes();
    assert_eq!(notes.pvh_entry(), Some(0x100_0200));
    assert_eq!(notes.text(XenNote::GuestOs), Some("linux"));
    assert_eq!(notes.number(XenNote::VirtBase), Some(0xffff_ffff_8000_0000));
    assert_eq!(notes.number(XenNote::SupportedFeatures), Some(0x8801));
    assert_eq!(notes.get(XenNote::L1MfnValid), Some(&XenValue::Numbers(vec![1, 1])));
    assert_eq!(notes.get(XenNote::HypercallPage), None);
    assert_eq!(notes.iter().count(), 13);
}

#[test]
fn a_virtual_entry_point_is_translated() {
    let text = TestSegment {
        physical: 0x10_0000,
        virtual_: 0xffff_ffff_8000_0000,
        bytes: vec![0; 16],
        memory_size: 0x100,
    };
    let image = parse(elf64(0xffff_ffff_8000_0080, &[text], &[])).unwrap();
    let elf = image.vmlinux().unwrap().unwrap().elf;
    assert_eq!(elf.physical_entry(), Some(0x10_0080));
}

#[test]
fn multiboot_headers_are_found_where_they_may_be() {
    let mut file = vec![0; 4096];
    file.extend(multiboot_header(0x1_0003, &[0x10_1000, 0x10_0000, 0, 0, 0x10_1020]));
    let image = parse(file.clone()).unwrap();
    assert!(matches!(image.kind(), ImageKind::Flat));
    let header = image.multiboot().unwrap();
    assert_eq!((header.offset, header.flags), (4096, 0x1_0003));
    assert_eq!(header.addresses.unwrap().entry, 0x10_1020);
    // Behind the first 8 KiB it is none.
    file.splice(0..0, vec![0; 4096]);
    assert!(matches!(parse(file), Err(ImageError::Unknown)));
    // Without addresses a flat file says nothing.
    assert!(matches!(parse(multiboot_header(3, &[])), Err(ImageError::Unknown)));
    // A wrong checksum is no header.
    let mut file = multiboot_header(0x1_0003, &[0; 5]);
    file[8] ^= 1;
    assert!(matches!(parse(file), Err(ImageError::Unknown)));
}

#[test]
fn files_that_are_no_kernels_are_refused_with_advice() {
    for bytes in [&b""[..], b"#!/bin/sh", &[0; 512]] {
        let error = parse(bytes.to_vec()).unwrap_err();
        assert!(error.to_string().contains("/boot/vmlinuz"), "{error}");
    }
    let error = KernelImage::open("/nonexistent/kernel").unwrap_err();
    assert!(error.to_string().contains("'/nonexistent/kernel'"));
    let mut other = vmlinux();
    other[18] = 183;
    assert!(matches!(parse(other), Err(ImageError::Machine(183))));
    let mut object = vmlinux();
    object[16] = 1;
    assert!(matches!(parse(object), Err(ImageError::NotExecutable(1))));
    let mut old = bzimage(Compression::Gzip, &vmlinux());
    old[0x206..0x208].copy_from_slice(&0x0204_u16.to_le_bytes());
    assert!(matches!(parse(old), Err(ImageError::OldProtocol { major: 2, minor: 4, .. })));
}

#[test]
fn a_payload_that_is_no_kernel_is_refused() {
    let image = parse(bzimage(Compression::Gzip, b"just text")).unwrap();
    assert!(matches!(image.vmlinux(), Err(ImageError::Damaged { .. })));
}

#[test]
fn truncated_files_say_so() {
    let file = bzimage(Compression::Lz4, &vmlinux());
    for length in [0x210, 0x250, 0x26b, 0x300, 0x800, 0x801, 0xc00, file.len() - 16] {
        let error = parse(file[..length].to_vec()).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }), "{length:#x}: {error}");
    }
    let file = vmlinux();
    for length in [4, 5, 17, 40, 63, 64, 100, 0x200, 0x1fff] {
        let error = parse(file[..length].to_vec()).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }), "{length:#x}: {error}");
    }
}

#[test]
fn every_truncation_is_survived() {
    let kernel = vmlinux();
    for file in [bzimage(Compression::Zstd, &kernel), kernel] {
        let dense = 0..file.len().min(0x500);
        for length in dense.chain((0x500..file.len()).step_by(97)) {
            read_all(file[..length].to_vec());
        }
    }
}

#[test]
fn hostile_elf_fields_are_refused() {
    let change = |offset: usize, bytes: &[u8]| {
        let mut file = vmlinux();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        parse(file)
    };
    let max = [0xff; 8];
    assert!(matches!(change(32, &max), Err(ImageError::Truncated { .. })), "table offset");
    assert!(matches!(change(54, &[8, 0]), Err(ImageError::Damaged { .. })), "entry size");
    assert!(matches!(change(56, &max[..2]), Err(ImageError::Damaged { .. })), "count");
    assert!(matches!(change(56, &[0, 0]), Err(ImageError::Damaged { .. })), "no headers");
    assert!(matches!(change(64, &[9]), Err(ImageError::Damaged { .. })), "nothing to load");
    assert!(matches!(change(72, &max), Err(ImageError::Truncated { .. })), "segment offset");
    assert!(matches!(change(88, &max), Err(ImageError::Damaged { .. })), "physical address");
    assert!(matches!(change(96, &max), Err(ImageError::Truncated { .. })), "file size");
    assert!(matches!(change(104, &[0; 8]), Err(ImageError::Damaged { .. })), "memory size");
    // Notes outside the file are no notes.
    let image = change(128, &max).unwrap();
    assert!(image.vmlinux().unwrap().unwrap().xen_notes().is_empty());
}

proptest! {
    #[test]
    fn random_files_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        read_all(bytes);
    }

    #[test]
    fn random_headers_are_survived(
        kind in 0..3,
        changes in prop::collection::vec((0..0x480_usize, any::<u8>()), 1..12),
    ) {
        let mut file = match kind {
            0 => bzimage(Compression::Lz4, &vmlinux()),
            1 => vmlinux(),
            _ => elf32(0x10_0000, &[TestSegment::at(0x10_0000, &[0; 0x400], 0x1000)]),
        };
        for (offset, byte) in changes {
            if let Some(place) = file.get_mut(offset) {
                *place = byte;
            }
        }
        read_all(file);
    }

    #[test]
    fn random_notes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let start = TestSegment::at(0x10_0000, &[], 0x10);
        read_all(elf64(0x10_0000, &[start], &bytes));
    }

    #[test]
    fn random_payloads_are_survived(
        compression in prop::sample::select(PACKABLE.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut payload = pack(compression, &sample_text(2000));
        for (index, byte) in changes {
            *index.get_mut(&mut payload) = byte;
        }
        let _ = unpack(&payload);
    }
}
