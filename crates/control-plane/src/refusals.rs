//! What the control-plane answers when it says no.

use std::time::Duration;

use interlock_core::names::{GroupName, RegionName};
use interlock_core::topology::edit::EditError;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::identity::{group_name, region_name};
use interlock_rpc::status::{Reason, Refusal, refusal};
use tonic::Status;

use crate::operation_log::RecordError;
use crate::registry::{ChangeError, RenewError};

/// When a disk that said no is worth another try.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl From<RenewError> for Refusal {
    fn from(error: RenewError) -> Self {
        let message = error.to_string();
        match error {
            RenewError::UnknownNode(_) => {
                refusal(Reason::UnknownNode, message).field(field("number", "is not known"))
            }
            RenewError::TokenNeverGiven { .. } => refusal(Reason::TopologyBehind, message)
                .field(field("fencing_token", "was never given out")),
        }
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        refusal(Reason::StoreUnavailable, error.to_string()).retry_after(STORE_RETRY)
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::Refused(error) => refused(&error, message),
            ChangeError::Behind { held, evidence } => refusal(Reason::TopologyBehind, message)
                .with("held", held)
                .with("evidence", evidence),
            ChangeError::NotNewest { offered, evidence } => {
                refusal(Reason::TopologyBehind, message)
                    .with("offered", offered)
                    .with("evidence", evidence)
            }
            ChangeError::NotHeard { known, nodes } => {
                refusal(Reason::TopologyBehind, message).with("known", known).with("missing", nodes)
            }
            ChangeError::TooLarge(_) => refusal(Reason::Quota, message),
            ChangeError::NotWritten(_) => {
                refusal(Reason::StoreUnavailable, message).retry_after(STORE_RETRY)
            }
            ChangeError::OutcomeUnknown(_) => refusal(Reason::StorageFailed, message),
        }
    }
}

/// The fields are those of the requests of `TopologyService`.
fn refused(error: &EditError, message: String) -> Refusal {
    match error {
        EditError::UnknownRegion(region) => refusal(Reason::UnknownRegion, message)
            .field(field("regions", "names an unknown region"))
            .with("region", region),
        EditError::UnknownGroup(group) => refusal(Reason::UnknownGroup, message)
            .field(field("groups", "names an unknown group"))
            .with("group", group),
        EditError::UnknownNode(_) => {
            refusal(Reason::UnknownNode, message).field(field("node", "is not known"))
        }
        EditError::UnknownNodeName(_) => {
            refusal(Reason::UnknownNode, message).field(field("name", "is not known"))
        }
        EditError::UnknownNamespace(_) => {
            refusal(Reason::UnknownNamespace, message).field(field("name", "is not known"))
        }
        EditError::UnknownNamespaceNumber(number) => refusal(Reason::UnknownNamespace, message)
            .field(field("namespaces", "names an unknown number"))
            .with("namespace", number),
        EditError::Empty(list) => field(list, "must name at least one").into(),
        EditError::Address { field: name, reason, .. } => {
            InvalidField::new(*name, format!("is not host:port: {reason}")).into()
        }
        EditError::TooMany { limit, .. } => refusal(Reason::Quota, message).with("limit", limit),
        EditError::NamespaceExists(_) => {
            refusal(Reason::NamespaceExists, message).field(field("name", "is taken"))
        }
        EditError::NoFounder(_) => refusal(Reason::TopologyInvalid, message)
            .field(field("groups", "have no active node in their regions")),
        EditError::RegionChange { registered, .. } => refusal(Reason::TopologyInvalid, message)
            .field(field("region", "is not where the node is registered"))
            .with("region", registered),
        EditError::NodeRemoved(_) => {
            refusal(Reason::NodeRemoved, message).field(field("name", "belongs to a removed node"))
        }
        EditError::RegionInUse { region, namespace, .. } => {
            refusal(Reason::TopologyInvalid, message)
                .field(field("regions", "leave out a region that a namespace is placed in"))
                .with("region", region)
                .with("namespace", namespace)
        }
        EditError::NotUnderstood { node, level, .. } => {
            refusal(Reason::Unsupported, message).with("node", node).with("feature_level", level)
        }
        EditError::TooEarly { node, feature } => refusal(Reason::FeatureLevel, message)
            .with("node", node)
            .with("feature_level", feature.level()),
        EditError::LastMember(namespace) => refusal(Reason::TopologyInvalid, message)
            .field(field("name", "would leave a namespace without a member"))
            .with("namespace", namespace),
        EditError::RegionHasNodes { node, .. } => refusal(Reason::TopologyInvalid, message)
            .field(field("name", "is a region with nodes"))
            .with("node", node),
        EditError::PlacedNowhere { namespace, .. } => refusal(Reason::TopologyInvalid, message)
            .field(field("name", "is the only region of a namespace"))
            .with("namespace", namespace),
        EditError::TokenMismatch { held, .. } => refusal(Reason::Fenced, message)
            .field(field("fencing_token", "is not that of the last registration"))
            .with("fencing_token", held),
        EditError::LeftByOlder { newest, .. } => refusal(Reason::TopologyBehind, message)
            .field(field("topology_version", "is not the newest"))
            .with("held", newest),
        EditError::NotFounder { namespace, .. } => refusal(Reason::TopologyInvalid, message)
            .field(field("namespaces", "names one that the node did not found"))
            .with("namespace", namespace),
    }
}

/// The same for the request whose list of groups is `add_groups`.
pub(crate) fn update_refused(error: ChangeError) -> Refusal {
    match error {
        ChangeError::Refused(EditError::UnknownGroup(group)) => {
            refusal(Reason::UnknownGroup, format!("there is no group {group}"))
                .field(field("add_groups", "names an unknown group"))
                .with("group", group)
        }
        other => other.into(),
    }
}

/// The region that a request names is not there.
pub(crate) fn unknown_region(region: &RegionName) -> Refusal {
    refusal(Reason::UnknownRegion, format!("there is no region {region}"))
        .field(field("region", "is not known"))
        .with("region", region)
}

fn field(name: &'static str, reason: &'static str) -> InvalidField {
    InvalidField::new(name, reason)
}

/// The names of a request's list of regions.
pub(crate) fn region_names(
    texts: &[String],
    limit: usize,
    name: &str,
) -> Result<Vec<RegionName>, Status> {
    bounded(texts.len(), limit, name)?;
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Ok(region_name(text, &format!("{name}[{index}]"))?))
        .collect()
}

/// The names of a request's list of groups.
pub(crate) fn group_names(
    texts: &[String],
    limit: usize,
    name: &str,
) -> Result<Vec<GroupName>, Status> {
    bounded(texts.len(), limit, name)?;
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Ok(group_name(text, &format!("{name}[{index}]"))?))
        .collect()
}

/// Refuses a longer list before any of it is looked at.
pub(crate) fn bounded(length: usize, limit: usize, name: &str) -> Result<(), Status> {
    if length > limit {
        let reason = format!("has {length} entries; {limit} are allowed");
        return Err(InvalidField::new(name, reason).into());
    }
    Ok(())
}
