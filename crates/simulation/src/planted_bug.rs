//! Bugs that the driver commits on request, so that the checkers are checked.

use interlock_storage::OpeningFlaw;

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
    /// there.
    OldAcknowledgementBelieved,
    /// A log is trimmed although members lack its messages, and nothing is declared.
    TrimmedBeforeHeldByAll,
    /// A log is trimmed further than was decided.
    TrimmedBeyondDecided,
    /// The mark moves over a hole before the base that stands for it is stored.
    HoleBeforeBase,
    /// Trim points that come with a base are not kept.
    TrimPointsDropped,
    /// Members that hold the same messages and other channels are left as they are.
    DifferencesLeftAlone,
    /// A reader that follows is not told of a hole that the node takes.
    HolesPassedOver,
    /// What is appended reaches the stored session table before it is durable, and an
    /// opening takes a table that is ahead of its log.
    ProjectionAhead,
    /// What a kill left in the page cache is served before it is durable.
    SurvivorsUnsynced,
    /// The opening walk keeps logs though what they go on from is not held.
    ParentsUnchecked,
    /// Whoever receives takes what senders send, member or not.
    FilteredBySenderOnly,
    /// What a member refuses, because it is none any more, counts as held by it.
    RefusedCountedAsHeld,
    /// Who asks for the last so many gets so many fewer as others asked for.
    LastCountsUnshown,
    /// Who asks for the last so many gets twice as many.
    LastCountedTwice,
    /// Who asks for a time is started by when messages were accepted, not by when they
    /// came.
    StartedByStamp,
    /// Channels that stand apart in a cursor are read from where the rest is.
    OverridesForgotten,
    /// Nobody takes a log from the member of its region that has it from another one.
    SiblingsUnknown,
    /// What is left is removed though members lack some of it.
    PurgedBeforeHeldByAll,
    /// What is left is forgotten, and stays on the disk.
    LeftOnDisk,
    /// What was drained counts as drained when it is a member's again.
    DrainedNeverTakenBack,
}

impl PlantedBug {
    /// The storage's part in it.
    pub(crate) const fn opening_flaw(self) -> Option<OpeningFlaw> {
        match self {
            Self::ParentsUnchecked => Some(OpeningFlaw::ParentsUnchecked),
            Self::SurvivorsUnsynced => Some(OpeningFlaw::SurvivorsUnsynced),
            Self::ProjectionAhead => Some(OpeningFlaw::ProjectionsUnchecked),
            _ => None,
        }
    }

    /// All of them.
    pub const ALL: [Self; 46] = [
        Self::AcknowledgedBeforeSync,
        Self::RepeatAnsweredBeforeSync,
        Self::AppendedToldAsHeld,
        Self::WalkResultIgnored,
        Self::MarkFromLastKey,
        Self::IncarnationReused,
        Self::SessionsNotReplayed,
        Self::ProjectionAhead,
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
        Self::SiblingsUnknown,
        Self::LastCountsUnshown,
        Self::LastCountedTwice,
        Self::StartedByStamp,
        Self::OverridesForgotten,
        Self::FilteredBySenderOnly,
        Self::RefusedCountedAsHeld,
        Self::PurgedBeforeHeldByAll,
        Self::LeftOnDisk,
        Self::DrainedNeverTakenBack,
        Self::OldAcknowledgementBelieved,
        Self::TrimmedBeforeHeldByAll,
        Self::TrimmedBeyondDecided,
        Self::HoleBeforeBase,
        Self::TrimPointsDropped,
        Self::DifferencesLeftAlone,
        Self::HolesPassedOver,
        Self::SurvivorsUnsynced,
        Self::ParentsUnchecked,
    ];
}
