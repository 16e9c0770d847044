//! The bytes of entries.

use interlock_wire::v1;
use proptest::prelude::*;
use prost::Message as _;

use crate::directory::{Definition, Directory, DirectoryEntry, EntryError};
use crate::message::{ChannelAction, ChannelOperation};
use crate::names::NameError;

use super::*;

fn full() -> Directory {
    let operation = ChannelOperation {
        action: ChannelAction::Create,
        presentation: Some(presentation("text")),
        source: Some(source(b"content")),
        limits: Some(limits(300)),
    };
    let mut directory = Directory::new();
    apply_all(
        &mut directory,
        &[
            said(7, 9, 2, 3, 0x0102_0304).operation("a/b", &operation),
            said(8, 1, 1, 1, 1).publication("provisional"),
            said(8, 2, 5, 4, 1).delete("tombstone"),
            said(8, 3, 1, 2, 9).limit("updated", 0),
        ],
    );
    directory
}

fn entry(name: &str) -> DirectoryEntry {
    full().entries().find(|entry| entry.channel.as_str() == name).expect("it is there")
}

#[test]
fn entries_are_what_prost_reads() {
    let bytes = entry("a/b").encode();
    let read = v1::DirectoryEntry::decode(bytes.clone()).expect("prost reads it");
    let stamp =
        v1::RegisterStamp { version: 3, stamp: 0x0102_0304, origin: 7, incarnation: 107, m_id: 9 };
    let expected = v1::DirectoryEntry {
        channel: "a/b".to_owned(),
        epoch: 2,
        deleted: false,
        version: 3,
        defined: true,
        presentation_stamp: Some(stamp),
        presentation: Some(v1::ChannelPresentation {
            description: "text".to_owned(),
            labels: [("team".to_owned(), "text".to_owned())].into(),
        }),
        source_stamp: Some(stamp),
        source: Some(v1::ChannelSource {
            path: "prices.json".to_owned(),
            content: Bytes::from_static(b"content"),
            digest: Bytes::from_static(&[5; 32]),
            etag: "\"1\"".to_owned(),
            media_type: "application/json".to_owned(),
            fetched_at: 77,
        }),
        limits_stamp: Some(stamp),
        limits: Some(v1::ChannelLimits { max_payload_bytes: 300, max_publications_per_second: 0 }),
    };
    assert_eq!(read, expected);
    assert_eq!(expected.encode_to_vec(), bytes);
}

#[test]
fn golden_bytes() {
    assert_eq!(entry("tombstone").encode()[..], *b"\x0a\x09tombstone\x10\x05\x18\x01");
    assert_eq!(entry("provisional").encode()[..], *b"\x0a\x0bprovisional\x10\x01\x20\x01");
    // A register that was set to its default is there all the same.
    assert_eq!(
        entry("updated").encode()[..],
        *b"\x0a\x07updated\x10\x01\x20\x02\
           \x52\x18\x08\x02\x11\x09\0\0\0\0\0\0\0\x18\x08\x21\x6c\0\0\0\0\0\0\0\x28\x03\
           \x5a\x00"
    );
}

#[test]
fn the_digest_is_fixed() {
    // Members of different builds compare it.
    let digest = full().digest().map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(digest, "159eb17d440fb25de7288fce6c653d7e");
    assert_eq!(Directory::new().digest(), [0; 16]);
}

#[test]
fn a_tombstone_is_its_name_and_epoch() {
    let name = "x".repeat(40);
    let mut directory = Directory::new();
    let create = said(1, 1, 1, 1, 1).create(&name, "a long description");
    apply_all(&mut directory, &[create, said(1, 2, 1, 2, 2).delete(&name)]);
    let entry = directory.entries().next().expect("a tombstone");
    assert_eq!(entry.definition, Definition::tombstone(Epoch::new(1)));
    assert!(entry.encode().len() < 50);
}

#[test]
fn entries_come_back() {
    for entry in full().entries() {
        assert_eq!(DirectoryEntry::decode(&entry.encode()), Ok(entry));
    }
}

#[test]
fn what_is_no_entry_is_refused() {
    let decode = |bytes: &'static [u8]| DirectoryEntry::decode(&Bytes::from_static(bytes));
    assert_eq!(decode(b"\x0a\x01a"), Err(EntryError::MissingEpoch));
    assert_eq!(decode(b"\x10\x01"), Err(EntryError::Channel(NameError::Empty)));
    assert!(matches!(decode(b"\x0a\x05a"), Err(EntryError::Wire(_))));
    assert!(matches!(
        decode(b"\x0a\x01a\x10\x01\x4a\x03\x1a\x01\x00"),
        Err(EntryError::Register(_))
    ));
}

#[test]
fn entries_have_one_form() {
    let decode = |bytes: &'static [u8]| {
        DirectoryEntry::decode(&Bytes::from_static(bytes)).expect("an entry").encode()
    };
    // A tombstone with leftovers, a value that nobody wrote, unknown fields.
    assert_eq!(
        decode(b"\x0a\x01a\x10\x01\x18\x01\x20\x07\x28\x01")[..],
        *b"\x0a\x01a\x10\x01\x18\x01"
    );
    assert_eq!(decode(b"\x0a\x01a\x10\x01\x5a\x02\x08\x05")[..], *b"\x0a\x01a\x10\x01");
    assert_eq!(decode(b"\x0a\x01a\x10\x01\x68\x05")[..], *b"\x0a\x01a\x10\x01");
    // A version below a register's own.
    assert_eq!(
        decode(b"\x0a\x01a\x10\x01\x52\x0b\x08\x05\x21\x01\0\0\0\0\0\0\0")[..],
        *b"\x0a\x01a\x10\x01\x20\x05\x52\x0b\x08\x05\x21\x01\0\0\0\0\0\0\0\x5a\x00"
    );
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = DirectoryEntry::decode(&bytes);
        let _ = Directory::new().restore_stored(&bytes);
    }

    /// Damaged entries: whatever is read is of the one form and can be merged.
    #[test]
    fn damaged_bytes_are_refused_or_read(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for entry in full().entries() {
            let mut bytes = entry.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(read) = DirectoryEntry::decode(&Bytes::from(bytes)) {
                prop_assert_eq!(DirectoryEntry::decode(&read.encode()), Ok(read.clone()));
                full().merge_entry(read);
            }
        }
    }
}
