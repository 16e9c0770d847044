//! A cursor's bytes and text, and what is refused of them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{NAMESPACE, channel, incarnation, name, passed, worlds};
use crate::cursor::{Cursor, DecodeError, PathKey, Tips};
use crate::identity::{MessageNumber, NodeNumber, ShardNumber};
use crate::limits::{
    MAX_CURSOR_BYTES, MAX_CURSOR_TIPS, MAX_CURSOR_TIPS_PER_PATH, MAX_MESSAGE_NUMBER,
};
use crate::replication::rows::Rows;
use crate::wire_format::put_varint;

proptest! {
    #[test]
    fn cursors_round_trip_also_with_unknown_rows(
        world in worlds(),
        passed in passed(),
        known in any::<u16>(),
    ) {
        let cursor = world.cursor(&passed, &world.some_rows(known));
        prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor.clone()));
        prop_assert_eq!(Cursor::from_text(&cursor.to_text()), Ok(cursor));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), text in ".{0,60}") {
        let _ = Cursor::decode(&bytes);
        let _ = Cursor::from_text(&text);
        // Past the checksum: what is taken is what would have been written.
        let mut whole = vec![1, 0];
        whole.extend_from_slice(&bytes);
        let whole = with_checksum(whole);
        if let Ok(cursor) = Cursor::decode(&whole) {
            prop_assert_eq!(&cursor.encode()[..], &whole[..]);
        }
    }

    #[test]
    fn a_damaged_cursor_is_refused(
        world in worlds(),
        passed in passed(),
        at in any::<Index>(),
        damage in 1..=255_u8,
        cut in any::<Index>(),
    ) {
        let bytes = world.cursor(&passed, &world.rows).encode();
        let mut damaged = bytes.to_vec();
        damaged[at.index(bytes.len())] ^= damage;
        prop_assert!(Cursor::decode(&damaged).is_err());
        prop_assert!(Cursor::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn damage_behind_a_right_checksum_never_panics(
        world in worlds(),
        passed in passed(),
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let mut cursor = world.cursor(&passed, &world.rows);
        cursor.start_channel(&channel("a"), &Cursor::new(NAMESPACE), &world.rows).expect("one");
        let mut bytes = cursor.encode().to_vec();
        bytes.truncate(bytes.len() - 4);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bytes = with_checksum(bytes);
        if let Ok(cursor) = Cursor::decode(&bytes) {
            prop_assert_eq!(&cursor.encode()[..], &bytes[..]);
        }
    }
}

fn with_checksum(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = xxhash_rust::xxh3::xxh3_64(&content) as u32;
    content.extend_from_slice(&checksum.to_be_bytes());
    content
}

fn example() -> Cursor {
    let rows = Rows::new();
    let mut cursor = Cursor::new(NAMESPACE);
    cursor.advance(name(3, 0x1122_3344_5566_7788, 300), &rows);
    cursor.advance(name(3, 0x0102_0304_0506_0708, 5), &rows);
    cursor.advance(name(9, 0xff00_0000_0000_0001, 1), &rows);
    let mut earlier = Cursor::new(NAMESPACE);
    earlier.advance(name(3, 0x1122_3344_5566_7788, 20), &rows);
    cursor.start_channel(&channel("prices"), &earlier, &rows).expect("one channel");
    cursor
}

/// Cursors are with subscribers: a change of these bytes would break them all.
#[test]
fn the_encoding_never_changes() {
    let golden = "010007020301020102030405060708051122334455667788ac020600ff000000000000010101\
        06707269636573020300112233445566778814060100dffe8b9c";
    let bytes: String = example().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bytes, golden);
    assert_eq!(Cursor::decode(&example().encode()), Ok(example()));
    assert_eq!(Cursor::from_text(&example().to_text()), Ok(example()));
}

#[test]
fn thirty_origins_take_four_to_five_hundred_bytes() {
    let mut cursor = Cursor::new(NAMESPACE);
    for origin in 1..=30_u32 {
        let bits = u64::from(origin).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        cursor.advance(name(origin, bits, 1_000_000_u64 << (origin % 12)), &Rows::new());
    }
    let bytes = cursor.encode().len();
    assert!((400..=500).contains(&bytes), "{bytes} bytes");
    assert!(cursor.to_text().len() < 700);
}

#[test]
fn a_cursor_of_a_later_build_is_told_apart_from_a_damaged_one() {
    let mut bytes = example().encode().to_vec();
    bytes[0] = 2;
    let later = DecodeError::UnknownVersion { version: 2, flags: 0 };
    assert_eq!(Cursor::decode(&bytes), Err(later));
    bytes[..2].copy_from_slice(&[1, 1]);
    let signed = DecodeError::UnknownVersion { version: 1, flags: 1 };
    assert_eq!(Cursor::decode(&bytes), Err(signed));
    assert_eq!(Cursor::decode(&[]), Err(DecodeError::Damaged));
    assert_eq!(Cursor::decode(&[1, 0, 0, 0, 0]), Err(DecodeError::Damaged));
    let long = vec![1; MAX_CURSOR_BYTES + 1];
    assert_eq!(Cursor::decode(&long), Err(DecodeError::TooLong { bytes: long.len() }));
}

