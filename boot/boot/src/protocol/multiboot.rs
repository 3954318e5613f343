//! Multiboot v1 (Multiboot Specification 0.6.96).
//!
//! The kernel is loaded by its ELF segments or by the address fields of its header, and entered in
//! 32-bit protected mode with EAX = magic and EBX pointing to the boot information.

use super::{Boot, BootError, Module, Protocol, cpu, segments};
use crate::bytes::range;
use crate::image::{ImageKind, MultibootAddresses, MultibootHeader, Way};
use ambos_pc_map::memory::{EBDA_START, HIGH_MEMORY_START, LOW_RAM_MAX};
use ambos_vcpu::CpuState;
use ambos_x86::{PAGE_SIZE, gpr};

/// EAX at the entry.
const BOOTLOADER_MAGIC: u64 = 0x2bad_b002;
const LOADER_NAME: &[u8] = b"Ambos\0";
/// The longest command line or module text.
const TEXT_MAX: usize = 4095;
/// The most modules: their list must fit into conventional memory.
const MODULES_MAX: usize = 1024;

const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;

/// Bytes of the boot information up to and including the VBE fields.
const INFO_LEN: usize = 88;

const fn refuse(reason: &'static str) -> BootError {
    BootError::Protocol { protocol: Protocol::Multiboot, reason }
}

/// Loads the configured kernel.
pub(super) fn load(boot: &mut Boot<'_>) -> Result<CpuState, BootError> {
    let kernel = &boot.config.kernel;
    let Some(header) = kernel.multiboot() else {
        return Err(refuse(match kernel.kind() {
            ImageKind::BzImage(_) => {
                "it is a Linux bzImage; boot it by the pvh or linux64 protocol"
            }
            _ => "its first 8192 bytes have no Multiboot header; add one or use another protocol",
        }));
    };
    if header.unknown_requirements() != 0 {
        return Err(BootError::MultibootRequirements(header.unknown_requirements()));
    }
    let (entry, end) = match header.addresses {
        Some(addresses) => load_flat(boot, header, addresses)?,
        None => {
            let proper = kernel
                .loadable(Way::Whole)?
                .ok_or(refuse("it is no ELF file and gives no load addresses; link it again"))?;
            let entry = proper.elf.physical_entry().ok_or(BootError::Entry(proper.elf.entry))?;
            (entry, segments::load(boot, &proper)?)
        }
    };
    let entry = u32::try_from(entry).map_err(|_| BootError::Entry(entry))?;
    let information = write_information(boot, end)?;
    let mut state = cpu::protected(boot, entry)?;
    state.gpr[gpr::RAX] = BOOTLOADER_MAGIC;
    state.gpr[gpr::RBX] = information;
    Ok(state)
}

/// Loads a file by the header's address fields; returns entry and end.
fn load_flat(
    boot: &mut Boot<'_>,
    header: &MultibootHeader,
    addresses: MultibootAddresses,
) -> Result<(u64, u64), BootError> {
    let damaged = BootError::MultibootAddresses;
    let MultibootAddresses { header: header_address, load, load_end, bss_end, entry } = addresses;
    let before = header_address
        .checked_sub(load)
        .ok_or(damaged("the header's address is below the load address"))?;
    let offset = header
        .offset
        .checked_sub(before)
        .ok_or(damaged("the load address lies before the start of the file"))?;
    let file = boot.config.kernel.bytes();
    let available = file.len() as u64 - u64::from(offset);
    let size = match load_end {
        0 => available,
        end => end
            .checked_sub(load)
            .ok_or(damaged("the end of the loaded part is below its start"))?
            .into(),
    };
    let bytes = range(file, offset.into(), size)
        .ok_or(damaged("the loaded part is longer than the file"))?;
    let start = u64::from(load);
    let loaded_end = start + size;
    let end = loaded_end.max(bss_end.into());
    if !(start..end).contains(&entry.into()) {
        return Err(BootError::Entry(entry.into()));
    }
    segments::place(boot, start, end)?;
    boot.write(start, bytes)?;
    segments::zero(boot, loaded_end, end)?;
    Ok((entry.into(), end))
}

/// Writes everything the kernel is told; modules go behind `kernel_end`.
fn write_information(boot: &mut Boot<'_>, kernel_end: u64) -> Result<u64, BootError> {
    let config = boot.config;
    let name = config.kernel.name();
    let name = name.rsplit('/').next().unwrap_or(name);
    // The first word is the kernel's name, so the name itself must be one word.
    let mut line = name.replace(|byte: char| byte.is_whitespace() || byte == '\0', "_");
    if !config.command_line.is_empty() {
        line.push(' ');
        line.push_str(&config.command_line);
    }
    let command_line = boot.put_command_line(&line, TEXT_MAX)?;
    let loader_name = boot.put_low("the loader's name", LOADER_NAME, 16)?;
    let (modules, module_count) = write_modules(boot, kernel_end)?;
    let map = memory_map(boot);
    let map_address = boot.put_low("the memory map", &map, 16)?;

    let mut flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME;
    if module_count > 0 {
        flags |= INFO_MODULES;
    }
    let upper = boot.map.usable_end(HIGH_MEMORY_START) - HIGH_MEMORY_START;
    let mut information = [0; INFO_LEN];
    let mut set = |offset: usize, value: u64| {
        // Everything is below 4 GiB: conventional memory, counts and KiB.
        information[offset..offset + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    set(0, flags.into());
    set(4, EBDA_START >> 10);
    set(8, upper >> 10);
    set(16, command_line);
    set(20, module_count);
    set(24, modules);
    set(44, map.len() as u64);
    set(48, map_address);
    set(64, loader_name);
    boot.put_low("the boot information", &information, 16)
}

/// Entries of the memory map, each with its size before it.
fn memory_map(boot: &Boot<'_>) -> Vec<u8> {
    const ENTRY_LEN: u32 = 20;
    let mut bytes = Vec::new();
    for entry in boot.map.entries() {
        bytes.extend(ENTRY_LEN.to_le_bytes());
        bytes.extend(entry.start.to_le_bytes());
        bytes.extend(entry.size.to_le_bytes());
        bytes.extend((entry.kind as u32).to_le_bytes());
    }
    bytes
}

/// Places modules behind the kernel, each on a page of its own; returns the list and its length.
fn write_modules(boot: &mut Boot<'_>, kernel_end: u64) -> Result<(u64, u64), BootError> {
    let config = boot.config;
    let initrd = config.initrd.iter().map(|data| (data, "initrd"));
    let modules = config.modules.iter().map(|Module { data, text }| (data, text.as_str()));
    let mut list = Vec::new();
    let mut count = 0;
    for (data, text) in initrd.chain(modules) {
        if count == MODULES_MAX as u64 {
            return Err(refuse("it takes at most 1024 modules; give fewer"));
        }
        if text.as_bytes().contains(&0) {
            return Err(BootError::CommandLineNul);
        }
        let size = data.len() as u64;
        let place = boot.layout.take_above(kernel_end, size, PAGE_SIZE, LOW_RAM_MAX);
        let start = place.ok_or(BootError::NoRoom {
            what: "a module",
            size,
            ram_mib: boot.ram.size() >> 20,
            advice: "give the guest more memory",
        })?;
        boot.write(start, data)?;
        let text = boot.put_command_line(text, TEXT_MAX)?;
        for field in [start, start + size, text, 0] {
            list.extend((field as u32).to_le_bytes());
        }
        count += 1;
    }
    let list = if list.is_empty() { 0 } else { boot.put_low("the module list", &list, 16)? };
    Ok((list, count))
}
