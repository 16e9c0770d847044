//! The Rust SDK of Interlock.
