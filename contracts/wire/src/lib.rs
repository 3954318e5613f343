//! Interrupt lines as named wires.
