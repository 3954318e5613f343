//! Kernel files made up for tests, in every kind and packing.

use crate::image::Compression;
use std::io::Write;

/// The formats that [`pack`] can make.
pub(crate) const PACKABLE: [Compression; 6] = [
    Compression::None,
    Compression::Gzip,
    Compression::Xz,
    Compression::Lzma,
    Compression::Lz4,
    Compression::Zstd,
];

/// Text that compresses, but not to nothing; for [`Compression::None`] it must look like ELF.
pub(crate) fn sample_text(length: usize) -> Vec<u8> {
    let mut text = b"\x7fELF".to_vec();
    let mut number: u32 = 1;
    while text.len() < length {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend(format!("{:x} ", number >> 24).into_bytes());
    }
    text.truncate(length);
    text
}

/// The beginning of `bytes` in LZ4's legacy frame, in blocks of these lengths.
pub(crate) fn lz4_blocks(bytes: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (mut payload, mut at) = (0x184c_2102_u32.to_le_bytes().to_vec(), 0);
    for &length in lengths {
        let block = lz4_flex::block::compress(&bytes[at..at + length]);
        payload.extend((block.len() as u32).to_le_bytes());
        payload.extend(block);
        at += length;
    }
    payload
}

/// Packs as Linux's build does, without the size behind.
pub(crate) fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let options = LzmaOptions::new_preset(1).unwrap();
    let lzma = |stream| {
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut filters = Filters::new();
            filters.x86().lzma2(&options);
            lzma(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap())
        }
        Compression::Lzma => lzma(Stream::new_lzma_encoder(&options).unwrap()),
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Compression::Lz4 => {
            let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
            for block in bytes.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Bzip2 | Compression::Lzo => panic!("nothing packs {compression}"),
    }
}

/// A segment of a made-up ELF file.
pub(crate) struct TestSegment {
    pub(crate) physical: u64,
    pub(crate) virtual_: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_size: u64,
}

impl TestSegment {
    pub(crate) fn at(address: u64, bytes: &[u8], memory_size: u64) -> Self {
        Self { physical: address, virtual_: address, bytes: bytes.to_vec(), memory_size }
    }
}

