//! The domain builder: a Xen PV guest as Xen's own toolstack starts it (`public/xen.h`, "Start-of-day memory layout").
//!
//! From `VIRT_BASE` on, the kernel finds in its address space, one behind the other: itself, a module if it does not take
//! that by frame, the list of frames if it does not want that elsewhere, the start information, the pages of
//! store and console, the page tables that map all this (read-only), and a stack. Behind these
//! come the module and the list of frames of kernels that want them so.
//!
//! A kernel that wants the list elsewhere is mapped all memory up to the list, as far as one table of level 2 reaches: the
//! interface promises half a mebibyte behind the stack *at least*. Linux makes the beginning of its map of all memory of
//! these tables and leaves the entries that it finds there alone. To make the others it asks for each page's frame, and has
//! the hypervisor check each table, which takes ten times as long.

mod directory;
#[cfg(test)]
mod tests;

use super::{BootConfig, BootError, Protocol};
use crate::image::{Loadable, ProgramHeader, Way, XenNote, XenNotes};
use ambos_memory::GuestRam;
use ambos_vcpu::{Control, CpuState, Segment, Segments, TableRegister};
use ambos_x86::segment::{attr, decode, system_type};
use ambos_x86::{Cr0, Cr4, Efer, PAGE_SIZE, RFlags, gpr, paging};
use ambos_xen::Layout;
use ambos_xen_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS, RESERVED_DESCRIPTORS};
use ambos_xen_abi::{hypercall, start_info, version};
use directory::{Directory, ENTRIES};
use vm_memory::GuestMemoryError;

/// A machine for PV guests is asked for in another way.
pub(super) const OTHER_MACHINE: BootError = refusal("this machine is a PC; use -t para");

/// The initial mapping ends at a multiple of this.
const MAP_ALIGN: u64 = 4 << 20;
/// Mapped memory that a kernel can use at once, at least.
const SPARE: u64 = 512 << 10;
/// Pages of tables that are written at once.
const PART: usize = 8;
/// What one table of level 2 maps.
const LEVEL_2_SPAN: u64 = 1 << 30;
/// The right to write to a page, which then is not to be marked when it is first written to.
const WRITABLE: u64 = paging::WRITE | paging::DIRTY;
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
#[derive(Clone, Copy)]
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
    fn read(kernel: &Loadable<'_>) -> Result<Self, BootError> {
        let notes = kernel.xen_notes()?;
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

    /// The physical address of a segment: its virtual one's distance from the base.
    fn place(&self, segment: &ProgramHeader) -> u64 {
        segment.physical_address.wrapping_add(self.offset).wrapping_sub(self.base)
    }
}

