//! Reports: what they hold, and the forms in which they are given out.
//!
//! - [`model`]: the content, which is also the JSON form; its schema is documented there.
//! - [`terminal`]: a table for a terminal.
//!
//! A report holds numbers and what was concluded from them; the forms only show it.

pub mod model;
pub(crate) mod numbers;
pub mod terminal;

pub use model::{Report, SCHEMA};
