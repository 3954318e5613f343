//! The ACPI tables: how a guest learns what its PC has (ACPI 6.5).
//!
//! The tables lie in the firmware area below 1 MiB, the RSDP at its start, where kernels that are
//! not told its address search for it. ACPI mode is always on: there is no SMI command port, and no
//! firmware that could be in the way.

mod dsdt;
mod tables;

use ambos_memory::{GuestPhysAddr, GuestRam};
use ambos_pc_map::memory::{ACPI_END, ACPI_START};
use thiserror::Error;
use vm_memory::Bytes;

/// The most vCPUs: their APIC IDs have eight bits, and 255 means all.
pub const MAX_CPUS: u32 = 255;
/// FACS must be aligned to 64 bytes; the others do not mind.
const ALIGN: usize = 64;

/// Why there are no tables.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// No vCPU, or more than the tables can name.
    #[error("a guest can have 1 to {max} vCPUs, not {0}", max = MAX_CPUS)]
    Cpus(u32),
    /// Guest memory does not reach to the tables' place.
    #[error("{0} bytes of guest memory are too little for a PC; give at least 2 MiB")]
    TooLittleMemory(u64),
    /// Guest memory refused the write.
    #[error("cannot write the ACPI tables to guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// Writes the tables for a machine with `cpus` vCPUs and returns the address of the RSDP.
///
/// # Errors
///
/// [`AcpiError`] if the number of vCPUs is unusable or guest memory ends before the tables do.
pub fn write(ram: &GuestRam, cpus: u32) -> Result<u64, AcpiError> {
    if !(1..=MAX_CPUS).contains(&cpus) {
        return Err(AcpiError::Cpus(cpus));
    }
    if ram.size() < ACPI_END {
        return Err(AcpiError::TooLittleMemory(ram.size()));
    }
    let image = image(cpus, ram.size());
    debug_assert!(image.len() as u64 <= ACPI_END - ACPI_START, "tables outgrow their area");
    ram.memory().write_slice(&image, GuestPhysAddr(ACPI_START)).map_err(AcpiError::Write)?;
    Ok(ACPI_START)
}

/// The whole area from [`ACPI_START`] on.
fn image(cpus: u32, ram_size: u64) -> Vec<u8> {
    let mut area = Area { bytes: vec![0; ALIGN] };
    let facs = area.add(&tables::facs());
    let dsdt = area.add(&dsdt::dsdt(cpus, ram_size));
    let entries = [
        area.add(&tables::fadt(facs, dsdt)),
        area.add(&tables::madt(cpus)),
        area.add(&tables::hpet()),
        area.add(&tables::mcfg()),
    ];
    let xsdt = area.add(&tables::xsdt(&entries));
    let rsdp = tables::rsdp(xsdt);
    area.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    area.bytes
}

/// Tables one behind the other, after room for the RSDP.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Adds a table and returns its guest-physical address.
    fn add(&mut self, table: &[u8]) -> u32 {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(table);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        // The area is below 1 MiB.
        (ACPI_START + offset as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{u32_at, u64_at};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn table(image: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI_START) as usize;
        let length = u32_at(image, start + 4).unwrap() as usize;
        &image[start..start + length]
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        for cpus in [1, 2, 16, MAX_CPUS] {
            let image = image(cpus, 512 << 20);
            assert!(image.len() as u64 <= ACPI_END - ACPI_START);
            assert_eq!(&image[..8], b"RSD PTR ");
            assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
            let xsdt = table(&image, u64_at(&image, 24).unwrap());
            assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
            let mut names = Vec::new();
            for entry in xsdt[36..].chunks_exact(8) {
                let found = table(&image, u64_at(entry, 0).unwrap());
                assert_eq!(sum(found), 0);
                names.push(found[..4].to_vec());
                if &found[..4] == b"FACP" {
                    let dsdt = table(&image, u64_at(found, 140).unwrap());
                    assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
                    assert_eq!(u32_at(found, 40).unwrap() as u64, u64_at(found, 140).unwrap());
                    let facs = table(&image, u32_at(found, 36).unwrap().into());
                    assert_eq!((&facs[..4], facs.len()), (&b"FACS"[..], 64));
                    // SMI_CMD 0, PM1a blocks, timer.
                    assert_eq!(u32_at(found, 48), Some(0));
                    assert_eq!(u32_at(found, 56), Some(0x600));
                    assert_eq!(u32_at(found, 64), Some(0x604));
                    assert_eq!(u32_at(found, 76), Some(0x608));
                }
                if &found[..4] == b"APIC" {
                    let processors = (0..cpus).all(|cpu| {
                        let at = 44 + 8 * cpu as usize;
                        found[at..at + 5] == [0, 8, cpu as u8, cpu as u8, 1]
                    });
                    assert!(processors);
                }
            }
            assert_eq!(names, [*b"FACP", *b"APIC", *b"HPET", *b"MCFG"].map(|name| name.to_vec()));
        }
    }

    #[test]
    fn impossible_machines_are_refused() {
        let ram = GuestRam::new(2 << 20).unwrap();
        assert_eq!(write(&ram, 1).unwrap(), 0xe_0000);
        assert!(matches!(write(&ram, 0), Err(AcpiError::Cpus(0))));
        assert!(matches!(write(&ram, 256), Err(AcpiError::Cpus(256))));
        let ram = GuestRam::new(512 << 10).unwrap();
        assert!(matches!(write(&ram, 1), Err(AcpiError::TooLittleMemory(_))));
    }
}
