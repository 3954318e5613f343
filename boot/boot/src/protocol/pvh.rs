//! The PVH protocol (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).
//!
//! The kernel proper is loaded to its physical addresses and entered in 32-bit protected mode with
//! EBX pointing to the start info. Nothing has to be decompressed in the guest: the host did that.

use super::{Boot, BootError, Protocol, cpu, segments};
use crate::image::Loadable;
use ambos_pc_map::memory::LOW_RAM_MAX;
use ambos_vcpu::CpuState;
use ambos_x86::gpr;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

/// The file is no ELF file.
pub(super) const NOT_ELF: BootError = BootError::Protocol {
    protocol: Protocol::Pvh,
    reason: "it is no ELF file; boot it by another protocol",
};
const NO_ENTRY: BootError = BootError::Protocol {
    protocol: Protocol::Pvh,
    reason: "it has no PHYS32_ENTRY note (CONFIG_PVH is off); boot it by the linux64 protocol",
};
/// The longest command line. Kernels have their own, smaller limit, but do not tell it.
const COMMAND_LINE_MAX: usize = 4095;

/// Loads a kernel proper.
pub(super) fn load(boot: &mut Boot<'_>, kernel: &Loadable<'_>) -> Result<CpuState, BootError> {
    boot.refuse_modules(Protocol::Pvh)?;
    let entry = kernel.xen_notes()?.pvh_entry().ok_or(NO_ENTRY)?;
    let inside = |start: u64, size: u64| (start..start + size).contains(&entry.into());
    if !kernel.elf.loads().any(|load| inside(load.physical_address, load.memory_size)) {
        return Err(BootError::Entry(entry.into()));
    }
    segments::load(boot, kernel)?;
    let config = boot.config;
    let command_line = boot.put_command_line(&config.command_line, COMMAND_LINE_MAX)?;
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: command_line,
        rsdp_paddr: boot.rsdp,
        ..hvm_start_info::default()
    };
    if let Some(initrd) = &config.initrd {
        // Linux keeps the address in 32 bits.
        let paddr = boot.put_high("the initrd", initrd, LOW_RAM_MAX)?;
        let module = hvm_modlist_entry { paddr, size: initrd.len() as u64, ..Default::default() };
        info.modlist_paddr = boot.put_low("the module list", module.as_slice(), 16)?;
        info.nr_modules = 1;
    }
    let mut table = Vec::new();
    for entry in boot.map.entries() {
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.size,
            type_: entry.kind as u32,
            reserved: 0,
        };
        table.extend_from_slice(entry.as_slice());
    }
    info.memmap_entries = boot.map.entries().len() as u32;
    info.memmap_paddr = boot.put_low("the memory map", &table, 16)?;
    let info = boot.put_low("the start info", info.as_slice(), 16)?;
    let mut state = cpu::protected(boot, entry)?;
    state.gpr[gpr::RBX] = info;
    Ok(state)
}
