//! A mesh of real processes on loopback, and the `interlock` command to talk to
//! it: what the demonstration and the fault tests share.

pub mod interlock_command;
pub mod mesh;
