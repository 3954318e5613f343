//! A deprivileged guest: its traps go to the supervisor, which sees the vCPU through [`GuestCpu`].

use crate::cpu::{Cpu, RIP, seg};
use crate::exit::{Exit, Fault, Step};
use crate::mmu::{Access, Tlb};
use crate::op::Op;
use crate::system::time;
use ambos_hostcode::mem;
use ambos_intercept::Intercept;
use ambos_memory::PageFlags;
use ambos_vcpu::{
    Control, Crash, DebugRegisters, Exception, GuestCpu, GuestFault, Platform, Request, Resume,
    Segment, SegmentName, Stop, Trap,
};
use ambos_x86::Vector;
use ambos_x86::segment::{attr, system_type};

/// What is known of a guest that is deprivileged.
#[derive(Debug, Default, Clone, Copy)]
pub struct Supervised {
    /// The guest is deprivileged.
    pub on: bool,
    /// CLI and STI do nothing.
    pub ignores_interrupt_flag: bool,
    /// An instruction runs with a substituted page: its fault is kept here instead of being delivered.
    holding: bool,
    held: Option<Fault>,
}

impl Cpu {
    /// Begins to run the guest deprivileged.
    pub fn begin_supervised(&mut self) {
        self.supervised.on = true;
        self.tlb.tell_halves_apart();
        self.tr =
            Segment { attributes: attr::P | system_type::TSS_BUSY, limit: 0, ..Segment::default() };
        self.update_mode();
    }

    /// Lets the supervisor serve a trap; the instruction pointer is where the trap's kind wants it.
    pub(crate) fn trap(&mut self, platform: &mut dyn Platform, trap: Trap) -> Option<Stop> {
        match self.call_supervisor(platform, trap) {
            Resume::Run => None,
            Resume::Stop(stop) => Some(*stop),
            Resume::Substitute { linear, frame } => self.run_substituted(platform, linear, frame),
        }
    }

    fn call_supervisor(&mut self, platform: &mut dyn Platform, trap: Trap) -> Resume {
        match platform.supervisor() {
            Some(supervisor) => supervisor.trap(self, trap),
            None => {
                let rip = self.native.gpr[RIP];
                let reason = "the machine has no supervisor for this guest".to_owned();
                Resume::Stop(Box::new(Stop::Crashed(Crash::Supervisor { rip, reason })))
            }
        }
    }

    /// Delivers an exception of a deprivileged guest.
    pub(crate) fn trap_exception(
        &mut self,
        platform: &mut dyn Platform,
        fault: Fault,
    ) -> Option<Stop> {
        if self.supervised.holding {
            self.supervised.held = Some(fault);
            return None;
        }
        platform.ledger().count(Intercept::Exception(fault.vector as u8));
        self.trap(platform, Trap::Exception(self.exception(fault)))
    }

    fn exception(&self, fault: Fault) -> Exception {
        let Fault { vector, error } = fault;
        let address = if vector == Vector::PageFault { self.fault_address } else { 0 };
        Exception { vector, error, address }
    }

    fn run_substituted(
        &mut self,
        platform: &mut dyn Platform,
        linear: u64,
        frame: u64,
    ) -> Option<Stop> {
        let page = linear & !0xfff;
        let (host, _) = self.ram.host_page(frame)?;
        for write in [false, true] {
            self.tlb.insert(Tlb::USER, write, false, page, host);
        }
        let before = self.instructions;
        self.repeated = false;
        self.supervised.holding = true;
        let stop = self.run_block(platform, 1);
        self.supervised.holding = false;
        self.tlb.flush_page(page);
        let completed = self.instructions != before || self.repeated;
        let held = self.supervised.held.take();
        let resume = platform.supervisor().map(|supervisor| supervisor.emulated(self, completed));
        if let Some(Resume::Stop(stop)) = resume {
            return Some(*stop);
        }
        if stop.is_some() {
            return stop;
        }
        platform.ledger().count(Intercept::Exception(held?.vector as u8));
        match self.call_supervisor(platform, Trap::Exception(self.exception(held?))) {
            // Two pages that want to be substituted at once: the guest runs into the first again.
            Resume::Run | Resume::Substitute { .. } => None,
            Resume::Stop(stop) => Some(*stop),
        }
    }

    /// Ends an instruction that traps with the instruction pointer after it.
    pub(crate) fn trap_after(&mut self, platform: &mut dyn Platform, op: &Op, trap: Trap) -> Step {
        self.native.gpr[RIP] = op.next_rip(self);
        // A breakpoint that a load of SS had deferred to here hits in the hypervisor, which has none.
        self.breakpoint_hits = 0;
        match self.trap(platform, trap) {
            None => Err(Exit::Jump),
            Some(stop) => Err(Exit::JumpStop(Box::new(stop))),
        }
    }

