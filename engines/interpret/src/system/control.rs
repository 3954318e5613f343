//! Control registers, TLB control, HLT, interrupt flag, segment bases, extended control registers.

use crate::cpu::{Cpu, seg};
use crate::exec::operand::{Mem, Source};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::is_canonical;
use crate::op::Op;
use ambos_intercept::{Intercept, Privileged};
use ambos_vcpu::{PHYSICAL_BITS, Platform, Stop};
use ambos_x86::gpr::{RAX, RCX, RDX};
use ambos_x86::segment::attr;
use ambos_x86::{Cr0, Cr4, Efer, RFlags, paging, xstate};

/// CR4 bits that this CPU has.
const CR4_SUPPORTED: u64 = 0x0037_7fff & !(1 << 13) & !(1 << 14) & !(1 << 12);

impl Cpu {
    /// Fails unless at privilege level 0.
    ///
    /// # Errors
    ///
    /// #GP(0).
    pub fn require_supervisor(&self) -> Result<(), Fault> {
        if self.mode.cpl == 0 { Ok(()) } else { Err(Fault::GP0) }
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let new = Cr0::from_bits_retain(value);
        let old = self.cr0();
        if value >> 32 != 0
            || new.contains(Cr0::PG) && !new.contains(Cr0::PE)
            || new.contains(Cr0::NW) && !new.contains(Cr0::CD)
        {
            return Err(Fault::GP0);
        }
        let paging = new.contains(Cr0::PG);
        if paging && !old.contains(Cr0::PG) && self.efer().contains(Efer::LME) {
            let long_code = self.segments[seg::CS].attributes & attr::L != 0;
            if !self.cr4().contains(Cr4::PAE) || long_code {
                return Err(Fault::GP0);
            }
            self.control.efer |= Efer::LMA.bits();
        } else if paging && (new ^ old).intersects(Cr0::PG | Cr0::CD | Cr0::NW) {
            self.check_pae_pointers(self.cr4(), self.control.cr3)?;
        } else if !paging && old.contains(Cr0::PG) {
            if self.is_64bit() || self.cr4().contains(Cr4::PCIDE) {
                return Err(Fault::GP0);
            }
            self.control.efer &= !Efer::LMA.bits();
        }
        self.control.cr0 = new.bits() | Cr0::ET.bits();
        if (new ^ old).intersects(Cr0::PG | Cr0::WP | Cr0::PE) {
            self.tlb.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let pcids = self.cr4().contains(Cr4::PCIDE);
        let keep = pcids && value & paging::CR3_NO_FLUSH != 0;
        let value = if pcids { value & !paging::CR3_NO_FLUSH } else { value };
        if self.long_mode() && value >> PHYSICAL_BITS != 0 {
            return Err(Fault::GP0);
        }
        let value = if self.is_64bit() { value } else { value & 0xffff_ffff };
        if self.cr0().contains(Cr0::PG) {
            self.check_pae_pointers(self.cr4(), value)?;
        }
        self.control.cr3 = value;
        let pcid = if pcids { (value & paging::CR3_PCID) as u16 } else { 0 };
        if !keep {
            self.tlb.flush_pcid(pcid);
        }
        self.tlb.switch(pcid);
        Ok(())
    }

    /// Fails if CR3 and CR4 make PAE paging use a bad directory-pointer table.
    fn check_pae_pointers(&self, cr4: Cr4, cr3: u64) -> Result<(), Fault> {
        let used = cr4.contains(Cr4::PAE) && !self.long_mode();
        if used && !self.pae_pointers_are_valid(cr3) { Err(Fault::GP0) } else { Ok(()) }
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let new = Cr4::from_bits_retain(value);
        let old = self.cr4();
        let turns_on = |bit| new.contains(bit) && !old.contains(bit);
        if value & !CR4_SUPPORTED != 0
            || self.long_mode() && !new.contains(Cr4::PAE)
            || turns_on(Cr4::PCIDE)
                && (!self.long_mode() || self.control.cr3 & paging::CR3_PCID != 0)
        {
            return Err(Fault::GP0);
        }
        let reloading = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
        if self.cr0().contains(Cr0::PG) && (new ^ old).intersects(reloading) {
            self.check_pae_pointers(new, self.control.cr3)?;
        }
        self.control.cr4 = value;
        let flushing =
            Cr4::PGE | Cr4::PSE | Cr4::PAE | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP | Cr4::PKE;
        if (new ^ old).intersects(flushing) {
            self.tlb.flush_all();
            if !new.contains(Cr4::PCIDE) {
                self.tlb.switch(0);
            }
        }
        self.update_mode();
        Ok(())
    }
}

/// MOV to a control register: number in [`Op::dst`].
pub fn mov_to_cr(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    let class =
        if op.dst == 3 { Privileged::AddressSpaceSwitch } else { Privileged::ControlRegisterWrite };
    platform.ledger().count(Intercept::Privileged(class));
    let value = cpu.reg::<u64>(op.src);
    let value = if cpu.is_64bit() { value } else { value & 0xffff_ffff };
    match op.dst {
        0 => cpu.write_cr0(value)?,
        2 => cpu.control.cr2 = value,
        3 => cpu.write_cr3(value)?,
        4 => cpu.write_cr4(value)?,
        8 => {
            if value > 15 {
                return Err(Fault::GP0.into());
            }
            platform.set_task_priority(value as u8);
        }
        _ => return Err(Fault::UD.into()),
    }
    Err(Exit::Next)
}

/// MOV from a control register: number in [`Op::src`].
pub fn mov_from_cr(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::ControlRegisterRead));
    let value = match op.src {
        0 => cpu.control.cr0,
        2 => cpu.control.cr2,
        3 => cpu.control.cr3,
        4 => cpu.control.cr4,
        8 => u64::from(platform.task_priority()),
        _ => return Err(Fault::UD.into()),
    };
    if cpu.is_64bit() {
        cpu.set_reg(op.dst, value);
    } else {
        cpu.set_reg(op.dst, value as u32);
    }
    Ok(())
}

