//! Frequent system instructions that translated code runs itself, where the mode that the block is
//! keyed by allows them. Here: control registers, the time-stamp counter, and SERIALIZE.

use crate::build::{Builder, Done};
use crate::counts::Counted;
use crate::emit::{Mem, reg};
use crate::layout;
use ambos_interpret::cpu::seg;
use ambos_x86::Cr4;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Builder<'_> {
    /// Translates `instruction` if it is one of those.
    pub(crate) fn system(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let supervisor = self.cpu.mode.cpl == 0;
        let bases = self.cpu.cr4().contains(Cr4::FSGSBASE);
        match instruction.mnemonic() {
            Mnemonic::Cli | Mnemonic::Sti if self.cpu.supervised.on => {
                self.ignored_interrupt_flag(flags_live);
            }
            Mnemonic::Cli if supervisor => self.cli(flags_live),
            // Both may leave before the instruction that follows, which a block that runs apart has no
            // notion of.
            Mnemonic::Sti | Mnemonic::Popfq if self.source.apart => return Done::Refused,
            Mnemonic::Sti if supervisor => return self.sti(flags_live),
            Mnemonic::Clac if supervisor => self.access_flag(false, flags_live),
            Mnemonic::Stac if supervisor => self.access_flag(true, flags_live),
            Mnemonic::Cld => self.direction_flag(false, flags_live),
            Mnemonic::Std => self.direction_flag(true, flags_live),
            Mnemonic::Pushfq if instruction.code() == Code::Pushfq => self.push_flags(),
            Mnemonic::Popfq if supervisor || self.cpu.supervised.on => self.pop_flags(flags_live),
            Mnemonic::Swapgs if supervisor => self.swap_gs(),
            Mnemonic::Rdfsbase if bases => self.read_base(instruction, seg::FS),
            Mnemonic::Rdgsbase if bases => self.read_base(instruction, seg::GS),
            Mnemonic::Wrfsbase if bases => self.write_base(instruction, seg::FS, flags_live),
            Mnemonic::Wrgsbase if bases => self.write_base(instruction, seg::GS, flags_live),
            Mnemonic::Rdtsc | Mnemonic::Rdtscp
                if !self.source.apart && (supervisor || !self.cpu.cr4().contains(Cr4::TSD)) =>
            {
                self.rdtsc();
                if instruction.mnemonic() == Mnemonic::Rdtscp {
                    // mov ecx, [tsc_aux]
                    self.code.op(false, &[0x8b], reg::RCX, Mem::Gs(layout::TSC_AUX));
                }
            }
            Mnemonic::Rdpid => {
                let register = instruction.op0_register();
                let to = self.overwrite(register);
                self.code.op(register.size() == 8, &[0x8b], to, Mem::Gs(layout::TSC_AUX));
            }
            Mnemonic::Serialize => self.serialize(flags_live),
            Mnemonic::Mov if instruction.op1_register().is_segment_register() => {
                return self.read_selector(instruction, flags_live);
            }
            Mnemonic::Mov if supervisor && instruction.op1_register().is_cr() => {
                return self.read_control(instruction);
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                if instruction.op0_kind() == OpKind::Memory =>
            {
                return self.far_bit(instruction, flags_live);
            }
            Mnemonic::Syscall => return self.system_call(),
            Mnemonic::Sysretq => return self.system_return(),
            _ if instruction.is_string_instruction() => {
                return self.string(instruction, flags_live);
            }
            _ => return Done::Refused,
        }
        Done::Next
    }

    fn read_control(&mut self, instruction: &Instruction) -> Done {
        let number = instruction.op1_register().number();
        let Some(&Some(at)) = layout::CONTROL_REGISTERS.get(number) else { return Done::Refused };
        self.free_scratch();
        self.count(Counted::ControlRegisterRead);
        let to = self.overwrite(instruction.op0_register());
        self.code.load(to, Mem::Gs(at));
        Done::Next
    }

    /// SERIALIZE: writes become visible, and what others wrote to code is seen. What this vCPU wrote to code itself has
    /// been seen to when it did. Linux runs one after each piece of code that it changes, where the processor has it; else
    /// it returns from an interrupt that there was not, which takes fifty times as long here.
    fn serialize(&mut self, flags_live: bool) {
        self.free_scratch();
        if flags_live {
            self.save_flags();
        }
        // lock or dword ptr [waiting], 0: as good as a fence, and quicker
        self.code.raw(&[0xf0]);
        self.code.op(false, &[0x83], 1, Mem::Gs(layout::WAITING));
        self.code.raw(&[0]);
        self.code.load(reg::R10, Mem::Gs(layout::EPOCH_AT));
        self.code.load(reg::R10, Mem::Base(reg::R10, 0));
        self.code.compare(Mem::Gs(layout::EPOCH), reg::R10);
        let same = self.code.short_jump_if(4);
        if flags_live {
            self.restore_flags();
        }
        self.leave_to_interpreter();
        self.code.land(same);
        if flags_live {
            self.restore_flags();
        }
    }

    fn rdtsc(&mut self) {
        self.free_scratch();
        self.count(Counted::TimeStampCounter);
        // rdtsc
        self.code.raw(&[0x0f, 0x31]);
        self.code.rorx(reg::RDX, reg::RDX, 32);
        self.code.lea(reg::RAX, Mem::Sum(reg::RAX, reg::RDX));
        self.code.load(reg::R10, Mem::Gs(layout::TSC_OFFSET));
        self.code.lea(reg::RAX, Mem::Sum(reg::RAX, reg::R10));
        self.code.rorx(reg::RDX, reg::RAX, 32);
        // mov edx, edx; mov eax, eax
        self.code.raw(&[0x89, 0xd2, 0x89, 0xc0]);
    }
}
