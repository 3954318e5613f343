//! Debug registers and breakpoints (SDM vol. 3B, 17.2).

use crate::cpu::{Cpu, RIP};
use crate::exit::{Exit, Fault, Step};
use crate::op::Op;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::Platform;
use ambos_x86::{Cr4, Vector};

/// DR7.GD: accesses to debug registers raise #DB.
const GENERAL_DETECT: u64 = 1 << 13;
/// DR6.BD: the debug exception came from [`GENERAL_DETECT`].
const DETECTED: u64 = 1 << 13;

/// Maps DR4 and DR5 to DR6 and DR7 where debugging extensions are off.
fn number(cpu: &Cpu, register: u8) -> Result<u8, Fault> {
    match register {
        4 | 5 if cpu.cr4().contains(Cr4::DE) => Err(Fault::UD),
        4 | 5 => Ok(register + 2),
        _ => Ok(register),
    }
}

fn check(cpu: &mut Cpu) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    if cpu.debug.dr7 & GENERAL_DETECT != 0 {
        cpu.debug.dr6 |= DETECTED;
        cpu.debug.dr7 &= !GENERAL_DETECT;
        return Err(Fault { vector: Vector::Debug, error: 0 });
    }
    Ok(())
}

/// MOV to a debug register: number in [`Op::dst`].
pub fn mov_to_dr(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let register = number(cpu, op.dst)?;
    check(cpu)?;
    platform.ledger().count(Intercept::Privileged(Privileged::DebugRegister));
    let value = cpu.reg::<u64>(op.src);
    let value = if cpu.is_64bit() { value } else { value & 0xffff_ffff };
    match register {
        0..=3 => cpu.debug.address[usize::from(register)] = value,
        6 if value >> 32 != 0 => return Err(Fault::GP0.into()),
        6 => cpu.debug.dr6 = value & 0xe00f | 0xffff_0ff0,
        _ if value >> 32 != 0 => return Err(Fault::GP0.into()),
        _ => cpu.debug.dr7 = value & 0xffff_2fff | 0x400,
    }
    // Watched pages must leave the TLB.
    cpu.tlb.flush_all();
    cpu.update_slow();
    Err(Exit::Next)
}

/// MOV from a debug register: number in [`Op::src`].
pub fn mov_from_dr(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let register = number(cpu, op.src)?;
    check(cpu)?;
    platform.ledger().count(Intercept::Privileged(Privileged::DebugRegister));
    let value = match register {
        0..=3 => cpu.debug.address[usize::from(register)],
        6 => cpu.debug.dr6,
        _ => cpu.debug.dr7,
    };
    if cpu.is_64bit() {
        cpu.set_reg(op.dst, value);
    } else {
        cpu.set_reg(op.dst, value as u32);
    }
    Ok(())
}

/// One breakpoint as DR7 describes it.
struct Breakpoint {
    bit: u64,
    address: u64,
    kind: u64,
    length: u64,
}

impl Cpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + '_ {
        (0..4usize).filter(|index| self.debug.dr7 >> (index * 2) & 3 != 0).map(|index| {
            let control = self.debug.dr7 >> (16 + index * 4);
            let length = match control >> 2 & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let address = self.debug.address[index] & !(length - 1);
            Breakpoint { bit: 1 << index, address, kind: control & 3, length }
        })
    }

    /// The DR6 bits of instruction breakpoints at the current instruction, if any.
    pub(crate) fn instruction_breakpoint(&self) -> Option<u64> {
        let linear = self.code_linear(self.native.gpr[RIP]);
        let hits = self
            .breakpoints()
            .filter(|breakpoint| breakpoint.kind == 0 && breakpoint.address == linear)
            .fold(0, |hits, breakpoint| hits | breakpoint.bit);
        (hits != 0).then_some(hits)
    }

    /// Notes data breakpoints that an access hits; returns whether the page has any, so that its
    /// translation must stay out of the TLB.
    pub(crate) fn note_data_breakpoints(
        &mut self,
        linear: u64,
        length: usize,
        write: bool,
    ) -> bool {
        if self.debug.dr7 & 0xff == 0 {
            return false;
        }
        let (mut hits, mut watched) = (0, false);
        for breakpoint in self.breakpoints().filter(|breakpoint| breakpoint.kind != 0) {
            watched |= breakpoint.address >> 12 == linear >> 12;
            let overlaps = linear < breakpoint.address.wrapping_add(breakpoint.length)
                && breakpoint.address < linear.wrapping_add(length as u64);
            // Kind 1 is writes, 3 is reads and writes; 2 (I/O) is not offered to software here.
            if overlaps && (write || breakpoint.kind == 3) {
                hits |= breakpoint.bit;
            }
        }
        self.breakpoint_hits |= hits;
        watched
    }
}