/// LMSW from a register, or from memory where [`Op::rep`] is one.
pub fn lmsw(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::ControlRegisterWrite));
    let value =
        if op.rep == 1 { Mem::read::<u16>(cpu, platform, op)? } else { cpu.reg::<u16>(op.dst) };
    // LMSW can set PE but not clear it.
    let keep = cpu.control.cr0 & !0xe;
    cpu.write_cr0(keep | u64::from(value & 0xf))?;
    Err(Exit::Next)
}

/// SMSW to a register, or to memory where [`Op::rep`] is one.
pub fn smsw(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.check_umip()?;
    platform.ledger().count(Intercept::Privileged(Privileged::ControlRegisterRead));
    let value = cpu.control.cr0;
    if op.rep == 1 {
        let linear = op.linear(cpu, 2, true)?;
        return cpu.store(platform, linear, value as u16);
    }
    match op.size {
        2 => cpu.set_reg(op.dst, value as u16),
        4 => cpu.set_reg(op.dst, value as u32),
        _ => cpu.set_reg(op.dst, value),
    }
    Ok(())
}

/// CLTS.
pub fn clts(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::ControlRegisterWrite));
    cpu.control.cr0 &= !Cr0::TS.bits();
    Ok(())
}

/// INVLPG.
pub fn invlpg(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::InvalidateTlb));
    let offset = op.effective_address(cpu);
    let segment = usize::from(op.seg) % 7;
    let linear = offset.wrapping_add(cpu.linear_base[segment]);
    if is_canonical(linear) {
        cpu.tlb.flush_page(linear);
    }
    Err(Exit::Next)
}

/// INVPCID: type in [`Op::dst`], descriptor in memory.
pub fn invpcid(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::InvalidateTlb));
    let linear = op.linear(cpu, 16, false)?;
    let pcid = cpu.load::<u64>(platform, linear)?;
    let address = cpu.load::<u64>(platform, linear.wrapping_add(8))?;
    let kind = cpu.reg::<u64>(op.dst);
    if kind > 3 || kind < 2 && pcid >> 12 != 0 {
        return Err(Fault::GP0.into());
    }
    let pcids = cpu.cr4().contains(Cr4::PCIDE);
    match kind {
        0 | 1 if !pcids && pcid != 0 => return Err(Fault::GP0.into()),
        0 if !is_canonical(address) => return Err(Fault::GP0.into()),
        0 => cpu.tlb.flush_page(address),
        1 => cpu.tlb.flush_pcid(pcid as u16),
        _ => cpu.tlb.flush_all(),
    }
    Err(Exit::Next)
}

/// WBINVD, WBNOINVD, INVD: caches are coherent here.
pub fn cache_control(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::CacheControl));
    Ok(())
}

/// HLT.
pub fn hlt(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::Halt));
    Err(Exit::Stop(Box::new(Stop::Halted)))
}

/// Whether CLI and STI change anything, which is counted.
///
/// # Errors
///
/// #GP(0) if the I/O privilege level does not permit them.
fn change_interrupt_flag(cpu: &Cpu, platform: &dyn Platform) -> Result<bool, Fault> {
    let ignored = cpu.supervised.ignores_interrupt_flag;
    if cpu.mode.cpl > cpu.rflags().iopl() && !cpu.real_mode() && !ignored {
        return Err(Fault::GP0);
    }
    platform.ledger().count(Intercept::Privileged(Privileged::InterruptFlag));
    Ok(!ignored)
}

/// CLI.
pub fn cli(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    if change_interrupt_flag(cpu, platform)? {
        cpu.native.rflags &= !RFlags::IF.bits();
    }
    Ok(())
}

