//! Disks: what a guest writes is in the image, other monitors read it, and failures of the host reach
//! the guest as errors.
//!
//! `AMBOS_TEST_DISK_MIB`, `AMBOS_TEST_KILLS` and `AMBOS_TEST_HOT_SECONDS` make the tests longer than usual;
//! `cargo xtask soak` sets them.

mod boots;
mod failures;
mod file_systems;
mod guest;
mod hot;
mod peers;
