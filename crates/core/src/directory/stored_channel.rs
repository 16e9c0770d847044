//! A channel as this node stores it: its entry, and beside it the audit trail,
//! which is this node's own.

use bytes::Bytes;

use crate::wire_format::{Reader, Writer};

use super::audit::AuditTrail;
use super::entry::{DirectoryEntry, EntryError, encode_entry};
use super::{Channel, Directory};

impl Directory {
    /// The bytes to store for a channel; `None` if it is unknown.
    pub(crate) fn encode_stored(&self, channel: &str) -> Option<Bytes> {
        let channel = &self.channels[self.find(channel)?.place()];
        let entry = encode_entry(&channel.name, &channel.definition);
        let mut writer = Writer::with_capacity(entry.len() + 16);
        writer.bytes(1, &entry);
        if let Some(trail) = channel.trail.as_deref().filter(|trail| !trail.is_empty()) {
            writer.message(2, |writer| trail.write_fields(writer));
        }
        Some(writer.into_bytes())
    }

    /// Takes a channel back from storage, merging it with what is there.
    pub(crate) fn restore_stored(&mut self, bytes: &Bytes) -> Result<(), EntryError> {
        let (mut entry, mut trail) = (&[][..], None);
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => entry = field.bytes()?,
                2 => trail = Some(Box::new(AuditTrail::read_fields(field.message()?)?)),
                _ => {}
            }
        }
        let DirectoryEntry { channel: name, mut definition } =
            DirectoryEntry::decode(&bytes.slice_ref(entry))?;
        definition.unshare_content();
        match self.find(name.as_str()) {
            Some(slot) => {
                self.merge(slot, definition, None);
            }
            None => self.insert(Channel { name, definition, hash: 0, trail }),
        }
        Ok(())
    }
}
