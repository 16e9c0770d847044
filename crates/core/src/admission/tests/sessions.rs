use proptest::prelude::*;

use super::*;
use crate::projection::publishers::ResumeRefusal;

fn with_session() -> (Member, SessionId) {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    let opened = member.admission.open_session(NOW, EVERYWHERE, [5; 16], None).unwrap();
    assert_eq!(opened.next_sequence, PublisherSequence::new(1));
    (member, opened.session)
}

fn say(session: SessionId, sequence: u64, text: &str) -> NewPublication {
    in_session(session, sequence, publication(EVERYWHERE, "news", text))
}

fn stored(published: Result<Published, PublishRefusal>) -> MessageName {
    match published {
        Ok(Published::Stored { name, .. }) => name,
        other => panic!("not stored: {other:?}"),
    }
}

#[test]
fn a_repeat_gets_the_first_answer() {
    let (mut member, session) = with_session();
    let first = stored(member.publish_in(say(session, 1, "a")));
    let second = stored(member.publish_in(say(session, 2, "b")));
    let before = state_of(&member);
    for (sequence, text, name) in [(1, "a", first), (2, "b", second), (1, "a", first)] {
        let repeat = member.publish_in(say(session, sequence, text));
        assert_eq!(repeat, Ok(Published::Repeat { name: Some(name) }));
    }
    assert_eq!(state_of(&member), before);
}

#[test]
fn a_jump_and_another_content_are_refused() {
    let (mut member, session) = with_session();
    stored(member.publish_in(say(session, 1, "a")));
    let before = state_of(&member);
    let expected = PublisherSequence::new(2);
    for sequence in [3, 0, u64::MAX] {
        let jump = member.publish_in(say(session, sequence, "c"));
        assert_eq!(jump, Err(PublishRefusal::OutOfSequence { expected }));
    }
    let sequence = PublisherSequence::new(1);
    let other = member.publish_in(say(session, 1, "z"));
    assert_eq!(other, Err(PublishRefusal::ContentDiffers { sequence }));
    assert_eq!(state_of(&member), before);
}

/// The first answer stands whatever has become of the channel or of the disk.
#[test]
fn a_repeat_is_recognised_although_nothing_is_accepted_any_more() {
    let (mut member, session) = with_session();
    let name = stored(member.publish_in(say(session, 1, "a")));
    member.delete(EVERYWHERE, "news").unwrap();
    member.admission.set_closed(EVERYWHERE, ClosedReason::DiskCap, true);
    let repeat = member.publish_in(say(session, 1, "a"));
    assert_eq!(repeat, Ok(Published::Repeat { name: Some(name) }));
}

#[test]
fn what_is_refused_does_not_use_up_its_sequence() {
    let (mut member, session) = with_session();
    let nowhere = in_session(session, 1, publication(EVERYWHERE, "nowhere", "a"));
    assert!(matches!(member.publish_in(nowhere), Err(PublishRefusal::UnknownChannel { .. })));
    stored(member.publish_in(say(session, 1, "a")));
}

#[test]
fn a_session_goes_on_after_a_restart_with_what_was_durable() {
    let (mut member, session) = with_session();
    let first = stored(member.publish_in(say(session, 1, "a")));
    member.sync();
    stored(member.publish_in(say(session, 2, "lost")));
    let mut member = member.reopen(12);

    let last_acknowledged = Some((PublisherSequence::new(1), first));
    let resume = Some(ResumeSession { session, last_acknowledged });
    let opened = member.admission.open_session(NOW, EVERYWHERE, [6; 16], resume).unwrap();
    assert_eq!(opened.session, session);
    assert_eq!(opened.next_sequence, PublisherSequence::new(2));
    assert_eq!(opened.last_stored, Some(first));
    let repeat = member.publish_in(say(session, 1, "a"));
    assert_eq!(repeat, Ok(Published::Repeat { name: Some(first) }));
    stored(member.publish_in(say(session, 2, "lost")));
}

#[test]
fn a_session_of_another_branch_is_forked() {
    let (mut member, session) = with_session();
    stored(member.publish_in(say(session, 1, "a")));
    member.sync();
    let copy = member.disk.clone();
    let second = stored(member.publish_in(say(session, 2, "b")));

    // The disk of before that is put back.
    let mut restored = Member::open(1, 12, copy, topology());
    let last_acknowledged = Some((PublisherSequence::new(2), second));
    let resume = Some(ResumeSession { session, last_acknowledged });
    let opened = restored.admission.open_session(NOW, EVERYWHERE, [6; 16], resume);
    assert_eq!(opened, Err(SessionRefusal::NotResumed(ResumeRefusal::Forked)));

    // Another node knows nothing of it.
    let mut other = Member::new(2, 22);
    let opened = other.admission.open_session(NOW, EVERYWHERE, [6; 16], resume);
    assert_eq!(opened, Err(SessionRefusal::NotResumed(ResumeRefusal::Forked)));
    let nothing_acknowledged = Some(ResumeSession { session, last_acknowledged: None });
    let opened = other.admission.open_session(NOW, EVERYWHERE, [6; 16], nothing_acknowledged);
    assert_eq!(opened, Err(SessionRefusal::NotResumed(ResumeRefusal::Unknown)));
}

