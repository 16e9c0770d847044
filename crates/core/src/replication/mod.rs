//! How messages get to every member: rows and branches, the sender's and the
//! receiver's state machines, facts about who holds what.
//!
//! The state machines take `now` and what happened, and hand out actions. After
//! every input the driver drains `poll_action()` and then reads
//! `poll_timeout()`, the moment at which it calls `handle_timeout` if nothing
//! happens before.

pub mod acknowledgements;
pub mod base_sending;
pub mod departure;
pub mod frames;
pub mod log_sources;
pub mod log_table;
pub mod own_log_watch;
pub mod peer_receiver;
pub mod peer_sender;
pub mod rows;
#[cfg(test)]
mod specimens;
#[cfg(test)]
mod stream_tests;
pub mod timing;
