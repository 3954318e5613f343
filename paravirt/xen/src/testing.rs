//! A domain without an engine, for tests of hypercalls: the guest's memory is mapped at [`WINDOW`], frame by frame.

#[path = "../tests/hostile/registers.rs"]
#[macro_use]
mod registers;

use crate::domain::{Domain, DomainConfig, Frames, Host, Start};
use crate::layout::Layout;
use crate::vcpu::{Processor, XenVcpu};
use ambos_clock::VmClock;
use ambos_intercept::{Ledger, UnservedLog};
use ambos_memory::{Bytes, GuestPhysAddr, GuestRam};
use ambos_vcpu::{Attention, CpuState, GuestCpu, GuestFault, Request, Resume, Supervisor, Trap};
use ambos_x86::gpr::{R8, R9, R10, RAX, RDI, RDX, RSI};
use ambos_x86::paging::{ACCESSED, PRESENT, USER, WRITE};
use ambos_xen_abi::Hypercall;
use std::sync::{Arc, Mutex};

/// Linear address of physical frame 0.
pub(crate) const WINDOW: u64 = 0x10_0000_0000;
/// Physical frames of the test guest's page tables, top first.
pub(crate) const TABLES: [u64; 4] = [0x10, 0x11, 0x12, 0x13];
/// Pages that the test guest's one level-1 table maps, writable but for the tables.
const MAPPED: u64 = 512;

/// A vCPU that runs nothing.
pub(crate) struct FakeCpu {
    pub(crate) state: CpuState,
    pub(crate) ignores_interrupt_flag: bool,
    ram: Arc<GuestRam>,
    layout: Layout,
    pub(crate) flushed_pages: Vec<u64>,
    pub(crate) flushed_spaces: Vec<u16>,
    pub(crate) flushed_of_spaces: Vec<(u16, u64)>,
    pub(crate) flushed_lower_halves: Vec<u16>,
    pub(crate) space: (u64, u16),
}

impl FakeCpu {
    fn address(&self, linear: u64) -> Result<u64, GuestFault> {
        let fault = GuestFault { address: linear, error: 0 };
        let offset = linear.checked_sub(WINDOW).ok_or(fault)?;
        let frame = self.layout.machine_frame(offset >> 12).ok_or(fault)?;
        Ok((frame << 12) + (offset & 0xfff))
    }
}

impl GuestCpu for FakeCpu {
    registers_in_state!();

    fn read(&mut self, linear: u64, data: &mut [u8]) -> Result<(), GuestFault> {
        for (byte, at) in data.iter_mut().zip(linear..) {
            let address = self.address(at)?;
            *byte = self.ram.memory().read_obj(GuestPhysAddr(address)).unwrap();
        }
        Ok(())
    }
    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), GuestFault> {
        for (byte, at) in data.iter().zip(linear..) {
            let address = self.address(at)?;
            self.ram.memory().write_obj(*byte, GuestPhysAddr(address)).unwrap();
        }
        Ok(())
    }
    fn fetch(&mut self, linear: u64, data: &mut [u8]) -> usize {
        self.read(linear, data).map_or(0, |()| data.len())
    }
    fn switch_space(&mut self, root: u64, space: u16) {
        self.space = (root, space);
    }
    fn flush_space(&mut self, space: u16) {
        self.flushed_spaces.push(space);
    }
    fn flush_all(&mut self) {}
    fn flush_page(&mut self, linear: u64) {
        self.flushed_pages.push(linear);
    }
    fn flush_page_of(&mut self, space: u16, linear: u64) {
        self.flushed_of_spaces.push((space, linear));
    }
    fn flush_lower_half_of(&mut self, space: u16) {
        self.flushed_lower_halves.push(space);
    }
    fn protect_frame(&mut self, _: u64) {}
    fn serve_flush(&mut self) {}
    fn wrote_frame(&mut self, _: u64) {}
}

/// What the guest asked of the machine.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) shutdowns: Mutex<Vec<u32>>,
    pub(crate) printed: Mutex<Vec<u8>>,
    pub(crate) forgotten: Mutex<Vec<u64>>,
}

impl Host for Requests {
    fn shutdown(&self, reason: u32) {
        self.shutdowns.lock().unwrap().push(reason);
    }
    fn print(&self, bytes: &[u8]) {
        self.printed.lock().unwrap().extend(bytes);
    }
    fn away(&self, _: u32, _: bool) {}
    fn forget(&self, _: u32, mask: u64, _: Request, _: &mut dyn FnMut()) {
        self.forgotten.lock().unwrap().push(mask);
    }
}

