//! Exceptions and software interrupts of the guest.

use super::segments::{DescriptorFault, is_descriptor_area};
use super::{Entry, Flow, XenVcpu};
use ambos_vcpu::{Exception, GuestCpu};
use ambos_x86::exception::page_fault;
use ambos_x86::{Cr0, Vector};
use ambos_xen_abi::shared_info;

/// Error code of a gate: its vector.
const IDT: u32 = 2;

impl XenVcpu {
    /// Serves an exception: emulates what Xen emulates, else tells the guest's kernel.
    pub(crate) fn exception(&mut self, cpu: &mut dyn GuestCpu, exception: Exception) -> Flow {
        let Exception { vector, error, address } = exception;
        match vector {
            Vector::PageFault => self.page_fault(cpu, address, error),
            Vector::GeneralProtection => {
                if error == 0
                    && let Some(flow) = self.emulate_privileged(cpu)
                {
                    return flow;
                }
                self.raise(cpu, vector, Some(error))
            }
            Vector::InvalidOpcode => match self.emulate_forced(cpu) {
                Some(flow) => flow,
                None => self.raise(cpu, vector, None),
            },
            Vector::DeviceNotAvailable => {
                let mut control = cpu.control();
                control.cr0 &= !Cr0::TS.bits();
                cpu.set_control(control);
                self.raise(cpu, vector, None)
            }
            _ => self.raise(cpu, vector, vector.has_error_code().then_some(error)),
        }
    }

    fn page_fault(&mut self, cpu: &mut dyn GuestCpu, address: u64, error: u32) -> Flow {
        if is_descriptor_area(address) && error & page_fault::USER == 0 {
            match self.descriptor_fault(cpu, address) {
                DescriptorFault::Mapped => {
                    cpu.flush_page(address);
                    return Flow::Guest;
                }
                DescriptorFault::Page(address) => {
                    return self.raise_page_fault(cpu, address, error);
                }
                DescriptorFault::Selector(selector) => {
                    return self.raise(cpu, Vector::GeneralProtection, Some(selector));
                }
                DescriptorFault::Other => {}
            }
        }
        if let Some(flow) = self.emulate_table_write(cpu, address, error) {
            return flow;
        }
        self.raise_page_fault(cpu, address, error)
    }

    /// Tells the guest's kernel of a page fault.
    pub(crate) fn raise_page_fault(
        &mut self,
        cpu: &mut dyn GuestCpu,
        address: u64,
        error: u32,
    ) -> Flow {
        let mut control = cpu.control();
        control.cr2 = address;
        cpu.set_control(control);
        self.domain.ram.store_word(self.info() + shared_info::vcpu::CR2, address);
        let user = if self.kernel_mode { 0 } else { page_fault::USER };
        self.raise(cpu, Vector::PageFault, Some(error & !page_fault::USER | user))
    }

    /// Tells the guest's kernel of an exception.
    pub(crate) fn raise(
        &mut self,
        cpu: &mut dyn GuestCpu,
        vector: Vector,
        error: Option<u32>,
    ) -> Flow {
        let handler = self.traps[vector as usize];
        if handler.address == 0 {
            let address = cpu.control().cr2;
            let mnemonic = vector.mnemonic();
            return Flow::Crash(format!(
                "the guest's kernel has no handler for {mnemonic} (error {:#x}, CR2 {address:#x})",
                error.unwrap_or_default()
            ));
        }
        let entry = Entry { address: handler.address, mask: handler.masks_events(), error };
        self.enter_kernel(cpu, entry)
    }

    /// Serves INT n, with the instruction pointer after it.
    pub(crate) fn software_interrupt(
        &mut self,
        cpu: &mut dyn GuestCpu,
        vector: u8,
        length: u8,
    ) -> Flow {
        let handler = self.traps[usize::from(vector)];
        // INT3 and INTO have gates that anyone may use; so has INT 0x80.
        let open = vector == Vector::Breakpoint as u8 || vector == Vector::Overflow as u8;
        if !open && (handler.address == 0 || !handler.permits_software(self.kernel_mode)) {
            cpu.set_rip(cpu.rip().wrapping_sub(length.into()));
            let error = u32::from(vector) << 3 | IDT;
            return self.raise(cpu, Vector::GeneralProtection, Some(error));
        }
        let entry = Entry { address: handler.address, mask: handler.masks_events(), error: None };
        self.enter_kernel(cpu, entry)
    }
}
