//! What is on disks and on wires stays readable.
//!
//! `declarations.txt` lists every field, enum value and method of the protobuf
//! files; `golden.txt` holds the bytes of one representative of each message
//! that is stored or travels between services. A line that changes or vanishes
//! breaks nodes and clients that are out there. New lines are added with
//! `INTERLOCK_ADD_TO_WIRE=1 cargo test --test wire_compatibility`, which never
//! changes one that is there.

#[path = "wire_compatibility/declarations.rs"]
mod declarations;
#[path = "wire_compatibility/representatives.rs"]
mod representatives;
#[path = "wire_compatibility/values.rs"]
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::{env, fs};

use bytes::Bytes;
use interlock_core::directory::DirectoryEntry;
use interlock_core::message::{ChannelOperation, Message};
use representatives::{Representative, representatives};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire_compatibility").join(name)
}

fn is_adding() -> bool {
    env::var_os("INTERLOCK_ADD_TO_WIRE").is_some()
}

/// Compares what a file promises with what this build says, by the key before
/// the first ` = `.
fn compare(file: &str, now: &BTreeMap<String, String>) {
    let text = fs::read_to_string(data(file)).unwrap_or_default();
    let promised: BTreeMap<String, String> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (key, value) = line.split_once(" = ").expect("`key = value`");
            (key.to_owned(), value.to_owned())
        })
        .collect();
    for (key, value) in &promised {
        assert_eq!(now.get(key), Some(value), "{file}: {key} is promised and has changed");
    }
    let added: Vec<&String> = now.keys().filter(|key| !promised.contains_key(*key)).collect();
    if is_adding() {
        let lines: String = now.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(data(file), lines).expect("the checkout is writable");
    } else {
        assert!(added.is_empty(), "{file} lacks {added:?}; see the head of this test");
    }
}

#[test]
fn field_numbers_and_types_never_change() {
    compare("declarations.txt", &declarations::all());
}

#[test]
fn bytes_of_stored_and_sent_messages_never_change() {
    let golden = representatives().into_iter().map(|representative| {
        let hexadecimal = representative.bytes.iter().map(|byte| format!("{byte:02x}"));
        (representative.name, hexadecimal.collect::<String>())
    });
    compare("golden.txt", &golden.collect());
}

/// A field that no representative of its message sets would change unseen. A field
/// that came later is set by a further case: what was promised before stays as it is.
#[test]
fn representatives_set_every_field() {
    let mut present: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for Representative { name, bytes, .. } in representatives() {
        let (message, _) = name.split_once('#').unwrap_or((&name, ""));
        let fields = present.entry(message.to_owned()).or_default();
        fields.extend(declarations::fields_present(&bytes));
    }
    for (message, present) in present {
        let declared = declarations::fields_of(&message);
        let missing: BTreeSet<_> = declared.difference(&present).collect();
        assert!(missing.is_empty(), "{message} leaves {missing:?} at their defaults");
    }
}

/// What an older build wrote is read as what it meant.
#[test]
fn golden_bytes_decode_to_what_they_were_made_from() {
    for representative in representatives() {
        (representative.check_decode)(&representative.bytes);
    }
}

/// The core reads and writes these encodings itself: to it they are the same
/// bytes.
#[test]
fn the_core_writes_the_same_bytes() {
    let all = representatives();
    let bytes_of = |name: &str| {
        let found = all.iter().find(|representative| representative.name == name);
        Bytes::from(found.expect("a representative").bytes.clone())
    };
    let send = bytes_of("Send");
    assert_eq!(Message::decode(&send).expect("a message").encode(), send);
    let operation = bytes_of("ChannelOperation");
    assert_eq!(ChannelOperation::decode(&operation).expect("an operation").encode(), operation);
    let entry = bytes_of("DirectoryEntry#live");
    assert_eq!(DirectoryEntry::decode(&entry).expect("an entry").encode(), entry);
    assert!(DirectoryEntry::decode(&bytes_of("DirectoryEntry")).is_ok());
}

/// Every message that a node stores or sends has a representative.
#[test]
fn nothing_stored_or_sent_between_services_is_left_out() {
    let covered: BTreeSet<String> = representatives()
        .iter()
        .map(|it| it.name.split('#').next().expect("a name").to_owned())
        .collect();
    for message in declarations::messages_of(&["message.proto", "replication.proto"]) {
        // The two envelopes have one representative per kind of content: the
        // content's own.
        let is_envelope = matches!(message.as_str(), "ReplicateRequest" | "ReplicateResponse");
        assert!(is_envelope || covered.contains(&message), "{message} has no representative");
    }
    let rest = declarations::messages_of(&["delivery.proto"]);
    let named = [
        "Topology",
        "RegisterNodeRequest",
        "RegisterNodeResponse",
        "RenewLeaseRequest",
        "RenewLeaseResponse",
        "WatchTopologyRequest",
        "WatchTopologyResponse",
        "RecordNamespaceOpenedRequest",
        "RecordNamespaceOpenedResponse",
        "RecordNamespaceLeftRequest",
        "RecordNamespaceLeftResponse",
        "PublishStreamRequest",
        "PublishStreamResponse",
        "AcknowledgedRange",
        "Delivery",
    ];
    for message in rest.into_iter().chain(named.map(str::to_owned)) {
        assert!(covered.contains(&message), "{message} has no representative");
    }
}
