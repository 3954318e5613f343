//! A user's address space at the places where Linux and others have theirs, whose supervisor goes on after faults and
//! notes them.

use super::place::write;
use super::{ABSENT, DATA, services};
use ambos_memory::GuestRam;
use ambos_vcpu::CpuState;
use vm_memory::{Bytes, GuestAddress};

/// Writes RSI to the page-table entry at RDI and drops the translation of the page at RDX.
pub(crate) const REMAP: u8 = services::REMAP;
/// Loads CR3 with RSI.
pub(crate) const RELOAD: u8 = services::RELOAD;
/// Where faults are noted, and how many bytes of it are compared.
pub(crate) const LOG: u64 = 0x5_0000;
pub(crate) const LOG_SIZE: usize = 0x2_0000;
/// Where code of the user's lies.
pub(crate) const PROGRAM: u64 = 0x10_0000;
/// Where the address of the next note is.
const LOG_END: u64 = 0x4_f000;
const HANDLERS: u64 = 0x4_8000;
/// Page tables and frames are taken from here on.
const TABLES: u64 = 0x20_0000;
const FRAMES: u64 = 0x60_0000;
const LARGE_FRAME: u64 = 0xe0_0000;
/// Bits of page-table entries.
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 2;
pub(crate) const USER: u64 = 4;
pub(crate) const ACCESSED: u64 = 0x20;
pub(crate) const DIRTY: u64 = 0x40;
pub(crate) const LARGE: u64 = 0x80;
/// A page that programs may do everything with.
pub(crate) const FULL: u64 = PRESENT | WRITABLE | USER;

/// A page that is mapped, or may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) linear: u64,
    /// The guest-physical address of its entry.
    pub(crate) entry: u64,
    pub(crate) frame: u64,
    /// What the entry holds at first.
    pub(crate) flags: u64,
}

/// Page tables that are made alike in the memory of several machines.
#[derive(Debug)]
pub(crate) struct World<'a> {
    rams: Vec<&'a GuestRam>,
    tables: u64,
    frames: u64,
    pub(crate) pages: Vec<Page>,
}

