//! A seeded world over the core and the memory storage: machines that crash and
//! forget what was not synced, a network that breaks, clocks that jump, clients
//! that retry, and checkers that read what came of it.
//!
//! Nothing of the product is written a second time here. Admission, logs,
//! replication, the directory and the storage are the real ones; only the
//! push-node's threads are replaced by a driver, `node`, that does the same in
//! virtual time. One seed decides everything: the same seed gives the same trace
//! hash. First things go wrong, then all is healed, and then everything has to
//! come right.

mod carriers;
pub mod checks;
mod client_traffic;
pub mod clients;
mod control_plane;
pub mod delivery;
mod departures;
pub mod display;
mod ending;
pub mod event;
pub mod event_queue;
pub mod exhaustive;
mod fault_injection;
pub mod faults;
pub mod final_state;
pub mod history;
mod kept_cursors;
pub mod machine;
pub mod network;
mod network_traffic;
pub mod node;
pub mod opening;
pub mod planted_bug;
mod processes;
pub mod random;
pub mod record;
pub mod requests;
pub mod run;
pub mod scenario;
mod second_process;
mod snapshots;
pub mod statistics;
mod subscriptions;
pub mod trace;
pub mod world;
