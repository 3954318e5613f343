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

/// The `N` bytes at `offset`; zeroes past the end.
#[inline]
fn part<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let rest = bytes.get(offset..).unwrap_or_default();
    rest.first_chunk().copied().unwrap_or([0; N])
}

/// The 16-bit number at `offset`.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(part(bytes, offset))
}

/// The 32-bit number at `offset`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(part(bytes, offset))
}

/// The 64-bit number at `offset`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(part(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_where_there_are_enough_bytes() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!((u16_at(&bytes, 7), u16_at(&bytes, 8)), (0x0908, 0));
        assert_eq!((u32_at(&bytes, 5), u32_at(&bytes, 6)), (0x0908_0706, 0));
        assert_eq!((u64_at(&bytes, 1), u64_at(&bytes, 2)), (0x0908_0706_0504_0302, 0));
        assert_eq!(u64_at(&bytes, usize::MAX), 0);
    }

    #[test]
    fn xens_part_of_the_address_space_is_refused() {
        assert!(is_guest_range(0, 1 << 47));
        assert!(!is_guest_range(0, (1 << 47) + 1));
        assert!(!is_guest_range(mmu::HYPERVISOR_START, 8));
        assert!(is_guest_range(mmu::HYPERVISOR_END, 8));
        assert!(!is_guest_range(u64::MAX, 8));
    }
}