/// STI: interrupts are recognized after the next instruction.
pub fn sti(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    if change_interrupt_flag(cpu, platform)? && !cpu.rflags().contains(RFlags::IF) {
        cpu.native.rflags |= RFlags::IF.bits();
        cpu.begin_shadow();
    }
    Err(Exit::Next)
}

/// CLAC, or STAC where the immediate is one.
pub fn alignment_flag(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    if cpu.mode.cpl != 0 {
        return Err(Fault::UD.into());
    }
    let flag = RFlags::AC.bits();
    cpu.native.rflags = cpu.native.rflags & !flag | if op.imm == 1 { flag } else { 0 };
    cpu.update_mmu_index();
    Ok(())
}

/// SWAPGS.
pub fn swapgs(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    if !cpu.is_64bit() {
        return Err(Fault::UD.into());
    }
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::SegmentLoad));
    std::mem::swap(&mut cpu.segments[seg::GS].base, &mut cpu.msrs.kernel_gs_base);
    cpu.linear_base[seg::GS] = cpu.segments[seg::GS].base;
    Ok(())
}

/// RDFSBASE, RDGSBASE: segment in [`Op::src`].
pub fn read_base(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    if !cpu.is_64bit() || !cpu.cr4().contains(Cr4::FSGSBASE) {
        return Err(Fault::UD.into());
    }
    let base = cpu.segments[usize::from(op.src) % 6].base;
    if op.size == 8 {
        cpu.set_reg(op.dst, base);
    } else {
        cpu.set_reg(op.dst, base as u32);
    }
    Ok(())
}

/// WRFSBASE, WRGSBASE: segment in [`Op::src`].
pub fn write_base(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    if !cpu.is_64bit() || !cpu.cr4().contains(Cr4::FSGSBASE) {
        return Err(Fault::UD.into());
    }
    let base =
        if op.size == 8 { cpu.reg::<u64>(op.dst) } else { u64::from(cpu.reg::<u32>(op.dst)) };
    Cpu::check_canonical(base)?;
    let number = usize::from(op.src) % 6;
    cpu.segments[number].base = base;
    cpu.linear_base[number] = base;
    Ok(())
}

/// XGETBV.
pub fn xgetbv(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    if !cpu.cr4().contains(Cr4::OSXSAVE) {
        return Err(Fault::UD.into());
    }
    platform.ledger().count(Intercept::Privileged(Privileged::ExtendedControl));
    let value = match cpu.reg::<u32>(RCX as u8) {
        0 => cpu.control.xcr0,
        // XINUSE.
        1 => cpu.control.xcr0 & cpu.components_in_use(),
        _ => return Err(Fault::GP0.into()),
    };
    cpu.set_reg(RAX as u8, value as u32);
    cpu.set_reg(RDX as u8, (value >> 32) as u32);
    Ok(())
}

/// XSETBV.
pub fn xsetbv(cpu: &mut Cpu, platform: &mut dyn Platform, _: &Op) -> Step {
    if !cpu.cr4().contains(Cr4::OSXSAVE) {
        return Err(Fault::UD.into());
    }
    cpu.require_supervisor()?;
    platform.ledger().count(Intercept::Privileged(Privileged::ExtendedControl));
    let value = u64::from(cpu.reg::<u32>(RDX as u8)) << 32 | u64::from(cpu.reg::<u32>(RAX as u8));
    let [low, _, _, high] = platform.cpuid(0xd, 0);
    let supported = u64::from(high) << 32 | u64::from(low);
    let avx512 = value & xstate::AVX512;
    let legal = cpu.reg::<u32>(RCX as u8) == 0
        && value & !supported == 0
        && value & xstate::X87 != 0
        && (value & xstate::AVX == 0 || value & xstate::SSE != 0)
        && (avx512 == 0 || avx512 == xstate::AVX512 && value & xstate::AVX != 0);
    if !legal {
        return Err(Fault::GP0.into());
    }
    cpu.control.xcr0 = value;
    Err(Exit::Next)
}

/// UD0, UD1, UD2 and everything else that is undefined on purpose.
pub fn undefined(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    Err(Fault::UD.into())
}

/// An instruction that does not end within fifteen bytes.
pub fn too_long(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
    Err(Fault::GP0.into())
}

/// Instructions that exist but that this CPU model does not offer: #UD and an entry in the list of
/// unserved requests.
pub fn unserved(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    let what = match op.instruction() {
        Ok(instruction) => format!("instruction {:?}", instruction.mnemonic()),
        Err(_) => "instruction".to_owned(),
    };
    cpu.note_unserved(what);
    Err(Fault::UD.into())
}

/// VZEROUPPER, or VZEROALL where the immediate is one.
pub fn vzero(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Step {
    cpu.check_class(crate::exec::native::Class::Avx)?;
    let from = if op.imm == 1 { 0 } else { 16 };
    let count = if cpu.is_64bit() { 16 } else { 8 };
    for register in &mut cpu.native.vector.zmm[..count] {
        register[from..].fill(0);
    }
    Ok(())
}
