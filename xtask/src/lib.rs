//! A mesh of real processes on loopback, the `interlock` command to talk to it,
//! and a region's web server: what the demonstration and the tests share.

pub mod interlock_command;
pub mod mesh;
pub mod web_origin;
