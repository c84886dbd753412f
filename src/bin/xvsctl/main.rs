//! The debug command.
fn main() {}
