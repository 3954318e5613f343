//! The loop that runs blocks, and what is looked at between them.

use crate::blocks::Block;
use crate::cpu::{Cpu, RIP};
use crate::exit::{Exit, Fault};
use crate::op::Op;
use ambos_vcpu::{CpuState, Engine, Platform, Request, Stop, Trap};
use ambos_x86::{RFlags, Vector};

impl Engine for Cpu {
    fn state(&self) -> CpuState {
        self.save_state()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.load_state(state);
    }

    fn flush_translations(&mut self) {
        self.tlb.flush_all();
    }

    fn deprivilege(&mut self) {
        self.begin_supervised();
    }

    fn run(&mut self, platform: &mut dyn Platform, budget: Option<u64>) -> Stop {
        let end = budget.map_or(u64::MAX, |budget| self.instructions.saturating_add(budget));
        // Faults and rounds of repeated instructions count as well, or a guest that faults in its
        // fault handler would never return.
        let events = self.events;
        loop {
            if self.slow || !self.attention.pending().is_empty() {
                if let Some(stop) = self.look_up(platform) {
                    return stop;
                }
                if self.slow {
                    let spent = budget.is_some_and(|budget| self.events - events >= budget);
                    if self.instructions >= end || spent {
                        return Stop::Budget;
                    }
                    if let Some(stop) = self.step_slowly(platform) {
                        return stop;
                    }
                    continue;
                }
            }
            if self.instructions >= end {
                return Stop::Budget;
            }
            let limit = usize::try_from(end - self.instructions).unwrap_or(usize::MAX);
            if budget.is_some_and(|budget| self.events - events >= budget) {
                return Stop::Budget;
            }
            if let Some(stop) = self.run_block_repeatedly(platform, limit) {
                return stop;
            }
        }
    }

    fn interrupts_enabled(&self) -> bool {
        self.supervised.on || self.rflags().contains(RFlags::IF)
    }

    fn instructions(&self) -> u64 {
        self.instructions
    }
}

impl Cpu {
    /// Serves what other threads asked for and delivers interrupts.
    pub fn look_up(&mut self, platform: &mut dyn Platform) -> Option<Stop> {
        let pending = self.attention.pending();
        self.serve_flush();
        if pending.contains(Request::STOP) {
            self.attention.take(Request::STOP);
            return Some(Stop::Asked);
        }
        if pending.contains(Request::INIT) {
            return Some(Stop::WaitForStartUp);
        }
        if self.interrupt_shadow {
            return None;
        }
        if self.supervised.on {
            if !self.attention.take(Request::NMI).is_empty() {
                return self.trap(platform, Trap::Nmi);
            }
            if pending.contains(Request::INTERRUPT) {
                return self.trap(platform, Trap::Event);
            }
            return None;
        }
        if pending.contains(Request::NMI) && !self.nmi_blocked {
            self.attention.take(Request::NMI);
            self.nmi_blocked = true;
            return self.deliver_interrupt(platform, Vector::Nmi as u8);
        }
        if pending.contains(Request::INTERRUPT)
            && self.rflags().contains(RFlags::IF)
            && let Some(vector) = platform.acknowledge_interrupt()
        {
            return self.deliver_interrupt(platform, vector);
        }
        None
    }

    /// Drops translations if another vCPU asked for it.
    pub fn serve_flush(&mut self) {
        if self.attention.pending().contains(Request::FLUSH_ALL) {
            self.attention.take(Request::FLUSH_ALL);
            self.tlb.flush_all();
        }
        if self.attention.pending().contains(Request::FLUSH) {
            self.attention.take(Request::FLUSH);
            self.tlb.protect_all();
        }
    }

    /// Runs one block, at most `limit` of its instructions.
    #[inline]
    pub fn run_block(&mut self, platform: &mut dyn Platform, limit: usize) -> Option<Stop> {
        let block = match self.fetch(platform) {
            Ok(block) => block,
            Err(exit) => return self.leave(platform, exit, None),
        };
        let count = block.ops.len().min(limit);
        self.run_ops(platform, &block, count)
    }

    /// Runs one block like [`Cpu::run_block`], and again as long as it jumps to its own start: a loop
    /// whose body is one block needs no further look-up.
    #[inline]
    fn run_block_repeatedly(&mut self, platform: &mut dyn Platform, limit: usize) -> Option<Stop> {
        let block = match self.fetch(platform) {
            Ok(block) => block,
            Err(exit) => return self.leave(platform, exit, None),
        };
        let (start, mode) = (self.native.gpr[RIP], self.mode);
        let mut left = limit;
        loop {
            let count = block.ops.len().min(left);
            let stop = self.run_ops(platform, &block, count);
            left = left.saturating_sub(count);
            // Whatever makes the block or its translation stale ends it by other means than a jump
            // to its own start, or shows in one of these.
            let again = self.native.gpr[RIP] == start
                && self.mode == mode
                && left > 0
                && stop.is_none()
                && !self.slow
                && self.attention.pending().is_empty()
                && self.blocks.is_current(&self.ram, &block);
            if !again {
                return stop;
            }
        }
    }