impl<'a> World<'a> {
    /// With the handlers, and the first 16 MiB of memory mapped for the supervisor.
    pub(crate) fn new(rams: &[&'a GuestRam]) -> Self {
        for ram in rams {
            services::install(ram, PROGRAM + 0x1000, PROGRAM + 0x2000);
            services::give_pages_to(ram, false);
            for page in (DATA..ABSENT).step_by(0x1000) {
                put(ram, services::entry_of(page), page | FULL | ACCESSED | DIRTY);
            }
            // Programs that wrote over themselves would depend on flags that faults need not keep.
            for page in (PROGRAM..PROGRAM + 0x4000).step_by(0x1000) {
                put(ram, services::entry_of(page), page | PRESENT | USER | ACCESSED);
            }
            for large in 1..8u64 {
                put(ram, 0x3000 + large * 8, large << 21 | LARGE | PRESENT | WRITABLE);
            }
            // Their handlers note them.
            for (number, vector) in [12_u64, 13, 14].into_iter().enumerate() {
                let at = HANDLERS + number as u64 * 0x100;
                write(ram, at, &note(vector as u8));
                put(
                    ram,
                    0x8000 + vector * 16,
                    at & 0xffff | 8 << 16 | 0x8e00 << 32 | at >> 16 << 48,
                );
            }
        }
        let mut world =
            Self { rams: rams.to_vec(), tables: TABLES, frames: FRAMES, pages: Vec::new() };
        world.begin();
        world
    }

    /// Forgets what was noted.
    pub(crate) fn begin(&mut self) {
        for ram in &self.rams {
            put(ram, LOG_END, LOG);
            ram.memory().write_slice(&vec![0; LOG_SIZE], GuestAddress(LOG)).unwrap();
        }
    }

    /// An address space with nothing but the supervisor's; returns its root.
    pub(crate) fn root(&mut self) -> u64 {
        let root = self.table();
        // Low memory is shared as far as it is in the first 2 MiB.
        let (pointers, directory) = (self.table(), self.table());
        self.put(root, pointers | FULL);
        self.put(pointers, directory | FULL);
        for entry in 0..8u64 {
            let value = self.rams[0].memory().read_obj::<u64>(GuestAddress(0x3000 + entry * 8));
            self.put(directory + entry * 8, value.unwrap());
        }
        root
    }

    fn table(&mut self) -> u64 {
        self.tables += 0x1000;
        assert!(self.tables <= FRAMES, "there are tables left");
        self.rams.iter().for_each(|ram| write(ram, self.tables - 0x1000, &[0; 0x1000]));
        self.tables - 0x1000
    }

    /// A fresh frame.
    pub(crate) fn frame(&mut self) -> u64 {
        self.frames += 0x1000;
        assert!(self.frames <= LARGE_FRAME, "there are frames left");
        self.frames - 0x1000
    }

    pub(crate) fn put(&self, gpa: u64, value: u64) {
        self.rams.iter().for_each(|ram| put(ram, gpa, value));
    }

    /// The address of the entry of a page, `levels` below the root.
    pub(crate) fn entry(&mut self, root: u64, linear: u64, levels: u32) -> u64 {
        let index = |level: u32| (linear >> (39 - 9 * level) & 511) * 8;
        let mut table = root;
        for level in 0..levels - 1 {
            let at = table + index(level);
            let entry: u64 = self.rams[0].memory().read_obj(GuestAddress(at)).unwrap();
            table = match entry & PRESENT {
                0 => {
                    let next = self.table();
                    self.put(at, next | FULL);
                    next
                }
                _ => entry & 0xf_ffff_f000,
            };
        }
        table + index(levels - 1)
    }

    /// Maps a page of an address space to a frame.
    pub(crate) fn map(&mut self, root: u64, linear: u64, frame: u64, flags: u64) -> Page {
        let entry = self.entry(root, linear, 4);
        self.put(entry, frame | flags);
        let page = Page { linear, entry, frame, flags };
        self.pages.push(page);
        page
    }

    /// Maps 2 MiB of an address space to as many bytes at the end of memory; of these, some pages are used.
    pub(crate) fn map_large(&mut self, root: u64, linear: u64, flags: u64) {
        let entry = self.entry(root, linear, 3);
        let flags = flags | LARGE;
        self.put(entry, LARGE_FRAME | flags);
        for away in (0..4).map(|number| number * 0x7_f000) {
            let (linear, frame) = (linear + away, LARGE_FRAME + away);
            self.pages.push(Page { linear, entry, frame, flags });
        }
    }
}

impl Page {
    /// An entry that maps it with other flags, or another frame in its place.
    pub(crate) fn entry_with(&self, frame: u64, flags: u64) -> u64 {
        match self.flags & LARGE {
            0 => frame | flags,
            _ => LARGE_FRAME | LARGE | flags,
        }
    }
}

fn put(ram: &GuestRam, gpa: u64, value: u64) {
    ram.memory().write_obj(value, GuestAddress(gpa)).unwrap();
}

/// A handler of an exception with an error code that notes it, and goes on at what R15 says.
fn note(vector: u8) -> Vec<u8> {
    let mut code = vec![
        0x50, 0x53, // push rax; push rbx
    ];
    // mov rbx, [LOG_END]
    code.extend([0x48, 0x8b, 0x1c, 0x25]);
    code.extend((LOG_END as u32).to_le_bytes());
    // cmp rbx, end; jb +1; hlt: where one leads to another for ever it ends
    code.extend([0x48, 0x81, 0xfb]);
    code.extend(((LOG + LOG_SIZE as u64) as u32).to_le_bytes());
    code.extend([0x72, 1, 0xf4]);
    // mov rax, cr2; mov [rbx], rax
    code.extend([0x0f, 0x20, 0xd0, 0x48, 0x89, 0x03]);
    // The error code, the instruction pointer and the stack pointer: mov rax, [rsp + ..]; mov [rbx + ..], rax
    for (from, to) in [(16, 8), (24, 16), (48, 24)] {
        code.extend([0x48, 0x8b, 0x44, 0x24, from, 0x48, 0x89, 0x43, to]);
    }
    // mov [rbx+32], r10; mov [rbx+40], r11; mov qword [rbx+48], vector
    code.extend([0x4c, 0x89, 0x53, 32, 0x4c, 0x89, 0x5b, 40]);
    code.extend([0x48, 0xc7, 0x43, 48, vector, 0, 0, 0]);
    // lea rbx, [rbx+64]; mov [LOG_END], rbx; mov [rsp+24], r15
    code.extend([0x48, 0x8d, 0x5b, 64, 0x48, 0x89, 0x1c, 0x25]);
    code.extend((LOG_END as u32).to_le_bytes());
    code.extend([0x4c, 0x89, 0x7c, 0x24, 24]);
    // pop rbx; pop rax; lea rsp, [rsp+8]; iretq
    code.extend([0x5b, 0x58, 0x48, 0x8d, 0x64, 0x24, 8, 0x48, 0xcf]);
    code
}

/// The state in which programs start in an address space.
pub(crate) fn start(root: u64) -> CpuState {
    let mut state = services::start(true);
    state.control.cr3 = root;
    state.rip = PROGRAM;
    state
}
