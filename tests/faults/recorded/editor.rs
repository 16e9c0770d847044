//! An administrator in one region who creates, updates and deletes channels that
//! those of other regions edit at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use interlock_client::{Mesh, PublishOutcome, v1};
use interlock_core::names::ChannelName;
use interlock_rpc::status::Stored;
use interlock_simulation::history::{Attempt, OperationNumber};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tonic::{Request, Status};

use super::recorder::{Place, Recorder};

/// The channels that all edit: few, so that edits meet.
const NAMES: [&str; 6] = ["edited-0", "edited-1", "edited-2", "edited-3", "edited-4", "edited-5"];
/// Between two edits.
const PACE: Duration = Duration::from_millis(60);
/// How long an edit may take before its outcome counts as unknown.
const DEADLINE: Duration = Duration::from_secs(3);

/// Who edits where.
#[derive(Clone)]
pub(crate) struct Editor {
    pub(crate) mesh: Mesh,
    pub(crate) region: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) place: Place,
    pub(crate) recorder: Recorder,
}

impl Editor {
    /// Edits until `stop`.
    pub(crate) fn start(self, seed: u64, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut number = 0;
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                number += 1;
                self.edit(number, &mut random).await;
            }
        })
    }

    async fn edit(&self, number: u64, random: &mut StdRng) {
        let name = *NAMES.choose(random).expect("there are some");
        let description = format!("{} {number}", self.region);
        match random.random_range(0..16) {
            0..7 => _ = self.create(name, description).await,
            7..13 => self.update(name, description).await,
            _ => self.delete(name).await,
        }
    }

    /// Creates a channel; whether that was acknowledged.
    pub(crate) async fn create(&self, name: &str, description: String) -> Result<(), Status> {
        let attempt = Attempt::Create { channel: channel(name), description: description.clone() };
        let operation = self.recorder.begin(self.place, attempt);
        let request = v1::CreateChannelRequest {
            namespace: self.namespace.to_owned(),
            channel: name.to_owned(),
            description,
            ..Default::default()
        };
        let mut channels = self.mesh.channels(self.region).expect("a push-node");
        let answer = channels.create_channel(bounded(request)).await;
        let answer = answer.map(|answer| answer.into_inner().message);
        self.note(operation, &answer);
        answer.map(|_| ())
    }

    async fn update(&self, name: &str, description: String) {
        let attempt = Attempt::Update { channel: channel(name), description: description.clone() };
        let operation = self.recorder.begin(self.place, attempt);
        let request = v1::UpdateChannelRequest {
            namespace: self.namespace.to_owned(),
            channel: name.to_owned(),
            description: Some(description),
            ..Default::default()
        };
        let mut channels = self.mesh.channels(self.region).expect("a push-node");
        let answer = channels.update_channel(bounded(request)).await;
        self.note(operation, &answer.map(|answer| answer.into_inner().message));
    }

    async fn delete(&self, name: &str) {
        let operation = self.recorder.begin(self.place, Attempt::Delete { channel: channel(name) });
        let request = v1::DeleteChannelRequest {
            namespace: self.namespace.to_owned(),
            channel: name.to_owned(),
            ..Default::default()
        };
        let mut channels = self.mesh.channels(self.region).expect("a push-node");
        let answer = channels.delete_channel(bounded(request)).await;
        self.note(operation, &answer.map(|answer| answer.into_inner().message));
    }

    fn note(
        &self,
        operation: OperationNumber,
        answer: &Result<Option<v1::MessageReference>, Status>,
    ) {
        match answer {
            Ok(name) => self.recorder.acknowledged(operation, *name, 0),
            Err(status) if PublishOutcome::of(status, false).stored == Stored::No => {
                self.recorder.refused(operation);
            }
            // Its outcome stays unknown.
            Err(_) => {}
        }
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a name")
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
