//! Interlock's subscriber-gateway: one upstream copy, any number of subscribers.
