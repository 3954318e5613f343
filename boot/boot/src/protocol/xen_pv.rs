//! The domain builder: a Xen PV guest as Xen's own toolstack starts it (`public/xen.h`, "Start-of-day memory layout").
//!
//! From `VIRT_BASE` on, the kernel finds in its address space, one behind the other: itself, a module if it does not take
//! that by frame, the list of frames if it does not want that elsewhere, the start information, the pages of
//! store and console, the page tables that map all this (read-only), and a stack. Behind what is mapped
//! come the module and the list of frames of kernels that want them so.

use super::{BootConfig, BootError, Protocol};
use crate::image::{KernelImage, Vmlinux, XenNote, XenNotes};
use ambos_memory::GuestRam;
use ambos_vcpu::{Control, CpuState, Segment, Segments, TableRegister};
use ambos_x86::segment::{attr, decode, system_type};
use ambos_x86::{Cr0, Cr4, Efer, PAGE_SIZE, RFlags, gpr, paging};
use ambos_xen::Layout;
use ambos_xen_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS, RESERVED_DESCRIPTORS};
use ambos_xen_abi::{hypercall, start_info, version};
use std::collections::BTreeMap;
use vm_memory::GuestMemoryError;

/// A machine for PV guests is asked for in another way.
pub(super) const OTHER_MACHINE: BootError = refusal("this machine is a PC; use -t para");

/// Entries of a page table.
const ENTRIES: u64 = 512;
/// The initial mapping ends at a multiple of this.
const MAP_ALIGN: u64 = 4 << 20;
/// Mapped memory that a kernel can use at once, at least.
const SPARE: u64 = 512 << 10;
/// Bits of an entry that links a table.
const LINK: u64 = paging::PRESENT | paging::WRITE | paging::USER | paging::ACCESSED | paging::DIRTY;

const fn refusal(reason: &'static str) -> BootError {
    BootError::Protocol { protocol: Protocol::XenPv, reason }
}

/// A guest in memory, ready to start.
#[derive(Debug, Clone)]
pub struct XenPvGuest {
    /// The state of the first vCPU.
    pub state: CpuState,
    /// Machine frame of the top-level page table.
    pub root: u64,
    /// The kernel's stack.
    pub stack: u64,
    /// Machine frame of the console's page.
    pub console_frame: u64,
    /// Machine frame of the store's page.
    pub store_frame: u64,
}

/// Event channels that the builder makes, in this order.
const STORE_PORT: u32 = 1;
const CONSOLE_PORT: u32 = 2;

/// What the notes say.
struct Wishes {
    base: u64,
    /// What is added to an ELF physical address to get a virtual one.
    offset: u64,
    entry: u64,
    list: Option<u64>,
    hypercall_page: Option<u64>,
    module_by_frame: bool,
}

impl Wishes {
    fn read(kernel: &Vmlinux<'_>) -> Result<Self, BootError> {
        let notes = kernel.xen_notes();
        if let Some(reason) = obstacle(kernel, &notes) {
            return Err(refusal(reason));
        }
        let base = notes.number(XenNote::VirtBase).unwrap_or(0);
        let physical = notes.number(XenNote::PaddrOffset).unwrap_or(0);
        let hypercall_page = notes.number(XenNote::HypercallPage);
        Ok(Self {
            base,
            offset: base.wrapping_sub(physical),
            entry: notes.number(XenNote::Entry).unwrap_or(kernel.elf.entry),
            list: notes.number(XenNote::InitP2m),
            hypercall_page,
            module_by_frame: notes.number(XenNote::ModStartPfn).is_some_and(|value| value != 0),
        })
    }
}