/// Why a kernel cannot be started so, and what to do.
fn obstacle(kernel: &Loadable<'_>, notes: &XenNotes) -> Option<&'static str> {
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
fn enters_at_header(kernel: &Loadable<'_>, notes: &XenNotes) -> bool {
    let base = notes.number(XenNote::VirtBase).unwrap_or(0);
    let offset = base.wrapping_sub(notes.number(XenNote::PaddrOffset).unwrap_or(0));
    let inside = |start: u64, size: u64| kernel.elf.entry.wrapping_sub(start) < size;
    kernel
        .elf
        .loads()
        .any(|load| inside(load.physical_address.wrapping_add(offset), load.memory_size))
}

/// The guest's memory while it is being filled, by physical frame.
#[derive(Clone, Copy)]
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

    /// Some frames, which have been taken, will be written part by part.
    fn expect(&self, first: u64, frames: u64) -> Result<(), BootError> {
        self.parts(first << 12, (first + frames) << 12, |address, _, size| {
            self.ram.use_large_pages(address, size);
            Ok(())
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
    config.kernel.by_any_way(|way| load_by(way, ram, layout, config))
}

fn load_by(
    way: Way,
    ram: &GuestRam,
    layout: &Layout,
    config: &BootConfig,
) -> Result<XenPvGuest, BootError> {
    let kernel = config.kernel.loadable(way)?;
    let kernel = kernel.ok_or(refusal("it is no ELF file; give a kernel with Xen's notes"))?;
    let wishes = Wishes::read(&kernel)?;
    let mut builder = Builder { ram, layout, next: 0 };
    take_kernel(&mut builder, &kernel, &wishes)?;
    // What is copied and what is made up takes as long.
    std::thread::scope(|scope| {
        let copier = builder;
        let copied = scope.spawn(move || copy_kernel(&copier, &kernel, &wishes));
        let built = build(&mut builder, &wishes, config);
        copied.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        built
    })
}

/// Takes the memory where the kernel's notes want it.
fn take_kernel(
    builder: &mut Builder<'_>,
    kernel: &Loadable<'_>,
    wishes: &Wishes,
) -> Result<(), BootError> {
    const OUTSIDE: BootError =
        refusal("its segments lie outside the memory from note VIRT_BASE on");
    let mut places = Vec::new();
    for segment in kernel.elf.loads() {
        let start = wishes.place(segment);
        if start >= 1 << 40 {
            return Err(OUTSIDE);
        }
        places.push((start, start.checked_add(segment.memory_size).ok_or(OUTSIDE)?));
    }
    // They are written in any order.
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(refusal("its segments overlap"));
    }
    let end = places.last().map_or(0, |(_, end)| *end);
    builder.take(end.div_ceil(PAGE_SIZE))?;
    if let Some(page) = wishes.hypercall_page {
        let at = page.wrapping_sub(wishes.base);
        if at >= end || !at.is_multiple_of(PAGE_SIZE) {
            return Err(refusal("its note HYPERCALL_PAGE lies outside it"));
        }
    }
    let entry = wishes.entry.wrapping_sub(wishes.base);
    if entry >= end {
        return Err(BootError::Entry(wishes.entry));
    }
    Ok(())
}

/// Puts the kernel into the memory that it has been given.
fn copy_kernel(
    builder: &Builder<'_>,
    kernel: &Loadable<'_>,
    wishes: &Wishes,
) -> Result<(), BootError> {
    for segment in kernel.elf.loads() {
        let start = wishes.place(segment);
        builder.zero(start + segment.file_size, start + segment.memory_size)?;
    }
    kernel.for_each_part(|segment, at, bytes| builder.write(wishes.place(segment) + at, bytes))?;
    match wishes.hypercall_page {
        Some(page) => builder.write(page.wrapping_sub(wishes.base), &hypercall::page()),
        None => Ok(()),
    }
}

/// Tables of each level that map `start..=last`, beyond the top-level one: levels 3, 2, 1.
fn tables_for(start: u64, last: u64) -> [u64; 3] {
    [39, 30, 21].map(|shift| (last >> shift) - (start >> shift) + 1)
}

/// The end of what is mapped of `frames` frames from `base` on if it is to be much.
fn wide_end(base: u64, frames: u64) -> u64 {
    let span_end = (base | (LEVEL_2_SPAN - 1)).saturating_add(1);
    let memory_end = base.saturating_add(frames << 12);
    span_end.min(memory_end) & !(MAP_ALIGN - 1)
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
    let list_tables = wishes.list.map_or(0, |at| {
        let last = at.wrapping_add((list_frames << 12) - 1).max(at);
        tables_for(at, last).iter().sum()
    });
    let wide = wishes.list.map_or(0, |_| {
        wide_end(wishes.base, builder.layout.guest_frames.saturating_sub(list_frames + list_tables))
    });
    // The tables map themselves, and a stack behind them.
    let tables = builder.next;
    let mut count = 1;
    let (least, end) = loop {
        let used = (tables + count + 1) << 12;
        let least = (address(0).wrapping_add(used + SPARE)).next_multiple_of(MAP_ALIGN);
        let end = least.max(wide);
        let needed = 1 + tables_for(wishes.base, end - 1).iter().sum::<u64>();
        if needed == count {
            break (least, end);
        }
        count = needed;
    };
    builder.take(count)?;
    let stack = builder.take(1)?;
    // Memory there is not cannot be mapped.
    let frames_until =
        |end: u64| (end.wrapping_sub(wishes.base) >> 12).min(builder.layout.guest_frames);
    let (spared, mapped) = (frames_until(least), frames_until(end));
    builder.next = builder.next.max(spared);
    if wishes.module_by_frame && !initrd.is_empty() {
        module = Some(builder.take(initrd_frames)?);
    }
    let mut directory = Directory::new(tables, count);
    let own = tables..tables + count;
    for (pfns, right) in [
        (0..own.start.min(mapped), WRITABLE),
        (own.start.min(mapped)..own.end.min(mapped), 0),
        (own.end.min(mapped)..mapped, WRITABLE),
    ] {
        directory.map(address(pfns.start), pfns, right).ok_or(NO_TABLES)?;
    }
    let mut list_pages = None;
    if let Some(at) = wishes.list {
        // Linux takes everything before the list for mapped.
        builder.next = builder.next.max(mapped);
        let first = builder.take(list_frames + list_tables)?;
        directory.add_tables(first + list_frames, list_tables);
        directory.map(at, first..first + list_frames, WRITABLE).ok_or(NO_TABLES)?;
        list = Some(first);
        list_pages = Some((first, list_frames + list_tables));
    }
    builder.expect(tables, count)?;
    if let Some((first, frames)) = list_pages {
        builder.expect(first, frames)?;
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
