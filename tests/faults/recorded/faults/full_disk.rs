//! A disk that fills up. Foreseen, the node refuses publications, and below a
//! lower limit closes its windows, and opens again when there is room. With no
//! warning a write fails and the node ends, unless it looked just before.

use bytes::Bytes;
use interlock_client::v1;
use interlock_core::identity::LogName;
use interlock_rpc::status::{Reason, reason_of};
use rand::RngExt as _;
use tonic::{Code, Status};

use super::super::faulty_mesh::EVERYWHERE;
use super::super::load::publish_one;
use super::super::publisher::channel;
use super::super::recorder::Place;
use super::{Scene, disk_error, power_cut};
use crate::waiting::{holds, until};

const MEBIBYTE: u64 = 1 << 20;
/// Below the limit of publications, above that of replication.
const FOR_REPLICATION: u64 = 300 * MEBIBYTE;
/// Below both.
const FOR_NOTHING: u64 = 60 * MEBIBYTE;

pub(super) async fn foreseen(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    at.mesh.disk(victim).leave_free(Some(FOR_REPLICATION));
    until_refused(at, victim).await;
    // What others accept still comes in.
    at.load.progress(others[0], 20).await;
    let goal = at.mesh.see_durable(others[0]).await.expect("it answers");
    let (origin, namespace) = (at.mesh.number(others[0]), at.mesh.namespace(EVERYWHERE));
    until("the full node receives", async || {
        let marks = at.mesh.see_durable(victim).await?;
        let is_sent = |log: &LogName| log.origin == origin && log.namespace == namespace;
        let mut own = goal.iter().filter(|(log, _)| is_sent(log));
        let received = own.all(|(log, m_id)| marks.get(log) >= Some(m_id));
        holds(received, marks).map_err(|marks| Status::unavailable(format!("{marks:?}")))
    })
    .await;
    if at.random.random_bool(0.5) {
        at.mesh.disk(victim).leave_free(Some(FOR_NOTHING));
        // The others go on without it.
        at.load.progress(others[1], 50).await;
    }
    at.mesh.disk(victim).leave_free(None);
    at.load.progress(victim, 1).await;
}

pub(super) async fn sudden(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let _ = at.mesh.see_durable(victim).await;
    let left = at.random.random_range(0..64) * 1024;
    at.mesh.disk(victim).leave_free(Some(left));
    let has_ended = ends_or_refuses(at, victim).await;
    at.load.progress(others[0], 1).await;
    at.mesh.disk(victim).leave_free(None);
    if !has_ended {
        return at.load.progress(victim, 1).await;
    }
    if at.random.random_bool(0.5) {
        power_cut::cut_power(at, victim);
    }
    at.mesh.start_node(victim).await;
}

/// Waits until a node has met the end of its disk, and so has ended, or has seen
/// it just before and refuses. Whether it has ended.
async fn ends_or_refuses(at: &mut Scene<'_>, victim: &str) -> bool {
    let mut number = at.random.random_range(0..u64::MAX / 2);
    until(&format!("{victim} ends or refuses"), async || {
        number += 1;
        match publish_probe(at, victim, number).await {
            Err(status) if is_full(&status) => Ok(false),
            answer => disk_error::has_ended(at, victim).then_some(true).ok_or(answer),
        }
    })
    .await
}

/// Waits until a publication is refused, for the reason that it is.
async fn until_refused(at: &mut Scene<'_>, region: &str) {
    let mut number = at.random.random_range(0..u64::MAX / 2);
    until(&format!("{region} refuses"), async || {
        number += 1;
        match publish_probe(at, region, number).await {
            Err(status) if is_full(&status) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let status = at.mesh.status(region).await.expect("it answers");
    if !status.alarms.iter().any(|alarm: &v1::Alarm| alarm.detail.contains("free")) {
        at.incident(region, &format!("no alarm of a full disk: {:?}", status.alarms));
    }
}

fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && reason_of(status) == Some(Reason::DiskFull)
}

async fn publish_probe(at: &Scene<'_>, region: &str, number: u64) -> Result<(), Status> {
    let place = Place {
        client: 2000,
        node: at.mesh.number(region),
        namespace: at.mesh.namespace(EVERYWHERE),
    };
    let channel = channel(&format!("{region}-local"));
    let payload = Bytes::from(format!("into a full disk {number}"));
    publish_one(at.mesh, region, EVERYWHERE, place, &channel, &payload).await
}
