//! Interlock's control-plane: topology, registration, leases, operations by region.

pub mod store;
