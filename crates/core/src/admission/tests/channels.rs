use super::*;
use crate::identity::{Epoch, RegisterVersion};
use crate::limits::{MAX_DESCRIPTION_BYTES, MAX_LABELS, MAX_PAYLOAD_BYTES};
use crate::message::{ChannelLimits, Presentation, Source};

fn version_of(edited: &Edited) -> u64 {
    Message::decode(&edited.entry.bytes).unwrap().version.get()
}

/// METHOD M3: register, modify, delete, and register again.
#[test]
fn the_life_of_a_channel() {
    let mut member = Member::new(1, 11);
    let created = member.create(EVERYWHERE, "news").unwrap();
    assert_eq!((created.definition.epoch().get(), version_of(&created)), (1, 1));
    let updated = member.describe(EVERYWHERE, "news", "what is new").unwrap();
    assert_eq!((updated.definition.epoch().get(), version_of(&updated)), (1, 2));
    assert_eq!(updated.definition.presentation().unwrap().description, "what is new");
    let deleted = member.delete(EVERYWHERE, "news").unwrap();
    assert!(deleted.definition.is_deleted());
    assert_eq!(version_of(&deleted), 3);

    let epoch = Epoch::new(1);
    let gone = EditRefusal::Deleted { channel: channel("news"), epoch };
    assert_eq!(member.delete(EVERYWHERE, "news"), Err(gone.clone()));
    assert_eq!(member.describe(EVERYWHERE, "news", "x"), Err(gone));

    let again = member.create(EVERYWHERE, "news").unwrap();
    assert_eq!(again.definition.epoch(), Epoch::new(2));
    let name = member.publish(EVERYWHERE, "news", "x").unwrap();
    let entry = member.disk.logs[&name.log].entries.last().unwrap();
    assert_eq!(Message::decode(&entry.bytes).unwrap().epoch, Epoch::new(2));
}

#[test]
fn an_update_leaves_what_it_does_not_name() {
    let mut member = Member::new(1, 11);
    let labels = BTreeMap::from([("team".to_owned(), "quotes".to_owned())]);
    let source = Source { path: "/index.json".to_owned(), ..Source::default() };
    let draft = ChannelDraft {
        presentation: Presentation { description: "before".to_owned(), labels: labels.clone() },
        source: Some(source.clone()),
        limits: ChannelLimits { max_payload_bytes: 10, max_publications_per_second: 20 },
    };
    member.edit(EVERYWHERE, "prices", ChannelChange::Create(draft)).unwrap();
    member.describe(EVERYWHERE, "prices", "after").unwrap();
    let update = ChannelUpdate { max_payload_bytes: Some(30), ..Default::default() };
    let condition = EditCondition::default();
    let change = ChannelChange::Update { condition, update };
    let edited = member.edit(EVERYWHERE, "prices", change).unwrap();

    let definition = edited.definition;
    assert_eq!(definition.presentation().unwrap().description, "after");
    assert_eq!(definition.presentation().unwrap().labels, labels);
    assert_eq!(definition.source(), Some(&source));
    let limits = ChannelLimits { max_payload_bytes: 30, max_publications_per_second: 20 };
    assert_eq!(definition.limits(), limits);
}

/// METHOD M5: what was fetched is replicated, byte for byte.
#[test]
fn fetched_content_is_an_update_of_the_source() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "page").unwrap();
    let source = Source {
        path: "/page".to_owned(),
        content: Bytes::from_static(b"<html>"),
        digest: Some([3; 32]),
        etag: "\"1\"".to_owned(),
        media_type: "text/html".to_owned(),
        fetched_at: NOW,
    };
    let update = ChannelUpdate { source: Some(source.clone()), ..Default::default() };
    let condition = EditCondition { epoch: Some(Epoch::new(1)), etag: None };
    member.edit(EVERYWHERE, "page", ChannelChange::Update { condition, update }).unwrap();
    member.sync();

    let mut other = Member::new(2, 22);
    other.take_all_of(&member);
    let held = other.admission.directory(EVERYWHERE).unwrap().get("page").unwrap();
    assert_eq!(held.source(), Some(&source));
}

