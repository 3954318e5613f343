//! Measures workloads under each technique of virtualization, and says which one serves them better
//! and why.
//!
//! - [`workload`]: the built-in workloads. [`service`]: anyone's own.
//! - [`compare`]: repeats them under each technique, in alternating order, until the result is clear or
//!   the time is over.
//! - [`statistics`]: what the samples tell. [`analysis`]: what the counts explain.
//! - [`report`]: the report, and its forms for terminals, programs and browsers.
//!
//! This crate runs monitors as processes of their own and knows of them what they print and count. It
//! neither makes machines nor reads kernels, but for what `inspect` tells of them.

#![cfg_attr(test, expect(clippy::float_cmp, reason = "tests compare exact results"))]

pub mod analysis;
mod campaign;
mod collected;
mod compare;
mod errands;
mod error;
mod guest_programs;
mod host;
pub mod operations;
mod peer;
mod progress;
pub mod report;
mod rows;
mod runner;
pub mod service;
pub mod statistics;
pub mod workload;

pub use compare::{Options, compare};
pub use error::CompareError;
pub use guest_programs::WORKLOAD;
pub use progress::Progress;
pub use runner::{Accelerator, Contender, GuestFiles, Monitor, processor_seconds};
