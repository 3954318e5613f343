//! Entering the guest's kernel: the frame that it finds on its stack.

use super::{Flow, XenVcpu};
use ambos_vcpu::{GuestCpu, Segment, SegmentName};
use ambos_x86::RFlags;
use ambos_x86::gpr::{R11, RCX, RSP};
use ambos_x86::segment::attr;
use ambos_xen_abi::callback::ASSIST_ARCHITECTURAL_IOPL;
use ambos_xen_abi::mmu::{HYPERVISOR_END, HYPERVISOR_START};
use ambos_xen_abi::segment::{FLAT_RING3_CS64, FLAT_RING3_SS};

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where.
    pub(crate) address: u64,
    /// Whether events are masked from then on.
    pub(crate) mask: bool,
    /// The error code, if the frame has one.
    pub(crate) error: Option<u32>,
}

const FLAT: u32 =
    attr::P | attr::S | attr::READ_WRITE | attr::ACCESSED | attr::G | 3 << attr::DPL_SHIFT;
/// 64-bit code.
pub(crate) const FLAT_CODE: Segment = Segment {
    selector: FLAT_RING3_CS64,
    base: 0,
    limit: u32::MAX,
    attributes: FLAT | attr::CODE | attr::L,
};
/// Data and stack.
pub(crate) const FLAT_DATA: Segment =
    Segment { selector: FLAT_RING3_SS, base: 0, limit: u32::MAX, attributes: FLAT | attr::DB };

/// Flags that a handler does not inherit.
const CLEARED: RFlags =
    RFlags::AC.union(RFlags::VM).union(RFlags::RF).union(RFlags::NT).union(RFlags::TF);

impl XenVcpu {
    /// Enters the guest's kernel.
    pub(crate) fn enter_kernel(&mut self, cpu: &mut dyn GuestCpu, entry: Entry) -> Flow {
        let (mut code, stack_segment) =
            (cpu.segment(SegmentName::Cs).selector, cpu.segment(SegmentName::Ss).selector);
        let old_stack = cpu.gpr()[RSP];
        let top = if self.kernel_mode {
            code &= !3;
            old_stack
        } else {
            self.toggle_mode(cpu);
            self.kernel_stack.1
        };
        let masked = self.events_masked();
        if entry.mask {
            self.mask_events(true);
        }
        let mut flags = cpu.rflags() & !RFlags::IF.bits() & !IOPL;
        if !masked {
            flags |= RFlags::IF.bits();
        }
        if self.domain.assists(ASSIST_ARCHITECTURAL_IOPL) {
            flags |= self.iopl;
        }
        let gpr = cpu.gpr();
        let (rcx, r11) = (gpr[RCX], gpr[R11]);
        let with_code = [
            rcx,
            r11,
            entry.error.unwrap_or(0).into(),
            cpu.rip(),
            u64::from(code) | u64::from(masked) << 32,
            flags,
            old_stack,
            stack_segment.into(),
        ];
        let mut bytes = [0; 64];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(with_code) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let mut frame = &bytes[..];
        if entry.error.is_none() {
            // Without an error code RCX and R11 move up.
            bytes.copy_within(0..16, 8);
            frame = &bytes[8..];
        }
        let at = (top & !0xf).wrapping_sub(frame.len() as u64);
        let inside = at < HYPERVISOR_END && at.wrapping_add(frame.len() as u64) > HYPERVISOR_START;
        if inside || entry.address == 0 {
            let what = if entry.address == 0 { "handler" } else { "stack" };
            return Flow::Crash(format!("the guest's kernel has no {what} for a trap"));
        }
        if let Err(fault) = cpu.write(at, frame) {
            let reason = format!(
                "the guest's kernel stack cannot be written at {:#x} (error {:#x})",
                fault.address, fault.error
            );
            return Flow::Crash(reason);
        }
        cpu.gpr_mut()[RSP] = at;
        cpu.set_rip(entry.address);
        cpu.set_code_and_stack(FLAT_CODE, FLAT_DATA);
        cpu.set_rflags(cpu.rflags() & !CLEARED.bits());
        Flow::Guest
    }
}

/// The I/O privilege level in the flags.
pub(crate) const IOPL: u64 = 3 << 12;
