//! Instructions that run on the host.
//!
//! Vector, x87, bit-manipulation, cryptographic and other computing instructions are not
//! re-implemented: each distinct one gets a *thunk*, generated code that loads the registers it uses
//! from the vCPU's state, executes the instruction itself with its memory operand pointed at a host
//! address, and stores the registers back. Faults return through [`ambos_hostcode::guard`].
//!
//! - [`build`] generates thunks.
//! - This module calls them: permission checks, the memory operand, faults.
//! - [`partial`] handles memory operands that are not, or only partly, accessible.

mod build;
mod partial;

use crate::cpu::Cpu;
use crate::exit::{Exit, Fault, Step};
use crate::op::{Extra, Op};
use ambos_hostcode::guard::GuardedArea;
use ambos_hostcode::{Arena, ArenaError, HostFault, Stage, ThunkFrame};
use ambos_vcpu::Platform;
use ambos_x86::{Cr0, Cr4, Vector, xstate};
use iced_x86::{FlowControl, Instruction, Mnemonic};
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of generated thunks after which all are dropped.
const ARENA_SIZE: usize = 2 << 20;
/// Largest memory operand of an instruction that runs on the host.
const MAX_OPERAND: usize = 512;

/// Which permission checks an instruction makes before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Only general-purpose registers.
    General,
    /// x87.
    X87,
    /// FWAIT: #NM only with CR0.MP.
    Wait,
    /// MMX.
    Mmx,
    /// SSE, legacy encoding.
    Sse,
    /// VEX-encoded vector instruction.
    Avx,
    /// EVEX-encoded vector instruction or one on opmasks.
    Avx512,
}

/// How an instruction uses its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes.
    pub size: usize,
    /// It is read, perhaps in parts.
    pub read: bool,
    /// It is written.
    pub write: bool,
    /// A mask decides which elements are accessed; alignment is not checked then.
    pub masked: bool,
}

/// Generated code for one instruction.
#[derive(Debug)]
pub struct Thunk {
    entry: usize,
    recover: usize,
    /// Keeps the generation of the arena in which it lies.
    generation: Rc<Generation>,
    /// Permission checks.
    pub class: Class,
    /// The memory operand, if there is one.
    pub memory: Option<MemoryUse>,
    reads_flags: bool,
    /// RFLAGS bits that it changes.
    writes_flags: u64,
}

/// An arena with the guard over it; it lives as long as a thunk in it does.
#[derive(Debug)]
struct Generation {
    arena: std::cell::RefCell<Arena>,
    _guard: GuardedArea,
}

/// The thunks of one vCPU.
#[derive(Debug)]
pub struct ThunkCache {
    generation: Rc<Generation>,
    thunks: HashMap<Vec<u8>, Rc<Thunk>>,
    /// Where operands lie that are not accessible.
    stage: Stage,
}

impl ThunkCache {
    /// An empty cache.
    ///
    /// # Errors
    ///
    /// [`ArenaError`] if the host refuses executable memory.
    pub fn new() -> Result<Self, ArenaError> {
        let generation = new_generation()?;
        Ok(Self { generation, thunks: HashMap::new(), stage: Stage::new()? })
    }

    /// The thunk of `instruction`; `None` if it cannot run on the host.
    pub fn get(&mut self, instruction: &Instruction) -> Option<Rc<Thunk>> {
        let plan = build::Plan::new(instruction)?;
        if let Some(thunk) = self.thunks.get(plan.key()) {
            return Some(Rc::clone(thunk));
        }
        let mut pushed = plan.push(&mut self.generation.arena.borrow_mut());
        if pushed.is_none() {
            // Full: start anew. Blocks that still use old thunks keep their arena alive.
            self.thunks.clear();
            self.generation = new_generation().ok()?;
            pushed = plan.push(&mut self.generation.arena.borrow_mut());
        }
        let (entry, recover) = pushed?;
        let thunk = Rc::new(Thunk {
            entry,
            recover,
            generation: Rc::clone(&self.generation),
            class: plan.class,
            memory: plan.memory,
            reads_flags: plan.reads_flags,
            writes_flags: plan.writes_flags,
        });
        self.thunks.insert(plan.key().to_vec(), Rc::clone(&thunk));
        Some(thunk)
    }
}

