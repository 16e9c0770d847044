//! Three regions in one process: control-plane, push-nodes and gateways as they
//! run in production, on loopback, with real databases in temporary folders. What
//! a client sees of the method and the promises is shown here through the client and
//! the wire.
//!
//! Only `tracing` needs processes of their own: `cargo xtask test` builds them.

mod bad_input;
mod channels;
mod content;
mod control_plane;
mod forks;
mod mesh_client;
mod no_messages;
mod observability;
mod publications;
mod residency;
mod slow_reader;
mod static_topology;
mod subscribers;
mod support;
mod tracing;
mod waiting;
mod web_server;
