//! Measures log key layouts.
fn main() {}
