//! A guest driven by bytes.

use crate::cpu::{Cached, Cpu};
use ambos_clock::VmClock;
use ambos_intercept::{Ledger, UnservedLog};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_vcpu::{Attention, Exception, GuestCpu, Request, Resume, Stop, Supervisor, Trap};
use ambos_x86::Vector;
use ambos_x86::gpr::{R8, R9, R10, RAX, RDI, RDX, RSI, RSP};
use ambos_x86::paging::{ACCESSED, ADDRESS_MASK, DIRTY, PRESENT, USER, WRITE};
use ambos_xen::{Domain, DomainConfig, Frames, Host, Layout, Processor, Start, XenVcpu};
use ambos_xen_abi::Hypercall;
use ambos_xen_abi::grant::op;
use ambos_xen_abi::mmu::{HYPERVISOR_FIRST_SLOT, HYPERVISOR_LAST_SLOT, HYPERVISOR_START, ext};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Linear addresses of physical frame 0, in the lower and in the upper half.
const WINDOWS: [u64; 2] = [0x10_0000_0000, 0xffff_8810_0000_0000];
/// Physical frames of the page tables at the start, top first.
const TABLES: [u64; 4] = [0x10, 0x11, 0x12, 0x13];
/// Physical frames that become page tables of a second address space, if the bytes say so.
const SPARE: [u64; 4] = [0x18, 0x19, 0x1a, 0x1b];
/// Physical frames that may become further top-level tables: more than are remembered.
const ROOTS: std::ops::Range<u64> = 0x60..0x6c;
/// Pages mapped at the start.
const MAPPED: u64 = 128;
/// Where arguments in memory lie, in a window.
const BUFFER: u64 = 0x1000;
const STACK: u64 = 0x8000;
const HANDLER: u64 = 0x2000;
/// The selector of the kernel's code.
const KERNEL_CODE: u64 = 0xe033;
/// The guest's own domain, in requests that name one.
const SELF: u64 = 0x7ff0;
/// Frames of the grant table and of its entries' status, which follow the shared page and which the guest may map.
const GRANT_FRAMES: u64 = 64 + 8;
/// Requests between two looks at the page tables.
const CHECK_EVERY: u32 = 8;

/// Whether the guest has ended itself.
#[derive(Default)]
struct Machine(AtomicBool);

impl Host for Machine {
    fn shutdown(&self, _: u32) {
        self.0.store(true, Ordering::Relaxed);
    }
    fn print(&self, _: &[u8]) {}
    fn away(&self, _: u32, _: bool) {}
    fn forget(&self, _: u32, _: u64, _: Request, _: &mut dyn FnMut()) {}
}

struct Plain;

impl Processor for Plain {
    fn cpuid(&self, _: u32, _: u32) -> [u32; 4] {
        [7; 4]
    }
    fn save_area(&self, _: u64, _: bool) -> u32 {
        576
    }
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: u32, _: u64) -> bool {
        false
    }
}

/// What bytes are left.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn below(&mut self, end: u64) -> Option<u64> {
        Some(u64::from(self.byte()?) % end)
    }

    /// A page, often one of a few.
    fn page(&mut self) -> Option<u64> {
        let byte = u64::from(self.byte()?);
        Some(if byte & 1 == 0 { (byte >> 1).max(9) } else { 0x30 + (byte >> 1 & 3) })
    }

    fn word(&mut self) -> Option<u64> {
        (0..8).try_fold(0, |word, _| Some(word << 8 | u64::from(self.byte()?)))
    }
}

struct Guest {
    cpu: Cpu,
    vcpu: XenVcpu,
    layout: Layout,
    machine: Arc<Machine>,
    /// The window that the guest uses most.
    window: u64,
    /// It does little but change address spaces.
    restless: bool,
}

