//! What this node holds, for whoever compares it with the others: marks and digests,
//! and the chain hashes at single messages, by which the first that differs is
//! found.

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber};
use interlock_core::limits::MAX_VERIFIED_LOGS;
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::v1;
use interlock_storage::StorageError;
use thiserror::Error;

use crate::context::NodeContext;
use crate::status::{held_namespaces, state_digest, tips_digests};
use crate::stored_messages::on_disk;
use crate::work_queue::QueueClosed;

/// Why a node's state cannot be verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The node is ending.
    #[error(transparent)]
    Ending(#[from] QueueClosed),
    /// The marks do not fit into one answer.
    #[error("{0} logs are more than one answer holds: name a namespace")]
    TooMany(usize),
}

/// Digests and marks of one namespace's durable state, or of all.
pub async fn verify(
    context: &NodeContext,
    namespace: Option<NamespaceNumber>,
) -> Result<v1::VerifyResponse, VerifyError> {
    let wanted = |number: NamespaceNumber| namespace.is_none_or(|wanted| wanted == number);
    let logs = context.durable.logs(|log| wanted(log.namespace));
    if logs.len() > MAX_VERIFIED_LOGS {
        return Err(VerifyError::TooMany(logs.len()));
    }
    let numbers: Vec<NamespaceNumber> = held_namespaces(context, &context.topology.current())
        .into_iter()
        .filter(|number| wanted(*number))
        .collect();
    let tips = tips_digests(context, numbers).await?;
    Ok(v1::VerifyResponse {
        logs: logs.into_iter().map(|log| (log.row.log, log.durable).into_wire()).collect(),
        points: Vec::new(),
        namespaces: tips
            .into_iter()
            .map(|(number, tips)| v1::NamespaceDigest {
                namespace: number.get(),
                tips: bytes::Bytes::copy_from_slice(&tips),
                state: bytes::Bytes::copy_from_slice(&state_digest(context, number)),
            })
            .collect(),
    })
}

/// The chain hashes at these messages, of those that are known here.
pub async fn hashes_at(
    context: &NodeContext,
    points: Vec<(LogName, MessageNumber)>,
) -> Result<v1::VerifyResponse, StorageError> {
    let durable = context.durable.marks();
    let reached: Vec<(LogName, MessageNumber)> = points
        .into_iter()
        .filter(|(log, m_id)| durable.iter().any(|(held, mark)| held == log && *m_id <= mark.m_id))
        .collect();
    let known = on_disk(&context.storage, move |storage| {
        let mut known = Vec::with_capacity(reached.len());
        for (log, m_id) in reached {
            if let Some(hash) = storage.chain_hash_at(&log, m_id)? {
                known.push((log, Mark { m_id, hash }));
            }
        }
        Ok(known)
    });
    let points = known.await?.into_iter().map(|point| point.into_wire()).collect();
    Ok(v1::VerifyResponse { points, ..Default::default() })
}
