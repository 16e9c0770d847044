//! The small worlds.

/// What may happen in a world, and how often.
#[derive(Clone, Copy, Debug)]
pub struct SmallWorld {
    /// Its name.
    pub name: &'static str,
    /// Nodes.
    pub nodes: u8,
    /// Nodes that clients publish at.
    pub publishing: u8,
    /// Messages, on two channels in turn.
    pub messages: u8,
    /// Frames and acknowledgements under way at once.
    pub under_way: usize,
    /// Acknowledgements sent.
    pub acknowledgements: u8,
    /// Processes killed.
    pub kills: u8,
    /// Power cuts.
    pub power_cuts: u8,
    /// Copies put back.
    pub restores: u8,
    /// Disks emptied.
    pub wipes: u8,
    /// Trims.
    pub trims: u8,
    /// The subscriber's moves; none without a subscriber.
    pub moves: Option<u8>,
    /// How deep it is searched if nothing is said.
    pub depth: usize,
}

const NOTHING: SmallWorld = SmallWorld {
    name: "",
    nodes: 2,
    publishing: 2,
    messages: 3,
    under_way: 1,
    acknowledgements: 0,
    kills: 0,
    power_cuts: 0,
    restores: 0,
    wipes: 0,
    trims: 0,
    moves: None,
    depth: 64,
};

/// All of them, from the smallest to the largest.
pub const WORLDS: &[SmallWorld] = &[
    SmallWorld { name: "restored", publishing: 1, messages: 2, restores: 1, ..NOTHING },
    SmallWorld { name: "power-cut", power_cuts: 1, under_way: 2, ..NOTHING },
    SmallWorld { name: "killed-then-cut", kills: 1, power_cuts: 1, messages: 2, ..NOTHING },
    SmallWorld { name: "wiped", publishing: 1, wipes: 1, under_way: 2, ..NOTHING },
    SmallWorld {
        name: "late-acknowledgement",
        publishing: 1,
        messages: 1,
        restores: 1,
        acknowledgements: 1,
        ..NOTHING
    },
    SmallWorld {
        name: "trimmed",
        publishing: 1,
        messages: 1,
        acknowledgements: 1,
        wipes: 1,
        trims: 1,
        ..NOTHING
    },
    SmallWorld {
        name: "trimmed-and-restored",
        publishing: 1,
        messages: 2,
        under_way: 2,
        acknowledgements: 1,
        restores: 1,
        trims: 1,
        depth: 11,
        ..NOTHING
    },
    SmallWorld { name: "restored-and-cut", restores: 1, power_cuts: 1, messages: 2, ..NOTHING },
    SmallWorld {
        name: "subscriber",
        publishing: 1,
        messages: 2,
        restores: 1,
        moves: Some(1),
        depth: 11,
        ..NOTHING
    },
    SmallWorld {
        name: "subscriber-of-wiped",
        publishing: 1,
        messages: 2,
        wipes: 1,
        moves: Some(1),
        ..NOTHING
    },
    SmallWorld {
        name: "subscriber-of-forks",
        publishing: 1,
        restores: 1,
        moves: Some(2),
        depth: 9,
        ..NOTHING
    },
    SmallWorld {
        name: "three-nodes",
        nodes: 3,
        messages: 2,
        publishing: 2,
        power_cuts: 1,
        depth: 13,
        ..NOTHING
    },
    SmallWorld {
        name: "everything",
        nodes: 3,
        under_way: 2,
        acknowledgements: 1,
        power_cuts: 1,
        restores: 1,
        wipes: 1,
        moves: Some(1),
        depth: 4,
        ..NOTHING
    },
];