/// What an earlier opening stored in a session and lost with its disk is known
/// again once it has come back from the others.
#[test]
fn what_comes_back_from_others_is_recognised_as_a_repeat() {
    let (mut member, session) = with_session();
    let first = stored(member.publish_in(say(session, 1, "a")));
    member.sync();
    let copy = member.disk.clone();
    let second = stored(member.publish_in(say(session, 2, "b")));
    member.sync();
    let mut peer = Member::new(2, 22);
    peer.take_all_of(&member);

    let mut restored = Member::open(1, 12, copy, topology());
    let last_acknowledged = Some((PublisherSequence::new(1), first));
    let resume = Some(ResumeSession { session, last_acknowledged });
    restored.admission.open_session(NOW, EVERYWHERE, [6; 16], resume).unwrap();
    restored.take_all_of(&peer);
    let repeat = restored.publish_in(say(session, 2, "b"));
    assert_eq!(repeat, Ok(Published::Repeat { name: Some(second) }));
}

#[test]
fn new_sessions_are_refused_where_nothing_is_accepted() {
    let (mut member, session) = with_session();
    let name = stored(member.publish_in(say(session, 1, "a")));
    member.admission.set_node_closed(ClosedReason::Draining, true);
    let refused = member.admission.open_session(NOW, EVERYWHERE, [6; 16], None);
    assert_eq!(refused, Err(SessionRefusal::Closed(ClosedReason::Draining)));
    let last_acknowledged = Some((PublisherSequence::new(1), name));
    let resume = Some(ResumeSession { session, last_acknowledged });
    member.admission.open_session(NOW, EVERYWHERE, [6; 16], resume).unwrap();

    let nowhere = NamespaceNumber::new(99);
    let refused = member.admission.open_session(NOW, nowhere, [6; 16], None);
    assert_eq!(refused, Err(SessionRefusal::NotMember(nowhere)));
}

proptest! {
    /// METHOD M12, and exact retries: a publisher that repeats what is not
    /// acknowledged, over any number of crashes, has each publication stored
    /// exactly once and in order.
    #[test]
    fn exact_retries_over_crashes_store_each_publication_once(
        steps in proptest::collection::vec(0_u8..10, 1..120),
    ) {
        const PUBLICATIONS: u64 = 40;
        let (mut member, session) = with_session();
        let mut acknowledged: Option<(PublisherSequence, MessageName)> = None;
        let mut waiting: Vec<(u64, MessageName)> = Vec::new();
        let mut next = 1;
        let mut bits = 100;
        member.sync();
        for step in steps {
            match step {
                // A crash; the publisher resumes and starts over behind the last
                // acknowledged.
                0 => {
                    bits += 1;
                    member = member.reopen(bits);
                    waiting.clear();
                    next = acknowledged.map_or(1, |(sequence, _)| sequence.get() + 1);
                    let resume = ResumeSession { session, last_acknowledged: acknowledged };
                    let resumed =
                        member.admission.open_session(NOW, EVERYWHERE, [0; 16], Some(resume));
                    if let Err(refused) = resumed {
                        // Only a session that has stored nothing is forgotten.
                        prop_assert!(acknowledged.is_none());
                        prop_assert_eq!(
                            refused,
                            SessionRefusal::NotResumed(ResumeRefusal::Unknown)
                        );
                        let new = *session.as_bytes();
                        member.admission.open_session(NOW, EVERYWHERE, new, None).unwrap();
                    }
                }
                1 | 2 => {
                    member.sync();
                    if let Some((sequence, name)) = waiting.pop() {
                        acknowledged = acknowledged.max(Some((PublisherSequence::new(sequence), name)));
                    }
                    waiting.clear();
                }
                _ if next <= PUBLICATIONS => {
                    let published = member.publish_in(say(session, next, &next.to_string()));
                    let name = match published.unwrap() {
                        Published::Stored { name, .. } => name,
                        Published::Repeat { name } => name.unwrap(),
                    };
                    waiting.push((next, name));
                    next += 1;
                }
                _ => {}
            }
        }
        member.sync();
        let payloads = member.disk.payloads(EVERYWHERE);
        // The disk's logs are in the order of their incarnations, which rise here.
        let said: Vec<String> = payloads
            .iter()
            .map(|payload| String::from_utf8_lossy(payload).into_owned())
            .filter(|text| text.parse::<u64>().is_ok())
            .collect();
        let expected: Vec<String> = (1..=said.len()).map(|number| number.to_string()).collect();
        prop_assert_eq!(said, expected);
    }
}
