//! Interlock's edge: protobuf to core, status details, TLS, servers and channels.
