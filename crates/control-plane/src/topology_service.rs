//! `TopologyService`: who is in the mesh, and who holds what (METHOD M2, M15).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use interlock_core::features::FIRST_FEATURE_LEVEL;
use interlock_core::identity::{
    FeatureLevel, FencingToken, Incarnation, NamespaceNumber, NodeNumber,
};
use interlock_core::limits::{MAX_GROUPS_PER_MESSAGE, MAX_NAMESPACES, MAX_REGIONS};
use interlock_core::topology::edit::{
    EditError, NodeRegistration, apply_group, apply_group_and_leave, apply_region,
    create_namespace, leave_mesh, record_left, record_left_by, record_opened, remove_groups,
    remove_node, remove_region, set_retention, update_namespace,
};
use interlock_core::topology::{Retention, Topology};
use interlock_rpc::convert::identity::{
    group_name, namespace_name, node_name, region_name, topology_version,
};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::services::topology::Service;
use interlock_rpc::status::{Reason, Refusal, refusal};
use interlock_rpc::v1;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::leases::Liveness;
use crate::metrics::Metrics;
use crate::refusals::{bounded, group_names, region_names, update_refused};
use crate::registry::{NodeView, Registry};

/// Serves `TopologyService` from the registry.
pub(crate) struct TopologyService {
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    /// Becomes true when the process is about to end.
    pub(crate) draining: watch::Receiver<bool>,
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTopologyResponse, Status>> + Send>>;

impl TopologyService {
    /// Takes what a node says of its namespaces into the document.
    async fn record(
        &self,
        node: u32,
        fencing_token: u64,
        namespaces: Vec<u32>,
        edit: impl Fn(
            &Topology,
            NodeNumber,
            FencingToken,
            &[NamespaceNumber],
        ) -> Result<Topology, EditError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Option<v1::TopologyVersion>, Status> {
        bounded(namespaces.len(), MAX_NAMESPACES, "namespaces")?;
        let (node, token) = (NodeNumber::new(node), FencingToken::new(fencing_token));
        let namespaces: Vec<NamespaceNumber> =
            namespaces.into_iter().map(NamespaceNumber::new).collect();
        let topology = self
            .registry
            .edit_for_node(move |topology| edit(topology, node, token, &namespaces))
            .await
            .map_err(Refusal::from)?;
        Ok(Some(topology.version.into_wire()))
    }
}

#[tonic::async_trait]
impl Service for TopologyService {
    type WatchTopologyStream = WatchStream;

    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Result<Response<v1::RegisterNodeResponse>, Status> {
        let request = request.into_inner();
        let registration = NodeRegistration {
            name: node_name(&request.name, "name")?,
            region: region_name(&request.region, "region")?,
            replication_address: request.replication_address,
            client_address: request.client_address,
            feature_level: FeatureLevel::new(request.feature_level).max(FIRST_FEATURE_LEVEL),
        };
        let registered = self
            .registry
            .register(
                registration,
                Incarnation::new(request.incarnation),
                topology_version(request.topology_version),
            )
            .await
            .map_err(Refusal::from)?;
        tracing::info!(
            node = %registered.node.name,
            number = %registered.node.number,
            region = %registered.node.region,
            fencing_token = %registered.node.fencing_token,
            feature_level = %registered.node.feature_level,
            topology = %registered.topology.version,
            "node registered"
        );
        Ok(Response::new(v1::RegisterNodeResponse {
            number: registered.node.number.get(),
            fencing_token: registered.node.fencing_token.get(),
            lease_milliseconds: self.lease_milliseconds(),
            topology: Some(registered.topology.into_wire()),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        let held = self
            .registry
            .renew(
                NodeNumber::new(request.number),
                FencingToken::new(request.fencing_token),
                Incarnation::new(request.incarnation),
                topology_version(request.topology_version),
            )
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::RenewLeaseResponse {
            lease_milliseconds: self.lease_milliseconds(),
            fencing_token: held.get(),
            topology_version: Some(self.registry.topology().version.into_wire()),
        }))
    }

    async fn watch_topology(
        &self,
        request: Request<v1::WatchTopologyRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let known = topology_version(request.into_inner().known);
        self.registry.note_version(known, "a watcher of the topology").await;
        let watcher = Watcher {
            topology: self.registry.subscribe(),
            draining: self.draining.clone(),
            known,
            _counted: self.metrics.watcher(),
        };
        Ok(Response::new(Box::pin(stream::unfold(Some(watcher), next_topology))))
    }

    async fn get_topology(
        &self,
        _: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::GetTopologyResponse>, Status> {
        let topology = self.registry.topology().into_wire();
        Ok(Response::new(v1::GetTopologyResponse { topology: Some(topology) }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let mut namespaces = namespaces_by_member(&self.registry.topology());
        let nodes = self
            .registry
            .nodes()
            .into_iter()
            .map(|view| {
                let namespaces = namespaces.remove(&view.node.number).unwrap_or_default();
                node_record(view, namespaces)
            })
            .collect();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn apply_region(
        &self,
        request: Request<v1::ApplyRegionRequest>,
    ) -> Result<Response<v1::ApplyRegionResponse>, Status> {
        let name = region_name(&request.into_inner().name, "name")?;
        let topology = self
            .registry
            .edit(move |topology| apply_region(topology, &name))
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::ApplyRegionResponse { topology: Some(topology.into_wire()) }))
    }

    async fn apply_group(
        &self,
        request: Request<v1::ApplyGroupRequest>,
    ) -> Result<Response<v1::ApplyGroupResponse>, Status> {
        let request = request.into_inner();
        let name = group_name(&request.name, "name")?;
        let regions = region_names(&request.regions, MAX_REGIONS, "regions")?;
        let topology = self
            .registry
            .edit(move |topology| match request.leave {
                true => apply_group_and_leave(topology, &name, &regions),
                false => apply_group(topology, &name, &regions),
            })
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::ApplyGroupResponse { topology: Some(topology.into_wire()) }))
    }

    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let name = namespace_name(&request.name, "name")?;
        let groups = group_names(&request.groups, MAX_GROUPS_PER_MESSAGE, "groups")?;
        let retention = retention(request.retention)?;
        let edited = name.clone();
        let topology = self
            .registry
            .edit(move |topology| {
                let created = create_namespace(topology, &edited, &groups, request.disk_cap_bytes)?;
                let kept = topology.namespace_by_name(&edited).map(|before| before.retention);
                if kept.is_some_and(|kept| kept != retention) {
                    return Err(EditError::NamespaceExists(edited.clone()));
                }
                set_retention(&created, &edited, retention)
            })
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::CreateNamespaceResponse {
            namespace: topology.namespace_by_name(&name).map(|namespace| namespace.into_wire()),
            topology_version: Some(topology.version.into_wire()),
        }))
    }

