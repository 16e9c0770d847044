//! The kinds of faults that a world may have.

use std::fmt;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A stream breaks; what is under way on it is lost.
    StreamBreak,
    /// Frames between two nodes take long for a while.
    Delay,
    /// One direction between two nodes is blocked for a while.
    OneWayPartition,
    /// A part of the nodes is cut off from the others for a while.
    Partition,
    /// Two nodes are cut off from each other, again and again.
    Flapping,
    /// A process dies, with or without its machine, and starts again.
    Crash,
    /// All machines lose their power at once.
    PowerCut,
    /// An old copy of a node's disk is put back.
    RestoredCopy,
    /// A node's disk is emptied.
    WipedDisk,
    /// A node's wall clock jumps.
    ClockJump,
    /// A node's syncs take long for a while.
    SlowSync,
    /// A write or a sync fails, and the process ends.
    DiskError,
    /// A namespace is placed on more regions.
    NamespaceGrowth,
    /// A second process is started under a node's name, on a copy of its disk or
    /// on an empty one, known to the control-plane or not.
    SecondProcess,
    /// A node does not hear of newer topologies from the control-plane.
    ControlPlaneLost,
    /// A machine is resumed from a snapshot of its memory and disk.
    ResumedSnapshot,
    /// A namespace is taken off regions, and perhaps placed there again.
    NamespaceShrink,
    /// A node is told to leave the mesh.
    NodeLeaves,
    /// A node is removed at once, whatever it holds.
    NodeRemoved,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 19] = [
        Self::StreamBreak,
        Self::Delay,
        Self::OneWayPartition,
        Self::Partition,
        Self::Flapping,
        Self::Crash,
        Self::PowerCut,
        Self::RestoredCopy,
        Self::WipedDisk,
        Self::ClockJump,
        Self::SlowSync,
        Self::DiskError,
        Self::NamespaceGrowth,
        Self::SecondProcess,
        Self::ControlPlaneLost,
        Self::ResumedSnapshot,
        Self::NamespaceShrink,
        Self::NodeLeaves,
        Self::NodeRemoved,
    ];

    /// Those that take members away.
    pub const LEAVING: [Self; 3] = [Self::NamespaceShrink, Self::NodeLeaves, Self::NodeRemoved];

    /// How many seeds of a hundred have faults of this kind.
    pub const fn percent_of_seeds(self) -> u64 {
        match self {
            Self::Crash => 70,
            Self::StreamBreak | Self::Partition | Self::OneWayPartition => 50,
            Self::Delay | Self::Flapping | Self::ClockJump | Self::SlowSync => 40,
            Self::RestoredCopy | Self::WipedDisk | Self::PowerCut => 30,
            Self::DiskError | Self::NamespaceGrowth | Self::ControlPlaneLost => 30,
            Self::SecondProcess => 25,
            Self::ResumedSnapshot => 10,
            Self::NamespaceShrink => 30,
            Self::NodeLeaves => 20,
            Self::NodeRemoved => 15,
        }
    }

    /// Whether chance of its own decides if a world has it: so others are as they were.
    pub(crate) fn is_drawn_apart(self) -> bool {
        self == Self::ResumedSnapshot || Self::LEAVING.contains(&self)
    }

    /// The name that people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamBreak => "stream break",
            Self::Delay => "delay",
            Self::OneWayPartition => "one-way partition",
            Self::Partition => "partition",
            Self::Flapping => "flapping",
            Self::Crash => "crash",
            Self::PowerCut => "power cut",
            Self::RestoredCopy => "restored copy",
            Self::WipedDisk => "wiped disk",
            Self::ClockJump => "clock jump",
            Self::SlowSync => "slow sync",
            Self::DiskError => "disk error",
            Self::NamespaceGrowth => "namespace growth",
            Self::SecondProcess => "second process",
            Self::ControlPlaneLost => "control-plane lost",
            Self::ResumedSnapshot => "resumed snapshot",
            Self::NamespaceShrink => "namespace shrink",
            Self::NodeLeaves => "node leaves",
            Self::NodeRemoved => "node removed",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
