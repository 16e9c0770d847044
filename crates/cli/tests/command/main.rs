//! The `interlock` command as people and scripts run it, against a mesh in this
//! process: what it prints as a table and as JSON, and how it ends.

mod away;
mod channels;
mod conflicts;
mod departures;
mod development;
mod messages;
mod mistakes;
mod operations;
mod places;
mod support;