/// Why a kernel cannot be started so, and what to do.
fn obstacle(kernel: &Vmlinux<'_>, notes: &XenNotes) -> Option<&'static str> {
    if notes.is_empty() {
        return Some(
            "it has no Xen notes (its option XEN_PV is off); use -t full or -t hybrid, or another kernel",
        );
    }
    // A kernel that names Xen's interface but no entry is entered where the ELF header says.
    let named = notes.text(XenNote::XenVersion).is_some_and(|version| version.starts_with("xen-3"));
    if notes.number(XenNote::Entry).is_none() && !(named && enters_at_header(kernel, notes)) {
        return Some(
            "it has no note ENTRY (its option XEN_PV is off); use -t full or -t hybrid, or another kernel",
        );
    }
    if kernel.elf.class != crate::image::ElfClass::Elf64 {
        return Some("it is a 32-bit kernel; use a 64-bit one, or -t full");
    }
    match notes.text(XenNote::Loader) {
        None | Some("generic") => None,
        Some(_) => {
            Some("its note LOADER asks for another loader than `generic`; use another kernel")
        }
    }
}

/// Whether the ELF header's entry lies in the kernel's part of the address space.
fn enters_at_header(kernel: &Vmlinux<'_>, notes: &XenNotes) -> bool {
    let base = notes.number(XenNote::VirtBase).unwrap_or(0);
    let offset = base.wrapping_sub(notes.number(XenNote::PaddrOffset).unwrap_or(0));
    let inside = |start: u64, size: u64| kernel.elf.entry.wrapping_sub(start) < size;
    kernel
        .elf
        .loads()
        .any(|load| inside(load.physical_address.wrapping_add(offset), load.memory_size))
}

/// The guest's memory while it is being filled, by physical frame.
struct Builder<'a> {
    ram: &'a GuestRam,
    layout: &'a Layout,
    /// First frame that is not taken.
    next: u64,
}

impl Builder<'_> {
    /// Takes frames behind what is taken.
    fn take(&mut self, frames: u64) -> Result<u64, BootError> {
        let first = self.next;
        self.next = first.saturating_add(frames);
        if self.next > self.layout.guest_frames {
            let ram = self.layout.guest_frames << 12;
            let end = self.next.saturating_mul(PAGE_SIZE);
            let needed_mib = end.div_ceil(1 << 20).checked_next_multiple_of(64).unwrap_or(u64::MAX);
            return Err(BootError::KernelDoesNotFit { end, ram_mib: ram >> 20, needed_mib });
        }
        Ok(first)
    }

    /// The machine frame of a physical one, which has been taken.
    fn machine(&self, pfn: u64) -> u64 {
        self.layout.machine_frame(pfn).unwrap_or(0)
    }

    /// Calls `part` for the parts of `start..end`, which has been taken, that are contiguous in the machine: with the
    /// machine's address, the distance from `start`, and a size.
    fn parts(
        &self,
        start: u64,
        end: u64,
        mut part: impl FnMut(u64, usize, u64) -> Result<(), GuestMemoryError>,
    ) -> Result<(), BootError> {
        let mut at = start;
        while at < end {
            let first = self.machine(at >> 12);
            let mut stop = (at >> 12) + 1;
            while stop << 12 < end && self.machine(stop) == first + stop - (at >> 12) {
                stop += 1;
            }
            let size = (stop << 12).min(end) - at;
            let address = (first << 12) + at % PAGE_SIZE;
            part(address, (at - start) as usize, size).map_err(|source| BootError::Memory {
                address,
                size: size as usize,
                source,
            })?;
            at += size;
        }
        Ok(())
    }

    /// Writes `bytes` at physical address `at`, which has been taken.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), BootError> {
        self.parts(at, at + bytes.len() as u64, |address, from, size| {
            self.ram.fill(address, &bytes[from..from + size as usize])
        })
    }

    /// Zeroes `start..end`, which has been taken.
    fn zero(&self, start: u64, end: u64) -> Result<(), BootError> {
        self.parts(start, end, |address, _, size| self.ram.fill_zero(address, size))
    }
}