/// Does what the bytes say.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(kind) = input.byte() else { return };
    let window = WINDOWS[usize::from(kind >> 1 & 1)];
    let mut guest = Guest::new(kind & 1 != 0, window, kind & 4 != 0, kind & 8 != 0);
    for count in 0.. {
        if guest.step(&mut input).is_none() || guest.machine.0.load(Ordering::Relaxed) {
            break;
        }
        if count % CHECK_EVERY == 0 {
            guest.check_tables();
        }
    }
    guest.check_tables();
    if !guest.machine.0.load(Ordering::Relaxed) {
        guest.check_flush();
    }
}

impl Guest {
    /// A guest whose pages are mapped once more, after themselves, if `twice` holds: the table is then one
    /// that is reached from many places. They are mapped in `window`, and with `both` in the other one as well.
    fn new(twice: bool, window: u64, both: bool, restless: bool) -> Self {
        let layout = Layout::new(4 << 20);
        let ram = Arc::new(GuestRam::new(layout.ram_size()).unwrap());
        let frame = |pfn| layout.machine_frame(pfn).unwrap();
        let slots = [window >> 39, window >> 30, window >> 21].map(|index| index & 511);
        // The second address space is like the first, but not yet tables.
        for tables in [TABLES, SPARE] {
            for (level, slot) in slots.into_iter().enumerate() {
                let next = frame(tables[level + 1]) << 12 | PRESENT | WRITE | USER;
                ram.store_word((frame(tables[level]) << 12) + slot * 8, next);
            }
            for page in 0..MAPPED {
                let tables = [TABLES, SPARE].concat();
                let read_only = tables.contains(&page) || ROOTS.contains(&page);
                let right = if read_only { 0 } else { WRITE };
                let entry = frame(page) << 12 | PRESENT | ACCESSED | DIRTY | right;
                ram.store_word((frame(tables[3]) << 12) + page * 8, entry);
            }
        }
        if twice {
            let table = frame(TABLES[2]) << 12;
            ram.store_word(table + (slots[2] + 1) * 8, ram.load_word(table + slots[2] * 8));
        }
        let top = |index| (frame(TABLES[0]) << 12) + index * 8;
        if both {
            for window in WINDOWS {
                ram.store_word(top(window >> 39 & 511), ram.load_word(top(slots[0])));
            }
        }
        for (root, index) in ROOTS.flat_map(|root| (0..512).map(move |index| (root, index))) {
            ram.store_word((frame(root) << 12) + index * 8, ram.load_word(top(index)));
        }
        // Every other one has other tables in the window that is used less.
        for root in ROOTS.filter(|root| both && root % 2 != 0) {
            for other in WINDOWS.into_iter().filter(|other| *other != window) {
                let at = (frame(root) << 12) + (other >> 39 & 511) * 8;
                ram.store_word(at, frame(SPARE[1]) << 12 | PRESENT | WRITE | USER);
            }
        }
        let machine = Arc::new(Machine::default());
        let (clock, _) = VmClock::manual();
        let domain = Domain::new(DomainConfig {
            frames: Frames::new(Arc::clone(&ram), layout),
            host: Arc::clone(&machine) as Arc<dyn Host>,
            clock,
            unserved: Arc::new(UnservedLog::default()),
            attentions: vec![Arc::new(Attention::default()), Arc::new(Attention::default())],
            tsc_hz: 1_000_000_000,
            unix_time_ns: 0,
            console_frame: frame(0x20),
            store_frame: frame(0x21),
        });
        let start = Some(Start { root: frame(TABLES[0]), stack: window + STACK });
        let mut vcpu = XenVcpu::new(domain, 0, Arc::new(Ledger::default()), Box::new(Plain), start);
        let mut cpu = Cpu::new(ram);
        assert_eq!(vcpu.trap(&mut cpu, Trap::Event), Resume::Run);
        let mut guest = Self { cpu, vcpu, layout, machine, window, restless };
        // With handlers for everything it survives more.
        for vector in 0..32 {
            guest.put(2 * vector, &[vector | KERNEL_CODE << 16, window + HANDLER]);
        }
        guest.put(64, &[0, 0]);
        guest.call(Hypercall::SetTrapTable as u64, &[window + BUFFER]);
        guest.call(Hypercall::SetCallbacks as u64, &[window + HANDLER; 3]);
        guest
    }

