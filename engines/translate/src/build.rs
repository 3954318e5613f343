//! Building blocks: from guest instructions to host code.
//!
//! Guest registers live in the host registers of the same names, but for R10 and R11: those are the
//! translator's scratch registers, and the guest's are at home in memory. An instruction that names
//! them gets them loaded; what is loaded stays so until a scratch register is needed.

use crate::apart;
use crate::classify::{Action, class, classify};
use crate::emit::{Code, Mem, reg};
use crate::layout::{self, SetLayout};
use crate::liveness;
use crate::memory::{ColdProbe, Operand};
use crate::site::{Kind, Site};
use crate::statistics::Statistics;
use crate::stubs::Stubs;
use ambos_interpret::Cpu;
use ambos_interpret::cpu::seg;
use ambos_interpret::decode;
use ambos_interpret::exec::native::Class;
use ambos_interpret::mmu::SETS;
use iced_x86::{
    Code as Op, Decoder, DecoderError, DecoderOptions, Instruction, InstructionInfoFactory,
    MemoryOperand, Mnemonic, OpAccess, OpKind, Register,
};
use std::rc::Rc;

/// Most instructions in a block.
const MAX_BLOCK: usize = 48;
/// Instructions looked at beyond a block for the life of flags.
const PEEK: usize = 6;

/// What a block is made from.
pub(crate) struct Source<'a> {
    /// The page that the code lies in; of a straddling instruction's, also the bytes that follow it.
    pub(crate) page: &'a [u8],
    /// Linear address of the first instruction.
    pub(crate) linear: u64,
    /// The linear address is part of the block; else it runs at any.
    pub(crate) absolute: bool,
    /// Number of the block.
    pub(crate) block: u32,
    /// Number of its first site.
    pub(crate) first_site: u32,
    /// Address of the attention word.
    pub(crate) attention: u64,
    /// Whether the block runs apart from others: see [`crate::Options::apart`].
    pub(crate) apart: bool,
}

/// A finished block.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// Offsets of the entries in the code: from anywhere with the linear address in R10; from
    /// a later place in the same page; from an earlier one.
    pub(crate) entries: [u32; 3],
    /// Offset of the code that leaves before the first instruction.
    pub(crate) leave: u32,
    /// The places where it leaves.
    pub(crate) sites: Vec<Site>,
    /// Offset in the code and in the page of each instruction.
    pub(crate) map: Vec<(u32, u16)>,
    /// Guest instructions.
    pub(crate) instructions: u32,
    /// Bytes of guest code.
    pub(crate) guest_bytes: u32,
}

/// A guest register that has no host register of its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Home {
    pub(crate) loaded: bool,
    pub(crate) dirty: bool,
}

/// Code off the straight path that leaves at a site.
struct Cold {
    displacement: u64,
    site: u32,
    kind: ColdKind,
}

/// What code off the straight path does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ColdKind {
    /// It leaves.
    Leave,
    /// It looks into the second level of the TLB.
    Probe(ColdProbe),
    /// It looks into the second level of a set's jump cache.
    Jump(usize),
}

/// A jump to another page off the straight path.
pub(crate) struct Far {
    pub(crate) displacement: u64,
    pub(crate) target: u64,
    pub(crate) offset: u16,
}

/// The state of building one block.
pub(crate) struct Builder<'a> {
    pub(crate) code: &'a mut Code,
    /// All sets of the TLB, and the one in use where the block has got to.
    pub(crate) sets: &'a [SetLayout; SETS],
    pub(crate) set: SetLayout,
    pub(crate) set_number: usize,
    pub(crate) counters: &'a mut Statistics,
    pub(crate) cpu: &'a mut Cpu,
    pub(crate) source: &'a Source<'a>,
    pub(crate) stubs: &'a Stubs,
    info: InstructionInfoFactory,
    pub(crate) homes: [Home; 2],
    colds: Vec<Cold>,
    pub(crate) fars: Vec<Far>,
    built: Built,
    /// Offset in the page and length of the current instruction.
    pub(crate) offset: u16,
    pub(crate) length: u8,
    current: Instruction,
    /// What is done with the instruction after it, if that is known.
    pub(crate) next_action: Option<Action>,
    /// The last instruction was STI: interrupts are held off during the current one.
    pub(crate) shadow: bool,
}

