//! Cursors that were kept on the way, resumed at every member when all is over.

use interlock_core::clock::Moment;
use interlock_core::identity::MessageName;

use crate::delivery::{Gateway, Session};
use crate::history::{Incident, SessionRecord};
use crate::network::Endpoint;
use crate::node::Process;
use crate::planted_bug::PlantedBug;
use crate::subscriptions::KeptCursor;
use crate::world::World;

impl World {
    /// Who is there has all by now.
    pub(crate) fn end_subscriptions(&mut self) {
        for subscriber in &self.subscriptions.subscribers {
            match &subscriber.session {
                Some((_, number)) => self.history.session_mut(*number).is_complete = true,
                None => {
                    let what = format!("u{} has no subscription at the end", subscriber.number);
                    self.history.incidents.push(Incident { node: Some(subscriber.node), what });
                }
            }
        }
    }

    /// Every cursor that was kept is resumed at every member.
    pub(crate) fn resume_kept_cursors(&mut self) {
        let kept = self.subscriptions.kept.clone();
        let machines: Vec<Endpoint> = self.machines.values().map(|it| it.endpoint()).collect();
        for cursor in &kept {
            for endpoint in &machines {
                let Some(process) = self.process_at(*endpoint) else { continue };
                if !process.topology().is_member(endpoint.node(), cursor.namespace) {
                    continue;
                }
                let mut ended = Vec::new();
                match resume(cursor, *endpoint, process, (self.now, self.planted), &mut ended) {
                    Ok(record) => {
                        self.statistics.resumed_cursors += 1;
                        self.history.begin_session(record);
                    }
                    Err(error) => self.gateway_failed(*endpoint, &error),
                }
                self.history.ended.append(&mut ended);
            }
        }
    }
}

/// Resumes a cursor at a node, with a gateway that has just come, until there is
/// nothing left to tell.
fn resume(
    kept: &KeptCursor,
    endpoint: Endpoint,
    process: &Process,
    (now, planted): (Moment, Option<PlantedBug>),
    ended: &mut Vec<MessageName>,
) -> Result<SessionRecord, String> {
    let mut gateway = Gateway::new(kept.namespace, planted);
    let follow = |gateway: &mut Gateway, now: Moment| {
        let local = Moment::new(now.since_start());
        gateway.follow(endpoint, process, now, local, usize::MAX).map_err(|it| it.to_string())
    };
    follow(&mut gateway, now)?;
    let start = Some(kept.cursor.clone());
    let session = Session::begin(&gateway, kept.filter.clone(), start, now);
    let mut session = session.ok_or("the gateway stands nowhere")?;
    let mut told = Vec::new();
    let patience = 2 * crate::delivery::UNKNOWN_BRANCH_PATIENCE;
    for now in [now, now + patience] {
        for _ in 0..8 {
            let step = session.step(&gateway, Some((endpoint, process)), now, usize::MAX);
            told.extend(step.map_err(|error| error.to_string())?);
        }
    }
    ended.append(&mut session.ended);
    Ok(SessionRecord {
        subscriber: kept.subscriber,
        node: endpoint.node(),
        namespace: kept.namespace,
        filter: kept.filter.clone(),
        asked: None,
        start: kept.cursor.clone(),
        told,
        is_complete: true,
        is_at_the_end: true,
    })
}
