//! The process's file mode creation mask outlives the opening of shared directories. Alone in its
//! process, because the mask is all threads'.

use ambos_memory::GuestRam;
use ambos_share::{Session, Share};
use rustix::fs::Mode;
use rustix::process::umask;
use std::sync::Arc;
use std::thread;

#[test]
fn sessions_that_begin_together_keep_the_mask() {
    let mine = Mode::WGRP | Mode::RWXO;
    umask(mine);
    let directory = tempfile::tempdir().unwrap();
    let share = Share::new(directory.path(), false).unwrap();
    let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    Session::new(&share, &ram).unwrap();
                }
            });
        }
    });
    assert_eq!(umask(mine), mine);
}
