//! Random programs that use memory in every way that a user's instructions have, wherever it is, and whether it is there or
//! not.

use super::place::Place;
use super::world::{PRESENT, Page, RELOAD, REMAP, USER, WRITABLE};
use ambos_random::Random;
use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};

/// Pointers that are no addresses, or of nothing.
const NOWHERE: [u64; 10] = [
    0,
    0x8,
    0x7fff_ffff_fff8,
    0x8000_0000_0000,
    0xffff_7fff_ffff_fffc,
    0xffff_8000_0000_0010,
    0xffff_ffff_ffff_fff8,
    0x1234_5678_9abc_def0,
    0x6000_0000_0000,
    0x80ff_ffff_fffc,
];
/// Registers that point at memory, of which programs have some, and those that hold data.
const POINTERS: [Register; 8] = [
    Register::RBX,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
];
const DATA: [Register; 6] =
    [Register::RAX, Register::RCX, Register::RDX, Register::R8, Register::R10, Register::R11];

/// What a program is made of.
#[derive(Debug)]
pub(crate) struct User<'a> {
    random: &'a mut Random,
    pages: &'a [Page],
    /// Frames that pages may be mapped to.
    frames: &'a [u64],
    /// Mappings may change.
    remaps: bool,
    /// Values of CR3 that the program may ask for.
    spaces: &'a [u64],
    place: Place,
    /// The pointers, and where they point.
    pointers: Vec<(Register, u64)>,
    data: Vec<Register>,
    /// Where the bases of FS and GS are.
    bases: [u64; 2],
}

/// A register's part of `size`: 1, 2, 4 or 8 bytes.
fn part(register: Register, size: usize) -> Register {
    let number = register.number() as u32;
    match size {
        1 if number >= 8 => Register::R8L + (number - 8),
        1 if number >= 4 => Register::SPL + (number - 4),
        1 => Register::AL + number,
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => register,
    }
}

