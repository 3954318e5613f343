//! The command line of Ambos.
fn main() {}
