//! Instructions of operating systems.

use super::{Lowering, register};
use crate::cpu::seg;
use crate::exec::operand::Kind;
use crate::op::Handler;
use crate::system::{
    control, cpuid, debug, far, hypercall, interrupt, io, iret, msr, segments, syscall, tables,
    time, xsave,
};
use iced_x86::{Code, Mnemonic as M, OpKind, Register};

impl Lowering<'_> {
    /// Instructions of operating systems.
    pub(super) fn system(&mut self) -> Option<Handler> {
        let instruction = self.instruction;
        let mnemonic = instruction.mnemonic();
        let ending: Option<Handler> = match mnemonic {
            M::Jmp | M::Call => return Some(self.far()),
            M::Retf => {
                if instruction.op_count() == 1 {
                    self.op.imm = instruction.immediate(0) & 0xffff;
                }
                self.op.size = match instruction.code() {
                    Code::Retfw | Code::Retfw_imm16 => 2,
                    Code::Retfd | Code::Retfd_imm16 => 4,
                    _ => 8,
                };
                Some(far::ret)
            }
            M::Iret | M::Iretd | M::Iretq => {
                self.op.size = match mnemonic {
                    M::Iret => 2,
                    M::Iretd => 4,
                    _ => 8,
                };
                Some(iret::iret)
            }
            M::Int | M::Int3 | M::Int1 | M::Into => {
                self.op.imm = match mnemonic {
                    M::Int => instruction.immediate(0) & 0xff,
                    M::Int3 => 3,
                    M::Int1 => 1,
                    _ => 4,
                };
                self.op.rep = u8::from(matches!(mnemonic, M::Into | M::Int1));
                Some(interrupt::software_interrupt)
            }
            M::Vmcall | M::Vmmcall => Some(hypercall::hypercall),
            M::Syscall => Some(syscall::syscall),
            M::Sysret | M::Sysretq => {
                self.op.size = if mnemonic == M::Sysretq { 8 } else { 4 };
                Some(syscall::sysret)
            }
            M::Sysenter => Some(syscall::sysenter),
            M::Sysexit | M::Sysexitq => {
                self.op.size = if mnemonic == M::Sysexitq { 8 } else { 4 };
                Some(syscall::sysexit)
            }
            M::Hlt => Some(control::hlt),
            M::Sti => Some(control::sti),
            M::Wrmsr => Some(msr::wrmsr),
            M::Invlpg => Some(control::invlpg),
            M::Invpcid => {
                self.registers(Some(0), None);
                Some(control::invpcid)
            }
            M::Lmsw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                Some(control::lmsw)
            }
            M::Xsetbv => Some(control::xsetbv),
            M::Out => {
                self.port(0, 1);
                Some(io::output)
            }
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                self.registers(Some(0), None);
                self.op.size = self.operand_size(0);
                self.op.src = match mnemonic {
                    M::Lds => seg::DS,
                    M::Les => seg::ES,
                    M::Lfs => seg::FS,
                    M::Lgs => seg::GS,
                    _ => seg::SS,
                } as u8;
                Some(segments::load_far_pointer)
            }
            M::Ud0 | M::Ud1 | M::Ud2 => Some(control::undefined),
            M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64 => {
                let wide = matches!(mnemonic, M::Xrstor64 | M::Xrstors64);
                self.op.size = if wide { 8 } else { 4 };
                self.op.imm = u64::from(matches!(mnemonic, M::Xrstors | M::Xrstors64));
                Some(xsave::restore)
            }
            _ => None,
        };
        if ending.is_some() {
            self.ends_block = true;
            return ending;
        }
        self.inspecting()
    }

    /// System instructions after which a block goes on.
    fn inspecting(&mut self) -> Option<Handler> {
        let mnemonic = self.instruction.mnemonic();
        Some(match mnemonic {
            M::Cli => control::cli,
            M::Rdmsr => msr::rdmsr,
            M::Cpuid => cpuid::cpuid,
            M::Rdtsc | M::Rdtscp => {
                self.op.imm = u64::from(mnemonic == M::Rdtscp);
                time::rdtsc
            }
            M::Rdpid => {
                self.one();
                self.op.size = if self.is_64bit() { 8 } else { 4 };
                time::rdpid
            }
            M::Rdpmc => time::rdpmc,
            M::Swapgs => control::swapgs,
            M::Clac | M::Stac => {
                self.op.imm = u64::from(mnemonic == M::Stac);
                control::alignment_flag
            }
            M::Clts => control::clts,
            M::Wbinvd | M::Wbnoinvd | M::Invd => control::cache_control,
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
                self.one();
                let fs = matches!(mnemonic, M::Rdfsbase | M::Wrfsbase);
                self.op.src = if fs { seg::FS } else { seg::GS } as u8;
                let read = matches!(mnemonic, M::Rdfsbase | M::Rdgsbase);
                if read { control::read_base } else { control::write_base }
            }
            M::Xgetbv => control::xgetbv,
            M::In => {
                self.port(1, 0);
                io::input
            }
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => {
                self.op.imm = u64::from(matches!(mnemonic, M::Lidt | M::Sidt));
                self.op.size = match self.instruction.code() {
                    Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
                    _ => 4,
                };
                let load = matches!(mnemonic, M::Lgdt | M::Lidt);
                if load { tables::load_table } else { tables::store_table }
            }
            M::Lldt | M::Ltr => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                if mnemonic == M::Lldt { tables::lldt } else { tables::ltr }
            }
            M::Str | M::Sldt | M::Smsw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                self.op.imm = u64::from(mnemonic == M::Sldt);
                if mnemonic == M::Smsw { control::smsw } else { tables::store_selector }
            }
            M::Lar | M::Lsl => {
                self.registers(Some(0), Some(1));
                self.op.size = self.operand_size(0);
                self.op.rep = u8::from(self.kind(1) == Kind::Mem);
                self.op.imm = u64::from(mnemonic == M::Lsl);
                tables::inspect
            }
            M::Verr | M::Verw => {
                let (_, operand) = self.one();
                self.op.rep = u8::from(operand == Kind::Mem);
                self.op.imm = if mnemonic == M::Verr { 2 } else { 3 };
                tables::inspect
            }
            M::Fxsave | M::Fxsave64 => {
                self.op.size = if mnemonic == M::Fxsave64 { 8 } else { 4 };
                xsave::fxsave
            }
            M::Fxrstor | M::Fxrstor64 => {
                self.op.size = if mnemonic == M::Fxrstor64 { 8 } else { 4 };
                xsave::fxrstor
            }
            M::Xsave | M::Xsave64 => self.xsave(xsave::Kind::Save, mnemonic == M::Xsave64),
            M::Xsaveopt | M::Xsaveopt64 => {
                self.xsave(xsave::Kind::SaveOptimized, mnemonic == M::Xsaveopt64)
            }
            M::Xsavec | M::Xsavec64 => {
                self.xsave(xsave::Kind::SaveCompacted, mnemonic == M::Xsavec64)
            }
            M::Xsaves | M::Xsaves64 => {
                self.xsave(xsave::Kind::SaveSupervisor, mnemonic == M::Xsaves64)
            }
            M::Vzeroupper | M::Vzeroall => {
                self.op.imm = u64::from(mnemonic == M::Vzeroall);
                control::vzero
            }
            _ => return None,
        })
    }

    fn xsave(&mut self, kind: xsave::Kind, wide: bool) -> Handler {
        self.op.imm = kind as u64;
        self.op.size = if wide { 8 } else { 4 };
        xsave::save
    }

    /// IN and OUT: positions of the port and of the accumulator.
    fn port(&mut self, port: u32, accumulator: u32) {
        self.op.size = self.operand_size(accumulator);
        self.op.imm = match self.instruction.op_kind(port) {
            OpKind::Register => io::PORT_IN_DX,
            _ => self.instruction.immediate(port) & 0xff,
        };
    }

    fn far(&mut self) -> Handler {
        let instruction = self.instruction;
        self.ends_block = true;
        let jump = instruction.mnemonic() == M::Jmp;
        if self.kind(0) == Kind::Mem {
            self.op.size = match instruction.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            return if jump { far::jump_mem } else { far::call_mem };
        }
        self.op.disp = u64::from(instruction.far_branch_selector());
        if instruction.op0_kind() == OpKind::FarBranch16 {
            self.op.imm = u64::from(instruction.far_branch16());
            self.op.size = 2;
        } else {
            self.op.imm = u64::from(instruction.far_branch32());
            self.op.size = 4;
        }
        if jump { far::jump_imm } else { far::call_imm }
    }

    /// MOV to and from control and debug registers.
    pub(super) fn mov_control(&mut self) -> Option<Handler> {
        let (a, b) = (self.instruction.op0_register(), self.instruction.op1_register());
        self.ends_block = true;
        let (number, handler): (Register, Handler) = if a.is_cr() {
            (a, control::mov_to_cr)
        } else if b.is_cr() {
            (b, control::mov_from_cr)
        } else if a.is_dr() {
            (a, debug::mov_to_dr)
        } else if b.is_dr() {
            (b, debug::mov_from_dr)
        } else {
            return Some(control::undefined);
        };
        if number == a {
            (self.op.dst, self.op.src) = (number.number() as u8, register(b));
        } else {
            (self.op.dst, self.op.src) = (register(a), number.number() as u8);
        }
        Some(handler)
    }
}
