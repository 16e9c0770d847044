//! Any bytes as a channel operation.
#![no_main]

use bytes::Bytes;
use interlock_core::message::ChannelOperation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(operation) = ChannelOperation::decode(&Bytes::copy_from_slice(data)) {
        let again = ChannelOperation::decode(&operation.encode()).expect("it decoded before");
        assert_eq!(operation, again);
    }
});
