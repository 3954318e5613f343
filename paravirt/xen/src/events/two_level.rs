//! The first form: a bit for each port, and a word for each vCPU that says which words have bits.

use crate::domain::SharedVcpu;
use ambos_memory::GuestRam;
use ambos_xen_abi::event::TWO_LEVEL_PORTS;
use ambos_xen_abi::shared_info::{self, EVENT_MASK, EVENT_PENDING};
use std::sync::atomic::Ordering;

/// Sets a bit; returns whether it was clear.
fn set(ram: &GuestRam, at: u64, bit: u32) -> bool {
    ram.word(at).is_some_and(|word| word.fetch_or(1 << bit, Ordering::SeqCst) & 1 << bit == 0)
}

fn is_set(ram: &GuestRam, bitmap: u64, port: u32) -> bool {
    let word = ram.load_word(bitmap + u64::from(port / 64) * 8);
    port < TWO_LEVEL_PORTS && word & 1 << (port % 64) != 0
}

fn unset(ram: &GuestRam, bitmap: u64, port: u32) {
    if let Some(word) = ram.word(bitmap + u64::from(port / 64) * 8)
        && port < TWO_LEVEL_PORTS
    {
        word.fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
    }
}

fn select(ram: &GuestRam, vcpu: &SharedVcpu, port: u32) -> bool {
    let info = vcpu.info.load(Ordering::SeqCst);
    set(ram, info + shared_info::vcpu::PENDING_SELECTOR, port / 64)
}

/// Makes `port` pending; returns whether the vCPU must be told.
pub(super) fn raise(ram: &GuestRam, page: u64, vcpu: &SharedVcpu, port: u32) -> bool {
    port < TWO_LEVEL_PORTS
        && set(ram, page + EVENT_PENDING + u64::from(port / 64) * 8, port % 64)
        && !is_set(ram, page + EVENT_MASK, port)
        && select(ram, vcpu, port)
}

/// Lets `port` through; returns whether the vCPU must be told.
pub(super) fn unmask(ram: &GuestRam, page: u64, vcpu: &SharedVcpu, port: u32) -> bool {
    let masked = is_set(ram, page + EVENT_MASK, port);
    unset(ram, page + EVENT_MASK, port);
    masked && is_pending(ram, page, port) && select(ram, vcpu, port)
}

pub(super) fn is_pending(ram: &GuestRam, page: u64, port: u32) -> bool {
    is_set(ram, page + EVENT_PENDING, port)
}

pub(super) fn clear(ram: &GuestRam, page: u64, port: u32) {
    unset(ram, page + EVENT_PENDING, port);
}