pub(crate) fn home_of(register: Register) -> Option<usize> {
    if !register.is_gpr() {
        return None;
    }
    match register.full_register() {
        Register::R10 => Some(0),
        Register::R11 => Some(1),
        _ => None,
    }
}

fn home_register(home: usize) -> u8 {
    reg::R10 + home as u8
}

fn iced(register: u8) -> Register {
    Register::RAX + u32::from(register)
}

/// Whether an operand is AH, CH, DH or BH, which no instruction with a REX prefix can name.
fn names_high_byte(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| {
        instruction.op_kind(index) == OpKind::Register
            && matches!(
                instruction.op_register(index),
                Register::AH | Register::CH | Register::DH | Register::BH
            )
    })
}

/// The instruction with its memory operand at `base`.
fn with_base(instruction: &Instruction, base: Register) -> Instruction {
    let mut copy = *instruction;
    copy.set_segment_prefix(Register::None);
    copy.set_memory_base(base);
    copy.set_memory_index(Register::None);
    copy.set_memory_index_scale(1);
    copy.set_memory_displacement64(0);
    copy.set_memory_displ_size(0);
    copy
}

/// What came of an attempt at one instruction.
pub(crate) enum Done {
    /// The block goes on.
    Next,
    /// The block ends here.
    End,
    /// The interpreter must run it.
    Refused,
}

/// Why there is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// The first instruction goes on in the next page.
    Straddles,
    /// There is no instruction.
    Undefined,
}

/// Builds the block.
///
/// # Errors
///
/// Why there is none.
pub(crate) fn build(
    code: &mut Code,
    cpu: &mut Cpu,
    counters: &mut Statistics,
    stubs: &Stubs,
    sets: &[SetLayout; SETS],
    source: &Source<'_>,
) -> Result<Built, NoBlock> {
    let start = (source.linear & 0xfff) as usize;
    let mut decoder =
        Decoder::with_ip(64, &source.page[start..], source.linear, DecoderOptions::NONE);
    let mut instructions = Vec::with_capacity(16);
    let straddling = source.page.len() > 0x1000;
    let most = if straddling { 1 } else { MAX_BLOCK };
    while instructions.len() < most && decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        let action = match classify(&instruction) {
            Action::Copy if source.apart && apart::is_unsteady(instruction.mnemonic()) => {
                Action::Interpret
            }
            action => action,
        };
        let ends = matches!(
            action,
            Action::Branch
                | Action::Jump
                | Action::Call
                | Action::JumpTo
                | Action::CallTo
                | Action::Return
        ) || action == Action::Interpret
            && instruction.flow_control() != iced_x86::FlowControl::Next;
        instructions.push((instruction, action));
        if ends {
            break;
        }
    }
    if instructions.is_empty() {
        let incomplete = !straddling && decoder.last_error() == DecoderError::NoMoreBytes;
        return Err(if incomplete { NoBlock::Straddles } else { NoBlock::Undefined });
    }
    let set_number = cpu.mmu_index.min(SETS - 1);
    let mut builder = Builder {
        code,
        sets,
        set: sets[set_number],
        set_number,
        counters,
        cpu,
        source,
        stubs,
        info: InstructionInfoFactory::new(),
        homes: [Home::default(); 2],
        colds: Vec::new(),
        fars: Vec::new(),
        built: Built::default(),
        offset: start as u16,
        length: 0,
        current: Instruction::default(),
        next_action: None,
        shadow: false,
    };
    let live = builder.live(&instructions);
    builder.head(live.first().copied().unwrap_or(liveness::ALL));
    let mut ended = false;
    for (index, (&(ref instruction, action), &live)) in instructions.iter().zip(&live).enumerate() {
        builder.next_action = instructions.get(index + 1).map(|&(_, action)| action);
        ended = builder.instruction(instruction, action, live);
        if ended {
            break;
        }
    }
    if !ended {
        builder.flush();
        let next = u64::from(builder.offset) + u64::from(builder.length);
        builder.edge(next, None, 0);
    }
    builder.finish();
    Ok(builder.built)
}

