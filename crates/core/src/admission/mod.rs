//! What the single writer of a push-node decides: which publication, channel
//! edit or received frame is appended to which log, under which name.

mod append_entry;

pub use append_entry::AppendEntry;
