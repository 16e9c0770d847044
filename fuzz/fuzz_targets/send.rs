//! Any bytes as a `Send`: what decodes encodes again to something that decodes to
//! the same.
#![no_main]

use bytes::Bytes;
use interlock_core::message::{Message, MessageHead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let _ = MessageHead::decode(&bytes);
    if let Ok(message) = Message::decode(&bytes) {
        let again = Message::decode(&message.encode()).expect("what was decoded can be decoded again");
        assert_eq!(message, again);
    }
});
