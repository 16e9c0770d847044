//! What the `interlock` command shares with tests: contexts, and a whole mesh in
//! one process.

pub mod contexts;
pub mod dev_mesh;
pub mod usage;