impl<'a> User<'a> {
    pub(crate) fn new(
        random: &'a mut Random,
        start: u64,
        (pages, frames): (&'a [Page], &'a [u64]),
        bases: [u64; 2],
        (remaps, spaces): (bool, &'a [u64]),
    ) -> Self {
        let mut pointers = POINTERS.to_vec();
        while pointers.len() > 4 {
            pointers.swap_remove(random.index(pointers.len()));
        }
        let data = DATA.into_iter().filter(|data| !pointers.contains(data)).collect();
        let pointers = pointers.into_iter().map(|register| (register, 0)).collect();
        Self {
            random,
            pages,
            frames,
            remaps,
            spaces,
            place: Place::at(start),
            pointers,
            data,
            bases,
        }
    }

    /// A program that runs `turns` times through so many steps and ends with UD2.
    pub(crate) fn program(mut self, steps: usize, turns: u32) -> Place {
        // mov r14d, turns
        self.place.raw(&[0x41, 0xbe]);
        self.place.raw(&turns.to_le_bytes());
        let start = self.place.here();
        for index in 0..self.pointers.len() {
            self.point(index);
        }
        self.stack();
        for _ in 0..steps {
            self.step();
        }
        // dec r14; jnz start; ud2
        self.place.raw(&[0x49, 0xff, 0xce]);
        self.place.jump_if(5, start);
        self.place.raw(&[0x0f, 0x0b]);
        self.place
    }

    /// An address of interest.
    fn target(&mut self) -> u64 {
        match self.random.index(40) {
            0 => self.random.pick(&NOWHERE),
            1 => self.random.next() << 48 | self.page().linear & 0xffff_ffff_ffff,
            2 => self.random.next(),
            _ => {
                let page = self.page().linear;
                let within = match self.random.index(3) {
                    0 => 0x1000 - self.random.below(0x24),
                    1 => self.random.below(0x1000),
                    _ => self.random.below(0x100) << 4,
                };
                page.wrapping_add(within)
            }
        }
    }

    fn page(&mut self) -> Page {
        self.random.pick(self.pages)
    }

    fn emit(&mut self, instruction: Result<Instruction, iced_x86::IcedError>) {
        let mut encoder = Encoder::new(64);
        encoder.encode(&instruction.unwrap(), self.place.here()).unwrap();
        self.place.raw(&encoder.take_buffer());
    }

    fn constant(&mut self, register: Register, value: u64) {
        self.emit(Instruction::with2(Code::Mov_r64_imm64, register, value));
    }

    /// Has a pointer point elsewhere.
    fn point(&mut self, index: usize) {
        let target = self.target();
        let register = self.pointers[index].0;
        self.pointers[index].1 = target;
        self.constant(register, target);
    }

    /// Has the stack pointer point at a page.
    fn stack(&mut self) {
        let mut target = self.target();
        if self.random.index(3) > 0 {
            target = target & !0xfff | (self.random.below(6) * 8);
        }
        self.constant(Register::RSP, target);
    }

    /// Moves a pointer.
    fn step_pointer(&mut self) {
        let index = self.random.index(self.pointers.len());
        let (register, value) = self.pointers[index];
        let by = match self.random.index(8) {
            0 => 0x4000_0000,
            1 => self.random.next() as i32,
            2 => 0x1000,
            3 => i32::MAX,
            4 => i32::MIN,
            _ => self.random.index(0x80) as i32 - 0x40,
        };
        let signed = i64::from(by);
        match self.random.index(6) {
            0 => {
                self.emit(Instruction::with2(Code::Sub_rm64_imm32, register, by));
                self.pointers[index].1 = value.wrapping_sub(signed as u64);
            }
            1 => {
                self.emit(Instruction::with2(Code::Add_rm64_imm32, register, by));
                self.pointers[index].1 = value.wrapping_add(signed as u64);
            }
            2 => {
                self.emit(Instruction::with1(Code::Inc_rm64, register));
                self.pointers[index].1 = value.wrapping_add(1);
            }
            3 => {
                // From another pointer.
                let (other, its) = self.random.pick(&self.pointers);
                self.emit(Instruction::with2(Code::Mov_r64_rm64, register, other));
                self.pointers[index].1 = its;
            }
            4 => {
                let (other, its) = self.random.pick(&self.pointers);
                let from = MemoryOperand::with_base_displ_size(other, signed, 8);
                self.emit(Instruction::with2(Code::Lea_r64_m, register, from));
                self.pointers[index].1 = its.wrapping_add(signed as u64);
            }
            _ => self.point(index),
        }
    }

    /// A memory operand; what it names may be far away from where its pointer points.
    fn operand(&mut self) -> MemoryOperand {
        let (base, value) = self.random.pick(&self.pointers);
        let segment = match self.random.index(12) {
            0 => Some(0),
            1 => Some(1),
            _ => None,
        };
        let at_base = segment.map_or(0, |segment| self.bases[segment]);
        let name = match segment {
            Some(0) => Register::FS,
            Some(_) => Register::GS,
            None => Register::None,
        };
        let operand = |base, index, scale, displacement: i64| {
            MemoryOperand::new(base, index, scale, displacement, 8, false, name)
        };
        let near = self.random.index(0x48) as i64 - 0x24;
        match self.random.index(12) {
            0 => {
                // Indexed by a register that holds what is missing.
                let index = self.random.pick(&self.data);
                let scale = self.random.pick(&[1, 1, 2, 4, 8]);
                let target = self.target().wrapping_sub(at_base);
                let rest = target.wrapping_sub(value).wrapping_sub(near as u64);
                let missing = (rest as i64) / i64::from(scale);
                self.constant(index, missing as u64);
                operand(base, index, scale, near)
            }
            1 => {
                // Without a base.
                let index = self.random.pick(&self.data);
                let target = self.target().wrapping_sub(at_base);
                self.constant(index, target.wrapping_sub(near as u64) >> 2);
                operand(Register::None, index, 4, near)
            }
            2 if segment.is_none() => {
                // Relative to the instruction pointer.
                let target = super::DATA + self.random.below(super::DATA_SIZE as u64);
                MemoryOperand::with_base_displ(Register::RIP, target as i64)
            }
            3 => {
                let target = self.target().wrapping_sub(at_base) as i64;
                match i32::try_from(target) {
                    Ok(_) => operand(Register::None, Register::None, 1, target),
                    Err(_) => operand(base, Register::None, 1, near),
                }
            }
            4 | 5 => {
                // Some page that the displacement reaches, or as far as that goes.
                let mut displacement = self.random.pick(&[
                    i64::from(i32::MIN),
                    i64::from(i32::MAX),
                    1 << 30,
                    -(1 << 30),
                    self.random.clone().next() as i32 as i64,
                ]);
                for _ in 0..16 {
                    let away = self.target().wrapping_sub(value).wrapping_sub(at_base) as i64;
                    if i32::try_from(away).is_ok() {
                        displacement = away;
                        break;
                    }
                }
                operand(base, Register::None, 1, displacement)
            }
            6 => {
                // Modulo 2^32.
                let base = part(base, 4);
                MemoryOperand::new(base, Register::None, 1, near, 4, false, name)
            }
            _ => operand(base, Register::None, 1, near),
        }
    }

    /// One step: an instruction, and where it goes on after a fault.
    fn step(&mut self) {
        match self.random.index(12) {
            0 => return self.step_pointer(),
            1 => {
                self.stack();
                for _ in 0..self.random.index(6) {
                    self.stack_step();
                }
                return;
            }
            2 => return self.several(),
            3 if self.remaps => return self.remap(),
            4 if self.spaces.len() > 1 => return self.switch(),
            _ => {}
        }
        let memory = self.operand();
        let instruction = self.instruction(memory);
        self.guarded(&[instruction]);
    }

    /// Instructions in a row; after a fault of one of them the rest is left out.
    fn several(&mut self) {
        let mut instructions = Vec::new();
        for _ in 0..2 + self.random.index(4) {
            let (base, _) = self.random.pick(&self.pointers);
            let displacement = self.random.index(0x40) as i64 * 4 - 0x80;
            let memory = MemoryOperand::with_base_displ(base, displacement);
            instructions.push(self.instruction(memory));
        }
        self.guarded(&instructions);
    }

    /// Has faults go on behind these instructions.
    fn guarded(&mut self, instructions: &[Instruction]) {
        let mut bytes = Vec::new();
        // mov r15d, behind
        let begin = self.place.here() + 6;
        for instruction in instructions {
            let mut encoder = Encoder::new(64);
            encoder.encode(instruction, begin + bytes.len() as u64).unwrap();
            bytes.extend(encoder.take_buffer());
        }
        self.guarded_bytes(&bytes);
        if instructions.iter().any(|instruction| instruction.rflags_modified() != 0) {
            // Flags that nothing needs are not exact after a fault: cmp r14, 3
            self.place.raw(&[0x49, 0x83, 0xfe, 3]);
        }
    }

    fn guarded_bytes(&mut self, bytes: &[u8]) {
        let behind = self.place.here() + 6 + bytes.len() as u64;
        self.place.raw(&[0x41, 0xbf]);
        self.place.raw(&(behind as u32).to_le_bytes());
        self.place.raw(bytes);
    }

    fn instruction(&mut self, memory: MemoryOperand) -> Instruction {
        let size = self.random.pick(&[1, 2, 4, 8, 8, 8, 4]);
        let register = self.random.pick(&self.data);
        let other = self.random.pick(&self.data);
        let value = part(register, size);
        let vector = Register::XMM0 + self.random.index(16) as u32;
        let wide = Register::YMM0 + self.random.index(16) as u32;
        let second = Register::YMM0 + self.random.index(16) as u32;
        macro_rules! sizes {
            ($($code:ident)*) => {
                [$(Code::$code),*][size.trailing_zeros() as usize]
            };
        }
        let built = match self.random.index(44) {
            0..=5 => Instruction::with2(
                sizes!(Mov_r8_rm8 Mov_r16_rm16 Mov_r32_rm32 Mov_r64_rm64),
                value,
                memory,
            ),
            6..=11 => Instruction::with2(
                sizes!(Mov_rm8_r8 Mov_rm16_r16 Mov_rm32_r32 Mov_rm64_r64),
                memory,
                value,
            ),
            12 => Instruction::with2(
                sizes!(Add_rm8_r8 Add_rm16_r16 Add_rm32_r32 Add_rm64_r64),
                memory,
                value,
            ),
            13 => Instruction::with2(
                sizes!(Adc_r8_rm8 Adc_r16_rm16 Adc_r32_rm32 Adc_r64_rm64),
                value,
                memory,
            ),
            14 => Instruction::with2(
                sizes!(Cmp_rm8_r8 Cmp_rm16_r16 Cmp_rm32_r32 Cmp_rm64_r64),
                memory,
                value,
            ),
            15 => Instruction::with2(
                sizes!(Xchg_rm8_r8 Xchg_rm16_r16 Xchg_rm32_r32 Xchg_rm64_r64),
                memory,
                value,
            ),
            16 => Instruction::with2(
                sizes!(Cmpxchg_rm8_r8 Cmpxchg_rm16_r16 Cmpxchg_rm32_r32 Cmpxchg_rm64_r64),
                memory,
                value,
            ),
            17 => Instruction::with2(
                sizes!(Xadd_rm8_r8 Xadd_rm16_r16 Xadd_rm32_r32 Xadd_rm64_r64),
                memory,
                value,
            ),
            18 => Instruction::with2(
                sizes!(Mov_rm8_imm8 Mov_rm16_imm16 Mov_rm32_imm32 Mov_rm64_imm32),
                memory,
                0x35,
            ),
            19 => Instruction::with1(sizes!(Inc_rm8 Inc_rm16 Inc_rm32 Inc_rm64), memory),
            20 => Instruction::with2(Code::Movzx_r64_rm8, register, memory),
            21 => Instruction::with2(Code::Movsxd_r64_rm32, register, memory),
            22 => Instruction::with2(Code::Bts_rm64_imm8, memory, 37),
            23 => Instruction::with2(Code::Bt_rm64_r64, memory, register),
            24 => Instruction::with1(Code::Setb_rm8, memory),
            25 => Instruction::with2(Code::Cmovb_r64_rm64, register, memory),
            26 => Instruction::with2(Code::Movaps_xmm_xmmm128, vector, memory),
            27 => Instruction::with2(Code::Movaps_xmmm128_xmm, memory, vector),
            28 => Instruction::with2(Code::Movdqu_xmm_xmmm128, vector, memory),
            29 => Instruction::with2(Code::Movdqu_xmmm128_xmm, memory, vector),
            30 => Instruction::with2(Code::VEX_Vmovdqu_ymm_ymmm256, wide, memory),
            31 => Instruction::with2(Code::VEX_Vmovdqu_ymmm256_ymm, memory, wide),
            32 => Instruction::with3(Code::VEX_Vmaskmovps_ymm_ymm_m256, wide, second, memory),
            33 => Instruction::with3(Code::VEX_Vmaskmovps_m256_ymm_ymm, memory, second, wide),
            34 => Instruction::with3(Code::VEX_Vpaddq_ymm_ymm_ymmm256, wide, second, memory),
            35 => Instruction::with2(Code::Paddd_xmm_xmmm128, vector, memory),
            36 => Instruction::with3(Code::VEX_Mulx_r64_r64_rm64, register, other, memory),
            37 => Instruction::with2(Code::Movnti_m64_r64, memory, register),
            38 => Instruction::with2(Code::Movq_xmm_rm64, vector, memory),
            39 => Instruction::with2(Code::Movhps_m64_xmm, memory, vector),
            40 => Instruction::with3(Code::VEX_Andn_r64_r64_rm64, register, other, memory),
            41 => Instruction::with1(Code::Cmpxchg16b_m128, memory),
            42 => Instruction::with1(Code::Fld_m64fp, memory),
            _ => Instruction::with1(Code::Fstp_m64fp, memory),
        };
        built.unwrap()
    }

    /// Something with the stack, which may fault.
    fn stack_step(&mut self) {
        let register = self.random.pick(&self.data).number() as u8;
        let prefix: &[u8] = if register >= 8 { &[0x41] } else { &[] };
        let mut bytes = Vec::new();
        match self.random.index(14) {
            0..=2 => {
                for _ in 0..1 + self.random.index(4) {
                    bytes.extend(prefix);
                    bytes.push(0x50 | register & 7);
                }
            }
            3 | 4 => {
                for _ in 0..1 + self.random.index(3) {
                    bytes.extend(prefix);
                    bytes.push(0x58 | register & 7);
                }
            }
            // push imm; push rsp; pop rsp
            5 => bytes.extend([0x6a, 0x85, 0x54]),
            6 => bytes.extend([0x5c]),
            7 => {
                let memory = self.operand();
                let push = Instruction::with1(Code::Push_rm64, memory).unwrap();
                return self.guarded(&[push]);
            }
            8 => {
                let memory = self.operand();
                let pop = Instruction::with1(Code::Pop_rm64, memory).unwrap();
                return self.guarded(&[pop]);
            }
            // call +0
            9 => bytes.extend([0xe8, 0, 0, 0, 0]),
            // lea rax, [rip + 2]; push rax; ret
            10 => bytes.extend([0x48, 0x8d, 0x05, 2, 0, 0, 0, 0x50, 0xc3]),
            // leave
            11 => bytes.extend([0xc9]),
            // lea rax, [rip + 6]; push rax; push rcx; ret 8, to what is in rcx, or lea rcx, [rip + 3] first
            12 => bytes.extend([0x48, 0x8d, 0x0d, 4, 0, 0, 0, 0x51, 0xc2, 8, 0]),
            // mov r10, [rsp+8]; add [rsp], r11; lea rsp, [rsp+8]; mov [rsp-16], r10
            _ => bytes.extend([
                0x4c, 0x8b, 0x54, 0x24, 8, 0x4c, 0x01, 0x1c, 0x24, 0x48, 0x8d, 0x64, 0x24, 8, 0x4c,
                0x89, 0x54, 0x24, 0xf0,
            ]),
        }
        self.guarded_bytes(&bytes);
        // cmp r14, 3
        self.place.raw(&[0x49, 0x83, 0xfe, 3]);
        self.restore();
    }

    /// Pointers that may have been written are loaded again.
    fn restore(&mut self) {
        for (register, value) in self.pointers.clone() {
            if matches!(register, Register::R10 | Register::R11 | Register::RBP) {
                self.constant(register, value);
            }
        }
    }

    /// Changes how a page is mapped, and drops what is cached of it.
    fn remap(&mut self) {
        let page = self.page();
        let flags = self.random.pick(&[
            PRESENT | WRITABLE | USER,
            PRESENT | WRITABLE | USER | 0x60,
            PRESENT | USER | 0x20,
            PRESENT | WRITABLE,
            0,
        ]);
        let frame = match self.random.index(2) {
            0 => page.frame,
            _ => self.random.pick(self.frames),
        };
        self.constant(Register::RSI, page.entry_with(frame, flags));
        self.constant(Register::RDI, page.entry);
        self.constant(Register::RDX, page.linear);
        self.ask_for(REMAP);
    }

    /// Goes on in another address space.
    fn switch(&mut self) {
        let space = self.random.pick(self.spaces);
        self.constant(Register::RSI, space);
        self.ask_for(RELOAD);
    }

    /// Asks the supervisor for something.
    fn ask_for(&mut self, service: u8) {
        self.place.raw(&[0xcd, service]);
        for (register, value) in self.pointers.clone() {
            if matches!(register, Register::RSI | Register::RDI) {
                self.constant(register, value);
            }
        }
    }
}
