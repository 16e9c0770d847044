//! Interlock's subscriber-gateway: one upstream copy of each message, any number
//! of subscribers, and cursors that are valid in every region.
//!
//! The way of a message through it: [`upstream`] follows a namespace at a
//! push-node of the region, [`fan_out`] puts it in the namespace's one order,
//! [`subscriber_session`] hands what of it is new to its [`reader`] to one
//! subscriber. A session that is behind reads on alone with [`catch_up`] until it
//! meets the shared position.

mod catch_up;
mod config;
mod delivered;
#[cfg(test)]
mod fake_push_node;
mod fan_out;
mod forwarding;
mod hand_over;
mod history;
mod live_queue;
mod metrics;
mod namespaces;
mod push_nodes;
mod reader;
mod region_watch;
#[cfg(test)]
mod samples;
mod service;
mod stream_slots;
mod subscribe_service;
mod subscriber_session;
mod upstream;

pub use config::{Config, ConfigError, Flags};
pub use service::{Gateway, Running, StartError};
