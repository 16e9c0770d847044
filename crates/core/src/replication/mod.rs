//! How messages get to every member: rows and branches, the sender's and the
//! receiver's state machines, facts about who holds what.

pub mod acknowledgements;
pub mod frames;
pub mod log_sources;
pub mod log_table;
pub mod peer_receiver;
pub mod peer_sender;
pub mod rows;