/// Builds a guest in `ram`, which has the size that `layout` says.
///
/// # Errors
///
/// [`BootError`], a sentence that says what is wrong and how to mend it.
pub fn load(ram: &GuestRam, layout: &Layout, config: &BootConfig) -> Result<XenPvGuest, BootError> {
    if config.command_line.as_bytes().contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    let limit = start_info::MAX_COMMAND_LINE - 1;
    if config.command_line.len() > limit {
        let length = config.command_line.len();
        return Err(BootError::CommandLineTooLong { length, limit });
    }
    if !config.modules.is_empty() {
        return Err(refusal("it has no modules; give one initrd instead"));
    }
    let kernel = unpacked(&config.kernel)?;
    let wishes = Wishes::read(&kernel)?;
    let mut builder = Builder { ram, layout, next: 0 };
    load_kernel(&mut builder, &kernel, &wishes)?;
    build(&mut builder, &wishes, config)
}

fn unpacked(kernel: &KernelImage) -> Result<Vmlinux<'_>, BootError> {
    kernel.vmlinux()?.ok_or(refusal("it is no ELF file; give a kernel with Xen's notes"))
}

/// Puts the kernel where its notes say, and the hypercall page into it.
fn load_kernel(
    builder: &mut Builder<'_>,
    kernel: &Vmlinux<'_>,
    wishes: &Wishes,
) -> Result<(), BootError> {
    const OUTSIDE: BootError =
        refusal("its segments lie outside the memory from note VIRT_BASE on");
    // Physical address: the distance from the base of the virtual one.
    let physical = |elf: u64| {
        let address = elf.wrapping_add(wishes.offset).wrapping_sub(wishes.base);
        (address < 1 << 40).then_some(address)
    };
    let mut end = 0;
    for segment in kernel.elf.loads() {
        let start = physical(segment.physical_address).ok_or(OUTSIDE)?;
        end = end.max(start.checked_add(segment.memory_size).ok_or(OUTSIDE)?);
    }
    builder.take(end.div_ceil(PAGE_SIZE))?;
    for segment in kernel.elf.loads() {
        let start = physical(segment.physical_address).ok_or(OUTSIDE)?;
        let bytes = segment.bytes(&kernel.bytes);
        builder.write(start, bytes)?;
        builder.zero(start + bytes.len() as u64, start + segment.memory_size)?;
    }
    if let Some(page) = wishes.hypercall_page {
        let at = page.wrapping_sub(wishes.base);
        if at >= end || !at.is_multiple_of(PAGE_SIZE) {
            return Err(refusal("its note HYPERCALL_PAGE lies outside it"));
        }
        builder.write(at, &hypercall::page())?;
    }
    let entry = wishes.entry.wrapping_sub(wishes.base);
    if entry >= end {
        return Err(BootError::Entry(wishes.entry));
    }
    Ok(())
}

/// Tables of each level that map `start..=last`, beyond the top-level one: levels 3, 2, 1.
fn tables_for(start: u64, last: u64) -> [u64; 3] {
    [39, 30, 21].map(|shift| (last >> shift) - (start >> shift) + 1)
}