    async fn update_namespace(
        &self,
        request: Request<v1::UpdateNamespaceRequest>,
    ) -> Result<Response<v1::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let name = namespace_name(&request.name, "name")?;
        let groups = group_names(&request.add_groups, MAX_GROUPS_PER_MESSAGE, "add_groups")?;
        let removed = &request.remove_groups;
        let removed = group_names(removed, MAX_GROUPS_PER_MESSAGE, "remove_groups")?;
        let retention = request.retention.map(|given| retention(Some(given))).transpose()?;
        let edited = name.clone();
        let topology = self
            .registry
            .edit(move |topology| {
                let updated = update_namespace(topology, &edited, &groups, request.disk_cap_bytes)?;
                let updated = match removed.is_empty() {
                    true => updated,
                    false => remove_groups(&updated, &edited, &removed)?,
                };
                match retention {
                    Some(retention) => set_retention(&updated, &edited, retention),
                    None => Ok(updated),
                }
            })
            .await
            .map_err(update_refused)?;
        Ok(Response::new(v1::UpdateNamespaceResponse {
            namespace: topology.namespace_by_name(&name).map(|namespace| namespace.into_wire()),
            topology_version: Some(topology.version.into_wire()),
        }))
    }

    async fn record_namespace_opened(
        &self,
        request: Request<v1::RecordNamespaceOpenedRequest>,
    ) -> Result<Response<v1::RecordNamespaceOpenedResponse>, Status> {
        let v1::RecordNamespaceOpenedRequest { node, fencing_token, namespaces } =
            request.into_inner();
        let topology_version = self.record(node, fencing_token, namespaces, record_opened).await?;
        Ok(Response::new(v1::RecordNamespaceOpenedResponse { topology_version }))
    }

    async fn record_namespace_left(
        &self,
        request: Request<v1::RecordNamespaceLeftRequest>,
    ) -> Result<Response<v1::RecordNamespaceLeftResponse>, Status> {
        let v1::RecordNamespaceLeftRequest { node, fencing_token, namespaces, topology_version } =
            request.into_inner();
        let by = topology_version
            .map(|version| version.into_core())
            .transpose()
            .map_err(Refusal::from)?;
        let topology_version = self
            .record(node, fencing_token, namespaces, move |topology, node, token, namespaces| {
                match by {
                    Some(by) => record_left_by(topology, node, token, namespaces, by),
                    None => record_left(topology, node, token, namespaces),
                }
            })
            .await?;
        Ok(Response::new(v1::RecordNamespaceLeftResponse { topology_version }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        let name = node_name(&request.name, "name")?;
        let edited = name.clone();
        let topology = self
            .registry
            .edit(move |topology| match request.force {
                true => remove_node(topology, &edited),
                false => leave_mesh(topology, &edited),
            })
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::RemoveNodeResponse {
            node: topology.node_by_name(&name).map(|node| node.into_wire()),
            topology_version: Some(topology.version.into_wire()),
        }))
    }

    async fn remove_region(
        &self,
        request: Request<v1::RemoveRegionRequest>,
    ) -> Result<Response<v1::RemoveRegionResponse>, Status> {
        let name = region_name(&request.into_inner().name, "name")?;
        let topology = self
            .registry
            .edit(move |topology| remove_region(topology, &name))
            .await
            .map_err(Refusal::from)?;
        Ok(Response::new(v1::RemoveRegionResponse {
            topology_version: Some(topology.version.into_wire()),
        }))
    }

    async fn adopt_topology(
        &self,
        request: Request<v1::AdoptTopologyRequest>,
    ) -> Result<Response<v1::AdoptTopologyResponse>, Status> {
        let given = request.into_inner().topology;
        let newest = given.ok_or_else(|| InvalidField::missing("topology"))?;
        let newest = newest.into_core().map_err(|error| error.within("topology"))?;
        newest.validate().map_err(|error| InvalidField::new("topology", error.to_string()))?;
        let before = self.registry.topology().version.generation;
        let topology = self.registry.adopt(newest).await.map_err(Refusal::from)?;
        if topology.version.generation > before {
            tracing::warn!(version = %topology.version, "going on from a document of the nodes");
        }
        Ok(Response::new(v1::AdoptTopologyResponse { topology: Some(topology.into_wire()) }))
    }
}

