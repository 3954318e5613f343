//! Building blocks: from guest instructions to host code.
//!
//! Guest registers live in the host registers of the same names, but for R10 and R11: those are the
//! translator's scratch registers, and the guest's are at home in memory. An instruction that names
//! them gets them loaded; what is loaded stays so until a scratch register is needed.

use crate::block::Entries;
use crate::classify::Action;
use crate::counting::Counting;
use crate::emit::{Code, Mem, reg};
use crate::entries::Head;
use crate::flags::FlagsIn;
use crate::layout::{self, SetLayout};
use crate::liveness;
use crate::memory::ColdProbe;
use crate::ops::Decoded;
use crate::plan::Plan;
use crate::records::{Part, Placed};
use crate::scratch::Scratch;
use crate::seeing::is_upper;
use crate::site::{self, Kind};
use crate::statistics::Statistics;
use crate::stubs::Stubs;
use crate::vectors;
use crate::views::ViewSite;
use ambos_interpret::Cpu;
use ambos_interpret::cpu::RIP;
use ambos_interpret::decode;
use ambos_interpret::mmu::SETS;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic};

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
    /// Address of the attention's gate.
    pub(crate) gate: u32,
    /// It is 32-bit code.
    pub(crate) narrow: bool,
    /// Which of FS and GS 32-bit code may use.
    pub(crate) unlimited: [bool; 2],
    /// Whether operands may share probes.
    pub(crate) groups: bool,
    /// Whether operands are reached through views.
    pub(crate) views: bool,
    /// All that is seen is at one distance.
    pub(crate) even: bool,
    /// The block's own page is, and what lies around it.
    pub(crate) code_seen: bool,
    /// Whether jumps to other pages may be linked.
    pub(crate) links: bool,
    /// The entry of the block at an offset in the page, if there is one, for a jump that goes back or one that does not, and
    /// where the vector state is held or may not be.
    pub(crate) linked: &'a dyn Fn(u16, [bool; 2]) -> Option<u64>,
    /// Whether a conditional jump is likely to be taken, from the offsets of where it then leads and of the next
    /// instruction.
    pub(crate) likely: &'a dyn Fn(u16, u16) -> bool,
    /// Offsets of the instructions of a block for the same place, which this one is to follow.
    pub(crate) path: &'a [u16],
    /// Whether the block runs apart from others: see [`crate::Options::apart`].
    pub(crate) apart: bool,
}

/// A finished block.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The entries. The one from anywhere, with the linear address in R10 and the flags in memory, is the block's first.
    pub(crate) entries: Entries,
    /// The places where it leaves.
    pub(crate) sites: Vec<Placed>,
    /// The instructions for the interpreter that they name.
    pub(crate) ops: Vec<Decoded>,
    /// The accesses to what is seen.
    pub(crate) views: Vec<ViewSite>,
    /// What parts of the code belong to its instructions.
    pub(crate) parts: Vec<Part>,
    /// Flags needed after the last one, if that is known from code beyond it.
    pub(crate) live_after: Option<u8>,
    /// Guest instructions.
    pub(crate) instructions: u32,
    /// Bytes of guest code.
    pub(crate) guest_bytes: u32,
}

/// Code off the straight path that leaves at a site.
#[derive(Clone, Copy)]
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
    /// It takes the distance of the region whose number is in a register.
    View { to: u8, distances: i32, ready: u64 },
    /// It loads the vector state.
    Vectors { ready: u64 },
    /// It looks into the second level of a set's jump cache, for the address in R10.
    Jump(usize),
}

/// A jump to another page off the straight path.
pub(crate) struct Far {
    pub(crate) displacement: u64,
    pub(crate) target: u64,
    pub(crate) offset: u16,
    pub(crate) flags: FlagsIn,
    /// The set of the TLB in use where it is taken.
    pub(crate) set: usize,
}

