//! How the two halves of a device find each other: states and values in xenstore.
//!
//! Each half has a directory in the store, and in it a `state` that only it changes and the other
//! watches.
//!
//! ```text
//! front   Initialising ─────────────► Initialised ─────► Connected ──► Closing ──► Closed
//!                        ▲ (features)    │ (rings)   ▲ (size, …)  │           ▲        │
//! back    Initialising ─► InitWait       └─► Connected             └─► Closing ┘        └─► Closed
//! ```
//!
//! A front half that starts again (`Initialising` after `Closed`) finds the back half waiting again.
//! What is particular to a kind of device is a [`BackHalf`].

mod device;
mod state;

pub(crate) use device::{BackHalf, ConnectError, Device, FrontNode, Place};
#[cfg(test)]
pub(crate) use state::State;