    #[inline(always)]
    fn run_ops(
        &mut self,
        platform: &mut dyn Platform,
        block: &Block,
        count: usize,
    ) -> Option<Stop> {
        for (index, op) in block.ops[..count].iter().enumerate() {
            if let Err(exit) = (op.run)(self, platform, op) {
                self.instructions += index as u64;
                return self.leave(platform, exit, Some((op.start, op.end)));
            }
            if self.leave_block {
                self.leave_block = false;
                self.record_unserved(platform, Some(op.start));
                self.instructions += index as u64 + 1;
                self.native.gpr[RIP] = op.next_rip(self);
                return None;
            }
        }
        self.instructions += count as u64;
        let length = match block.ops.get(count) {
            Some(op) => op.start,
            None => block.length,
        };
        self.native.gpr[RIP] = self.mask_rip(self.native.gpr[RIP].wrapping_add(u64::from(length)));
        None
    }

    /// Runs one instruction of a block that starts at the instruction pointer, which is set to where
    /// the guest goes on.
    pub fn run_op(&mut self, platform: &mut dyn Platform, op: &Op) -> Option<Stop> {
        if let Err(exit) = (op.run)(self, platform, op) {
            return self.leave(platform, exit, Some((op.start, op.end)));
        }
        self.leave_block = false;
        self.record_unserved(platform, Some(op.start));
        self.instructions += 1;
        self.advance(op.end);
        None
    }

    /// Ends a block early, at the instruction with these offsets (`None`: the fetch failed).
    #[inline]
    fn leave(
        &mut self,
        platform: &mut dyn Platform,
        exit: Exit,
        at: Option<(u16, u16)>,
    ) -> Option<Stop> {
        let (start, end) = at.unwrap_or((0, 0));
        self.leave_block = false;
        // A jump has left the instruction's place already.
        self.record_unserved(platform, (exit != Exit::Jump).then_some(start));
        match exit {
            Exit::Jump => {
                self.instructions += 1;
                None
            }
            Exit::Next => {
                self.instructions += 1;
                self.advance(end);
                None
            }
            Exit::Again => {
                self.events += 1;
                self.repeated = true;
                self.advance(start);
                None
            }
            Exit::Stop(stop) => {
                self.instructions += 1;
                self.advance(end);
                Some(*stop)
            }
            Exit::JumpStop(stop) => {
                self.instructions += 1;
                Some(*stop)
            }
            Exit::Fault(fault) => {
                self.events += 1;
                self.advance(start);
                self.deliver_fault(platform, fault)
            }
        }
    }

    fn advance(&mut self, offset: u16) {
        self.native.gpr[RIP] = self.mask_rip(self.native.gpr[RIP].wrapping_add(u64::from(offset)));
    }

    /// Runs one instruction with everything that needs a look at each one: interrupt shadow, single
    /// step, breakpoints.
    pub fn step_slowly(&mut self, platform: &mut dyn Platform) -> Option<Stop> {
        let resume = self.rflags().contains(RFlags::RF);
        if !resume && let Some(hit) = self.instruction_breakpoint() {
            self.debug.dr6 = self.debug.dr6 & !0xf | hit;
            return self.deliver_fault(platform, Fault { vector: Vector::Debug, error: 0 });
        }
        // Breakpoints hit by the load of SS before are due after this instruction.
        if !self.interrupt_shadow {
            self.breakpoint_hits = 0;
        }
        // The instruction itself may begin a new shadow.
        self.interrupt_shadow = false;
        let before = self.instructions;
        let trap = self.rflags().contains(RFlags::TF);
        self.repeated = false;
        let stop = self.run_block(platform, 1);
        let completed = self.instructions != before;
        self.update_slow();
        // Traps come between the rounds of a repeated instruction as well.
        if completed || self.repeated {
            if completed && resume {
                self.native.rflags &= !RFlags::RF.bits();
                self.update_slow();
            }
            // A completed instruction traps if TF was set before it; loading SS defers the trap.
            let hits = self.breakpoint_hits;
            if (trap || hits != 0) && !self.interrupt_shadow && stop.is_none() {
                self.breakpoint_hits = 0;
                self.debug.dr6 |= hits | if trap { 1 << 14 } else { 0 };
                return self.deliver_trap(platform, Vector::Debug);
            }
        }
        stop
    }
}
