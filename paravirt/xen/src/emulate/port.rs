//! Port accesses: permitted or not, there is nothing behind any port.

use super::Emulated;
use crate::bytes;
use crate::vcpu::XenVcpu;
use ambos_intercept::{Device, Intercept};
use ambos_vcpu::GuestCpu;
use ambos_x86::gpr::{RAX, RDX};
use ambos_xen_abi::callback::ASSIST_ARCHITECTURAL_IOPL;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The counters of the timer chip, which kernels read in a loop to measure other clocks: they stand at zero, so that
/// the loop ends at once.
const TIMER_PORTS: std::ops::RangeInclusive<u16> = 0x40..=0x43;

impl XenVcpu {
    /// Whether the I/O privilege level permits what depends on it. The guest's kernel counts as level 1, or as 0 if it
    /// asked for that.
    pub(crate) fn has_port_privilege(&self) -> bool {
        let level = match self.kernel_mode {
            true if self.domain.assists(ASSIST_ARCHITECTURAL_IOPL) => 0,
            true => 1,
            false => 3,
        };
        level <= self.iopl >> 12 & 3
    }

    /// Whether the guest's own bitmap permits it.
    fn bitmap_permits(&mut self, cpu: &mut dyn GuestCpu, port: u16, size: u32) -> bool {
        let (bitmap, bits) = self.io_bitmap;
        if u32::from(port) + size > bits {
            return false;
        }
        // The bitmap is the kernel's.
        let from_user = !self.kernel_mode;
        if from_user {
            self.toggle_mode(cpu);
        }
        let word = bytes::read::<2>(cpu, bitmap.wrapping_add(u64::from(port / 8)));
        if from_user {
            self.toggle_mode(cpu);
        }
        let mask = ((1u32 << size) - 1) << (port % 8);
        word.is_ok_and(|word| u32::from(u16::from_le_bytes(word)) & mask == 0)
    }

    /// IN and OUT.
    pub(super) fn port_access(
        &mut self,
        cpu: &mut dyn GuestCpu,
        instruction: &Instruction,
    ) -> Emulated {
        let input = instruction.mnemonic() == Mnemonic::In;
        let (data, address) = if input { (0, 1) } else { (1, 0) };
        let size = instruction.op_register(data).size() as u32;
        let port = match instruction.op_kind(address) {
            OpKind::Register => cpu.gpr()[RDX] as u16,
            _ => instruction.immediate(address) as u8 as u16,
        };
        if !self.has_port_privilege() && !self.bitmap_permits(cpu, port, size) {
            return Emulated::Refused;
        }
        self.ledger().count(Intercept::PortIo(Device::NONE));
        let what = if input { "read" } else { "write" };
        self.domain.unserved.record(format!("port {port:#x} {what}"), cpu.rip(), &[]);
        if input {
            let value = if TIMER_PORTS.contains(&port) { 0 } else { u64::MAX };
            let accumulator = &mut cpu.gpr_mut()[RAX];
            *accumulator = match size {
                1 => *accumulator & !0xff | value & 0xff,
                2 => *accumulator & !0xffff | value & 0xffff,
                _ => value & 0xffff_ffff,
            };
        }
        Emulated::Done
    }
}