fn new_generation() -> Result<Rc<Generation>, ArenaError> {
    let arena = Arena::new(ARENA_SIZE)?;
    let guard = GuardedArea::new(arena.start(), arena.size()).ok_or_else(|| ArenaError::Map {
        size: ARENA_SIZE,
        step: "fault guard: too many code areas",
        source: std::io::Error::from(std::io::ErrorKind::OutOfMemory),
    })?;
    Ok(Rc::new(Generation { arena: std::cell::RefCell::new(arena), _guard: guard }))
}

/// Whether an instruction computes on registers and one memory operand only, so that the host may
/// execute it in the guest's place.
pub fn only_computes(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    if instruction.flow_control() != FlowControl::Next {
        return false;
    }
    build::classify(instruction) != Class::General
        || matches!(
            instruction.mnemonic(),
            M::Andn
                | M::Bextr
                | M::Blsi
                | M::Blsmsk
                | M::Blsr
                | M::Bzhi
                | M::Lzcnt
                | M::Tzcnt
                | M::Popcnt
                | M::Mulx
                | M::Pdep
                | M::Pext
                | M::Rorx
                | M::Sarx
                | M::Shlx
                | M::Shrx
                | M::Adcx
                | M::Adox
                | M::Crc32
                | M::Rdrand
                | M::Rdseed
                | M::Movdiri
        )
}

/// Which permission checks an instruction makes before it runs.
pub fn class_of(instruction: &Instruction) -> Class {
    build::classify(instruction)
}

/// A buffer that memory operands are copied to when they cannot be used in place, with room to give
/// the copy the alignment of the original.
#[repr(C, align(64))]
struct Bounce([u8; MAX_OPERAND + 64]);

/// The handler of every instruction that runs on the host.
pub fn run(cpu: &mut Cpu, platform: &mut dyn Platform, op: &Op) -> Step {
    let Extra::Thunk(thunk) = &op.extra else { return Err(Fault::UD.into()) };
    cpu.check_class(thunk.class)?;
    let Some(memory) = thunk.memory else {
        return cpu.call_thunk(op, thunk, 0);
    };
    let linear = match op.linear(cpu, memory.size, memory.write) {
        Ok(linear) => linear,
        Err(Exit::Fault(fault)) => return partial::inaccessible(cpu, op, thunk, fault),
        Err(exit) => return Err(exit),
    };
    if !memory.masked
        && let Err(fault) = cpu.check_alignment(linear, memory.size, cpu.mmu_index)
    {
        return partial::inaccessible(cpu, op, thunk, fault);
    }
    match run_at(cpu, platform, op, thunk, memory, linear) {
        Err(Exit::Fault(fault)) if cpu.operand_faulted => {
            partial::run(cpu, platform, op, thunk, memory, linear, fault)
        }
        step => step,
    }
}

/// Runs a thunk on the operand at `linear`, in place or on a copy.
fn run_at(
    cpu: &mut Cpu,
    platform: &mut dyn Platform,
    op: &Op,
    thunk: &Thunk,
    memory: MemoryUse,
    linear: u64,
) -> Step {
    // Until the operand is at hand, faults are the operand's.
    cpu.operand_faulted = true;
    let in_place = if memory.write {
        cpu.writable_unchecked(platform, linear, memory.size)?
    } else {
        cpu.readable_in_place(platform, linear, memory.size)?
    };
    if let Some(host) = in_place {
        cpu.operand_faulted = false;
        return cpu.call_thunk(op, thunk, host);
    }
    let size = memory.size.min(MAX_OPERAND);
    let mut bounce = Bounce([0; MAX_OPERAND + 64]);
    let start = (linear & 63) as usize;
    if memory.write {
        cpu.probe_write(platform, linear, size)?;
    }
    if memory.read {
        cpu.load_bytes(platform, linear, &mut bounce.0[start..start + size])?;
    }
    cpu.operand_faulted = false;
    let address = bounce.0.as_mut_ptr() as usize + start;
    cpu.call_thunk(op, thunk, address)?;
    if memory.write {
        cpu.store_bytes(platform, linear, &bounce.0[start..start + size])?;
    }
    Ok(())
}

