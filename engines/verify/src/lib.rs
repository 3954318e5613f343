//! An engine that finds wrong translations: the translator and the interpreter in lock step.
//!
//! [`Verifier`] runs each translated block twice from the same state: first translated, with
//! everything that the platform answers recorded and a journal of the memory written; then, with memory
//! and registers put back, interpreted, with the recorded answers. The two must come to the same state
//! and leave the same memory. The first difference ends the run with both states and the block's
//! code.
//!
//! A block is compared on its first [`Verifier::ALWAYS`] runs and on every [`Verifier::OFTEN`]th one after
//! that: a boot takes a minute, and a wrong translation that depends on data does not hide for long.
//! Blocks that change how memory is translated are not compared (those instructions are the
//! interpreter's in any case), nor are blocks that use flags which the architecture leaves undefined.
//!
//! Memory must not change under the comparison, so machines that verify have one vCPU.
#![forbid(unsafe_code)]

mod difference;
mod record;
mod verifier;

pub use verifier::Verifier;