impl TopologyService {
    fn lease_milliseconds(&self) -> u64 {
        u64::try_from(self.registry.lease_duration().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One call of `WatchTopology`.
struct Watcher {
    topology: watch::Receiver<Arc<Topology>>,
    draining: watch::Receiver<bool>,
    known: interlock_core::identity::TopologyVersion,
    _counted: crate::metrics::Watching,
}

/// The next version that the watcher does not know. Of several in a row it gets
/// the newest: a document says all there is to say.
async fn next_topology(
    watcher: Option<Watcher>,
) -> Option<(Result<v1::WatchTopologyResponse, Status>, Option<Watcher>)> {
    let mut watcher = watcher?;
    let known = watcher.known;
    let newer = async {
        let newer = watcher.topology.wait_for(|topology| topology.version > known).await;
        newer.ok().map(|topology| Arc::clone(&topology))
    };
    // Neither future ends by an error while the service lives.
    let newer = tokio::select! {
        biased;
        _ = watcher.draining.wait_for(|draining| *draining) => None,
        newer = newer => newer,
    };
    match newer {
        Some(topology) => {
            watcher.known = topology.version;
            let response = v1::WatchTopologyResponse { topology: Some(topology.into_wire()) };
            Some((Ok(response), Some(watcher)))
        }
        None => {
            let drained = refusal(Reason::Draining, "the control-plane ends: watch again");
            Some((Err(drained.into()), None))
        }
    }
}

/// The names of the namespaces of each node.
fn namespaces_by_member(topology: &Topology) -> BTreeMap<NodeNumber, Vec<String>> {
    let mut namespaces: BTreeMap<NodeNumber, Vec<String>> = BTreeMap::new();
    for namespace in &topology.namespaces {
        for member in topology.members(namespace.number) {
            namespaces.entry(member.number).or_default().push(namespace.name.to_string());
        }
    }
    namespaces
}

fn node_record(view: NodeView, namespaces: Vec<String>) -> v1::NodeRecord {
    let liveness = match view.liveness {
        Liveness::Alive => v1::Liveness::Alive,
        Liveness::LeaseExpired => v1::Liveness::LeaseExpired,
        Liveness::NeverSeen => v1::Liveness::NeverSeen,
    };
    v1::NodeRecord {
        node: Some((&view.node).into_wire()),
        liveness: liveness.into(),
        last_seen_milliseconds: view
            .last_heard
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        incarnation: view.incarnation.map_or(0, Incarnation::get),
        namespaces,
    }
}

/// What was asked for; without, everything is kept.
fn retention(given: Option<v1::Retention>) -> Result<Retention, Status> {
    given.unwrap_or_default().into_core().map_err(|error| error.within("retention").into())
}