    /// One thing that the guest does; `None` at the end of the bytes or of the guest.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        self.cpu.state.gpr[RSP] = self.window + STACK;
        self.cpu.state.rip = self.window + HANDLER;
        let kind = input.byte()?;
        let choice = if self.restless { [0, 6, 9, 9][usize::from(kind & 3)] } else { kind % 16 };
        match choice {
            0..=2 => {
                let (frame, index) = (input.page()?, input.below(64)?);
                let value = if input.below(2)? == 0 { 0 } else { self.value(input)? };
                // What the guest may not write it does not.
                let window =
                    if kind & 32 == 0 { self.window } else { WINDOWS[usize::from(kind >> 6 & 1)] };
                let frame = if self.restless { 0x30 | frame & 3 } else { frame };
                let at = window + (frame << 12) + index * 8;
                let _ = self.cpu.read(at, &mut [0; 8]);
                let _ = self.cpu.write(at, &value.to_le_bytes());
                Some(())
            }
            3..=5 => self.change_mapping(input),
            6..=8 if self.restless => self.change_few(input),
            6..=8 => self.change_tables(input),
            9 | 10 => self.extended(input),
            11 => {
                let entries = 1 + input.below(4)?;
                for entry in 0..entries {
                    let call = input.below(Hypercall::TABLE.len() as u64)?;
                    let call = match Hypercall::TABLE[call as usize].0 {
                        Hypercall::Iret if input.byte()? > 10 => 0,
                        call => call as u64,
                    };
                    let mut words = [call, 0, 0, 0, 0, 0, 0, 0];
                    for word in &mut words[2..6] {
                        *word = self.value(input)?;
                    }
                    self.put(8 * entry, &words);
                }
                self.call(Hypercall::Multicall as u64, &[self.window + BUFFER, entries])
            }
            12 => self.exception(input),
            13 => self.granting(input),
            _ => {
                // Most returns end the guest: their frames are random.
                let call = match input.below(48)? {
                    call if call == Hypercall::Iret as u64 && input.byte()? > 10 => 0,
                    call => call,
                };
                let mut arguments = [0; 6];
                for argument in &mut arguments[..4] {
                    *argument = self.value(input)?;
                }
                for index in 0..input.below(6)? {
                    let value = self.value(input)?;
                    self.put(index, &[value]);
                }
                self.call(call, &arguments)
            }
        }
    }

    fn change_mapping(&mut self, input: &mut Input<'_>) -> Option<()> {
        let page = input.page()?;
        let at = self.window + (page << 12);
        let entry = match input.below(4)? {
            0 => self.frame(page) << 12 | PRESENT | ACCESSED | DIRTY,
            1 => self.frame(page) << 12 | PRESENT | ACCESSED | DIRTY | WRITE,
            _ => self.entry(input)?,
        };
        let flush = input.below(3)?;
        self.call(Hypercall::UpdateVaMapping as u64, &[at, entry, flush])
    }

    /// Changes an entry on the way to one of few pages.
    fn change_few(&mut self, input: &mut Input<'_>) -> Option<()> {
        let byte = input.byte()?;
        let tables = [TABLES, SPARE][usize::from(byte & 1)];
        let (table, slot, frame) = match byte >> 1 & 7 {
            0 => (tables[1], self.window >> 30 & 511, TABLES[2]),
            1 => (tables[1], self.window >> 30 & 511, SPARE[2]),
            kind @ (2 | 3) => {
                let root = ROOTS.start + input.below(ROOTS.end - ROOTS.start)?;
                let slot = WINDOWS[usize::from(byte >> 4 & 1)] >> 39 & 511;
                (root, slot, [TABLES[1], SPARE[1], root][input.below(kind.into())? as usize])
            }
            _ => (tables[3], 0x30 + input.below(4)?, 0x30 + input.below(4)?),
        };
        let self_map = if table == frame { 0 } else { WRITE };
        let entry = self.frame(frame) << 12 | PRESENT | USER | self_map;
        self.put(0, &[(self.frame(table) << 12) + slot * 8, entry]);
        self.call(Hypercall::MmuUpdate as u64, &[self.window + BUFFER, 1, 0, SELF])
    }

    fn change_tables(&mut self, input: &mut Input<'_>) -> Option<()> {
        let count = 1 + input.below(3)?;
        for index in 0..count {
            let table = match input.below(4)? {
                0 => TABLES[3],
                1 => TABLES[input.below(4)? as usize],
                2 => SPARE[input.below(4)? as usize],
                _ => input.below(MAPPED)?,
            };
            let slot = match input.below(3)? {
                0 => u64::from(input.byte()?),
                1 => self.window >> 30 & 511,
                _ => 255 + input.below(18)?,
            };
            let address = (self.frame(table) << 12) + slot * 8;
            let kind = [0, 0, 0, 2, 1, 3][input.below(6)? as usize];
            let value = self.entry(input)?;
            self.put(2 * index, &[address | kind, value]);
        }
        self.call(Hypercall::MmuUpdate as u64, &[self.window + BUFFER, count, 0, SELF])
    }

    fn extended(&mut self, input: &mut Input<'_>) -> Option<()> {
        let command = match input.below(if self.restless { 3 } else { 4 })? {
            0 | 1 => input.below(5)?,
            2 => u64::from([ext::NEW_BASEPTR, ext::NEW_USER_BASEPTR][input.below(2)? as usize]),
            _ => input.below(22)?,
        };
        let frame = match input.below(8)? {
            0 => TABLES[0],
            1 => SPARE[0],
            2..=4 => ROOTS.start + input.below(ROOTS.end - ROOTS.start)?,
            5 => SPARE[input.below(4)? as usize],
            _ => input.page()?,
        };
        let first = if input.below(8)? == 0 { self.value(input)? } else { self.frame(frame) };
        let second = self.value(input)?;
        self.put(0, &[command, first, second]);
        self.call(Hypercall::MmuextOp as u64, &[self.window + BUFFER, 1, 0, SELF])?;
        if self.cpu.state.gpr[RAX] == 0 {
            if [ext::TLB_FLUSH_LOCAL, ext::NEW_BASEPTR].map(u64::from).contains(&command) {
                self.check_cached();
            } else if command <= u64::from(ext::PIN_L4_TABLE) {
                let writable = |cached: &Cached| cached.writable && cached.frame == first;
                assert!(!self.cpu.cached.values().any(writable), "pinned, but writable");
            }
        }
        Some(())
    }

    /// Writes an entry of the grant table, or maps, unmaps or copies what it grants.
    fn granting(&mut self, input: &mut Input<'_>) -> Option<()> {
        let own = Domain::ID.0.into();
        let reference = input.below(4)?;
        let linear = self.window + (input.page()? << 12);
        let frame = self.frame(input.page()?);
        let operation = match input.below(8)? {
            0..=2 => {
                let flags = u64::from(input.byte()?) & 7 | 1;
                let entry = (self.layout.grants << 12) + reference * 8;
                self.cpu.ram.store_word(entry, frame << 32 | own << 16 | flags);
                return Some(());
            }
            3 | 4 => {
                let flags = input.below(32)? | reference << 32;
                let entry = (self.frame(TABLES[3]) << 12) + input.below(MAPPED)? * 8;
                let address = if flags & 16 == 0 { linear } else { entry };
                self.put(0, &[address, flags, own, 0]);
                op::MAP_GRANT_REF
            }
            kind @ (5 | 6) => {
                let second =
                    if kind == 5 { frame << 12 } else { self.window + (input.page()? << 12) };
                self.put(0, &[linear, second, input.below(4)?]);
                if kind == 5 { op::UNMAP_GRANT_REF } else { op::UNMAP_AND_REPLACE }
            }
            _ => {
                let flags = input.below(4)?;
                let end = |granted: bool| if granted { [reference, own] } else { [frame, SELF] };
                let (from, to) = (end(flags & 1 != 0), end(flags & 2 != 0));
                self.put(0, &[from[0], from[1], to[0], to[1], 64 | flags << 16]);
                op::COPY
            }
        };
        self.call(Hypercall::GrantTableOp as u64, &[operation, self.window + BUFFER, 1])
    }

    fn exception(&mut self, input: &mut Input<'_>) -> Option<()> {
        let address = self.window + (input.below(MAPPED)? << 12) + input.below(32)? * 8;
        let trap = match input.below(4)? {
            0 => Trap::Event,
            1 => Trap::SoftwareInterrupt { vector: input.byte()?, length: 2 },
            2 => {
                self.cpu.state.rip = address;
                Trap::Exception(Exception {
                    vector: Vector::GeneralProtection,
                    error: 0,
                    address: 0,
                })
            }
            _ => Trap::Exception(Exception { vector: Vector::PageFault, error: 7, address }),
        };
        let resume = self.vcpu.trap(&mut self.cpu, trap);
        self.resume(resume, input.byte()?)
    }

    /// A number of some use.
    fn value(&self, input: &mut Input<'_>) -> Option<u64> {
        Some(match input.byte()? % 10 {
            0 | 1 => u64::from(input.byte()?),
            2 => SELF,
            3 => self.frame(input.below(MAPPED)?),
            4 => self.window + (input.below(MAPPED)? << 12) + u64::from(input.byte()?) * 16,
            5 => self.window + BUFFER + u64::from(input.byte()?) * 8,
            6 => self.entry(input)?,
            7 => u64::from(input.byte()?),
            8 => [u64::MAX, HYPERVISOR_START, 1 << 31, 1 << 32, 1 << 63, u64::MAX - 3]
                [input.below(6)? as usize],
            _ => input.word()?,
        })
    }

    /// An entry of a page table.
    fn entry(&self, input: &mut Input<'_>) -> Option<u64> {
        let frame = match input.byte()? % 8 {
            0 => TABLES[input.below(4)? as usize],
            1 | 2 => SPARE[input.below(4)? as usize],
            3 => return Some(u64::from(input.byte()?) << 12 | 7),
            4 => return Some(0),
            _ => input.page()?,
        };
        let bits = [PRESENT, PRESENT | WRITE, PRESENT | USER, PRESENT | WRITE | USER];
        let more = u64::from(input.byte()?);
        let rare = if more > 250 { more } else { 0 };
        Some(self.frame(frame) << 12 | bits[(more & 3) as usize] | rare)
    }

    fn frame(&self, pfn: u64) -> u64 {
        self.layout.machine_frame(pfn).unwrap()
    }

    /// Puts arguments into memory past all protection.
    fn put(&self, index: u64, words: &[u64]) {
        let at = (self.frame(1) << 12) + index * 8;
        for (word, offset) in words.iter().zip((0..).step_by(8)) {
            self.cpu.ram.memory().write_obj(*word, GuestPhysAddr(at + offset)).unwrap();
        }
    }

    fn call(&mut self, number: u64, arguments: &[u64]) -> Option<()> {
        let mut arguments = arguments.to_vec();
        let mut number = number;
        // A call that is not done at once is made again.
        for _ in 0..10_000 {
            let rip = self.cpu.state.rip;
            let gpr = &mut self.cpu.state.gpr;
            gpr[RAX] = number;
            for (register, value) in [RDI, RSI, RDX, R10, R8, R9].into_iter().zip(&arguments) {
                gpr[register] = *value;
            }
            let resume = self.vcpu.trap(&mut self.cpu, Trap::SystemCall);
            let again = resume == Resume::Run && self.cpu.state.rip == rip.wrapping_sub(2);
            self.resume(resume, 0)?;
            if !again {
                return Some(());
            }
            self.cpu.state.rip = rip;
            let gpr = &self.cpu.state.gpr;
            number = gpr[RAX];
            arguments = [RDI, RSI, RDX, R10, R8, R9].map(|register| gpr[register]).to_vec();
        }
        panic!("hypercall {number} is never done");
    }

    /// Goes on after a trap.
    fn resume(&mut self, resume: Resume, byte: u8) -> Option<()> {
        match resume {
            Resume::Run => Some(()),
            Resume::Stop(stop) => match *stop {
                Stop::Crashed(_) | Stop::WaitForStartUp => None,
                _ => Some(()),
            },
            Resume::Substitute { linear, frame } => {
                // The instruction writes one word, or faults elsewhere.
                let value = self.frame(u64::from(byte) % MAPPED) << 12 | u64::from(byte & 7);
                self.cpu.ram.store_word(frame + (linear & 0xff8), value);
                let next = self.vcpu.emulated(&mut self.cpu, byte < 200);
                self.resume(next, byte)
            }
        }
    }

    /// Whether the guest may have a mapping of the frame.
    fn is_guests(&self, frame: u64) -> bool {
        let shared = self.layout.shared_info..self.layout.shared_info + 1 + GRANT_FRAMES;
        let ram = self.layout.reserve..self.layout.end;
        ram.contains(&frame) || shared.contains(&frame)
    }

    /// No page table is writable, by the tables in use or by anything cached, and all mapped frames are
    /// the guest's.
    fn check_tables(&self) {
        let mut tables = BTreeSet::from([self.cpu.space.0 >> 12]);
        let mut left = vec![(self.cpu.space.0 >> 12, 4u8)];
        let mut mapped = Vec::new();
        while let Some((table, level)) = left.pop() {
            for index in 0..512 {
                if level == 4 && (HYPERVISOR_FIRST_SLOT..=HYPERVISOR_LAST_SLOT).contains(&index) {
                    continue;
                }
                let entry = self.cpu.ram.load_word((table << 12) + index as u64 * 8);
                let frame = (entry & ADDRESS_MASK) >> 12;
                if entry & PRESENT == 0 {
                    continue;
                }
                assert!(self.is_guests(frame), "frame {frame:#x} in a table of level {level}");
                if level == 1 {
                    mapped.push((frame, entry & WRITE != 0));
                } else if tables.insert(frame) {
                    left.push((frame, level - 1));
                }
            }
        }
        for (frame, writable) in mapped {
            assert!(!writable || !tables.contains(&frame), "table {frame:#x} is writable");
        }
        for cached in self.cpu.cached.values() {
            let bad = cached.writable && tables.contains(&cached.frame);
            assert!(!bad, "table {:#x} is writable by a stale translation", cached.frame);
        }
    }

    /// After a flush nothing cached allows more than the tables do.
    fn check_flush(&mut self) {
        self.put(0, &[ext::TLB_FLUSH_LOCAL.into(), 0, 0]);
        let done = self.call(Hypercall::MmuextOp as u64, &[self.window + BUFFER, 1, 0, SELF]);
        if done.is_some() && self.cpu.state.gpr[RAX] == 0 {
            self.check_cached();
        }
    }

    fn check_cached(&self) {
        let space = self.cpu.space.1;
        for (page, cached) in self.cpu.cached.iter().filter(|(page, _)| page.0 == space) {
            let now = self.cpu.walk(page.1 << 12);
            let right = now
                .is_some_and(|now| now.frame == cached.frame && (now.writable || !cached.writable));
            assert!(right, "a stale translation of {:#x} survived a flush", page.1 << 12);
        }
    }
}
