//! Instruction handlers, a file for each class of instructions.
//!
//! A handler is generic in operand width and operand kinds; [`crate::decode`] picks the instance.
//! Handlers change the vCPU only after everything that can fault has succeeded.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod conditional;
pub mod decimal;
pub mod exchange;
pub mod gather;
pub mod moves;
pub mod muldiv;
pub mod native;
pub mod operand;
pub mod shift;
pub mod stack;
pub mod string;
