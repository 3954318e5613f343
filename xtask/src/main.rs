//! Development tasks of the Ambos project.
fn main() {}
