//! The virtual machine's clock and its labelled timers.
