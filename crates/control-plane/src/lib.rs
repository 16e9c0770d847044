//! Interlock's control-plane: registers nodes and gives them their numbers and
//! fencing tokens, keeps the topology that says who holds what, and is the
//! operator's door to each region (METHOD M2, M15).
//!
//! Nodes need it to learn of changes, not to work: each keeps the last topology
//! on its own disk, and an expired lease changes what is shown, nothing else.
//!
//! ```text
//! topology_service ──→ registry ──→ store::document ──→ store (file | memory)
//!                       ├ leases
//!                       └ heard_nodes
//! operation_service ─→ operation_log ─→ store::document
//!       └──────────┬─→ forwarding ──→ a push-node of the region
//! channel_service ─┘
//! ```

pub mod config;
pub mod store;

mod channel_service;
mod failure;
mod forwarding;
mod heard_nodes;
mod leases;
mod metrics;
mod operation_log;
mod operation_service;
mod refusals;
mod registry;
mod service;
mod topology_service;

pub use channel_service::REGION_METADATA;
pub use config::{Config, ConfigError};
pub use operation_log::OpenLogError;
pub use service::{ControlPlane, RunError, Running, StartError};
pub use store::document::OpenDocumentError;
