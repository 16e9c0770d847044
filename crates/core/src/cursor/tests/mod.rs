//! Cursors over random rows with forks and joins, against sets of messages.

mod channels_apart;
mod coverage;
mod encoding;
mod world;