/// The state of building one block.
pub(crate) struct Builder<'a> {
    pub(crate) code: &'a mut Code,
    /// Code off the straight path: what is run often stays together.
    pub(crate) cold: &'a mut Code,
    /// All sets of the TLB, and the one in use where the block has got to.
    pub(crate) sets: &'a [SetLayout; SETS],
    pub(crate) set: SetLayout,
    pub(crate) set_number: usize,
    pub(crate) counters: &'a mut Statistics,
    pub(crate) cpu: &'a mut Cpu,
    pub(crate) source: &'a Source<'a>,
    pub(crate) stubs: &'a Stubs,
    pub(crate) info: InstructionInfoFactory,
    /// Which operands share probes.
    pub(crate) plan: Plan,
    /// The block begins with a loop whose turns can be skipped.
    counting: Option<Counting>,
    /// Code was generated that must not run.
    pub(crate) failed: bool,
    /// Number of the current instruction.
    pub(crate) index: usize,
    pub(crate) scratch: Scratch,
    pub(crate) head: Head,
    colds: Vec<Cold>,
    pub(crate) fars: Vec<Far>,
    pub(crate) built: Built,
    /// Offset in the page and length of the current instruction.
    pub(crate) offset: u16,
    pub(crate) length: u8,
    current: Instruction,
    /// What is done with the instruction after it, if that is known.
    pub(crate) next_action: Option<Action>,
    /// Where the guest's arithmetic flags are, and which of them are needed after the current instruction.
    pub(crate) flags: FlagsIn,
    pub(crate) live_after: u32,
    /// The current instruction's operands are reached through views.
    pub(crate) viewing: bool,
    /// Probes leave the guest's flags in the host's.
    pub(crate) eager_flags: bool,
    /// The host holds the guest's x87 state.
    pub(crate) x87_held: bool,
    /// The number of the instruction before which the block loads the vector state, if it needs that.
    pub(crate) vectors_at: Option<usize>,
    /// That is the first one, and the block leads back to it.
    pub(crate) loops_with_vectors: bool,
    /// What the stack pointer is behind by: see [`crate::stack`].
    pub(crate) stack_behind: i32,
    /// R10 holds the linear address of the next instruction.
    pub(crate) next_in_r10: bool,
    /// The last instruction was STI: interrupts are held off during the current one.
    pub(crate) shadow: bool,
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
    /// There is no instruction, or no code for it.
    Undefined,
}

/// Builds the block, in two parts: the straight path and what lies off it.
///
/// # Errors
///
/// Why there is none.
pub(crate) fn build(
    [code, cold]: [&mut Code; 2],
    cpu: &mut Cpu,
    counters: &mut Statistics,
    stubs: &Stubs,
    sets: &[SetLayout; SETS],
    source: &Source<'_>,
) -> Result<Built, NoBlock> {
    let instructions = source.gather()?;
    let start = (source.linear & 0xfff) as u16;
    let straddling = source.page.len() > 0x1000;
    let set_number = cpu.mmu_index.min(SETS - 1);
    let mut builder = Builder {
        code,
        cold,
        sets,
        set: sets[set_number],
        set_number,
        counters,
        cpu,
        source,
        stubs,
        info: InstructionInfoFactory::new(),
        plan: Plan::default(),
        counting: None,
        failed: false,
        index: 0,
        scratch: Scratch::default(),
        head: Head::default(),
        colds: Vec::new(),
        fars: Vec::new(),
        built: Built::default(),
        offset: start,
        length: 0,
        current: Instruction::default(),
        next_action: None,
        flags: FlagsIn::Host,
        live_after: liveness::ALL,
        viewing: false,
        eager_flags: false,
        stack_behind: 0,
        next_in_r10: false,
        shadow: false,
        x87_held: false,
        vectors_at: None,
        loops_with_vectors: false,
    };
    let needed = builder.live(&instructions);
    if source.follows() {
        builder.counting = Counting::find(&instructions, source.linear);
    }
    if source.groups && !straddling && !source.narrow {
        let page = builder.page_base();
        builder.plan = match source.views {
            true => {
                let sees = |instruction: &Instruction, action| source.sees(instruction, action);
                Plan::for_views(&instructions, page, sees, &mut builder.info)
            }
            false => Plan::new(&instructions, &needed, page, &mut builder.info),
        };
    }
    builder.head(&instructions, &needed);
    let mut ended = false;
    for (index, &(ref instruction, action)) in instructions.iter().enumerate() {
        builder.index = index;
        builder.live_after = needed.get(index + 1).copied().unwrap_or(liveness::ALL);
        builder.next_action = instructions.get(index + 1).map(|&(_, action)| action);
        ended = builder.instruction(instruction, action, needed[index]);
        if ended {
            builder.built.live_after = needed.get(index + 1).map(|&live| live as u8);
            break;
        }
    }
    if !ended {
        builder.begin_after();
        builder.move_stack();
        builder.flush();
        let next = u64::from(builder.offset) + u64::from(builder.length);
        if !source.apart && source.inside(next).is_none() {
            // At an address that is not canonical the next instruction faults; the last one has been run.
            builder.offset += u16::from(builder.length);
            builder.length = 0;
        }
        builder.edge(next, None, 0);
    }
    builder.finish();
    if builder.failed { Err(NoBlock::Undefined) } else { Ok(builder.built) }
}

