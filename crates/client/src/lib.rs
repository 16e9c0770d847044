//! The Rust SDK of Interlock.
//!
//! A [`Mesh`] knows where a mesh listens. [`Publisher`] publishes through a
//! session, many at a time and exactly once over restarts; [`Subscriber`] reads
//! along and goes on with its cursor, at any gateway of any region. For the rest
//! of the API, [`Mesh`] hands out the generated clients.

mod addresses;
mod error;
mod mesh;
mod publisher;
mod subscriber;

pub use addresses::Addresses;
pub use error::{ClientError, FailedBatch, is_transient};
pub use interlock_rpc::status::{PublishOutcome, Stored};
pub use interlock_rpc::v1;
pub use mesh::{Mesh, RegionAddresses};
pub use publisher::{Durability, Outgoing, Published, Publisher, PublisherOptions, Receipt};
pub use subscriber::{Received, Start, Subscriber, SubscriberOptions};
