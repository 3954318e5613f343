use super::*;
use crate::KernelImage;
use crate::bytes::{u32_at, u64_at};
use crate::testing::{TestSegment, elf64, note};
use ambos_memory::{Bytes, GuestPhysAddr};
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8000_0000;
const LIST: u64 = 0x80_0000_0000;
const ENTRY: u64 = BASE + 0x100_0010;
const MIB: u64 = 1 << 20;

/// A guest that was built of a kernel with these notes besides the necessary ones.
struct Built {
    ram: GuestRam,
    layout: Layout,
    guest: XenPvGuest,
}

fn build_with(memory: u64, notes: &[Vec<u8>], initrd: usize) -> Result<Built, BootError> {
    let code: Vec<u8> = (0..0x2345_u32).map(|at| at as u8 | 1).collect();
    let text = TestSegment {
        physical: 0x100_0000,
        virtual_: BASE + 0x100_0000,
        bytes: code,
        memory_size: 0x5000,
    };
    let needed = [
        note(b"Xen\0", XenNote::Entry as u32, &ENTRY.to_le_bytes()),
        note(b"Xen\0", XenNote::VirtBase as u32, &BASE.to_le_bytes()),
    ];
    build_of(memory, &[text], &[&needed[..], notes].concat().concat(), initrd)
}

fn build_of(
    memory: u64,
    segments: &[TestSegment],
    notes: &[u8],
    initrd: usize,
) -> Result<Built, BootError> {
    let file = elf64(ENTRY, segments, notes);
    let mut config = BootConfig::new(KernelImage::parse("kernel", file).unwrap());
    config.initrd = (initrd > 0).then(|| vec![0x5a; initrd]);
    let layout = Layout::new(memory);
    let ram = GuestRam::new(layout.ram_size()).unwrap();
    load(&ram, &layout, &config).map(|guest| Built { ram, layout, guest })
}

/// The notes of Linux: the list elsewhere, the module by frame.
fn linux() -> [Vec<u8>; 2] {
    [
        note(b"Xen\0", XenNote::InitP2m as u32, &LIST.to_le_bytes()),
        note(b"Xen\0", XenNote::ModStartPfn as u32, &1_u64.to_le_bytes()),
    ]
}

impl Built {
    fn word(&self, machine: u64) -> u64 {
        self.ram.memory().read_obj(GuestPhysAddr(machine)).unwrap()
    }

    fn machine(&self, pfn: u64) -> u64 {
        self.layout.machine_frame(pfn).unwrap()
    }

    /// The entry that maps a linear address, and the tables on the way to it.
    fn entry(&self, linear: u64) -> Option<(u64, [u64; 4])> {
        let mut tables = [self.guest.root; 4];
        for depth in 0..4 {
            let index = linear >> (39 - 9 * depth) & 511;
            let entry = self.word((tables[depth] << 12) + index * 8);
            if entry & paging::PRESENT == 0 {
                return None;
            }
            match tables.get_mut(depth + 1) {
                Some(next) => *next = (entry & paging::ADDRESS_MASK) >> 12,
                None => return Some((entry, tables)),
            }
        }
        None
    }

    fn info(&self) -> Vec<u8> {
        let linear = self.guest.state.gpr[gpr::RSI];
        let mut bytes = vec![0; start_info::SIZE];
        let machine = self.machine((linear - BASE) >> 12) << 12;
        self.ram.memory().read_slice(&mut bytes, GuestPhysAddr(machine)).unwrap();
        bytes
    }

    fn info_word(&self, at: usize) -> u64 {
        u64_at(&self.info(), at).unwrap()
    }

    /// Checks what is mapped from the base on, and returns how many pages that are.
    fn check_mapping(&self) -> u64 {
        let first_table = (self.info_word(start_info::PT_BASE) - BASE) >> 12;
        let own = first_table..first_table + self.info_word(start_info::PT_FRAMES);
        let mut pages = 0;
        while let Some((entry, tables)) = self.entry(BASE + (pages << 12)) {
            assert_eq!((entry & paging::ADDRESS_MASK) >> 12, self.machine(pages), "{pages:#x}");
            let writable = entry & paging::WRITE != 0;
            assert_eq!(writable, !own.contains(&pages), "{pages:#x}");
            for table in tables {
                assert!(own.clone().any(|pfn| self.machine(pfn) == table), "{table:#x}");
            }
            pages += 1;
        }
        for page in pages..self.layout.guest_frames.min(1 << 19) {
            assert!(self.entry(BASE + (page << 12)).is_none(), "{page:#x}");
        }
        assert_eq!(self.guest.state.control.cr3, self.machine(own.start) << 12);
        let stack = (self.guest.stack - BASE) >> 12;
        assert!(stack == own.end + 1 && stack <= pages);
        pages
    }

    /// Checks the list of frames, from whose first physical frame on it lies behind one another.
    fn check_list(&self, first: u64) {
        for pfn in 0..self.layout.guest_frames {
            let at = (self.machine(first + pfn / 512) << 12) + pfn % 512 * 8;
            assert_eq!(self.word(at), self.machine(pfn), "{pfn:#x}");
        }
    }
}

