//! What each exit of translated code wants, and how the run goes on after it.

use crate::dispatch::Translator;
use crate::far::FarJump;
use crate::key::Key;
use crate::second;
use crate::site::{self, Kind};
use crate::stubs;
use ambos_hostcode::HostFault;
use ambos_interpret::cpu::RIP;
use ambos_interpret::exit::{Exit, Fault};
use ambos_interpret::mmu::{Access, HostRange, is_canonical};
use ambos_vcpu::{Platform, Stop};
use ambos_x86::{Vector, gpr};

/// How the run goes on after an exit.
pub(crate) enum Next {
    /// In translated code, with the state as the exit left it.
    Continue(u64),
    /// In translated code, with the state of the vCPU.
    Resume(u64),
    /// With a look at what is to be done, at an instruction boundary.
    Boundary,
    /// Not at all.
    Stop(Stop),
}

/// Whether the TLB has a translation now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    Yes,
    No,
    Fault(Fault),
}

impl Translator {
    /// Serves an exit.
    pub(crate) fn serve(&mut self, platform: &mut dyn Platform, site: u32) -> Next {
        if site == second::BARRED {
            self.take_flags_from(true);
            let target = self.head.slots.scratch[0];
            self.head.cpu.native.gpr[RIP] = target;
            self.run.left = true;
            if self.head.cpu.attention.pending().is_empty() {
                // The code that the jump cache has is stale.
                let set = self.head.cpu.mmu_index;
                self.head.cpu.tlb.forget_jump(set, target);
            }
            return Next::Boundary;
        }
        if site == stubs::BEFORE {
            return self.serve_before(self.head.slots.scratch[1] as u32, false);
        }
        let fails_apart = site == second::APART;
        let found = match site {
            second::MISS | second::APART => self.cache.operand_site(self.head.slots.found),
            number => self.cache.site(number),
        };
        let Some((number, site)) = found else { return self.serve_fault(platform) };
        let ((block, _), offset) = (site::parts(number), site.offset);
        debug_assert!(self.sees_for(Some(block)), "code with views has had their distance");
        let base = self.page_of(block);
        self.run.last = Some(base.wrapping_add(u64::from(offset)));
        match site.kind {
            Kind::Entry { flags_kept } => {
                self.run.last = None;
                self.statistics.polls += 1;
                self.take_flags_from(flags_kept);
                self.head.cpu.native.gpr[RIP] = base.wrapping_add(u64::from(offset));
                Next::Boundary
            }
            Kind::Link { patch, target } => {
                self.take_flags();
                self.head.cpu.native.gpr[RIP] = base.wrapping_add(u64::from(target));
                self.run.left = true;
                if self.options.apart || !self.undisturbed() {
                    return Next::Boundary;
                }
                self.keep_current();
                let flushes = self.statistics.flushes;
                let Some(found) = self.find(platform) else { return Next::Boundary };
                let backward = target <= offset;
                let next = self.cache.block(found);
                let Key { mode, tail, .. } = next.key();
                if tail != 0 {
                    return Next::Boundary;
                }
                // Translation may have flushed everything, and the page's code may have changed.
                if self.statistics.flushes != flushes || self.cache.block(block).stale {
                    return Next::Boundary;
                }
                if self.cache.block(block).key().mode != mode {
                    // Views have come or gone.
                    return Next::Boundary;
                }
                // The place where it has left comes behind the look for the vector state.
                let held = self.cache.block(block).entries().ready.is_some();
                let entry = match backward {
                    true => self.polling_entry(found, held),
                    false => Some(self.cache.body(found, held)),
                };
                let Some(entry) = entry else { return Next::Boundary };
                self.statistics.links += 1;
                let displacement = crate::emit::relative(patch, entry);
                self.arena.patch(patch as usize, &displacement);
                if !held {
                    self.head.slots.vectors_held = 0;
                }
                Next::Continue(entry)
            }
            Kind::Indirect { stack } => {
                self.statistics.indirect_misses += 1;
                self.take_flags_from(true);
                let target = self.head.slots.scratch[0];
                let rip = base.wrapping_add(u64::from(offset));
                match self.arrive(platform, rip, target, stack) {
                    Ok(found) => Next::Continue(self.enter_from_anywhere(found)),
                    Err(next) => next,
                }
            }
            Kind::Far { page_patch, jump_patch, target, stack } => {
                self.statistics.far_misses += 1;
                self.take_flags_from(true);
                let target = base.wrapping_add(i64::from(target) as u64);
                let rip = base.wrapping_add(u64::from(offset));
                let flushes = self.statistics.flushes;
                let found = match self.arrive(platform, rip, target, stack.into()) {
                    Ok(found) => found,
                    Err(next) => return next,
                };
                let entry = self.enter_from_anywhere(found);
                // Translation may have flushed everything, and the page's code may have changed.
                let modes = [found, block].map(|block| self.cache.known_block(block));
                let modes = modes.map(|block| block.map(|block| block.key().mode));
                if self.statistics.flushes == flushes
                    && modes[0] == modes[1]
                    && !self.cache.block(block).stale
                {
                    let jump =
                        FarJump { site: number, block, page_patch, jump_patch, linear: target };
                    if !self.link_far(jump, found) {
                        return Next::Boundary;
                    }
                }
                Next::Continue(entry)
            }
            Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, .. } => {
                self.statistics.tlb_misses += 1;
                let (next, length) = (site.next, site.length);
                let linear = self.head.slots.scratch[usize::from(in_r11)];
                let changes = self.head.cpu.tlb.changes();
                let outcome = self.fill(platform, linear, usize::from(size), write);
                let stale = self.cache.block(block).stale;
                // What groups of operands have found must still be so.
                let unchanged = !spanned || changes == self.head.cpu.tlb.changes();
                if outcome == Filled::Yes && !stale && unchanged {
                    return Next::Continue(retry);
                }
                self.take_flags_from(flags_kept);
                let rip = base.wrapping_add(u64::from(offset));
                match outcome {
                    Filled::Yes => {
                        self.note_before(block, offset);
                        self.head.cpu.native.gpr[RIP] = rip;
                        return Next::Boundary;
                    }
                    Filled::Fault(fault) => {
                        return self.deliver_of(platform, rip, fault, size.into());
                    }
                    Filled::No => {}
                }
                self.statistics.memory_interpreted += 1;
                match self.interpret_at(platform, rip) {
                    Next::Boundary
                        if next != 0 && (!spanned || changes == self.head.cpu.tlb.changes()) =>
                    {
                        let expected = rip.wrapping_add(u64::from(length));
                        self.resume_if(block, expected, next)
                    }
                    other => other,
                }
            }
            Kind::Group(group) if fails_apart => {
                self.go_on_apart(platform, (block, offset), number, &group)
            }
            Kind::Group(group) => self.serve_group(platform, (block, offset), number, &group),
            Kind::Interpret { op, goes_on, spanned } => {
                let Some(op) = self.cache.ops.get(op) else { return self.serve_fault(platform) };
                self.statistics.handled += 1;
                let next = site.next;
                self.take_flags();
                let rip = base.wrapping_add(u64::from(offset));
                self.head.cpu.native.gpr[RIP] = rip;
                if self.head.cpu.slow {
                    return Next::Boundary;
                }
                let mode = self.mode();
                let root = self.head.cpu.control.cr3;
                let changes = self.head.cpu.tlb.changes();
                let events = self.head.cpu.events;
                let stop = self.head.cpu.run_op(platform, &op);
                self.note_interpreted(rip, events);
                if let Some(stop) = stop {
                    return Next::Stop(stop);
                }
                let unchanged = !spanned
                    || changes == self.head.cpu.tlb.changes() && root == self.head.cpu.control.cr3;
                if goes_on && unchanged && self.mode() == mode {
                    self.resume_if(block, rip.wrapping_add(u64::from(op.end)), next)
                } else {
                    Next::Boundary
                }
            }
        }
    }

    /// Something comes before the first instruction of a block, or that is stale.
    fn serve_before(&mut self, block: u32, flags_kept: bool) -> Next {
        self.run.last = None;
        self.statistics.polls += 1;
        self.take_flags_from(flags_kept);
        let offset = u64::from(self.cache.block(block).offset);
        self.head.cpu.native.gpr[RIP] = self.page_of(block).wrapping_add(offset);
        Next::Boundary
    }

    /// The block at `target`, where the jump at `rip`, which added `stack` to the stack pointer, leads.
    ///
    /// # Errors
    ///
    /// How to go on if translated code does not go on there.
    fn arrive(
        &mut self,
        platform: &mut dyn Platform,
        rip: u64,
        target: u64,
        stack: i32,
    ) -> Result<u32, Next> {
        if !is_canonical(target) {
            // The instruction must fault: run it again.
            let rsp = &mut self.head.cpu.native.gpr[gpr::RSP];
            *rsp = rsp.wrapping_sub(i64::from(stack) as u64);
            return Err(self.interpret_at(platform, rip));
        }
        self.head.cpu.native.gpr[RIP] = target;
        self.run.left = true;
        if self.options.apart || !self.undisturbed() {
            return Err(Next::Boundary);
        }
        self.keep_current();
        self.find(platform).ok_or(Next::Boundary)
    }

    /// Takes the flags from where an exit left them: in memory for it, or kept in memory before.
    pub(crate) fn take_flags_from(&mut self, kept: bool) {
        if kept {
            self.set_arithmetic_flags(self.head.slots.kept_flags);
        } else {
            self.take_flags();
        }
    }

    /// Notes that the instruction at `offset` has not begun.
    pub(crate) fn note_before(&mut self, block: u32, offset: u16) {
        let base = self.page_of(block);
        let before = self.cache.offset_before(block, offset);
        self.run.last = before.map(|offset| base.wrapping_add(u64::from(offset)));
    }

    /// Delivers the page fault of an operand of `size` bytes of the instruction at `rip`, unless it is one that may have
    /// to be aligned: whether another fault comes first is the interpreter's to know.
    pub(crate) fn deliver_of(
        &mut self,
        platform: &mut dyn Platform,
        rip: u64,
        fault: Fault,
        size: usize,
    ) -> Next {
        const ALIGNED: usize = 16;
        match size {
            ALIGNED.. => self.interpret_at(platform, rip),
            _ => self.deliver(platform, rip, fault),
        }
    }

    /// Delivers the fault of the memory operand of the instruction at `rip`.
    pub(crate) fn deliver(&mut self, platform: &mut dyn Platform, rip: u64, fault: Fault) -> Next {
        self.head.cpu.native.gpr[RIP] = rip;
        // The shadow of STI ends with a fault as well.
        self.head.cpu.interrupt_shadow = false;
        self.head.cpu.update_slow();
        match self.head.cpu.deliver_fault(platform, fault) {
            Some(stop) => Next::Stop(stop),
            None => Next::Boundary,
        }
    }

    /// Goes on in translated code at `pc` if the guest is where it is expected.
    fn resume_if(&mut self, block: u32, expected: u64, pc: u64) -> Next {
        if self.head.cpu.native.gpr[RIP] != expected || !self.undisturbed() {
            return Next::Boundary;
        }
        self.keep_current();
        if self.cache.block(block).stale {
            return Next::Boundary;
        }
        Next::Resume(pc)
    }

    /// Lets the interpreter run the instruction at `rip`.
    pub(crate) fn interpret_at(&mut self, platform: &mut dyn Platform, rip: u64) -> Next {
        self.head.cpu.native.gpr[RIP] = rip;
        if self.head.cpu.slow {
            return Next::Boundary;
        }
        match self.head.cpu.run_block(platform, 1) {
            Some(stop) => Next::Stop(stop),
            None => Next::Boundary,
        }
    }

    /// Enters the translation of a memory operand into the TLB.
    pub(crate) fn fill(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        size: usize,
        write: bool,
    ) -> Filled {
        if (linear & 0xfff) as usize + size > 0x1000 {
            return Filled::No;
        }
        let cpu = &mut self.head.cpu;
        let set = cpu.mmu_index;
        let access = Access { write, user: cpu.mode.cpl == 3, ..Access::default() };
        let resolved = cpu.resolve(platform, linear, size, set, access);
        let outcome = match resolved {
            Ok(HostRange::Ram(_)) => {
                // Operands of odd sizes have no stub that looks into the second level.
                if cpu.tlb.bring_forward(set, write, linear) { Filled::Yes } else { Filled::No }
            }
            Err(Exit::Fault(fault)) if fault.vector == Vector::PageFault => Filled::Fault(fault),
            _ => Filled::No,
        };
        cpu.leave_block = false;
        self.keep_current();
        outcome
    }

    /// Enters the translation of a page into the TLB if that has no effect that the guest could see
    /// but an accessed bit, which a processor may set ahead of time as well.
    pub(crate) fn fill_ahead(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        write: bool,
    ) -> Filled {
        let cpu = &mut self.head.cpu;
        let set = cpu.mmu_index;
        let access = Access { user: cpu.mode.cpl == 3, ..Access::default() };
        // A page that is writable and dirty becomes known as such.
        let resolved = cpu.resolve(platform, linear & !0xfff, 0, set, access);
        cpu.leave_block = false;
        let cached = match write {
            true => cpu.tlb.lookup_write(set, linear),
            false => cpu.tlb.lookup_read(set, linear),
        };
        if resolved.is_ok() && cached.is_some() { Filled::Yes } else { Filled::No }
    }

    /// Serves a fault of the host in translated code: the interpreter runs the instruction, and
    /// faults as the guest must see it.
    fn serve_fault(&mut self, platform: &mut dyn Platform) -> Next {
        self.statistics.host_faults += 1;
        let frame = &self.head.slots.frame;
        let (pc, fault) = (frame.fault_code as u64, frame.host_fault());
        let block = self.cache.block_at(pc);
        let entered = block.and_then(|block| self.cache.block(block).traps_at(pc));
        if let (Some(block), Some(flags_kept)) = (block, entered) {
            return self.serve_before(block, flags_kept);
        }
        let found =
            block.and_then(|block| Some((block, self.cache.block(block).records().guest_at(pc)?)));
        let Some((block, offset)) = found else {
            self.take_flags();
            platform.unserved().record("host fault outside translated blocks", pc, &[]);
            return Next::Boundary;
        };
        let rip = self.page_of(block).wrapping_add(u64::from(offset));
        self.run.last = Some(rip);
        if let Some(state) = self.cache.view_state(pc) {
            return self.serve_view(platform, (block, offset), state);
        }
        self.take_flags();
        if let Some(HostFault::Memory { address }) = fault {
            let what = format!("host fault of a translated memory operand at {address:#x}");
            platform.unserved().record(what, rip, &[]);
        }
        self.interpret_at(platform, rip)
    }
}
