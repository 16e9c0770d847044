//! Nodes under a real control-plane (METHOD M2): numbered by it, following its
//! topology, and going on without it.

use std::net::SocketAddr;
use std::path::Path;

use interlock_control_plane::{
    Config as ControlPlaneConfig, ControlPlane, Running as ControlPlaneRunning,
};
use interlock_push_node::{Config, PushNode, Running};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::{services, v1};
use tonic::transport::Channel;

use crate::support::{publication, until};

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub async fn start_control_plane(folder: &Path, listen: SocketAddr) -> ControlPlaneRunning {
    start_confirmed_control_plane(folder, listen, false).await
}

/// The same; where its data is known to be no old copy it waits to hear nobody.
pub async fn start_confirmed_control_plane(
    folder: &Path,
    listen: SocketAddr,
    topology_confirmed: bool,
) -> ControlPlaneRunning {
    let config = ControlPlaneConfig {
        topology_confirmed,
        listen,
        metrics_listen: None,
        data_dir: folder.join("control-plane"),
        lease_seconds: 1,
        shutdown_seconds: 1,
        ..ControlPlaneConfig::default()
    };
    until("the control-plane starts", async || {
        ControlPlane::start(config.clone()).await.map_err(|error| error.to_string())
    })
    .await
}

pub fn node_config(folder: &Path, region: &str, control_plane: SocketAddr) -> Config {
    let mut config = Config {
        node: format!("{region}-1"),
        region: region.to_owned(),
        data_dir: folder.join(region),
        client_listen: loopback(),
        replication_listen: loopback(),
        control_plane: Some(control_plane.to_string()),
        ..Config::default()
    };
    config.limits.publication_free_bytes = 0;
    config.limits.replication_free_bytes = 0;
    config.limits.drain_milliseconds = 500;
    config
}

pub fn channel(address: SocketAddr) -> Channel {
    EndpointConfig::new(address.to_string()).connect_lazy().expect("a plain address")
}

async fn lay_out(control_plane: SocketAddr) {
    let mut topology = services::topology::client(channel(control_plane));
    for name in ["north", "south"] {
        let request = v1::ApplyRegionRequest { name: name.to_owned() };
        topology.apply_region(request).await.expect("it is stored");
    }
    let request = v1::ApplyGroupRequest {
        name: "all".to_owned(),
        regions: vec!["north".to_owned(), "south".to_owned()],
        leave: false,
    };
    topology.apply_group(request).await.expect("it is stored");
}

async fn create_namespace(control_plane: SocketAddr, name: &str) {
    let request = v1::CreateNamespaceRequest {
        name: name.to_owned(),
        groups: vec!["all".to_owned()],
        disk_cap_bytes: 0,
        retention: None,
    };
    let mut topology = services::topology::client(channel(control_plane));
    topology.create_namespace(request).await.expect("it is stored");
}

pub async fn create_channel(node: &Running, namespace: &str) {
    let mut channels = services::channel::client(channel(node.client_address()));
    until("the namespace is ready", async || {
        let request = v1::CreateChannelRequest {
            namespace: namespace.to_owned(),
            channel: "news".to_owned(),
            ..Default::default()
        };
        channels.create_channel(request).await.map_err(|status| status.to_string())
    })
    .await;
}

pub async fn publish(node: &Running, namespace: &str, text: &str) -> Result<(), tonic::Status> {
    let request = v1::PublishRequest {
        namespace: namespace.to_owned(),
        publication: Some(publication("news", text.to_owned())),
        ..Default::default()
    };
    let mut publisher = services::publish::client(channel(node.client_address()));
    publisher.publish(request).await.map(|_| ())
}

pub async fn status(node: &Running) -> v1::GetStatusResponse {
    let mut client = services::node::client(channel(node.client_address()));
    let request = v1::GetStatusRequest { brief: false };
    client.get_status(request).await.expect("it serves").into_inner()
}

