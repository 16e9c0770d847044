//! Interlock's rules: pure, synchronous, without I/O, clock or randomness of
//! their own. The services and the simulation drive the same code.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admission;
pub mod clock;
pub mod cursor;
pub mod delivery;
pub mod directory;
pub mod features;
pub mod identity;
pub mod limits;
pub mod message;
pub mod names;
pub mod projection;
pub mod replication;
pub mod topology;
pub mod wire_format;
