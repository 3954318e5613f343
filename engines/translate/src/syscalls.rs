//! SYSCALL from 64-bit user code and SYSRET to it: the privilege changes within translated code,
//! which goes on through the jump cache of the other privilege's set.

use crate::build::{Builder, Done};
use crate::counts::Counted;
use crate::emit::{Mem, reg};
use crate::flags::FlagsIn;
use crate::layout;
use ambos_interpret::cpu::seg;
use ambos_interpret::mmu::Tlb;
use ambos_interpret::system::syscall::{FLAT_CODE64, FLAT_STACK, SYSRET_FLAGS};
use ambos_x86::segment::attr;
use ambos_x86::{Cr4, Efer, RFlags};

impl Builder<'_> {
    /// Makes CS and SS the flat segments of privilege level `dpl`, with their selectors in the low half
    /// of `selectors` and `stack` further on.
    fn load_flat(&mut self, selectors: u8, stack: i32, dpl: u8) {
        let rights = u32::from(dpl) << attr::DPL_SHIFT;
        let parts = [(seg::CS, FLAT_CODE64 | rights, 0), (seg::SS, FLAT_STACK | rights, stack)];
        for (number, attributes, distance) in parts {
            if distance != 0 {
                self.code.lea(selectors, Mem::Base(selectors, distance));
            }
            self.code.raw(&[0x66]);
            self.code.op(false, &[0x89], selectors, Mem::Gs(layout::selector(number)));
            self.code.store_imm(Mem::Gs(layout::hidden_base(number)), 0);
            for (at, value) in
                [(layout::limit(number), u32::MAX), (layout::attributes(number), attributes)]
            {
                // mov dword ptr [at], value
                self.code.op(false, &[0xc7], 0, Mem::Gs(at));
                self.code.raw(&value.to_le_bytes());
            }
        }
        // mov byte ptr [cpl], dpl
        self.code.op(false, &[0xc6], 0, Mem::Gs(layout::CPL));
        self.code.raw(&[dpl]);
        let set = if dpl == 3 { Tlb::USER } else { Tlb::SUPERVISOR };
        self.code.store_imm(Mem::Gs(layout::MMU_INDEX), set as i32);
        self.use_set(set);
    }

    /// SYSCALL.
    pub(crate) fn system_call(&mut self) -> Done {
        // A deprivileged guest's system calls are its supervisor's.
        let possible = self.cpu.mode.code_bits == 64
            && self.cpu.mode.cpl == 3
            && !self.cpu.supervised.on
            && self.cpu.efer().contains(Efer::SCE);
        if !possible {
            return Done::Refused;
        }
        self.free_scratch();
        self.save_flags();
        if self.cpu.cr4().contains(Cr4::SMAP) {
            // With AC the kernel would begin in another set.
            self.code.load(reg::R11, Mem::Gs(layout::FMASK));
            // not r11; and r11, [rflags]; test r11d, AC
            self.code.raw(&[0x49, 0xf7, 0xd3]);
            self.code.op(true, &[0x23], reg::R11, Mem::Gs(layout::RFLAGS));
            self.code.raw(&[0x41, 0xf7, 0xc3]);
            self.code.raw(&(RFlags::AC.bits() as u32).to_le_bytes());
            let clear = self.code.short_jump_if(4);
            self.restore_flags();
            self.leave_to_interpreter();
            self.code.land(clear);
        }
        self.count_with_flags(Counted::SystemCall);
        self.saved_to_rflags();
        self.code.store(Mem::Gs(layout::gpr(reg::R11)), reg::RAX);
        self.code.load(reg::R11, Mem::Gs(layout::FMASK));
        // not r11; and rax, r11; or eax, 2
        self.code.raw(&[0x49, 0xf7, 0xd3, 0x4c, 0x21, 0xd8, 0x83, 0xc8, 0x02]);
        self.code.store(Mem::Gs(layout::RFLAGS), reg::RAX);
        self.rflags_to_saved();
        self.code.load(reg::R10, Mem::Gs(layout::STAR));
        // shr r10, 32; and r10d, 0xfffc
        self.code.raw(&[0x49, 0xc1, 0xea, 32]);
        self.code.and32(reg::R10, 0xfffc);
        self.restore_flags();
        self.flags = FlagsIn::Host;
        self.load_flat(reg::R10, 8, 0);
        self.next_address(reg::RCX);
        self.code.load(reg::R10, Mem::Gs(layout::LSTAR));
        self.through_jump_cache(0);
        Done::End
    }

    /// SYSRET to 64-bit code.
    pub(crate) fn system_return(&mut self) -> Done {
        let mode = self.cpu.mode;
        let possible = mode.code_bits == 64 && mode.cpl == 0 && self.cpu.efer().contains(Efer::SCE);
        if !possible {
            return Done::Refused;
        }
        const SLOW: u32 = (RFlags::TF.bits() | RFlags::AC.bits()) as u32;
        self.free_scratch();
        self.save_flags();
        self.code.copy(reg::R10, reg::RCX);
        self.compare_canonical(reg::R10, reg::R11);
        let not_canonical = self.code.short_jump_if(5);
        self.code.load(reg::R11, Mem::Gs(layout::gpr(reg::R11)));
        // test r11d, TF | AC
        self.code.raw(&[0x41, 0xf7, 0xc3]);
        self.code.raw(&SLOW.to_le_bytes());
        let simple = self.code.short_jump_if(4);
        self.code.land(not_canonical);
        self.restore_flags();
        self.leave_to_interpreter();
        self.code.land(simple);
        self.count_with_flags(Counted::SystemReturn);
        self.code.and32(reg::R11, SYSRET_FLAGS as u32);
        // or r11d, 2
        self.code.raw(&[0x41, 0x83, 0xcb, 0x02]);
        self.code.store(Mem::Gs(layout::RFLAGS), reg::R11);
        self.code.copy(reg::RAX, reg::R11);
        self.rflags_to_saved();
        self.code.load(reg::R11, Mem::Gs(layout::STAR));
        // shr r11, 48; add r11d, 16; or r11d, 3
        self.code.raw(&[0x49, 0xc1, 0xeb, 48, 0x41, 0x83, 0xc3, 16, 0x41, 0x83, 0xcb, 0x03]);
        self.restore_flags();
        self.flags = FlagsIn::Host;
        // The stack's selector lies 8 before that of the code; both have the same low bits.
        self.load_flat(reg::R11, -8, 3);
        self.through_jump_cache(0);
        Done::End
    }
}