    /// The host address of a byte as the guest may access it, and the RAM page if writes to it must
    /// be noted.
    fn supervised_page(
        &mut self,
        linear: u64,
        write: bool,
    ) -> Result<(usize, Option<usize>), GuestFault> {
        let cached = if write {
            self.tlb.lookup_write(Tlb::USER, linear)
        } else {
            self.tlb.lookup_read(Tlb::USER, linear)
        };
        if let Some(host) = cached {
            return Ok((host, None));
        }
        let access = Access { write, user: true, ..Access::default() };
        let fault = |error| GuestFault { address: linear, error };
        let translation = self.translate(linear, access).map_err(|found| fault(found.error))?;
        let (host, page) = self.ram.host_page(translation.gpa).ok_or(fault(0))?;
        if translation.page_bits > 12 {
            self.tlb.note_large_page(linear, translation.page_bits);
        }
        if self.debug.dr7 & 0xff != 0 {
            return Ok((host + (linear & 0xfff) as usize, Some(page)));
        }
        let code = write && self.ram.page_flags().get(page) & PageFlags::CODE != 0;
        // The guest's own first write to the page belongs into its journal.
        let noted = write && self.keeps_journal();
        if !code && !noted {
            self.tlb.insert(Tlb::USER, write, false, linear, host);
        }
        Ok((host + (linear & 0xfff) as usize, code.then_some(page)))
    }
}

/// The part of an access of `length` bytes at `linear` that lies in its first page.
fn first_part(linear: u64, length: usize) -> usize {
    length.min(0x1000 - (linear & 0xfff) as usize)
}

impl GuestCpu for Cpu {
    fn gpr(&self) -> &[u64; 16] {
        self.native.gpr.first_chunk().expect("eighteen registers are more than sixteen")
    }

    fn gpr_mut(&mut self) -> &mut [u64; 16] {
        self.native.gpr.first_chunk_mut().expect("eighteen registers are more than sixteen")
    }

    fn rip(&self) -> u64 {
        self.native.gpr[RIP]
    }

    fn set_rip(&mut self, rip: u64) {
        self.native.gpr[RIP] = rip;
    }

    fn rflags(&self) -> u64 {
        self.native.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.native.rflags = rflags;
        self.update_mmu_index();
        self.update_slow();
    }

    fn ignore_interrupt_flag(&mut self, ignored: bool) {
        self.supervised.ignores_interrupt_flag = ignored;
    }

    fn is_64bit(&self) -> bool {
        Self::is_64bit(self)
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.segments[name as usize] = segment;
        self.update_mode();
    }

    fn set_code_and_stack(&mut self, code: Segment, stack: Segment) {
        self.segments[seg::CS] = code;
        self.segments[seg::SS] = stack;
        self.update_mode();
    }

    fn set_base(&mut self, name: SegmentName, base: u64) {
        self.segments[name as usize].base = base;
        self.linear_base[name as usize] = base;
    }

    fn set_descriptor_tables(&mut self, global: (u64, u16), local: (u64, u16)) {
        (self.gdtr.base, self.gdtr.limit) = global;
        let (base, limit) = local;
        let usable = if limit == 0 { attr::UNUSABLE } else { attr::P };
        self.ldtr = Segment {
            // The selector is never seen; it must not be null.
            selector: 8,
            base,
            limit: limit.into(),
            attributes: usable | system_type::LDT,
        };
    }

    fn control(&self) -> Control {
        self.control
    }

    fn set_control(&mut self, control: Control) {
        self.control = Control { cr3: self.control.cr3, ..control };
        self.update_mode();
    }

    fn debug(&self) -> DebugRegisters {
        self.debug
    }

    fn set_debug(&mut self, debug: DebugRegisters) {
        let watched = self.debug.dr7 & 0xff != 0 || debug.dr7 & 0xff != 0;
        self.debug = debug;
        if watched {
            // Watched pages must leave the TLB.
            self.tlb.flush_all();
        }
        self.update_slow();
    }

    fn tsc(&self) -> u64 {
        time::guest_tsc(self)
    }

