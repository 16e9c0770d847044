//! Bugs that the driver commits on request, so that the checkers are checked.

/// One bug of the driver. Only tests ask for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// Answers leave as soon as their messages are appended.
    AcknowledgedBeforeSync,
    /// A repeat is answered at once, though the first answer waits for its sync.
    RepeatAnsweredBeforeSync,
    /// Peers are told marks that are appended, not durable.
    AppendedToldAsHeld,
    /// After a crash the node goes by the marks it remembers, not by what the
    /// opening walk found.
    WalkResultIgnored,
    /// A log's mark after a crash is the highest key found, whatever is missing
    /// below it.
    MarkFromLastKey,
    /// A restart goes on with the incarnation that it opened.
    IncarnationReused,
    /// What the log has beyond the stored session table is not replayed.
    SessionsNotReplayed,
    /// What the log has beyond the stored directory is not replayed.
    DirectoryNotReplayed,
    /// Deleted channels are forgotten at the opening.
    TombstonesForgotten,
    /// A batch reaches the projections last log first, last message first.
    AppliedInReverse,
    /// A byte of a publication is changed before it is admitted.
    PayloadAltered,
    /// Senders' timers never run.
    TimersIgnored,
    /// Each frame goes out again as soon as it is sent, as often as somebody
    /// acknowledges anything.
    FramesRepeated,
    /// Namespaces are ready before their state was taken over.
    ReadyBeforeBackfill,
    /// Facts outlive the opening that told them.
    FactsNeverRetired,
    /// A process accepts although another one has registered its name.
    FencingIgnored,
    /// A process whose name another one has goes before others have what it has.
    TailAbandoned,
    /// Every node takes and serves every namespace.
    ResidencyIgnored,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AcknowledgedBeforeSync,
        Self::RepeatAnsweredBeforeSync,
        Self::AppendedToldAsHeld,
        Self::WalkResultIgnored,
        Self::MarkFromLastKey,
        Self::IncarnationReused,
        Self::SessionsNotReplayed,
        Self::DirectoryNotReplayed,
        Self::TombstonesForgotten,
        Self::AppliedInReverse,
        Self::PayloadAltered,
        Self::TimersIgnored,
        Self::FramesRepeated,
        Self::ReadyBeforeBackfill,
        Self::FactsNeverRetired,
        Self::FencingIgnored,
        Self::TailAbandoned,
        Self::ResidencyIgnored,
    ];
}
