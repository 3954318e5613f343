//! Structures of the interface as bytes that the guest has in its memory.

use ambos_vcpu::GuestCpu;
use ambos_xen_abi::{Errno, mmu};

/// Whether the guest may name this range in a hypercall: not Xen's part of the address space.
pub(crate) fn is_guest_range(linear: u64, length: u64) -> bool {
    const LOW_END: u64 = 1 << 47;
    let Some(end) = linear.checked_add(length) else { return false };
    end <= LOW_END || linear >= mmu::HYPERVISOR_END
}

/// Reads a structure of `N` bytes.
pub(crate) fn read<const N: usize>(cpu: &mut dyn GuestCpu, at: u64) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    read_into(cpu, at, &mut bytes)?;
    Ok(bytes)
}

/// Reads bytes.
pub(crate) fn read_into(cpu: &mut dyn GuestCpu, at: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    if !is_guest_range(at, bytes.len() as u64) {
        return Err(Errno::EFAULT);
    }
    cpu.read(at, bytes).map_err(|_| Errno::EFAULT)
}

/// Writes bytes.
pub(crate) fn write(cpu: &mut dyn GuestCpu, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    if !is_guest_range(at, bytes.len() as u64) {
        return Err(Errno::EFAULT);
    }
    cpu.write(at, bytes).map_err(|_| Errno::EFAULT)
}

/// A number of `N` bytes at `offset`; zero past the end.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let part = bytes.get(offset..offset + size).unwrap_or_default();
    part.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The 16-bit number at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    number(bytes, offset, 2) as u16
}

/// The 32-bit number at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    number(bytes, offset, 4) as u32
}

/// The 64-bit number at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    number(bytes, offset, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xens_part_of_the_address_space_is_refused() {
        assert!(is_guest_range(0, 1 << 47));
        assert!(!is_guest_range(0, (1 << 47) + 1));
        assert!(!is_guest_range(mmu::HYPERVISOR_START, 8));
        assert!(is_guest_range(mmu::HYPERVISOR_END, 8));
        assert!(!is_guest_range(u64::MAX, 8));
    }
}