#[test]
fn stale_edits_are_refused() {
    let mut member = Member::new(1, 11);
    let created = member.create(EVERYWHERE, "news").unwrap();
    let etag = Etag::of(&created.definition);
    let text = etag.to_string();
    assert_eq!(text.parse(), Ok(etag));

    let update = |epoch: Option<u64>, etag: Option<Etag>| ChannelChange::Update {
        condition: EditCondition { epoch: epoch.map(Epoch::new), etag },
        update: ChannelUpdate { description: Some("x".to_owned()), ..Default::default() },
    };
    let edited = member.edit(EVERYWHERE, "news", update(Some(1), Some(etag))).unwrap();
    let present = Etag::of(&edited.definition);
    assert_ne!(present, etag);
    let before = state_of(&member);
    let stale = member.edit(EVERYWHERE, "news", update(None, Some(etag)));
    let refusal = EditRefusal::StaleEtag { channel: channel("news"), etag: present };
    assert_eq!(stale, Err(refusal.clone()));
    let condition = EditCondition { epoch: None, etag: Some(etag) };
    let stale = member.edit(EVERYWHERE, "news", ChannelChange::Delete { condition });
    assert_eq!(stale, Err(refusal));
    let epoch = Epoch::new(1);
    let stale = member.edit(EVERYWHERE, "news", update(Some(2), None));
    assert_eq!(stale, Err(EditRefusal::StaleEpoch { channel: channel("news"), epoch }));
    assert_eq!(state_of(&member), before);
}

/// Two members edit at once and write the same version; whoever saw only one of
/// the two results has a stale etag.
#[test]
fn an_etag_tells_concurrent_edits_of_one_version_apart() {
    let mut north = Member::new(1, 11);
    let mut south = Member::new(2, 22);
    north.create(EVERYWHERE, "news").unwrap();
    north.sync();
    south.take_all_of(&north);
    let seen = north.describe(EVERYWHERE, "news", "north").unwrap();
    south.now = NOW.plus_milliseconds(1_000);
    let other = south.describe(EVERYWHERE, "news", "south").unwrap();
    assert_eq!(version_of(&seen), version_of(&other));
    south.sync();
    north.take_all_of(&south);

    let condition = EditCondition { epoch: None, etag: Some(Etag::of(&seen.definition)) };
    let stale = north.edit(EVERYWHERE, "news", ChannelChange::Delete { condition });
    assert!(matches!(stale, Err(EditRefusal::StaleEtag { .. })));
}

#[test]
fn an_etag_has_one_spelling() {
    for text in ["", "1.1", "1.1-", "1.1-1", "01.1-0000000000000000", "1.1-000000000000000G"] {
        assert_eq!(text.parse::<Etag>(), Err(EtagError), "{text}");
    }
    let upper = "1.1-00000000000000AB";
    assert_eq!(upper.parse::<Etag>(), Err(EtagError));
    assert!(upper.to_lowercase().parse::<Etag>().is_ok());
}

#[test]
fn limits_of_each_field_are_named() {
    let mut member = Member::new(1, 11);
    let before = state_of(&member);
    let create = |presentation: Presentation, limits: ChannelLimits| {
        ChannelChange::Create(ChannelDraft { presentation, source: None, limits })
    };
    let long = Presentation {
        description: "x".repeat(MAX_DESCRIPTION_BYTES + 1),
        labels: BTreeMap::new(),
    };
    let refused = member.edit(EVERYWHERE, "news", create(long, ChannelLimits::default()));
    let limit = MAX_DESCRIPTION_BYTES;
    assert_eq!(refused, Err(EditRefusal::OverLimit { field: "description", limit }));

    let labels = (0..=MAX_LABELS).map(|number| (number.to_string(), String::new())).collect();
    let many = Presentation { description: String::new(), labels };
    let refused = member.edit(EVERYWHERE, "news", create(many, ChannelLimits::default()));
    assert_eq!(refused, Err(EditRefusal::OverLimit { field: "labels", limit: MAX_LABELS }));

    let limits =
        ChannelLimits { max_payload_bytes: MAX_PAYLOAD_BYTES as u32 + 1, ..Default::default() };
    let refused = member.edit(EVERYWHERE, "news", create(Presentation::default(), limits));
    let limit = MAX_PAYLOAD_BYTES;
    assert_eq!(refused, Err(EditRefusal::OverLimit { field: "max_payload_bytes", limit }));
    assert_eq!(state_of(&member), before);

    let presentation = Presentation {
        description: "x".repeat(MAX_DESCRIPTION_BYTES),
        labels: (0..MAX_LABELS).map(|number| (number.to_string(), String::new())).collect(),
    };
    let limits =
        ChannelLimits { max_payload_bytes: MAX_PAYLOAD_BYTES as u32, ..Default::default() };
    member.edit(EVERYWHERE, "news", create(presentation, limits)).unwrap();
}

