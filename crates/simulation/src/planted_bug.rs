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
    /// An origin that a cursor does not name is read from now on, not from its
    /// beginning.
    UnseenOriginSkipped,
    /// Of an origin's branches only what is above the highest tip is read.
    ForkTailDropped,
    /// Tips whose rows are not known where a cursor is resumed are dropped from
    /// it.
    UnknownTipsForgotten,
    /// How far a log is to be read is judged by rows that are not known.
    UntilJudgedUnknown,
    /// What was missed is read log by log, children before their parents.
    ParentsReadLast,
    /// What a node says again, having lost its disk, reaches all readers again.
    SaidAgainShownAgain,
    /// A publisher does not say of what it publishes again that it may be a repeat.
    RepeatsUndeclared,
    /// What others say of the logs that a process writes is not compared with what
    /// it wrote.
    OwnMarksIgnored,
    /// What an older opening of a member acknowledged is believed of the one that is
    /// there. Only the search of small worlds can tell: nothing trims yet.
    OldAcknowledgementBelieved,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 27] = [
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
        Self::UnseenOriginSkipped,
        Self::ForkTailDropped,
        Self::UnknownTipsForgotten,
        Self::UntilJudgedUnknown,
        Self::ParentsReadLast,
        Self::SaidAgainShownAgain,
        Self::RepeatsUndeclared,
        Self::OwnMarksIgnored,
        Self::OldAcknowledgementBelieved,
    ];
}