/// Everything behind the kernel.
fn build(
    builder: &mut Builder<'_>,
    wishes: &Wishes,
    config: &BootConfig,
) -> Result<XenPvGuest, BootError> {
    let address = |pfn: u64| wishes.base.wrapping_add(pfn << 12);
    let initrd = config.initrd.as_deref().unwrap_or_default();
    let initrd_frames = (initrd.len() as u64).div_ceil(PAGE_SIZE);
    let list_frames = (builder.layout.guest_frames * 8).div_ceil(PAGE_SIZE);
    let mut module = None;
    if !wishes.module_by_frame && !initrd.is_empty() {
        module = Some(builder.take(initrd_frames)?);
    }
    let mut list = None;
    if wishes.list.is_none() {
        list = Some(builder.take(list_frames)?);
    }
    let info = builder.take(1)?;
    let store = builder.take(1)?;
    let console = builder.take(1)?;
    // The tables map themselves, and a stack behind them.
    let tables = builder.next;
    let mut count = 1;
    let end = loop {
        let used = (tables + count + 1) << 12;
        let end = (address(0).wrapping_add(used + SPARE)).next_multiple_of(MAP_ALIGN);
        let needed = 1 + tables_for(wishes.base, end - 1).iter().sum::<u64>();
        if needed == count {
            break end;
        }
        count = needed;
    };
    builder.take(count)?;
    let stack = builder.take(1)?;
    // Memory there is not cannot be mapped.
    let mapped = (end.wrapping_sub(wishes.base) >> 12).min(builder.layout.guest_frames);
    builder.next = builder.next.max(mapped);
    if wishes.module_by_frame && !initrd.is_empty() {
        module = Some(builder.take(initrd_frames)?);
    }
    let mut directory = Directory::new(tables, count);
    let own = tables..tables + count;
    for pfn in 0..mapped {
        let right = if own.contains(&pfn) { 0 } else { paging::WRITE };
        directory.map(address(pfn), pfn, right).ok_or(NO_TABLES)?;
    }
    let mut list_pages = None;
    if let Some(at) = wishes.list {
        let last = at + (list_frames << 12) - 1;
        let extra: u64 = tables_for(at, last).iter().sum();
        let first = builder.take(list_frames + extra)?;
        directory.add_tables(first + list_frames, extra);
        for page in 0..list_frames {
            directory.map(at + (page << 12), first + page, paging::WRITE).ok_or(NO_TABLES)?;
        }
        list = Some(first);
        list_pages = Some((first, list_frames + extra));
    }
    directory.write(builder)?;
    if let Some(module) = module {
        builder.write(module << 12, initrd)?;
        builder.zero((module << 12) + initrd.len() as u64, (module + initrd_frames) << 12)?;
    }
    let list = list.unwrap_or_default();
    write_list(builder, list, list_frames)?;
    for page in [store, console, stack] {
        builder.zero(page << 12, (page + 1) << 12)?;
    }
    let mut bytes = vec![0; PAGE_SIZE as usize];
    let mut put = |at: usize, value: u64, size: usize| {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    put(start_info::PAGES, builder.layout.guest_frames, 8);
    put(start_info::SHARED_INFO, builder.layout.shared_info << 12, 8);
    put(start_info::STORE_MFN, builder.machine(store), 8);
    put(start_info::STORE_EVTCHN, STORE_PORT.into(), 4);
    put(start_info::CONSOLE_MFN, builder.machine(console), 8);
    put(start_info::CONSOLE_EVTCHN, CONSOLE_PORT.into(), 4);
    put(start_info::PT_BASE, address(tables), 8);
    put(start_info::PT_FRAMES, count, 8);
    put(start_info::MFN_LIST, wishes.list.unwrap_or(address(list)), 8);
    if let Some(module) = module {
        put(start_info::MOD_LENGTH, initrd.len() as u64, 8);
        if wishes.module_by_frame {
            put(start_info::FLAGS, start_info::MOD_START_PFN.into(), 4);
            put(start_info::MOD_START, module, 8);
        } else {
            put(start_info::MOD_START, address(module), 8);
        }
    }
    if let Some((first, frames)) = list_pages {
        put(start_info::FIRST_P2M_PFN, first, 8);
        put(start_info::P2M_FRAMES, frames, 8);
    }
    let magic = version::START_MAGIC.as_bytes();
    bytes[start_info::MAGIC..start_info::MAGIC + magic.len()].copy_from_slice(magic);
    let line = config.command_line.as_bytes();
    let at = start_info::COMMAND_LINE;
    bytes[at..at + line.len()].copy_from_slice(line);
    builder.write(info << 12, &bytes)?;
    let top = address(stack + 1);
    let root = builder.machine(tables);
    Ok(XenPvGuest {
        state: initial_state(wishes.entry, top, address(info), root),
        root,
        stack: top,
        console_frame: builder.machine(console),
        store_frame: builder.machine(store),
    })
}

const NO_TABLES: BootError = refusal("its notes VIRT_BASE and INIT_P2M contradict each other");

/// Writes the list of machine frames by physical frame.
fn write_list(builder: &Builder<'_>, first: u64, frames: u64) -> Result<(), BootError> {
    /// Frames of the list that are written at once.
    const PART: usize = 128;
    let mut bytes = Vec::with_capacity(PART * PAGE_SIZE as usize);
    for page in (0..frames).step_by(PART) {
        bytes.clear();
        for pfn in page * ENTRIES..(page + PART as u64).min(frames) * ENTRIES {
            let machine = builder.layout.machine_frame(pfn).unwrap_or(u64::MAX);
            bytes.extend_from_slice(&machine.to_le_bytes());
        }
        builder.write((first + page) << 12, &bytes)?;
    }
    Ok(())
}

/// Page tables being made, by physical frame; the first is the top-level one.
struct Directory {
    root: u64,
    free: Vec<u64>,
    /// Entries by table and index: a physical frame, and bits.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    tables: Vec<u64>,
}

impl Directory {
    fn new(first: u64, count: u64) -> Self {
        let mut directory =
            Self { root: first, free: Vec::new(), entries: BTreeMap::new(), tables: vec![first] };
        directory.add_tables(first + 1, count - 1);
        directory
    }

    fn add_tables(&mut self, first: u64, count: u64) {
        self.free.extend((first..first + count).rev());
        self.tables.extend(first..first + count);
    }

    /// Maps a page; `None` if there are too few tables.
    fn map(&mut self, address: u64, pfn: u64, right: u64) -> Option<()> {
        let mut table = self.root;
        for level in (2..=4).rev() {
            let index = address >> (12 + (level - 1) * 9) & (ENTRIES - 1);
            table = match self.entries.get(&(table, index)) {
                Some(&(next, _)) => next,
                None => {
                    let next = self.free.pop()?;
                    self.entries.insert((table, index), (next, LINK));
                    next
                }
            };
        }
        let bits = paging::PRESENT | paging::ACCESSED | right;
        self.entries.insert((table, address >> 12 & (ENTRIES - 1)), (pfn, bits));
        Some(())
    }

    fn write(&self, builder: &Builder<'_>) -> Result<(), BootError> {
        for &table in &self.tables {
            let mut bytes = vec![0; PAGE_SIZE as usize];
            for ((_, index), &(pfn, bits)) in self.entries.range((table, 0)..(table + 1, 0)) {
                let entry = builder.machine(pfn) << 12 | bits;
                let at = *index as usize * 8;
                bytes[at..at + 8].copy_from_slice(&entry.to_le_bytes());
            }
            builder.write(table << 12, &bytes)?;
        }
        Ok(())
    }
}

/// The first vCPU: 64-bit code at the least privilege, with Xen's flat segments.
fn initial_state(entry: u64, stack: u64, info: u64, root: u64) -> CpuState {
    let flat = |selector: u16| {
        let found = RESERVED_DESCRIPTORS.iter().find(|(known, _)| *known == selector & !7);
        let (base, limit, attributes) = decode(found.map_or(0, |(_, descriptor)| *descriptor));
        Segment { selector, base, limit, attributes }
    };
    let null = Segment { attributes: attr::UNUSABLE | 3 << attr::DPL_SHIFT, ..Segment::default() };
    let system = |kind| Segment { attributes: attr::P | kind, ..Segment::default() };
    let mut state = CpuState::reset();
    state.gpr = [0; 16];
    state.gpr[gpr::RSP] = stack;
    state.gpr[gpr::RSI] = info;
    state.rip = entry;
    state.rflags = RFlags::IF.bits() | 2;
    state.segments = Segments {
        cs: flat(FLAT_RING3_CS64),
        ss: flat(FLAT_RING3_SS),
        es: null,
        ds: null,
        fs: null,
        gs: null,
        ldtr: Segment { attributes: attr::UNUSABLE | system_type::LDT, ..null },
        tr: system(system_type::TSS_BUSY),
    };
    (state.gdtr, state.idtr) = (TableRegister::default(), TableRegister::default());
    state.control = Control {
        cr0: (Cr0::PG | Cr0::AM | Cr0::WP | Cr0::NE | Cr0::ET | Cr0::MP | Cr0::PE).bits(),
        cr3: root << 12,
        cr4: (Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT).bits(),
        efer: (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits(),
        ..state.control
    };
    state
}
