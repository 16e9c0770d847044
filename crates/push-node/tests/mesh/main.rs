//! Several push-nodes in one process, over real servers and real databases.

mod call_limits;
mod channels;
mod following;
mod listing;
mod membership;
mod publish_streams;
mod publishing;
mod registered;
mod replication;
mod support;
mod trimming;
mod unchanged_sources;