pub async fn until_held(node: &Running, namespace: &str, messages: u64) {
    until("the messages are there", async || {
        let status = status(node).await;
        let held = status.namespaces.iter().find(|held| held.name == namespace);
        match held.map(|held| held.messages) {
            Some(held) if held == messages => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// METHOD M1, M2: nodes register, take over a namespace as soon as it is made,
/// and go on, over restarts of their own, while the control-plane is away.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_follow_the_control_plane_and_do_without_it() {
    interlock_rpc::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let control_plane = start_control_plane(folder.path(), loopback()).await;
    let address = control_plane.listen_address();
    lay_out(address).await;
    let mut config = node_config(folder.path(), "north", address);
    let north = PushNode::start(config.clone()).await.expect("it registers");
    let south = PushNode::start(node_config(folder.path(), "south", address)).await;
    let south = south.expect("it registers");
    assert!(status(&north).await.control_plane_connected);

    create_namespace(address, "demo").await;
    create_channel(&north, "demo").await;
    publish(&north, "demo", "a").await.expect("it is accepted");
    until_held(&south, "demo", 2).await;

    control_plane.shutdown().await;
    publish(&north, "demo", "b").await.expect("nobody is needed for it");
    config.client_listen = north.client_address();
    config.replication_listen = north.replication_address();
    north.abort().await;
    let north = PushNode::start(config).await.expect("the stored topology is enough");
    create_channel_exists(&north).await;
    publish(&north, "demo", "c").await.expect("nobody is needed for it");
    until_held(&south, "demo", 4).await;
    assert!(!status(&north).await.control_plane_connected);

    let control_plane = start_control_plane(folder.path(), address).await;
    until("the node is connected again", async || {
        let status = status(&north).await;
        if status.control_plane_connected { Ok(()) } else { Err("not yet") }
    })
    .await;
    create_namespace(address, "later").await;
    create_channel(&south, "later").await;
    until_held(&north, "later", 1).await;
    for node in [&north, &south] {
        let status = status(node).await;
        assert!(status.alarms.is_empty(), "{:?}", status.alarms);
    }
    north.shutdown().await;
    south.shutdown().await;
    control_plane.shutdown().await;
}

/// The channel survived the restart: creating it again is refused.
async fn create_channel_exists(node: &Running) {
    let mut channels = services::channel::client(channel(node.client_address()));
    until("the channel is known", async || {
        let request = v1::CreateChannelRequest {
            namespace: "demo".to_owned(),
            channel: "news".to_owned(),
            ..Default::default()
        };
        match channels.create_channel(request).await {
            Err(status) if reason_of(&status) == Some(Reason::ChannelExists) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Two processes of one name: the one that learns of a higher token accepts
/// nothing more and drains.
#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_processes_of_one_name_drains() {
    interlock_rpc::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let control_plane = start_control_plane(folder.path(), loopback()).await;
    let address = control_plane.listen_address();
    lay_out(address).await;
    let older = PushNode::start(node_config(folder.path(), "north", address)).await;
    let older = older.expect("it registers");
    create_namespace(address, "demo").await;
    create_channel(&older, "demo").await;
    let twin = Config {
        data_dir: folder.path().join("twin"),
        ..node_config(folder.path(), "north", address)
    };
    let newer = PushNode::start(twin).await.expect("it registers");
    until("the older one is fenced off", async || match publish(&older, "demo", "x").await {
        Err(status) if reason_of(&status) == Some(Reason::Draining) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let older_status = status(&older).await;
    assert!(older_status.alarms.iter().any(|alarm| alarm.name == "fenced"), "{older_status:?}");
    assert_ne!(status(&newer).await.state(), v1::ServingState::Draining);
    older.shutdown().await;
    newer.shutdown().await;
    control_plane.shutdown().await;
}

/// A member that joins while everything runs takes over all that was there before
/// it accepts, in every one of its new namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_at_runtime_takes_over_everything() {
    const NAMESPACES: u64 = 12;
    interlock_rpc::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let control_plane = start_control_plane(folder.path(), loopback()).await;
    let address = control_plane.listen_address();
    lay_out(address).await;
    let mut topology = services::topology::client(channel(address));
    let group = |regions: &[&str]| v1::ApplyGroupRequest {
        name: "growing".to_owned(),
        regions: regions.iter().map(|&region| region.to_owned()).collect(),
        leave: false,
    };
    topology.apply_group(group(&["north"])).await.expect("it is stored");
    let north = PushNode::start(node_config(folder.path(), "north", address)).await;
    let north = north.expect("it registers");
    let south = PushNode::start(node_config(folder.path(), "south", address)).await;
    let south = south.expect("it registers");
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("space-{number}")).collect();
    for name in &names {
        let request = v1::CreateNamespaceRequest {
            name: name.clone(),
            groups: vec!["growing".to_owned()],
            disk_cap_bytes: 0,
            retention: None,
        };
        topology.create_namespace(request).await.expect("it is stored");
        create_channel(&north, name).await;
        publish(&north, name, "before").await.expect("it is accepted");
    }

    topology.apply_group(group(&["north", "south"])).await.expect("it is stored");
    for name in &names {
        until("the new member accepts", async || {
            let published = publish(&south, name, "after").await;
            published.map_err(|status| {
                // One that accepted before it had everything would not know it.
                assert_ne!(reason_of(&status), Some(Reason::UnknownChannel), "{name}");
                status.to_string()
            })
        })
        .await;
        until_held(&north, name, 3).await;
        until_held(&south, name, 3).await;
    }
    for node in [north, south] {
        let status = status(&node).await;
        assert!(status.alarms.is_empty(), "{:?}", status.alarms);
        node.shutdown().await;
    }
    control_plane.shutdown().await;
}
