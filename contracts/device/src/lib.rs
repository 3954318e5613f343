//! What a device is, and the buses that carry accesses to it.
