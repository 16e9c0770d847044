//! Any bytes as a cursor. The encoding is canonical: what decodes encodes to the
//! same bytes.
#![no_main]

use interlock_core::cursor::Cursor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(cursor) = Cursor::decode(data) {
        assert_eq!(&cursor.encode()[..], data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Cursor::from_text(text);
    }
});