impl Builder<'_> {
    pub(crate) fn page_base(&self) -> u64 {
        self.source.page_base()
    }

    /// Flags needed before each instruction.
    fn live(&self, instructions: &[(Instruction, Action)]) -> Vec<u32> {
        let mut live = match instructions.last() {
            Some((last, Action::Branch | Action::Jump | Action::Call)) => {
                let mut needed = self.source.peek(last.near_branch_target());
                if last.is_jcc_short_or_near() {
                    needed |= self.source.peek(last.next_ip());
                }
                needed
            }
            Some((last, Action::Copy | Action::Skip)) => self.source.peek(last.next_ip()),
            _ => liveness::ALL,
        };
        let mut result = vec![0; instructions.len()];
        for (index, (instruction, action)) in instructions.iter().enumerate().rev() {
            live = match action {
                Action::Interpret => liveness::ALL,
                // What follows the last one has been looked at.
                Action::Branch => {
                    let taken = match index + 1 == instructions.len() {
                        true => 0,
                        false => self.source.peek(instruction.near_branch_target()),
                    };
                    live | taken | instruction.rflags_read() & liveness::ALL
                }
                Action::Skip | Action::Jump | Action::Call => live,
                _ => liveness::before(instruction, live),
            };
            result[index] = live;
        }
        result
    }

    /// Adds a site of the current instruction; returns its number.
    pub(crate) fn site(&mut self, kind: Kind) -> u32 {
        let index = self.built.sites.len();
        self.failed |= index >= site::MOST_SITES;
        let part = self.built.parts.len().saturating_sub(1) as u16;
        self.built.sites.push(Placed { part, offset: self.offset, kind });
        site::number(self.source.block, index)
    }

    /// Code that follows belongs to the current instruction, but comes after it.
    fn begin_after(&mut self) {
        if let Some(&part) = self.built.parts.last() {
            let host = self.code.bytes.len() as u32;
            self.built.parts.push(Part { host, after: true, ..part });
        }
    }

    /// Lets a jump lead to code that leaves at `site`.
    pub(crate) fn cold(&mut self, displacement: u64, site: u32, kind: ColdKind) {
        self.colds.push(Cold { displacement, site, kind });
    }

    /// Leaves at `site`, where R11 holds nothing: there are many such places, so that what names the site
    /// is to be short.
    pub(crate) fn leave_at(&mut self, site: u32) {
        self.code.constant(reg::R11, site.into());
        self.code.jump(self.stubs.exit_at);
    }

    /// Leaves at `site` with R10 and R11 as they are.
    pub(crate) fn leave_with_scratch(&mut self, site: u32) {
        self.code.note_site(site);
        self.code.jump(self.stubs.exit);
    }

    /// From here on operands and jumps are those of another set.
    pub(crate) fn use_set(&mut self, number: usize) {
        self.set = self.sets[number];
        self.set_number = number;
    }

    /// Translates one instruction; returns whether the block ends with it.
    fn instruction(&mut self, instruction: &Instruction, action: Action, live: u32) -> bool {
        self.offset = (instruction.ip() & 0xfff) as u16;
        self.length = instruction.len() as u8;
        self.current = *instruction;
        let shadowed = self.shadow;
        self.built.parts.push(Part {
            host: self.code.bytes.len() as u32,
            guest: self.offset,
            length: self.length,
            live: live as u8,
            goes_on: true,
            after: false,
        });
        self.built.instructions += 1;
        self.built.guest_bytes += instruction.len() as u32;
        self.viewing = self.plan.sees(self.index);
        if self.vectors_at == Some(self.index) {
            // As a part of this instruction: who goes on behind the one before comes by.
            self.hold_vectors(live != 0);
        }
        if !self.may_be_behind(instruction, action) {
            self.move_stack();
        }
        self.probe_groups(live != 0);
        let own_sites = self.built.sites.len();
        let before = (
            self.code.bytes.len(),
            self.flags,
            self.scratch,
            self.colds.len(),
            self.fars.len(),
            self.built.sites.len(),
            self.x87_held,
            self.stack_behind,
            self.built.views.len(),
        );
        let done = match self.attempt(instruction, action, live != 0) {
            Done::Refused => {
                let (bytes, flags, scratch, colds, fars, sites, x87_held, stack_behind, views) =
                    before;
                self.built.views.truncate(views);
                self.code.bytes.truncate(bytes);
                self.flags = flags;
                self.scratch = scratch;
                self.x87_held = x87_held;
                self.colds.truncate(colds);
                self.fars.truncate(fars);
                self.built.sites.truncate(sites);
                self.stack_behind = stack_behind;
                self.move_stack();
                self.interpret()
            }
            done => done,
        };
        if self.built.sites.len() > own_sites {
            // Who leaves here and goes on behind the instruction has moved it.
            self.move_stack();
        }
        // After an instruction that ends the block there is nowhere to go on, even if it leads to the
        // next one.
        if let (Done::End, Some(part)) = (&done, self.built.parts.last_mut()) {
            part.goes_on = false;
        }
        if shadowed && matches!(done, Done::Next) {
            self.begin_after();
            self.move_stack();
            self.end_shadow();
            self.poll_after();
        }
        matches!(done, Done::End)
    }

    fn attempt(&mut self, instruction: &Instruction, action: Action, flags_live: bool) -> Done {
        match action {
            Action::Skip => Done::Next,
            Action::Copy => self.copy(instruction, flags_live),
            Action::Address => self.address_of(instruction),
            Action::Push if self.source.narrow => self.push32(instruction, flags_live),
            Action::Push => self.push(instruction, flags_live),
            Action::Pop if self.source.narrow => {
                self.pop32(instruction, flags_live);
                Done::Next
            }
            Action::Pop => {
                self.pop(instruction, flags_live);
                Done::Next
            }
            Action::Leave => {
                match self.source.narrow {
                    true => self.leave32(flags_live),
                    false => self.leave(flags_live),
                }
                Done::Next
            }
            Action::Branch => {
                self.flush();
                let target = instruction.near_branch_target().wrapping_sub(self.page_base());
                let condition = instruction.condition_code() as u8 - 1;
                match self.counting.take_if(|counting| counting.back == self.index) {
                    Some(counting) => self.skip_turns(&counting, target, condition),
                    None => self.edge(target, Some(condition), 0),
                }
                if self.next_action.is_some() {
                    return Done::Next;
                }
                self.edge(u64::from(self.offset) + u64::from(self.length), None, 0);
                Done::End
            }
            Action::Jump => {
                self.flush();
                let target = instruction.near_branch_target().wrapping_sub(self.page_base());
                self.edge(target, None, 0);
                Done::End
            }
            Action::Call => {
                self.push_return(flags_live);
                self.move_stack();
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
            Action::CallTo if self.keeps_target(instruction) => {
                self.push_return(flags_live);
                self.move_stack();
                if !self.target(instruction, flags_live) {
                    return Done::Refused;
                }
                self.through_jump_cache(-8);
                Done::End
            }
            Action::CallTo => {
                if !self.target(instruction, flags_live) {
                    return Done::Refused;
                }
                self.code.store(Mem::Gs(layout::WAITING), reg::R10);
                self.push_return(flags_live);
                self.move_stack();
                self.code.load(reg::R10, Mem::Gs(layout::WAITING));
                self.through_jump_cache(-8);
                Done::End
            }
            Action::Return => {
                match self.source.narrow {
                    true => self.return32(instruction, flags_live),
                    false => self.return_near(instruction, flags_live),
                }
                Done::End
            }
            Action::System | Action::Interpret => {
                self.want_flags(self.idle());
                self.eager_flags = true;
                let done = self.system(instruction, flags_live);
                self.eager_flags = false;
                // Whatever its parts did, it ends with the guest's flags in the host's.
                self.flags = FlagsIn::Host;
                done
            }
        }
    }

    /// Leaves for the interpreter to run the instruction.
    fn interpret(&mut self) -> Done {
        self.free_scratch();
        self.want_flags(self.idle());
        self.flags = FlagsIn::Host;
        self.counters.interpreted_sites += 1;
        if self.leave_to_interpreter() { Done::End } else { Done::Next }
    }

    /// Leaves for the interpreter to run the current instruction, whose scratch registers have been
    /// stored; returns whether it ends the block.
    pub(crate) fn leave_to_interpreter(&mut self) -> bool {
        let offset = usize::from(self.offset);
        let bytes = &self.source.page[offset..offset + self.current.len()];
        let linear = self.page_base() | offset as u64;
        let original = self.original(bytes, linear);
        // As if the block began here.
        let rip = std::mem::replace(&mut self.cpu.native.gpr[RIP], linear);
        let lowered = decode::lower(self.cpu, &original, bytes, 0);
        self.cpu.native.gpr[RIP] = rip;
        // A supervisor may have changed what the addresses of the block mean.
        let returns = self.is_hypercall();
        let goes_on = !lowered.ends_block || returns;
        let spanned = self.plan.spans(self.index) || returns;
        let op = self.built.ops.len() as u32;
        self.built.ops.push(Decoded::new(bytes, lowered.op));
        let site = self.site(Kind::Interpret { op, goes_on, spanned });
        self.leave_at(site);
        !goes_on
    }

    /// Whether the current instruction is one that the kernel of a deprivileged guest calls its supervisor by: most
    /// calls come back to what follows, and change nothing that the rest of the block depends on.
    fn is_hypercall(&self) -> bool {
        self.current.mnemonic() == Mnemonic::Syscall
            && self.cpu.supervised.on
            && is_upper(self.source.linear)
            && !self.source.narrow
            && !self.source.apart
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

    /// Emits what lies off the straight path.
    fn finish(&mut self) {
        self.next_in_r10 = false;
        if !self.fars.is_empty() {
            self.begin_after();
        }
        for far in std::mem::take(&mut self.fars) {
            let here = self.code.here();
            self.code.bind(far.displacement, here);
            self.offset = far.offset;
            self.flags = far.flags;
            self.use_set(far.set);
            self.far_edge(far.target, 0);
        }
        std::mem::swap(&mut self.code, &mut self.cold);
        self.cold_head();
        let colds = std::mem::take(&mut self.colds);
        let mut last_leave = None;
        for &Cold { displacement, site, kind } in &colds {
            let here = self.code.here();
            if let (ColdKind::Leave, Some((same, at))) = (kind, last_leave)
                && same == site
            {
                self.cold.bind(displacement, at);
                continue;
            }
            self.cold.bind(displacement, here);
            match kind {
                ColdKind::Leave => {
                    last_leave = Some((site, here));
                    self.code.constant(reg::R11, site.into());
                    self.code.jump_by_way(self.stubs.exit_at);
                }
                ColdKind::View { to, distances, ready } => {
                    self.code.load(to, Mem::GsTable(to, distances));
                    self.code.jump(ready);
                }
                ColdKind::Probe(probe) => self.cold_probe(site, probe),
                ColdKind::Vectors { ready } => {
                    vectors::go_to_load(self.code, self.stubs.load_vectors, ready);
                }
                ColdKind::Jump(set) => {
                    self.code.constant(reg::R11, site.into());
                    self.code.jump_by_way(self.stubs.second.jump(set));
                }
            }
        }
        std::mem::swap(&mut self.code, &mut self.cold);
    }
}