    fn read(&mut self, linear: u64, data: &mut [u8]) -> Result<(), GuestFault> {
        let (mut at, mut rest) = (linear, data);
        while !rest.is_empty() {
            let (part, after) = rest.split_at_mut(first_part(at, rest.len()));
            let (host, _) = self.supervised_page(at, false)?;
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `host` lies in mapped RAM and the part ends inside its page.
            unsafe {
                mem::copy_from(host, part);
            }
            at = at.wrapping_add(part.len() as u64);
            rest = after;
        }
        Ok(())
    }

    fn write(&mut self, linear: u64, data: &[u8]) -> Result<(), GuestFault> {
        let (mut at, mut rest) = (linear, data);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(first_part(at, rest.len()));
            let (host, noted) = self.supervised_page(at, true)?;
            if let Some(page) = noted {
                self.note_code_write(page);
            }
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `host` lies in mapped RAM and the part ends inside its page.
            unsafe {
                mem::copy_to(host, part);
            }
            at = at.wrapping_add(part.len() as u64);
            rest = after;
        }
        Ok(())
    }

    fn fetch(&mut self, linear: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let at = linear.wrapping_add(done as u64);
            let access = Access { fetch: true, user: true, ..Access::default() };
            let Ok(translation) = self.translate(at, access) else { break };
            let Some((host, _)) = self.ram.host_page(translation.gpa) else { break };
            let length = first_part(at, data.len() - done);
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `host` is a page of mapped RAM and the part ends inside it.
            unsafe {
                mem::copy_from(host + (at & 0xfff) as usize, &mut data[done..done + length]);
            }
            done += length;
        }
        done
    }

    fn switch_space(&mut self, root: u64, space: u16) {
        self.control.cr3 = root;
        self.tlb.switch(space);
    }

    fn flush_space(&mut self, space: u16) {
        self.tlb.flush_pcid(space);
    }

    fn flush_all(&mut self) {
        self.tlb.flush_all();
    }

    fn flush_page(&mut self, linear: u64) {
        self.tlb.flush_page(linear);
    }

    fn flush_page_of(&mut self, space: u16, linear: u64) {
        self.tlb.flush_page_of(space, linear);
    }

    fn flush_lower_half_of(&mut self, space: u16) {
        self.tlb.flush_lower_half_of(space);
    }

    fn protect_frame(&mut self, gpa: u64) {
        if let Some((host, _)) = self.ram.host_page(gpa) {
            self.tlb.protect_host_page(host & !0xfff);
        }
    }

    fn serve_flush(&mut self) {
        if self.attention.pending().intersects(Request::FLUSH | Request::FLUSH_ALL) {
            Self::serve_flush(self);
        }
    }

    fn wrote_frame(&mut self, gpa: u64) {
        if let Some((_, page)) = self.ram.host_page(gpa) {
            self.note_code_write(page);
            self.leave_block = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_memory::GuestRam;
    use ambos_vcpu::Attention;
    use std::sync::Arc;

    #[test]
    fn the_supervisor_reads_what_it_wrote_wherever_that_lies() {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let mut cpu = Cpu::new(ram, Arc::new(Attention::default())).unwrap();
        cpu.begin_supervised();
        for length in [1, 2, 4, 7, 8, 9, 16, 24, 64, 65, 5000] {
            for at in (0x5fc0..0x6008).chain([0x5000 - length as u64]) {
                let written: Vec<u8> = (0..length).map(|byte| (byte + length) as u8 | 1).collect();
                GuestCpu::write(&mut cpu, at - 1, &vec![0; length + 2]).unwrap();
                GuestCpu::write(&mut cpu, at, &written).unwrap();
                let mut read = vec![9; length + 2];
                GuestCpu::read(&mut cpu, at - 1, &mut read).unwrap();
                assert_eq!(read, [&[0], &written[..], &[0]].concat(), "{length} at {at:#x}");
                let mut exact = vec![9; length];
                GuestCpu::read(&mut cpu, at, &mut exact).unwrap();
                assert_eq!(exact, written);
            }
        }
    }

    #[test]
    fn what_the_supervisor_writes_hides_no_write_of_the_guest_from_its_journal() {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let mut cpu = Cpu::new(ram, Arc::new(Attention::default())).unwrap();
        cpu.begin_supervised();
        GuestCpu::write(&mut cpu, 0x5000, &[1]).unwrap();
        assert!(cpu.tlb.lookup_write(Tlb::USER, 0x5000).is_some());
        cpu.begin_journal();
        for linear in [0x5000, 0x6000] {
            GuestCpu::write(&mut cpu, linear, &[2]).unwrap();
            assert_eq!(cpu.tlb.lookup_write(Tlb::USER, linear), None);
        }
    }
}
