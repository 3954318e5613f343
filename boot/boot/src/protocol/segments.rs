//! Loading the segments of an ELF file to their physical addresses.

use super::{Boot, BootError};
use crate::image::Loadable;
use ambos_pc_map::memory::{EBDA_START, HIGH_MEMORY_START};

/// Loads all segments, zeroes what the file does not have of them, and returns the end of the highest.
pub(super) fn load(boot: &mut Boot<'_>, kernel: &Loadable<'_>) -> Result<u64, BootError> {
    let mut end = 0;
    for segment in kernel.elf.loads() {
        let start = segment.physical_address;
        place(boot, start, start + segment.memory_size)?;
        zero(boot, start + segment.file_size, start + segment.memory_size)?;
        end = end.max(start + segment.memory_size);
    }
    let boot = &*boot;
    kernel.for_each_part(|segment, at, bytes| boot.write(segment.physical_address + at, bytes))?;
    Ok(end)
}

/// Claims `start..end` for the kernel.
pub(super) fn place(boot: &mut Boot<'_>, start: u64, end: u64) -> Result<(), BootError> {
    if start < end && !boot.layout.take(start, end) {
        return Err(refusal(boot, start, end));
    }
    Ok(())
}

fn refusal(boot: &Boot<'_>, start: u64, end: u64) -> BootError {
    let overlaps = |from: u64, to: u64| start < to && from < end;
    let overlap = |with| BootError::Overlap { start, end, with };
    if overlaps(0, ambos_x86::PAGE_SIZE) {
        return overlap("the interrupt vectors and BIOS data");
    }
    if overlaps(EBDA_START, HIGH_MEMORY_START) {
        return overlap("firmware and video memory");
    }
    let in_ram = boot
        .ram
        .regions()
        .iter()
        .any(|region| region.start <= start && end <= region.start + region.size);
    if in_ram {
        return overlap("another part of the kernel or reserved memory");
    }
    BootError::does_not_fit(boot.ram, end)
}

impl BootError {
    /// The kernel needs RAM up to `end`.
    pub(super) fn does_not_fit(ram: &ambos_memory::GuestRam, end: u64) -> Self {
        Self::KernelDoesNotFit {
            end,
            ram_mib: ram.size() >> 20,
            needed_mib: end.div_ceil(1 << 20).checked_next_multiple_of(64).unwrap_or(u64::MAX),
        }
    }
}

/// Zeroes `start..end`, which has been claimed.
pub(super) fn zero(boot: &Boot<'_>, start: u64, end: u64) -> Result<(), BootError> {
    let size = end.saturating_sub(start);
    boot.ram.fill_zero(start, size).map_err(|source| BootError::Memory {
        address: start,
        size: size as usize,
        source,
    })
}