impl Cpu {
    /// Checks that the guest's operating system has enabled a class of instructions.
    ///
    /// # Errors
    ///
    /// #UD or #NM (SDM vol. 3A, tables 2-4 and 13-1).
    pub fn check_class(&self, class: Class) -> Result<(), Fault> {
        let (cr0, cr4, xcr0) = (self.cr0(), self.cr4(), self.control.xcr0);
        let undefined = match class {
            Class::General | Class::X87 | Class::Wait => false,
            Class::Mmx => cr0.contains(Cr0::EM),
            Class::Sse => cr0.contains(Cr0::EM) || !cr4.contains(Cr4::OSFXSR),
            Class::Avx => {
                let needed = xstate::SSE | xstate::AVX;
                !cr4.contains(Cr4::OSXSAVE) || xcr0 & needed != needed
            }
            Class::Avx512 => {
                let needed = xstate::SSE | xstate::AVX | xstate::AVX512;
                !cr4.contains(Cr4::OSXSAVE) || xcr0 & needed != needed
            }
        };
        if undefined {
            return Err(Fault::UD);
        }
        let unavailable = match class {
            Class::General => false,
            Class::Wait => cr0.contains(Cr0::TS | Cr0::MP),
            Class::X87 => cr0.intersects(Cr0::TS | Cr0::EM),
            _ => cr0.contains(Cr0::TS),
        };
        if unavailable { Err(Fault::NM) } else { Ok(()) }
    }

    fn call_thunk(&mut self, op: &Op, thunk: &Thunk, operand: usize) -> Step {
        self.execute(op, thunk, operand).map_err(|fault| self.host_fault(fault).into())
    }

    /// Executes a thunk with its memory operand at host address `operand`. After a fault nothing
    /// has changed but status flags.
    fn execute(&mut self, op: &Op, thunk: &Thunk, operand: usize) -> Result<(), HostFault> {
        const PASSED: u64 = ambos_hostcode::alu::ARITHMETIC;
        self.native.frame = ThunkFrame { recover: thunk.recover, ..ThunkFrame::default() };
        self.native.operand = operand;
        let before = self.native.rflags;
        if thunk.reads_flags || thunk.writes_flags != 0 {
            // Only arithmetic flags may reach the host's register.
            self.native.thunk_flags = before & PASSED | 2;
        }
        debug_assert!(Rc::strong_count(&thunk.generation) > 0);
        #[expect(unsafe_code, reason = "this is the call into generated code")]
        // SAFETY: `entry` is a complete thunk in an arena that `thunk` keeps alive, generated for
        // this layout of NativeState. The operand is memory of the size the plan announced, mapped
        // or inaccessible; faults are recovered.
        unsafe {
            let entry: extern "sysv64" fn(*mut crate::cpu::NativeState) =
                std::mem::transmute(thunk.entry);
            entry(&raw mut self.native);
        }
        if thunk.class == Class::X87 {
            self.hide_host_pointers(op);
        }
        if let Some(fault) = self.native.frame.host_fault() {
            return Err(fault);
        }
        if thunk.writes_flags != 0 {
            let mask = thunk.writes_flags & PASSED;
            self.native.rflags = before & !mask | self.native.thunk_flags & mask;
        }
        Ok(())
    }

    /// The x87 instruction and data pointers hold host addresses after a thunk; they must be the
    /// guest's.
    fn hide_host_pointers(&mut self, op: &Op) {
        let rip = op.this_rip(self);
        let image = &mut self.native.vector.x87;
        image[8..16].copy_from_slice(&rip.to_le_bytes());
        image[16..24].fill(0);
    }

    /// The guest's exception for a fault of the host.
    fn host_fault(&mut self, fault: HostFault) -> Fault {
        let vector = match fault {
            HostFault::Divide => Vector::DivideError,
            HostFault::X87 => Vector::X87FloatingPoint,
            HostFault::Simd if self.cr4().contains(Cr4::OSXMMEXCPT) => Vector::SimdFloatingPoint,
            HostFault::Simd => Vector::InvalidOpcode,
            HostFault::GeneralProtection => Vector::GeneralProtection,
            HostFault::IllegalInstruction => {
                self.note_unserved("instruction the host does not have");
                Vector::InvalidOpcode
            }
            HostFault::Memory { .. } => {
                // The decoder announced a smaller operand than the host used.
                self.note_unserved("instruction with an unknown operand size");
                Vector::InvalidOpcode
            }
        };
        Fault { vector, error: 0 }
    }
}