struct Plain;

impl Processor for Plain {
    fn cpuid(&self, leaf: u32, _: u32) -> [u32; 4] {
        [leaf, 7, 7 | ambos_x86::cpuid::leaf1_ecx::XSAVE, 7]
    }
    fn save_area(&self, _: u64, compacted: bool) -> u32 {
        if compacted { 577 } else { 576 }
    }
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: u32, _: u64) -> bool {
        false
    }
}

/// A guest of 16 MiB with one running vCPU and one that is down.
pub(crate) struct Guest {
    pub(crate) cpu: FakeCpu,
    pub(crate) vcpu: XenVcpu,
    pub(crate) domain: Arc<Domain>,
    pub(crate) host: Arc<Requests>,
    pub(crate) unserved: Arc<UnservedLog>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let layout = Layout::new(16 << 20);
        let ram = Arc::new(GuestRam::new(layout.ram_size()).unwrap());
        let frame = |pfn| layout.machine_frame(pfn).unwrap();
        let slots = [WINDOW >> 39, WINDOW >> 30, WINDOW >> 21].map(|index| index & 511);
        for (level, slot) in slots.into_iter().enumerate() {
            let next = frame(TABLES[level + 1]) << 12 | PRESENT | WRITE | USER;
            ram.store_word((frame(TABLES[level]) << 12) + slot * 8, next);
        }
        for page in 0..MAPPED {
            let right = if TABLES.contains(&page) { 0 } else { WRITE };
            let entry = frame(page) << 12 | PRESENT | ACCESSED | right;
            ram.store_word((frame(TABLES[3]) << 12) + page * 8, entry);
        }
        let host = Arc::new(Requests::default());
        let unserved = Arc::new(UnservedLog::default());
        let (clock, _) = VmClock::manual();
        let domain = Domain::new(DomainConfig {
            frames: Frames::new(Arc::clone(&ram), layout),
            host: Arc::clone(&host) as Arc<dyn Host>,
            clock,
            unserved: Arc::clone(&unserved),
            attentions: vec![Arc::new(Attention::default()), Arc::new(Attention::default())],
            tsc_hz: 1_000_000_000,
            unix_time_ns: 0,
            console_frame: frame(0x20),
            store_frame: frame(0x21),
        });
        let start = Some(Start { root: frame(TABLES[0]), stack: WINDOW + 0x8000 });
        let ledger = Arc::new(Ledger::default());
        let mut vcpu = XenVcpu::new(Arc::clone(&domain), 0, ledger, Box::new(Plain), start);
        let mut cpu = FakeCpu {
            state: CpuState::reset(),
            ignores_interrupt_flag: false,
            ram,
            layout,
            flushed_pages: Vec::new(),
            flushed_spaces: Vec::new(),
            flushed_of_spaces: Vec::new(),
            flushed_lower_halves: Vec::new(),
            space: (0, 0),
        };
        assert_eq!(vcpu.trap(&mut cpu, Trap::Event), Resume::Run);
        Self { cpu, vcpu, domain, host, unserved }
    }

    /// Machine frame of a physical one.
    pub(crate) fn frame(&self, pfn: u64) -> u64 {
        self.domain.layout.machine_frame(pfn).unwrap()
    }

    /// Puts words into the guest's page 1 and returns their address.
    pub(crate) fn put(&mut self, words: &[u64]) -> u64 {
        let at = WINDOW + 0x1000;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.cpu.write(at, &bytes).unwrap();
        at
    }

    /// Reads a word of page 1.
    pub(crate) fn word(&mut self, index: u64) -> u64 {
        let mut bytes = [0; 8];
        self.cpu.read(WINDOW + 0x1000 + index * 8, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Issues a hypercall and returns how the vCPU goes on.
    pub(crate) fn trap(&mut self, number: u64, arguments: &[u64]) -> Resume {
        let gpr = &mut self.cpu.state.gpr;
        gpr[RAX] = number;
        for (register, value) in [RDI, RSI, RDX, R10, R8, R9].into_iter().zip(arguments) {
            gpr[register] = *value;
        }
        self.vcpu.trap(&mut self.cpu, Trap::SystemCall)
    }

    /// Issues a hypercall and returns its result.
    pub(crate) fn call(&mut self, call: Hypercall, arguments: &[u64]) -> i64 {
        self.trap(call as u64, arguments);
        self.cpu.state.gpr[RAX] as i64
    }
}