impl Builder<'_> {
    pub(crate) fn page_base(&self) -> u64 {
        self.source.linear & !0xfff
    }

    /// Flags needed before each instruction.
    fn live(&self, instructions: &[(Instruction, Action)]) -> Vec<u32> {
        let mut live = match instructions.last() {
            Some((last, Action::Branch | Action::Jump | Action::Call)) => {
                let mut needed = self.peek(last.near_branch_target());
                if last.is_jcc_short_or_near() {
                    needed |= self.peek(last.next_ip());
                }
                needed
            }
            Some((last, Action::Copy | Action::Skip)) => self.peek(last.next_ip()),
            _ => liveness::ALL,
        };
        let mut result = vec![0; instructions.len()];
        for (index, (instruction, action)) in instructions.iter().enumerate().rev() {
            live = match action {
                Action::Interpret => liveness::ALL,
                // What follows in the block has been looked at.
                Action::Branch => live | instruction.rflags_read() & liveness::ALL,
                Action::Jump | Action::Call => live,
                _ => liveness::before(instruction, live),
            };
            result[index] = live;
        }
        result
    }

    /// Flags needed by the code at a linear address, if it lies in the same page.
    fn peek(&self, linear: u64) -> u32 {
        if linear & !0xfff != self.page_base() {
            return liveness::ALL;
        }
        let bytes = &self.source.page[(linear & 0xfff) as usize..];
        let decoder = Decoder::with_ip(64, bytes, linear, DecoderOptions::NONE);
        let next: Vec<_> = decoder
            .into_iter()
            .take(PEEK)
            .take_while(|instruction| {
                !instruction.is_invalid() && classify(instruction) != Action::Interpret
            })
            .collect();
        liveness::at_start(next.iter())
    }

    /// Whether the instruction at an offset in the page goes on in the next one.
    pub(crate) fn straddles(&self, offset: u64) -> bool {
        const LONGEST: u64 = 15;
        if offset <= 0x1000 - LONGEST {
            return false;
        }
        let bytes = &self.source.page[offset as usize..0x1000];
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let _ = decoder.decode();
        decoder.last_error() == DecoderError::NoMoreBytes
    }

    /// The entries.
    fn head(&mut self, live: u32) {
        let base = self.code.here();
        let offset = |here: u64| (here - base) as u32;
        if !self.source.absolute {
            let back = -((self.source.linear & 0xfff) as i32);
            self.code.lea(reg::R11, Mem::Base(reg::R10, back));
            self.code.store(Mem::Gs(layout::CODE_BASE), reg::R11);
        }
        self.built.entries[1] = offset(self.code.here());
        let site = self.site(Kind::Entry);
        self.poll(site, live != 0);
        self.built.entries[2] = offset(self.code.here());
    }

    /// Leaves at `site` if something wants attention. Changes R10.
    pub(crate) fn poll(&mut self, site: u32, flags_live: bool) {
        if !flags_live {
            self.code.constant(reg::R10, self.source.attention);
            // cmp dword ptr [r10], 0
            self.code.raw(&[0x41, 0x83, 0x3a, 0]);
            let displacement = self.code.jump_if(5, 0);
            self.cold(displacement, site, ColdKind::Leave);
            return;
        }
        self.code.store(Mem::Gs(layout::SAVED_RCX), reg::RCX);
        self.code.constant(reg::R10, self.source.attention);
        // mov ecx, [r10]; jrcxz over the two instructions that leave
        self.code.raw(&[0x41, 0x8b, 0x0a, 0xe3, 14]);
        let here = self.code.here();
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
        let displacement = self.code.jump(0);
        debug_assert_eq!(self.code.here() - here, 14);
        self.cold(displacement, site, ColdKind::Leave);
        self.code.load(reg::RCX, Mem::Gs(layout::SAVED_RCX));
    }

    /// Adds a site of the current instruction; returns its number.
    pub(crate) fn site(&mut self, kind: Kind) -> u32 {
        let number = self.source.first_site + self.built.sites.len() as u32;
        self.built.sites.push(Site {
            block: self.source.block,
            offset: self.offset,
            length: self.length,
            next: 0,
            kind,
        });
        number
    }

    /// Lets a jump lead to code that leaves at `site`.
    pub(crate) fn cold(&mut self, displacement: u64, site: u32, kind: ColdKind) {
        self.colds.push(Cold { displacement, site, kind });
    }

    fn note_site(&mut self, site: u32) {
        self.code.op(false, &[0xc7], 0, Mem::Gs(layout::SITE));
        self.code.raw(&site.to_le_bytes());
    }

    pub(crate) fn leave_at(&mut self, site: u32) {
        self.note_site(site);
        self.code.jump(self.stubs.exit);
    }

    /// From here on operands and jumps are those of another set.
    pub(crate) fn use_set(&mut self, number: usize) {
        self.set = self.sets[number];
        self.set_number = number;
    }

    /// Loads a homed register unless it is.
    pub(crate) fn need(&mut self, home: usize) {
        if !self.homes[home].loaded {
            let register = home_register(home);
            self.code.load(register, Mem::Gs(layout::gpr(register)));
            self.homes[home].loaded = true;
        }
    }

    /// Stores homed registers that changed.
    pub(crate) fn flush(&mut self) {
        for home in 0..2 {
            if std::mem::take(&mut self.homes[home].dirty) {
                let register = home_register(home);
                self.code.store(Mem::Gs(layout::gpr(register)), register);
            }
        }
    }

    /// Gives both scratch registers free.
    pub(crate) fn free_scratch(&mut self) {
        self.flush();
        self.forget_scratch();
    }

    /// The scratch registers no longer hold what they are home to, which has been stored.
    pub(crate) fn forget_scratch(&mut self) {
        self.homes = [Home::default(); 2];
    }

    /// Translates one instruction; returns whether the block ends with it.
    fn instruction(&mut self, instruction: &Instruction, action: Action, live: u32) -> bool {
        self.offset = (instruction.ip() & 0xfff) as u16;
        self.length = instruction.len() as u8;
        self.current = *instruction;
        let shadowed = self.shadow;
        let base = self.code.here() - self.code.bytes.len() as u64;
        self.built.map.push(((self.code.here() - base) as u32, self.offset));
        self.built.instructions += 1;
        self.built.guest_bytes += instruction.len() as u32;
        let first_site = self.built.sites.len();
        let before =
            (self.code.bytes.len(), self.homes, self.colds.len(), self.fars.len(), first_site);
        let done = match self.attempt(instruction, action, live != 0) {
            Done::Refused => {
                let (bytes, homes, colds, fars, sites) = before;
                self.code.bytes.truncate(bytes);
                self.homes = homes;
                self.colds.truncate(colds);
                self.fars.truncate(fars);
                self.built.sites.truncate(sites);
                self.interpret()
            }
            done => done,
        };
        // After an instruction that ends the block there is nowhere to go on, even if it leads to the
        // next one.
        let next = if matches!(done, Done::End) { 0 } else { self.code.here() };
        for site in &mut self.built.sites[first_site..] {
            site.next = next;
        }
        if shadowed && matches!(done, Done::Next) {
            self.end_shadow();
            self.poll_after(true);
        }
        matches!(done, Done::End)
    }

    fn attempt(&mut self, instruction: &Instruction, action: Action, flags_live: bool) -> Done {
        match action {
            Action::Skip => Done::Next,
            Action::Copy => self.copy(instruction, flags_live),
            Action::Address => self.address_of(instruction),
            Action::Push => self.push(instruction, flags_live),
            Action::Pop => {
                self.free_scratch();
                self.code.copy(reg::R10, reg::RSP);
                let register = instruction.op0_register();
                let operand = Operand { size: 8, write: false, flags_live };
                self.probe(reg::R10, reg::R11, operand);
                let number = register.number() as u8;
                self.code.load(number, Mem::Sum(reg::R10, reg::R11));
                if number != reg::RSP {
                    self.code.lea(reg::RSP, Mem::Base(reg::RSP, 8));
                }
                if let Some(home) = home_of(register) {
                    self.homes[home] = Home { loaded: true, dirty: true };
                }
                Done::Next
            }
            Action::Leave => {
                self.free_scratch();
                self.code.copy(reg::R10, reg::RBP);
                let operand = Operand { size: 8, write: false, flags_live };
                self.probe(reg::R10, reg::R11, operand);
                self.code.load(reg::R10, Mem::Sum(reg::R10, reg::R11));
                self.code.lea(reg::RSP, Mem::Base(reg::RBP, 8));
                self.code.copy(reg::RBP, reg::R10);
                Done::Next
            }
            Action::Branch => {
                self.free_scratch();
                let target = instruction.near_branch_target().wrapping_sub(self.page_base());
                let condition = instruction.condition_code() as u8 - 1;
                self.edge(target, Some(condition), 0);
                self.edge(u64::from(self.offset) + u64::from(self.length), None, 0);
                Done::End
            }
            Action::Jump => {
                self.free_scratch();
                let target = instruction.near_branch_target().wrapping_sub(self.page_base());
                self.edge(target, None, 0);
                Done::End
            }
            Action::Call => {
                self.free_scratch();
                self.push_return(flags_live);
                let target = instruction.near_branch_target().wrapping_sub(self.page_base());
                self.edge(target, None, -8);
                Done::End
            }
            Action::JumpTo => {
                if !self.target(instruction, flags_live) {
                    return Done::Refused;
                }
                self.through_jump_cache(0);
                Done::End
            }
            Action::CallTo => {
                if !self.target(instruction, flags_live) {
                    return Done::Refused;
                }
                self.code.store(Mem::Gs(layout::WAITING), reg::R10);
                self.push_return(flags_live);
                self.code.load(reg::R10, Mem::Gs(layout::WAITING));
                self.through_jump_cache(-8);
                Done::End
            }
            Action::Return => {
                self.free_scratch();
                let release = match instruction.op_count() {
                    0 => 8,
                    _ => 8 + (instruction.immediate(0) & 0xffff) as i32,
                };
                self.code.copy(reg::R10, reg::RSP);
                self.probe(reg::R10, reg::R11, Operand { size: 8, write: false, flags_live });
                self.code.load(reg::R10, Mem::Sum(reg::R10, reg::R11));
                self.code.lea(reg::RSP, Mem::Base(reg::RSP, release));
                self.through_jump_cache(i64::from(release));
                Done::End
            }
            Action::System | Action::Interpret => self.system(instruction, flags_live),
        }
    }

    /// Leaves for the interpreter to run the instruction.
    fn interpret(&mut self) -> Done {
        self.free_scratch();
        self.counters.interpreted_sites += 1;
        if self.leave_to_interpreter() { Done::End } else { Done::Next }
    }

    /// Leaves for the interpreter to run the current instruction, whose scratch registers have been
    /// stored; returns whether it ends the block.
    pub(crate) fn leave_to_interpreter(&mut self) -> bool {
        let offset = usize::from(self.offset);
        let bytes = &self.source.page[offset..offset + self.current.len()];
        let start = offset - (self.source.linear & 0xfff) as usize;
        let lowered = decode::lower(self.cpu, &self.current, bytes, start);
        let goes_on = !lowered.ends_block;
        let site = self.site(Kind::Interpret { op: Rc::new(lowered.op), goes_on });
        self.leave_at(site);
        lowered.ends_block
    }

    /// The linear address of the next instruction.
    pub(crate) fn next_address(&mut self, to: u8) {
        let next = i32::from(self.offset) + i32::from(self.length);
        if self.source.absolute {
            self.code.constant(to, self.page_base().wrapping_add(next as u64));
        } else {
            self.code.load(to, Mem::Gs(layout::CODE_BASE));
            self.code.lea(to, Mem::Base(to, next));
        }
    }

    /// Computes the linear address of the memory operand into `first`; frees both scratch
    /// registers. `false` if that cannot be done.
    pub(crate) fn linear(&mut self, instruction: &Instruction, first: u8, second: u8) -> bool {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        for register in [base, index] {
            if let Some(home) = home_of(register) {
                self.need(home);
            }
        }
        self.free_scratch();
        if base == Register::RIP {
            let target = instruction.memory_displacement64();
            if self.source.absolute {
                self.code.constant(first, target);
            } else {
                let Ok(away) = i32::try_from(target.wrapping_sub(self.page_base()) as i64) else {
                    return false;
                };
                self.code.load(first, Mem::Gs(layout::CODE_BASE));
                self.code.lea(first, Mem::Base(first, away));
            }
        } else if base == Register::EIP {
            return false;
        } else if base == Register::None && index == Register::None {
            self.code.constant(first, instruction.memory_displacement64());
        } else {
            let narrow = base.size() == 4 || index.size() == 4;
            let full = |register: Register| {
                if register == Register::None { register } else { register.full_register() }
            };
            let displacement = instruction.memory_displacement64();
            let displacement =
                if narrow { displacement as i32 as i64 } else { displacement as i64 };
            let memory = MemoryOperand::new(
                full(base),
                full(index),
                instruction.memory_index_scale(),
                displacement,
                1,
                false,
                Register::None,
            );
            let (code, to) = if narrow {
                (Op::Lea_r32_m, Register::EAX + u32::from(first))
            } else {
                (Op::Lea_r64_m, iced(first))
            };
            let Ok(lea) = Instruction::with2(code, to, memory) else { return false };
            if !self.code.instruction(&lea) {
                return false;
            }
        }
        let number = match instruction.memory_segment() {
            Register::FS => seg::FS,
            Register::GS => seg::GS,
            _ => return true,
        };
        self.code.load(second, Mem::Gs(layout::segment_base(number)));
        self.code.lea(first, Mem::Sum(first, second));
        true
    }

    fn copy(&mut self, instruction: &Instruction, flags_live: bool) -> Done {
        let class = class(instruction);
        if self.cpu.check_class(class).is_err() {
            return Done::Refused;
        }
        let memory =
            (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory);
        let mut named = [false; 2];
        for index in 0..instruction.op_count() {
            if instruction.op_kind(index) == OpKind::Register
                && let Some(home) = home_of(instruction.op_register(index))
            {
                named[home] = true;
            }
        }
        // Whether each homed register operand is read and written.
        let (mut read, mut written) = ([false; 2], [false; 2]);
        let mut write_memory = false;
        let info = self.info.info(instruction);
        if let Some(index) = memory {
            write_memory = !matches!(
                info.op_access(index),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
            );
        }
        for used in info.used_registers() {
            let Some(home) = home_of(used.register()) else { continue };
            let partial = used.register().size() < 4;
            match used.access() {
                OpAccess::Read | OpAccess::CondRead => read[home] = true,
                OpAccess::Write => {
                    written[home] = true;
                    read[home] |= partial;
                }
                _ => (read[home], written[home]) = (true, true),
            }
        }
        if memory.is_none() {
            for (home, _) in read.iter().enumerate().filter(|(_, read)| **read) {
                self.need(home);
            }
            let may_fault = class != Class::General
                || matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv);
            if may_fault {
                self.flush();
            }
            let offset = usize::from(self.offset);
            let bytes = &self.source.page[offset..offset + instruction.len()];
            self.code.raw(bytes);
            for (home, _) in written.iter().enumerate().filter(|(_, written)| **written) {
                self.homes[home] = Home { loaded: true, dirty: true };
            }
            return Done::Next;
        }
        if named == [true, true] || names_high_byte(instruction) {
            let operand =
                Operand { size: instruction.memory_size().size(), write: write_memory, flags_live };
            return self.copy_through_displaced(instruction, operand, named, written);
        }
        let (first, second, home) = match named {
            [true, true] => return Done::Refused,
            [true, false] => (reg::R11, reg::R10, Some(0)),
            [false, true] => (reg::R10, reg::R11, Some(1)),
            [false, false] => (reg::R10, reg::R11, None),
        };
        if !self.linear(instruction, first, second) {
            return Done::Refused;
        }
        let size = instruction.memory_size().size();
        self.probe(first, second, Operand { size, write: write_memory, flags_live });
        let mut copy = with_base(instruction, iced(first));
        match home {
            Some(home) => {
                self.code.lea(first, Mem::Sum(first, second));
                // The operand's access counts, not that of an address the register was part of.
                let only_written = written[home] && !self.reads_operand(instruction, home);
                if !only_written {
                    self.code.load(second, Mem::Gs(layout::gpr(second)));
                }
                self.homes[home] = Home { loaded: true, dirty: written[home] };
            }
            None => copy.set_memory_index(iced(second)),
        }
        if self.code.instruction(&copy) { Done::Next } else { Done::Refused }
    }

    /// A copy whose operand neither R10 nor R11 can reach: a register that the instruction does not
    /// use holds the address meanwhile.
    fn copy_through_displaced(
        &mut self,
        instruction: &Instruction,
        operand: Operand,
        named: [bool; 2],
        written: [bool; 2],
    ) -> Done {
        let used = self.info.info(instruction).used_registers();
        let free = [Register::RSI, Register::RDI, Register::RBX, Register::RBP]
            .into_iter()
            .find(|&free| !used.iter().any(|used| used.register().full_register() == free));
        let Some(free) = free else { return Done::Refused };
        if !self.linear(instruction, reg::R10, reg::R11) {
            return Done::Refused;
        }
        self.probe(reg::R10, reg::R11, operand);
        self.code.lea(reg::R10, Mem::Sum(reg::R10, reg::R11));
        let number = free.number() as u8;
        self.code.store(Mem::Gs(layout::WAITING), number);
        self.code.copy(number, reg::R10);
        for (home, _) in named.iter().enumerate().filter(|(_, named)| **named) {
            self.need(home);
        }
        if !self.code.instruction(&with_base(instruction, free)) {
            return Done::Refused;
        }
        self.code.load(number, Mem::Gs(layout::WAITING));
        for home in (0..2).filter(|&home| named[home] && written[home]) {
            self.homes[home].dirty = true;
        }
        Done::Next
    }

    /// Whether a homed register operand is read: always, but for plain writes of all its bits.
    fn reads_operand(&mut self, instruction: &Instruction, home: usize) -> bool {
        let info = self.info.info(instruction);
        (0..instruction.op_count()).any(|index| {
            instruction.op_kind(index) == OpKind::Register
                && home_of(instruction.op_register(index)) == Some(home)
                && (info.op_access(index) != OpAccess::Write
                    || instruction.op_register(index).size() < 4)
        })
    }

    /// LEA: copied, unless it names the instruction pointer.
    fn address_of(&mut self, instruction: &Instruction) -> Done {
        let to = instruction.op0_register();
        if instruction.memory_base() == Register::EIP {
            return Done::Refused;
        }
        let rip = instruction.memory_base() == Register::RIP;
        for register in [instruction.memory_base(), instruction.memory_index()] {
            if let Some(home) = home_of(register) {
                self.need(home);
            }
        }
        if to.size() < 4
            && let Some(home) = home_of(to)
        {
            self.need(home);
        }
        if rip {
            let number = to.number() as u8;
            if to.size() != 8 {
                return Done::Refused;
            }
            let target = instruction.memory_displacement64();
            if self.source.absolute {
                self.code.constant(number, target);
            } else {
                let Ok(away) = i32::try_from(target.wrapping_sub(self.page_base()) as i64) else {
                    return Done::Refused;
                };
                self.code.load(number, Mem::Gs(layout::CODE_BASE));
                self.code.lea(number, Mem::Base(number, away));
            }
        } else {
            let offset = usize::from(self.offset);
            self.code.raw(&self.source.page[offset..offset + instruction.len()]);
        }
        if let Some(home) = home_of(to) {
            self.homes[home] = Home { loaded: true, dirty: true };
        }
        Done::Next
    }

    /// Emits what lies off the straight path.
    fn finish(&mut self) {
        let base = self.code.here() - self.code.bytes.len() as u64;
        for far in std::mem::take(&mut self.fars) {
            let here = self.code.here();
            self.code.bind(far.displacement, here);
            self.offset = far.offset;
            self.far_edge(far.target, 0);
        }
        let mut first = true;
        for cold in std::mem::take(&mut self.colds) {
            let here = self.code.here();
            if std::mem::take(&mut first) {
                // The head's is the first.
                self.built.leave = (here - base) as u32;
            }
            self.code.bind(cold.displacement, here);
            match cold.kind {
                ColdKind::Leave => self.leave_at(cold.site),
                ColdKind::Probe(probe) => self.cold_probe(cold.site, probe),
                ColdKind::Jump(set) => {
                    self.note_site(cold.site);
                    self.code.jump(self.stubs.second.jump(set));
                }
            }
        }
    }
}
