//! Asking a service whether it serves, for health checks of containers.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::channel::{ConnectError, EndpointConfig};

/// Why a service does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nobody answers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It answers with an error.
    #[error("the health check failed: {}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    /// It says that it does not serve.
    #[error("it answers, and says that it does not serve (starting or draining)")]
    NotServing,
}

/// Asks the service at `endpoint` by `grpc.health.v1`.
pub async fn check(endpoint: &EndpointConfig) -> Result<(), HealthError> {
    let mut client = HealthClient::new(endpoint.connect().await?);
    let response =
        client.check(HealthCheckRequest::default()).await.map_err(Box::new)?.into_inner();
    if response.status() == ServingStatus::Serving { Ok(()) } else { Err(HealthError::NotServing) }
}
