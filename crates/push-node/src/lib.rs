//! Interlock's push-node: accepts, makes durable, replicates, serves gateways.
