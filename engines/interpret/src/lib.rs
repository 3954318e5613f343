//! The interpreter: reference semantics of every processor mode.
