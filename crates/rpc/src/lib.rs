//! Interlock's edge: protobuf to core, status details, TLS, servers and channels.
//!
//! Only this crate and the services' gRPC files know protobuf and tonic's
//! transport. What the core decides on comes in through [`convert`] and leaves
//! through it; what the core refuses leaves as a [`status`].

pub mod channel;
pub mod configuration;
pub mod convert;
pub mod health;
#[cfg(feature = "process")]
pub mod process;
pub mod server;
pub mod services;
pub mod status;
pub mod tls;
pub mod topology_file;
pub mod trace;

pub use interlock_wire::{FILE_DESCRIPTOR_SET, v1};

/// Chooses ring as the process's one source of cryptography. Every `main` calls
/// it before anything that may use TLS; more calls change nothing.
pub fn install_crypto_provider() {
    // An error says that a provider is installed already, and only we install one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
