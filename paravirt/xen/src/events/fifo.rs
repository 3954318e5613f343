//! The second form: a word for each port, in pages that the guest gives, linked into a queue for each vCPU
//! and priority. The hypervisor adds at the tail, the guest takes from the head.

use ambos_memory::GuestRam;
use ambos_xen_abi::Errno;
use ambos_xen_abi::event::fifo::{
    CONTROL_SIZE, HEADS, LINK_MASK, LINKED, MASKED, PENDING, PORTS, PRIORITIES, READY,
    WORDS_PER_PAGE,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

/// The guest's queues as the hypervisor knows them.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    /// Control blocks by vCPU.
    controls: BTreeMap<u32, u64>,
    /// Pages of event words.
    pages: Vec<u64>,
    /// Last port of each queue, by vCPU and priority.
    tails: BTreeMap<(u32, u8), u32>,
    /// The queue that each port was last put into.
    queues: BTreeMap<u32, (u32, u8)>,
    /// Ports that were raised before there was a word for them.
    early: BTreeSet<u32>,
}

impl Fifo {
    fn word<'a>(&self, ram: &'a GuestRam, port: u32) -> Option<&'a AtomicU32> {
        let page = self.pages.get((port / WORDS_PER_PAGE) as usize)?;
        ram.word32(page + u64::from(port % WORDS_PER_PAGE) * 4)
    }

    /// Takes a vCPU's control block.
    pub(super) fn set_control(&mut self, ram: &GuestRam, vcpu: u32, at: u64) -> Result<(), Errno> {
        if self.controls.contains_key(&vcpu) {
            return Err(Errno::EINVAL);
        }
        for offset in (0..CONTROL_SIZE).step_by(4) {
            if let Some(word) = ram.word32(at + offset) {
                word.store(0, Ordering::SeqCst);
            }
        }
        self.controls.insert(vcpu, at);
        Ok(())
    }

    /// Adds a page of words; returns the ports in it that wait to be raised.
    pub(super) fn add_page(&mut self, at: u64) -> Result<Vec<u32>, Errno> {
        let first = self.pages.len() as u32 * WORDS_PER_PAGE;
        if first >= PORTS {
            return Err(Errno::ENOSPC);
        }
        self.pages.push(at);
        let end = first + WORDS_PER_PAGE;
        let waiting: Vec<u32> = self.early.range(first..end).copied().collect();
        self.early.retain(|port| !(first..end).contains(port));
        Ok(waiting)
    }

    /// Remembers a port that was pending in the other form.
    pub(super) fn remember_pending(&mut self, port: u32) {
        self.early.insert(port);
    }

    pub(super) fn is_pending(&self, ram: &GuestRam, port: u32) -> bool {
        self.word(ram, port).is_some_and(|word| word.load(Ordering::SeqCst) & PENDING != 0)
    }

    pub(super) fn clear(&mut self, ram: &GuestRam, port: u32) {
        self.early.remove(&port);
        if let Some(word) = self.word(ram, port) {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        }
    }

    /// Makes `port` pending; returns whether the vCPU must be told.
    pub(super) fn raise(&mut self, ram: &GuestRam, port: u32, vcpu: u32, priority: u8) -> bool {
        let Some(word) = self.word(ram, port) else {
            if port < PORTS {
                self.early.insert(port);
            }
            return false;
        };
        let before = word.fetch_or(PENDING, Ordering::SeqCst);
        if before & MASKED != 0 || before & LINKED != 0 {
            return false;
        }
        self.link(ram, port, vcpu, priority)
    }

    /// Lets `port` through; returns whether the vCPU must be told.
    pub(super) fn unmask(&mut self, ram: &GuestRam, port: u32, vcpu: u32, priority: u8) -> bool {
        let Some(word) = self.word(ram, port) else { return false };
        let before = word.fetch_and(!MASKED, Ordering::SeqCst);
        before & PENDING != 0 && self.raise(ram, port, vcpu, priority)
    }

    fn link(&mut self, ram: &GuestRam, port: u32, vcpu: u32, priority: u8) -> bool {
        let Some(&control) = self.controls.get(&vcpu) else { return false };
        let Some(word) = self.word(ram, port) else { return false };
        if word.fetch_or(LINKED, Ordering::SeqCst) & LINKED != 0 {
            return false;
        }
        word.fetch_and(!LINK_MASK, Ordering::SeqCst);
        // If it was the last of a queue, that queue has been emptied by the guest.
        if let Some(old) = self.queues.insert(port, (vcpu, priority))
            && self.tails.get(&old) == Some(&port)
        {
            self.tails.remove(&old);
        }
        let tail = self.tails.insert((vcpu, priority), port);
        let appended = tail.is_some_and(|tail| self.append(ram, tail, port));
        if appended {
            return false;
        }
        let head = control + HEADS + u64::from(priority) * 4;
        if let Some(head) = ram.word32(head) {
            head.store(port, Ordering::SeqCst);
        }
        let bit = 1 << (u32::from(priority) % PRIORITIES);
        ram.word32(control + READY)
            .is_some_and(|ready| ready.fetch_or(bit, Ordering::SeqCst) & bit == 0)
    }

    /// Puts `port` behind `tail`, if that is still in the queue.
    fn append(&self, ram: &GuestRam, tail: u32, port: u32) -> bool {
        let Some(word) = self.word(ram, tail) else { return false };
        let link = |now: u32| (now & LINKED != 0).then_some(now & !LINK_MASK | port);
        word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, link).is_ok()
    }
}
