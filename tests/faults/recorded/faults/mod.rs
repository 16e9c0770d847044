//! What goes wrong, one module a kind, sometimes with a cut in the network beside
//! it. Each breaks something under load, sees that
//! it is broken, heals it, and leaves a mesh in which all nodes run. When, where
//! and how is up to the seed.

mod bit_flip;
mod disk_error;
mod full_disk;
mod kill;
mod leave;
mod old_copy;
mod partition;
mod pause;
mod power_cut;
mod wiped_disk;

use std::fmt;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use xtask::mesh::REGIONS;

use super::faulty_mesh::FaultyMesh;
use super::load::Load;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Kill,
    KillAll,
    KillGateway,
    KillControlPlane,
    Pause,
    Partition,
    OneWayPartition,
    FlappingPartition,
    PowerCut,
    PowerCutAll,
    WriteError,
    SyncError,
    FullDisk,
    SuddenlyFullDisk,
    BitFlip,
    WipedDisk,
    OldCopy,
    LeaveAndReturn,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::Kill,
        Self::KillAll,
        Self::KillGateway,
        Self::KillControlPlane,
        Self::Pause,
        Self::Partition,
        Self::OneWayPartition,
        Self::FlappingPartition,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::WriteError,
        Self::SyncError,
        Self::FullDisk,
        Self::SuddenlyFullDisk,
        Self::BitFlip,
        Self::WipedDisk,
        Self::OldCopy,
        Self::LeaveAndReturn,
    ];

    /// As people choose it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::KillGateway => "kill-gateway",
            Self::KillControlPlane => "kill-control-plane",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWayPartition => "partition-one-way",
            Self::FlappingPartition => "partition-flapping",
            Self::PowerCut => "power-cut",
            Self::PowerCutAll => "power-cut-all",
            Self::WriteError => "write-error",
            Self::SyncError => "sync-error",
            Self::FullDisk => "full-disk",
            Self::SuddenlyFullDisk => "suddenly-full-disk",
            Self::BitFlip => "bit-flip",
            Self::WipedDisk => "wiped-disk",
            Self::OldCopy => "old-copy",
            Self::LeaveAndReturn => "leave-and-return",
        }
    }

    /// By its name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether the network may be cut elsewhere meanwhile.
    const fn leaves_the_network(self) -> bool {
        !matches!(
            self,
            Self::Partition | Self::OneWayPartition | Self::FlappingPartition | Self::OldCopy
        )
    }

    /// Lets it happen, and heals it; sometimes while two nodes do not hear each
    /// other. Whether that was so.
    pub(crate) async fn happen(self, at: &mut Scene<'_>) -> bool {
        let is_cut = self.leaves_the_network() && at.random.random_bool(0.3);
        if is_cut {
            partition::cut_pair(at);
        }
        self.happen_alone(at).await;
        at.mesh.network.mend_all();
        is_cut
    }

    async fn happen_alone(self, at: &mut Scene<'_>) {
        match self {
            Self::Kill => kill::one(at).await,
            Self::KillAll => kill::all(at).await,
            Self::KillGateway => kill::gateway(at).await,
            Self::KillControlPlane => kill::control_plane(at).await,
            Self::Pause => pause::one(at).await,
            Self::Partition => partition::full(at).await,
            Self::OneWayPartition => partition::one_way(at).await,
            Self::FlappingPartition => partition::flapping(at).await,
            Self::PowerCut => power_cut::one(at).await,
            Self::PowerCutAll => power_cut::all(at).await,
            Self::WriteError => disk_error::of_a_write(at).await,
            Self::SyncError => disk_error::of_a_sync(at).await,
            Self::FullDisk => full_disk::foreseen(at).await,
            Self::SuddenlyFullDisk => full_disk::sudden(at).await,
            Self::BitFlip => bit_flip::one(at).await,
            Self::WipedDisk => wiped_disk::one(at).await,
            Self::OldCopy => old_copy::one(at).await,
            Self::LeaveAndReturn => leave::and_return(at).await,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where faults happen.
pub(crate) struct Scene<'a> {
    pub(crate) mesh: &'a mut FaultyMesh,
    pub(crate) load: &'a mut Load,
    pub(crate) random: &'a mut StdRng,
}

impl Scene<'_> {
    /// One region, and the others, in any order.
    fn choose(&mut self) -> (&'static str, [&'static str; 2]) {
        let mut regions = REGIONS;
        regions.shuffle(self.random);
        let [victim, others @ ..] = regions;
        (victim, others)
    }

    fn region(&mut self) -> &'static str {
        REGIONS.choose(self.random).expect("there are some")
    }

    /// What must not be.
    fn incident(&self, region: &str, what: &str) {
        let what = format!("{region}: {what}");
        self.mesh.recorder.incident(Some(self.mesh.number(region)), what);
    }
}
