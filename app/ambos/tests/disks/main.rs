//! Disks: what a guest writes is in the image, other monitors read it, and failures of the host reach
//! the guest as errors.
//!
//! `AMBOS_TEST_DISK_MIB` and `AMBOS_TEST_KILLS` make the tests longer than usual; `cargo xtask soak`
//! sets them.

mod failures;
mod file_systems;
mod guest;
mod peers;
