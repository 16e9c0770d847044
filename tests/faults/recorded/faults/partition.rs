//! Push-nodes that do not hear each other, while clients reach them all: one node
//! alone, two that hear each other only through the third, one direction only,
//! and a link that comes and goes.

use interlock_core::identity::LogName;
use rand::RngExt as _;
use tonic::Status;
use xtask::mesh::Mesh;

use super::super::faulty_mesh::EVERYWHERE;
use super::Scene;
use crate::waiting::{holds, until};

/// A partition lasts until so much has been accepted on its other side.
const MEANWHILE: u64 = 80;

pub(super) async fn full(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    if at.random.random_bool(0.5) {
        for other in others {
            cut(at, victim, other);
            cut(at, other, victim);
        }
        has_queue(at, victim, others[0]).await;
        has_queue(at, others[1], victim).await;
    } else {
        let (one, other) = cut_pair(at);
        is_relayed(at, one, other).await;
    }
    meanwhile(at, victim, others[0]).await;
    at.mesh.network.mend_all();
}

pub(super) async fn one_way(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let to_victim = at.random.random_bool(0.5);
    for other in others {
        let (from, to) = if to_victim { (other, victim) } else { (victim, other) };
        cut(at, from, to);
    }
    // Whichever direction is cut, no acknowledgement comes back.
    has_queue(at, victim, others[0]).await;
    meanwhile(at, victim, others[1]).await;
    at.mesh.network.mend_all();
}

pub(super) async fn flapping(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    for _ in 0..at.random.random_range(4..10) {
        let other = others[at.random.random_range(0..2)];
        let both_ways = at.random.random_bool(0.5);
        cut(at, victim, other);
        if both_ways {
            cut(at, other, victim);
        }
        let (cut_for, whole_for) = (at.random.random_range(1..40), at.random.random_range(1..20));
        at.load.progress(victim, cut_for).await;
        at.mesh.network.mend_all();
        at.load.progress(other, whole_for).await;
    }
}

/// Two nodes hear each other only through the third.
pub(super) fn cut_pair(at: &mut Scene<'_>) -> (&'static str, &'static str) {
    let (one, [other, _]) = at.choose();
    cut(at, one, other);
    cut(at, other, one);
    (one, other)
}

/// Waits until what one node accepts from now on is at another that does not hear
/// it.
async fn is_relayed(at: &mut Scene<'_>, one: &str, other: &str) {
    at.load.progress(one, 20).await;
    let (origin, namespace) = (at.mesh.number(one), at.mesh.namespace(EVERYWHERE));
    let own = |log: &LogName| log.origin == origin && log.namespace == namespace;
    let goal = at.mesh.see_durable(one).await.expect("it answers");
    until(&format!("{other} hears of {one} through the third"), async || {
        let marks = at.mesh.see_durable(other).await?;
        let mut goal = goal.iter().filter(|(log, _)| own(log));
        let is_there = goal.all(|(log, m_id)| marks.get(log) >= Some(m_id));
        holds(is_there, marks).map_err(|marks| Status::unavailable(format!("{marks:?}")))
    })
    .await;
}

fn cut(at: &mut Scene<'_>, from: &str, to: &str) {
    at.mesh.network.cut(&Mesh::push_node(from), &Mesh::push_node(to));
}

async fn meanwhile(at: &mut Scene<'_>, victim: &str, other: &str) {
    let more = at.random.random_range(1..MEANWHILE);
    at.load.progress(victim, more).await;
    at.load.progress(other, more).await;
}

/// Waits until a node has something that a peer does not acknowledge: the cut is
/// one.
async fn has_queue(at: &Scene<'_>, region: &str, peer: &str) {
    const LEAST_MESSAGES: u64 = 20;
    let name = Mesh::push_node(peer);
    until(&format!("{region} has a queue for {peer}"), async || {
        let status = at.mesh.status(region).await?;
        let queue = status.peers.iter().find(|it| it.name == name).map(|it| it.queue_messages);
        holds(queue >= Some(LEAST_MESSAGES), queue)
            .map_err(|queue| Status::unavailable(format!("{queue:?}")))
    })
    .await;
}
