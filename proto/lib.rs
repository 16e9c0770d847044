//! Interlock's wire contract: the messages and services of `interlock.v1`, as
//! `build.rs` compiles them from `proto/`.
//!
//! Only the edge of the services knows these types; `interlock-rpc` turns them
//! into those of `interlock-core` and back.

/// The package `interlock.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("interlock.v1");
}

/// The descriptors of all files, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/interlock_descriptor.bin"));