#[test]
fn an_update_of_nothing_and_of_nobody_is_refused() {
    let mut member = Member::new(3, 33);
    member.create(EVERYWHERE, "news").unwrap();
    let nothing = || ChannelChange::Update {
        condition: EditCondition::default(),
        update: ChannelUpdate::default(),
    };
    assert_eq!(member.edit(EVERYWHERE, "news", nothing()), Err(EditRefusal::NothingToSet));
    let unknown = EditRefusal::NotFound { channel: channel("other") };
    assert_eq!(member.edit(EVERYWHERE, "other", nothing()), Err(unknown.clone()));
    assert_eq!(member.delete(EVERYWHERE, "other"), Err(unknown));
    assert_eq!(member.create(NARROW, "news"), Err(EditRefusal::NotMember(NARROW)));
    let epoch = Epoch::new(1);
    let taken = EditRefusal::AlreadyExists { channel: channel("news"), epoch };
    assert_eq!(member.create(EVERYWHERE, "news"), Err(taken));
}

#[test]
fn want_of_room_does_not_keep_anyone_from_deleting() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    member.create(EVERYWHERE, "more").unwrap();
    member.admission.set_closed(EVERYWHERE, ClosedReason::DiskCap, true);
    let closed = Err(EditRefusal::Closed(ClosedReason::DiskCap));
    assert_eq!(member.create(EVERYWHERE, "other"), closed);
    assert_eq!(member.describe(EVERYWHERE, "news", "x"), closed);
    member.delete(EVERYWHERE, "news").unwrap();
    member.admission.set_closed(EVERYWHERE, ClosedReason::Backfilling, true);
    let closed = Err(EditRefusal::Closed(ClosedReason::Backfilling));
    assert_eq!(member.delete(EVERYWHERE, "more"), closed);
}

/// An absurd version that somebody named is refused to be counted on from, and
/// nothing overflows.
#[test]
fn versions_end_without_a_panic() {
    let mut other = Member::new(2, 22);
    other.create(EVERYWHERE, "news").unwrap();
    other.publish(EVERYWHERE, "news", "x").unwrap();
    other.sync();
    let log = other.log(EVERYWHERE);
    let mut absurd = Message::decode(&other.disk.logs[&log].entries[1].bytes).unwrap();
    absurd.version = RegisterVersion::new(u64::MAX);
    let mut frame = other.whole_log(&log);
    frame.sends[1] = absurd.encode();

    let mut member = Member::new(1, 11);
    assert!(matches!(member.receive(&frame), FrameOutcome::Appended { .. }));
    let what = "versions";
    let refusal = EditRefusal::NumbersUsedUp { what, channel: channel("news") };
    assert_eq!(member.describe(EVERYWHERE, "news", "x"), Err(refusal.clone()));
    assert_eq!(member.delete(EVERYWHERE, "news"), Err(refusal));
    member.publish(EVERYWHERE, "news", "x").unwrap();
}

#[test]
fn the_quota_counts_tombstones_and_lets_them_be_used_again() {
    let mut member = Member::new(1, 11);
    member.admission.set_channel_quota(2);
    member.create(EVERYWHERE, "news").unwrap();
    member.create(EVERYWHERE, "gone").unwrap();
    member.delete(EVERYWHERE, "gone").unwrap();
    let refused = member.create(EVERYWHERE, "more");
    assert_eq!(refused, Err(EditRefusal::QuotaReached { limit: 2 }));
    member.create(EVERYWHERE, "gone").unwrap();
    member.create(NARROW, "more").unwrap();
}
