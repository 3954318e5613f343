//! Making other vCPUs drop cached translations, and knowing when they have.
//!
//! A vCPU that begins to cache code of a page must be sure that no other one still writes to the page
//! unnoticed. It raises [`Request::FLUSH`] on all others and waits until each has seen it or is not
//! running guest code. A vCPU that waits here counts as not running; it serves its own request before
//! it goes on, so two waiting for each other both proceed.

use ambos_vcpu::{Attention, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One vCPU as the others see it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) attention: Arc<Attention>,
    /// It runs guest code.
    running: AtomicBool,
}

impl Member {
    pub(crate) fn new(attention: Arc<Attention>) -> Self {
        Self { attention, running: AtomicBool::new(false) }
    }

    /// Notes that guest code runs from now on, or no longer.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }
}

/// Makes all members but `own` drop what they cached.
pub(crate) fn flush_others(members: &[Member], own: usize) {
    if members.len() < 2 {
        return;
    }
    members[own].set_running(false);
    ask_others(members, own, u64::MAX, Request::FLUSH, &mut || {});
    members[own].set_running(true);
}

/// Raises `request` on all members but `own` whose bit is in `mask`, and on those past the sixty-fourth, and
/// waits until each has served it or does not run. Meanwhile `own` must serve its own requests, or count as
/// not running.
pub(crate) fn ask_others(
    members: &[Member],
    own: usize,
    mask: u64,
    request: Request,
    meanwhile: &mut dyn FnMut(),
) {
    let asked = |index: usize| index != own && (index >= 64 || mask >> index & 1 != 0);
    let others = || members.iter().enumerate().filter(|(index, _)| asked(*index));
    for (_, other) in others() {
        other.attention.raise(request);
    }
    for (_, other) in others() {
        while other.running.load(Ordering::SeqCst) && other.attention.pending().contains(request) {
            meanwhile();
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_mask_and_past_it_are_asked() {
        let member = |_| Member::new(Arc::new(Attention::default()));
        let members: Vec<Member> = (0..66).map(member).collect();
        ask_others(&members, 1, 0b110, Request::FLUSH_ALL, &mut || {});
        let asked = |index: &usize| !members[*index].attention.pending().is_empty();
        assert_eq!((0..66).filter(asked).collect::<Vec<_>>(), [2, 64, 65]);
    }
}