#[test]
fn what_is_not_written_canonically_is_refused() {
    let body = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![1, 0];
        write(&mut bytes);
        Cursor::decode(&with_checksum(bytes))
    };
    let tip = |bytes: &mut Vec<u8>, bits: u64, m_id: u64| {
        bytes.extend_from_slice(&bits.to_be_bytes());
        put_varint(bytes, m_id);
    };
    assert!(body(&|bytes| bytes.extend_from_slice(&[7, 0, 0])).is_ok());
    let one_tip = |shape: &'static [u8], bits, m_id| {
        body(&move |bytes| {
            bytes.extend_from_slice(&[7, 1, 3]);
            bytes.extend_from_slice(shape);
            tip(bytes, bits, m_id);
            bytes.push(0);
        })
    };
    assert!(one_tip(&[0], 5, 9).is_ok());
    let invalid = Err(DecodeError::Invalid);
    assert_eq!(one_tip(&[1, 1], 5, 9), invalid, "a count where there is one tip");
    assert_eq!(one_tip(&[0x80, 0], 5, 9), invalid, "a varint that is longer than it needs to be");
    assert_eq!(one_tip(&[0], 0, 9), invalid, "no incarnation");
    assert_eq!(one_tip(&[0], 5, 0), invalid, "no number");
    assert_eq!(one_tip(&[0], 5, MAX_MESSAGE_NUMBER + 1), invalid, "an impossible number");
    let empty = body(&|bytes| bytes.extend_from_slice(&[7, 1, 3, 1, 0, 0]));
    assert_eq!(empty, invalid, "a path without tips");
    let twice = |second| {
        body(&move |bytes| {
            bytes.extend_from_slice(&[7, 1, 3, 1, 2]);
            tip(bytes, 5, 9);
            tip(bytes, second, 9);
            bytes.push(0);
        })
    };
    assert!(twice(6).is_ok());
    assert_eq!(twice(5), invalid, "an incarnation twice");
    let trailing = body(&|bytes| bytes.extend_from_slice(&[7, 0, 0, 0]));
    assert_eq!(trailing, invalid);
    let endless = body(&|bytes| bytes.extend_from_slice(&[7, 255, 255, 255, 255, 15]));
    assert_eq!(endless, invalid, "more paths than bytes");
}

#[test]
fn text_has_one_form() {
    let text = example().to_text();
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    for bad in [format!("{text}="), format!("{text}A"), format!(" {text}"), "A".into()] {
        assert!(Cursor::from_text(&bad).is_err(), "{bad}");
    }
    assert_eq!(Cursor::from_text("!"), Err(DecodeError::NotBase64));
    // "AR" has bits beyond its one byte.
    assert_eq!(Cursor::from_text("AR"), Err(DecodeError::NotBase64));
    let long = "A".repeat(MAX_CURSOR_BYTES * 2);
    assert!(matches!(Cursor::from_text(&long), Err(DecodeError::TooLong { .. })));
}

/// Anybody may send a cursor: what its tips cost is bounded before it is taken.
#[test]
fn tips_past_their_number_are_refused() {
    let cursor = |origins: u32, tips_each: usize| {
        let paths = (1..=origins).map(|origin| {
            let tips =
                (1..=tips_each as u64).map(|bits| (incarnation(bits), MessageNumber::new(1)));
            let key = PathKey { origin: NodeNumber::new(origin), shard: ShardNumber::new(0) };
            (key, Tips(tips.collect()))
        });
        Cursor { tips: paths.collect(), ..Cursor::new(NAMESPACE) }
    };
    let decoded = |cursor: &Cursor| Cursor::decode(&cursor.encode());
    let origins = (MAX_CURSOR_TIPS / MAX_CURSOR_TIPS_PER_PATH) as u32;
    let full = cursor(origins, MAX_CURSOR_TIPS_PER_PATH);
    assert_eq!(decoded(&full).as_ref(), Ok(&full));
    let one_origin = cursor(1, MAX_CURSOR_TIPS_PER_PATH + 1);
    assert_eq!(decoded(&one_origin), Err(DecodeError::TooManyTips));
    let one_more = cursor(origins + 1, MAX_CURSOR_TIPS_PER_PATH);
    assert_eq!(decoded(&one_more), Err(DecodeError::TooManyTips));
    let mut apart = cursor(origins, MAX_CURSOR_TIPS_PER_PATH);
    apart.overrides.insert(channel("news"), cursor(1, 1).tips);
    assert_eq!(decoded(&apart), Err(DecodeError::TooManyTips));
}
