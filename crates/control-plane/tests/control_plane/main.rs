//! A control-plane as its callers see it, over real connections.

mod adopting;
mod fake_push_node;
mod operations;
mod registration;
mod topology;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use interlock_control_plane::{Config, ControlPlane, Running};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::{services, v1};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::Channel;

/// Longer than anything here takes, so that what hangs becomes a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A control-plane with a data folder that outlives it.
struct Fixture {
    folder: TempDir,
    running: Option<Running>,
    channel: Channel,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with_lease(10).await
    }

    async fn start_with_lease(lease_seconds: u64) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let config = Config { lease_seconds, ..config(&folder) };
        let running = ControlPlane::start(config).await.expect("starts");
        let channel = connect(running.listen_address());
        Self { folder, running: Some(running), channel }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.start_again(config(&self.folder)).await;
    }

    async fn start_again(&mut self, config: Config) {
        let running = ControlPlane::start(config).await.expect("starts again");
        self.channel = connect(running.listen_address());
        self.running = Some(running);
    }

    async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            within(running.shutdown()).await;
        }
    }

    fn topology(&self) -> services::topology::Client<Channel> {
        services::topology::client(self.channel.clone())
    }

    fn operations(&self) -> services::operation::Client<Channel> {
        services::operation::client(self.channel.clone())
    }

    fn channels(&self) -> services::channel::Client<Channel> {
        services::channel::client(self.channel.clone())
    }

    async fn register(&self, name: &str, region: &str) -> v1::RegisterNodeResponse {
        self.try_register(registration(name, region)).await.expect("registers")
    }

    async fn try_register(
        &self,
        request: v1::RegisterNodeRequest,
    ) -> Result<v1::RegisterNodeResponse, Status> {
        Ok(self.topology().register_node(request).await?.into_inner())
    }

    async fn apply_group(&self, name: &str, regions: &[&str]) -> v1::Topology {
        let request = v1::ApplyGroupRequest {
            name: name.to_owned(),
            regions: owned(regions),
            ..Default::default()
        };
        let response = self.topology().apply_group(request).await.expect("applied");
        response.into_inner().topology.expect("is in every answer")
    }

    async fn create_namespace(&self, name: &str, groups: &[&str]) -> Result<v1::Namespace, Status> {
        let request = v1::CreateNamespaceRequest {
            name: name.to_owned(),
            groups: owned(groups),
            disk_cap_bytes: 0,
            retention: None,
        };
        let response = self.topology().create_namespace(request).await?.into_inner();
        Ok(response.namespace.expect("is in every answer"))
    }

    async fn get_topology(&self) -> v1::Topology {
        let response = self.topology().get_topology(v1::GetTopologyRequest {}).await;
        response.expect("answers").into_inner().topology.expect("is in every answer")
    }

    async fn nodes(&self) -> Vec<v1::NodeRecord> {
        let response = self.topology().list_nodes(v1::ListNodesRequest {}).await;
        response.expect("answers").into_inner().nodes
    }
}

fn config(folder: &TempDir) -> Config {
    let free_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        listen: free_port,
        metrics_listen: Some(free_port),
        data_dir: folder.path().join("data"),
        shutdown_seconds: 5,
        ..Config::default()
    }
}

fn connect(address: SocketAddr) -> Channel {
    EndpointConfig::new(address.to_string()).connect_lazy().expect("an address")
}

fn registration(name: &str, region: &str) -> v1::RegisterNodeRequest {
    v1::RegisterNodeRequest {
        name: name.to_owned(),
        region: region.to_owned(),
        replication_address: "127.0.0.1:1".to_owned(),
        client_address: "127.0.0.1:1".to_owned(),
        incarnation: 7,
        topology_version: None,
        feature_level: 1,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take that long")
}
