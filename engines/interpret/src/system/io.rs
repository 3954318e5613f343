//! IN and OUT, and the permission to use a port.

use crate::cpu::Cpu;
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_vcpu::{Platform, PortWidth};
use ambos_x86::gpr::{RAX, RDX};

/// [`Op::imm`]: the port is in DX.
pub const PORT_IN_DX: u64 = 0x1_0000;

impl Cpu {
    /// Checks the I/O privilege level and the TSS's I/O permission bitmap (SDM vol. 1, 19.5).
    ///
    /// # Errors
    ///
    /// #GP(0), or faults of reading the bitmap.
    pub fn check_port(
        &mut self,
        platform: &mut dyn Platform,
        port: u16,
        size: usize,
    ) -> Result<(), Exit> {
        if self.real_mode() || self.mode.cpl <= self.rflags().iopl() {
            return Ok(());
        }
        // 16-bit task-state segments have no bitmap.
        if self.tr.attributes & 8 == 0 || self.tr.limit < 103 {
            return Err(Fault::GP0.into());
        }
        let map = self.load_system::<u16>(platform, self.tr.base.wrapping_add(102))?;
        let at = u32::from(map) + u32::from(port / 8);
        if at + 1 > self.tr.limit {
            return Err(Fault::GP0.into());
        }
        let bits = self.load_system::<u16>(platform, self.tr.base.wrapping_add(u64::from(at)))?;
        let mask = ((1u32 << size) - 1) << (port % 8);
        if u32::from(bits) & mask != 0 {
            return Err(Fault::GP0.into());
        }
        Ok(())
    }
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.imm == PORT_IN_DX { cpu.native.gpr[RDX] as u16 } else { op.imm as u16 }
}

fn width(op: &Op) -> PortWidth {
    match op.size {
        1 => PortWidth::Byte,
        2 => PortWidth::Word,
        _ => PortWidth::Dword,
    }
}

/// IN.
pub fn input(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let port = port(cpu, op);
    cpu.check_port(platform, port, usize::from(op.size))?;
    let value = platform.port_read(port, width(op));
    cpu.note_access(platform);
    match op.size {
        1 => cpu.set_reg(RAX as u8, value as u8),
        2 => cpu.set_reg(RAX as u8, value as u16),
        _ => cpu.set_reg(RAX as u8, value),
    }
    Ok(())
}

/// OUT. The block ends here: the device may have asked this vCPU to stop.
pub fn output(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let port = port(cpu, op);
    cpu.check_port(platform, port, usize::from(op.size))?;
    let value = cpu.reg::<u32>(RAX as u8);
    let value = match op.size {
        1 => value & 0xff,
        2 => value & 0xffff,
        _ => value,
    };
    platform.port_write(port, width(op), value);
    cpu.note_access(platform);
    Err(Exit::Next)
}
