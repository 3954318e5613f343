//! Privileged and sensitive instructions, and the delivery of exceptions and interrupts.

pub mod control;
pub mod cpuid;
pub mod debug;
pub mod far;
pub mod hypercall;
pub mod interrupt;
pub mod io;
pub mod iret;
pub mod msr;
pub mod segments;
pub mod syscall;
pub mod tables;
pub mod task;
pub mod time;
pub mod xsave;
