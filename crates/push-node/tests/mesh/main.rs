//! Several push-nodes in one process, over real servers and real databases.

mod channels;
mod following;
mod membership;
mod publishing;
mod registered;
mod replication;
mod support;
