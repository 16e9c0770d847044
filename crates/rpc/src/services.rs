//! Servers and clients of `interlock.v1` with the message sizes that the mesh
//! works with.

use interlock_core::limits::MAX_RECEIVED_MESSAGE_BYTES;
use tonic::transport::Channel;

use crate::v1;

macro_rules! services {
    ($($(#[$meta:meta])* $module:ident {
        $server_module:ident::$trait:ident, $server:ident, $client_module:ident::$client:ident
    })+) => {
        $(
            $(#[$meta])*
            pub mod $module {
                use super::{Channel, MAX_RECEIVED_MESSAGE_BYTES, v1};

                pub use v1::$client_module::$client as Client;
                pub use v1::$server_module::{$server as Server, $trait as Service};

                /// Serves `service`.
                pub fn server<S: Service>(service: S) -> Server<S> {
                    Server::new(service)
                        .max_decoding_message_size(MAX_RECEIVED_MESSAGE_BYTES)
                        .max_encoding_message_size(MAX_RECEIVED_MESSAGE_BYTES)
                }

                /// Calls through `channel`.
                pub fn client(channel: Channel) -> Client<Channel> {
                    Client::new(channel)
                        .max_decoding_message_size(MAX_RECEIVED_MESSAGE_BYTES)
                        .max_encoding_message_size(MAX_RECEIVED_MESSAGE_BYTES)
                }
            }
        )+
    };
}

services! {
    /// Channels of a namespace.
    channel {
        channel_service_server::ChannelService, ChannelServiceServer,
        channel_service_client::ChannelServiceClient
    }
    /// Publishing.
    publish {
        publish_service_server::PublishService, PublishServiceServer,
        publish_service_client::PublishServiceClient
    }
    /// Between push-nodes.
    replication {
        replication_service_server::ReplicationService, ReplicationServiceServer,
        replication_service_client::ReplicationServiceClient
    }
    /// From push-node to gateway.
    delivery {
        delivery_service_server::DeliveryService, DeliveryServiceServer,
        delivery_service_client::DeliveryServiceClient
    }
    /// Subscribing.
    subscribe {
        subscribe_service_server::SubscribeService, SubscribeServiceServer,
        subscribe_service_client::SubscribeServiceClient
    }
    /// Who holds what.
    topology {
        topology_service_server::TopologyService, TopologyServiceServer,
        topology_service_client::TopologyServiceClient
    }
    /// Operations by region.
    operation {
        operation_service_server::OperationService, OperationServiceServer,
        operation_service_client::OperationServiceClient
    }
    /// One push-node, for its operator.
    node {
        node_service_server::NodeService, NodeServiceServer,
        node_service_client::NodeServiceClient
    }
}