#[test]
fn a_kernel_with_its_list_elsewhere_has_all_memory_mapped_up_to_that() {
    for (memory, initrd) in
        [(64 * MIB, 0), (65 * MIB + 4096, 5 << 20 | 77), (1200 * MIB, 9), (32 * MIB, 9 << 20)]
    {
        let built = build_with(memory, &linux(), initrd).unwrap();
        let mapped = built.check_mapping();
        let frames = built.layout.guest_frames;
        let first = built.info_word(start_info::FIRST_P2M_PFN);
        let list = built.info_word(start_info::P2M_FRAMES);
        assert_eq!(built.info_word(start_info::MFN_LIST), LIST);
        // Linux unmaps from its image what is mapped before the list, by two MiB.
        assert!(first >= mapped && first + list <= frames, "{first:#x} {list:#x} {mapped:#x}");
        assert!(mapped.is_multiple_of(1024) && mapped <= 1 << 18);
        assert!(mapped == 1 << 18 || frames - mapped < 1024 + list, "{mapped:#x} of {frames:#x}");
        built.check_list(first);
        let pages = (frames * 8).div_ceil(4096);
        for page in 0..pages {
            let (entry, tables) = built.entry(LIST + (page << 12)).unwrap();
            assert_eq!((entry & paging::ADDRESS_MASK) >> 12, built.machine(first + page));
            for table in &tables[1..] {
                let behind = first + pages..first + list;
                assert!(behind.clone().any(|pfn| built.machine(pfn) == *table));
            }
        }
        assert!(built.entry(LIST + (pages << 12)).is_none());
        if initrd > 0 {
            let info = built.info();
            assert_eq!(u32_at(&info, start_info::FLAGS), Some(start_info::MOD_START_PFN));
            assert_eq!(built.info_word(start_info::MOD_LENGTH), initrd as u64);
            let module = built.info_word(start_info::MOD_START);
            let (start, end) = (module << 12, (module << 12) + initrd as u64);
            assert!(start >= built.guest.stack - BASE + SPARE && end <= first << 12);
            let byte = |at: u64| -> u8 {
                let machine = (built.machine(at >> 12) << 12) + at % 4096;
                built.ram.memory().read_obj(GuestPhysAddr(machine)).unwrap()
            };
            assert_eq!([start, end - 1, end].map(byte), [0x5a, 0x5a, 0]);
        }
    }
}

#[test]
fn a_kernel_with_its_list_behind_it_has_no_more_mapped_than_it_must() {
    let built = build_with(64 * MIB, &[], 3 << 20).unwrap();
    let mapped = built.check_mapping();
    // Sixteen MiB before the kernel, the module, the list and the tables, half a MiB to spare.
    assert_eq!(mapped << 12, 20 * MIB);
    let list = built.info_word(start_info::MFN_LIST);
    let module = built.info_word(start_info::MOD_START);
    assert_eq!((module, list), (BASE + 0x100_5000, BASE + 0x130_5000));
    built.check_list((list - BASE) >> 12);
}

#[test]
fn the_kernel_is_where_its_headers_say_with_zeros_behind() {
    let built = build_with(64 * MIB, &linux(), 0).unwrap();
    assert_eq!(built.guest.state.rip, ENTRY);
    let mut bytes = vec![0; 0x5000];
    let at = built.machine(0x1000) << 12;
    built.ram.memory().read_slice(&mut bytes, GuestPhysAddr(at)).unwrap();
    assert!((0..0x2345).all(|at| bytes[at] == at as u8 | 1));
    assert!(bytes[0x2345..].iter().all(|byte| *byte == 0));
}

#[test]
fn segments_that_overlap_are_refused() {
    let notes = [
        note(b"Xen\0", XenNote::Entry as u32, &ENTRY.to_le_bytes()),
        note(b"Xen\0", XenNote::VirtBase as u32, &BASE.to_le_bytes()),
    ];
    let built = |second: u64| {
        let segments = [(0x100_0000, 0x3000), (second, 0x1000)].map(|(physical, memory_size)| {
            TestSegment { physical, virtual_: BASE + physical, bytes: vec![1; 0x800], memory_size }
        });
        build_of(64 * MIB, &segments, &notes.concat(), 0)
    };
    assert!(built(0x100_3000).is_ok() && built(0xff_f000).is_ok());
    for second in [0x100_2fff, 0x100_0000, 0xff_f001] {
        assert!(matches!(built(second), Err(BootError::Protocol { .. })), "{second:x}");
    }
}

#[test]
fn memory_that_is_too_small_is_refused() {
    for (memory, initrd) in [(8 * MIB, 0), (64 * MIB, 48 << 20)] {
        let refused = build_with(memory, &linux(), initrd).map(|built| built.check_mapping());
        assert!(matches!(refused, Err(BootError::KernelDoesNotFit { .. })), "{refused:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the notes say, a guest is built or refused.
    #[test]
    fn any_place_for_the_list_is_used_or_refused(
        list in prop_oneof![
            any::<u64>(),
            (0..64_u64).prop_map(|page| BASE.wrapping_add(page << 20)),
            (0..64_u64).prop_map(|page| 0_u64.wrapping_sub(page << 12)),
        ],
        mib in 1..80_u64,
    ) {
        let notes = [note(b"Xen\0", XenNote::InitP2m as u32, &list.to_le_bytes())];
        let _ = build_with(mib << 20, &notes, 5000);
    }
}
