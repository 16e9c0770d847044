//! Interlock's push-node: accepts messages in its region, makes them durable,
//! drives them to every other member, and serves the region's gateways.
//!
//! The way of one message, one file a hop, no call back upward:
//!
//! ```text
//! publish_service → log_writer (decide, append) → log_syncer (sync) → durable_state
//!      ├→ answer: the publisher's acknowledgement
//!      ├→ outbound_link → the peers
//!      └→ projector → delivery_feed → the gateways
//! a peer's frame: inbound_link → log_writer → log_syncer → durable_state → its Ack
//! ```
//!
//! [`PushNode::start`] puts it together (`service`).

mod acknowledgement_waiters;
mod alarms;
mod answer;
pub mod arguments;
mod backfills;
mod bringing_back;
mod catch_up_reader;
mod channel_pages;
mod channel_segments;
mod channel_service;
mod channel_watch;
mod checkpoint;
pub mod config;
mod context;
mod control_plane_link;
mod deadline;
mod delivery_feed;
mod delivery_service;
mod delivery_trace;
mod departures;
mod directories;
mod divergence;
mod drain;
mod durable_state;
mod failure;
mod feed_batch;
mod fencing;
mod follow_start;
mod frame_reading;
mod inbound_link;
mod link_status;
mod log_syncer;
mod log_writer;
mod metrics;
mod node_clock;
mod node_service;
mod open_node;
mod opening;
mod origin_news;
mod outbound_link;
mod outbound_links;
mod own_marks;
mod peer_lag;
mod projector;
mod public_addresses;
mod publish_service;
mod readiness;
mod recovering;
mod refusals;
mod repairing;
mod replication_hub;
mod retention;
mod running;
mod scrub_progress;
mod scrubber;
mod service;
mod source_fetcher;
mod space_watch;
mod start_error;
mod starting_topology;
mod status;
mod stored_messages;
mod tail_cache;
mod tasks;
mod threads;
mod topology_state;
mod verification;
mod work_queue;
mod writer_commands;

pub use config::Config;
pub use failure::{FAILURE_EXIT_CODE, NodeFailure};
pub use recovering::{LostEnd, Recovered, examine, recover};
pub use running::Running;
pub use service::{Bound, PushNode};
pub use start_error::StartError;
