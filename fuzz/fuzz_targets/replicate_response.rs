//! Any bytes as a frame of the replication stream.
#![no_main]

use interlock_rpc::convert::IntoCore as _;
use interlock_rpc::v1;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = v1::ReplicateResponse::decode(data) {
        let _ = frame.into_core();
    }
});
