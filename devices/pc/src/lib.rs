//! The generic chips of a PC.
