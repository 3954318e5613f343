//! Reports: what they hold, and the forms in which they are given out.
//!
//! - [`model`]: the content, which is also the JSON form; its schema is documented there.
//! - [`merge`]: two reports side by side.
//! - [`terminal`]: a table for a terminal.
//! - [`html`]: one file for a browser.
//!
//! A report holds numbers and what was concluded from them; the forms only show it.

pub mod html;
pub mod merge;
pub mod model;
pub(crate) mod numbers;
pub mod terminal;
#[cfg(test)]
pub(crate) mod testing;

pub use model::{Report, SCHEMA};
