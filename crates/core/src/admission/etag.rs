//! The version of a definition, as clients name it for conditional edits.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::Xxh3;

use crate::directory::{Definition, RegisterStamp};
use crate::identity::{Epoch, RegisterVersion};

/// Names what a definition was when somebody read it: its epoch, its version for
/// people, and a digest of which messages wrote its registers. The version alone
/// would not do: two concurrent edits write the same one, and whoever has seen
/// the first has not seen the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag {
    epoch: Epoch,
    version: RegisterVersion,
    digest: u64,
}

/// A text that no definition was ever named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an etag has the form `epoch.version-digest`, as it was read with the channel")]
pub struct EtagError;

impl Etag {
    /// The etag of a definition as it is now.
    pub fn of(definition: &Definition) -> Self {
        let mut hasher = Xxh3::new();
        let mut version = RegisterVersion::new(0);
        let registers = definition.registers();
        let stamps: [Option<RegisterStamp>; 3] = [
            registers.and_then(|registers| registers.presentation.stamp),
            registers.and_then(|registers| registers.source.stamp),
            registers.and_then(|registers| registers.limits.stamp),
        ];
        for stamp in stamps {
            match stamp {
                Some(stamp) => {
                    version = version.max(stamp.version);
                    hasher.update(&stamp.version.get().to_be_bytes());
                    hasher.update(&stamp.stamp.get().to_be_bytes());
                    hasher.update(&stamp.origin.get().to_be_bytes());
                    hasher.update(&stamp.incarnation.get().to_be_bytes());
                    hasher.update(&stamp.m_id.get().to_be_bytes());
                }
                None => hasher.update(&[0]),
            }
        }
        hasher.update(&[u8::from(definition.is_deleted()), u8::from(definition.is_defined())]);
        Self { epoch: definition.epoch(), version, digest: hasher.digest() }
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{:016x}", self.epoch, self.version, self.digest)
    }
}

impl FromStr for Etag {
    type Err = EtagError;

    fn from_str(text: &str) -> Result<Self, EtagError> {
        let (numbers, digest) = text.split_once('-').ok_or(EtagError)?;
        let (epoch, version) = numbers.split_once('.').ok_or(EtagError)?;
        let etag = Self {
            epoch: Epoch::new(epoch.parse().map_err(|_| EtagError)?),
            version: RegisterVersion::new(version.parse().map_err(|_| EtagError)?),
            digest: u64::from_str_radix(digest, 16).map_err(|_| EtagError)?,
        };
        // One spelling: what is not written like this was not read from us.
        if etag.to_string() == text { Ok(etag) } else { Err(EtagError) }
    }
}
