//! Several push-nodes in one process, over real servers and real databases.

mod call_limits;
mod channels;
mod divergence;
mod following;
mod leaving;
mod listing;
mod membership;
mod publish_streams;
mod publishing;
mod registered;
mod replication;
mod scrubbing;
mod siblings;
mod support;
mod trimming;
mod unchanged_sources;