/// One note in the layout of ELF files.
pub(crate) fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((value.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    for part in [name, value] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// The notes of a Linux kernel that can do everything.
pub(crate) fn linux_notes(pvh_entry: u64) -> Vec<u8> {
    let number = |value: u64| value.to_le_bytes();
    [
        note(b"GNU\0", 3, b"build id"),
        note(b"Xen\0", 6, b"linux\0"),
        note(b"Xen\0", 7, b"2.6\0"),
        note(b"Xen\0", 5, b"xen-3.0\0"),
        note(b"Xen\0", 3, &number(0xffff_ffff_8000_0000)),
        note(b"Xen\0", 15, &number(0x80_0000_0000)),
        note(b"Xen\0", 1, &number(0xffff_ffff_8300_0000)),
        note(b"Xen\0", 10, b"!writable_page_tables|pae_pgdir_above_4gb\0"),
        note(b"Xen\0", 17, &0x8801_u32.to_le_bytes()),
        note(b"Xen\0", 8, b"generic\0"),
        note(b"Xen\0", 13, &[number(1), number(1)].concat()),
        note(b"Xen\0", 12, &number(0xffff_8000_0000_0000)),
        note(b"Xen\0", 16, &number(1)),
        note(b"Xen\0", 18, &number(pvh_entry)),
        note(b"Xen\0", 99, b"from the future"),
    ]
    .concat()
}

/// A 64-bit ELF executable.
pub(crate) fn elf64(entry: u64, segments: &[TestSegment], notes: &[u8]) -> Vec<u8> {
    let count = segments.len() + 1;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(entry.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.resize(52, 0);
    for half in [64, 56, count as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * count as u64;
    let mut header = |kind: u32, v: u64, p: u64, size: usize, memory: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for field in [offset, v, p, size as u64, memory, 4] {
            file.extend(field.to_le_bytes());
        }
        offset += size as u64;
    };
    for segment in segments {
        let TestSegment { physical, virtual_, bytes, memory_size } = segment;
        header(1, *virtual_, *physical, bytes.len(), *memory_size);
    }
    header(4, 0, 0, notes.len(), notes.len() as u64);
    segments.iter().for_each(|segment| file.extend(&segment.bytes));
    file.extend(notes);
    file
}

/// A 32-bit ELF executable.
pub(crate) fn elf32(entry: u32, segments: &[TestSegment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    file.extend(entry.to_le_bytes());
    file.extend(52_u32.to_le_bytes());
    file.resize(40, 0);
    for half in [52, 32, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 52 + 32 * segments.len() as u32;
    for TestSegment { physical, virtual_, bytes, memory_size } in segments {
        let size = bytes.len() as u32;
        let fields =
            [1, offset, *virtual_ as u32, *physical as u32, size, *memory_size as u32, 7, 4];
        fields.iter().for_each(|field| file.extend(field.to_le_bytes()));
        offset += size;
    }
    segments.iter().for_each(|segment| file.extend(&segment.bytes));
    file
}

/// A vmlinux that starts at 16 MiB, with a banner and all notes.
pub(crate) fn vmlinux() -> Vec<u8> {
    let mut code = vec![0x90; 0x2000];
    let banner = b"Linux version %s (%s)\0Linux version 6.1.0-test (us@here) #1 SMP\n\0";
    code[0x100..0x100 + banner.len()].copy_from_slice(banner);
    let text = TestSegment {
        physical: 0x100_0000,
        virtual_: 0xffff_ffff_8100_0000,
        bytes: code,
        memory_size: 0x5000,
    };
    elf64(0x100_0000, &[text], &linux_notes(0x100_0200))
}

/// A bzImage around `kernel`, with everything a current kernel says.
pub(crate) fn bzimage(compression: Compression, kernel: &[u8]) -> Vec<u8> {
    let mut payload = pack(compression, kernel);
    if compression != Compression::Gzip && compression != Compression::None {
        payload.extend((kernel.len() as u32).to_le_bytes());
    }
    bzimage_around(&payload)
}

/// A bzImage around a packed kernel.
pub(crate) fn bzimage_around(payload: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: u8 = 3;
    const PAYLOAD_OFFSET: u32 = 0x400;
    let mut code = vec![0xf4; PAYLOAD_OFFSET as usize];
    code.extend(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let mut file = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
    let mut set = |offset: usize, bytes: &[u8]| {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    set(0x1f1, &[SETUP_SECTORS]);
    set(0x1f4, &((code.len() / 16) as u32).to_le_bytes());
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(0x202, b"HdrS");
    set(0x206, &0x020f_u16.to_le_bytes());
    set(0x20e, &0x200_u16.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000_u32.to_le_bytes());
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    set(0x230, &0x20_0000_u32.to_le_bytes());
    set(0x234, &[1, 21]);
    set(0x236, &0x3_u16.to_le_bytes());
    set(0x238, &2047_u32.to_le_bytes());
    set(0x248, &PAYLOAD_OFFSET.to_le_bytes());
    set(0x24c, &(payload.len() as u32).to_le_bytes());
    set(0x258, &0x100_0000_u64.to_le_bytes());
    set(0x260, &0x10_0000_u32.to_le_bytes());
    set(0x400, b"6.1.0-test (us@here) #1 SMP\0");
    file.extend(code);
    file
}

/// A Multiboot header with `flags`; `fields` follow the checksum.
pub(crate) fn multiboot_header(flags: u32, fields: &[u32]) -> Vec<u8> {
    let magic: u32 = 0x1bad_b002;
    let checksum = 0_u32.wrapping_sub(magic.wrapping_add(flags));
    [magic, flags, checksum].iter().chain(fields).flat_map(|word| word.to_le_bytes()).collect()
}
