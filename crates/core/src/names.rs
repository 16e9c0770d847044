//! Names that people give: channels, namespaces, regions, nodes and groups.
//!
//! A name is checked once, where it enters; whoever holds one of these types
//! need not check again. Cloning one copies a pointer.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{MAX_CHANNEL_NAME_BYTES, MAX_PLACE_NAME_BYTES};

/// Why a name was refused. Trying again with the same name cannot help.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than its kind of name may be.
    #[error("a name of {bytes} bytes is longer than {limit}")]
    TooLong {
        /// What was given.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A character that this kind of name may not have.
    #[error("the character {character:?} at byte {position} is not allowed in {allowed}")]
    Character {
        /// The first such character.
        character: char,
        /// Where it stands.
        position: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A channel name with an empty segment, `.` or `..`: paths and URLs that
    /// carry the name would change it.
    #[error("a channel name's segments must not be empty, `.` or `..`")]
    Segment,
    /// A hyphen at an end.
    #[error("a name must not begin or end with a hyphen")]
    Hyphen,
}

/// Declares a checked name over a shared string.
macro_rules! name {
    ($(#[$meta:meta])* $name:ident checked by $check:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

name! {
    /// A channel's name within its namespace: segments of `a-z A-Z 0-9 . _ -`
    /// joined by `/`.
    ChannelName checked by check_channel
}
name! {
    /// A namespace's name, like a DNS label.
    NamespaceName checked by check_place
}
name! {
    /// A region's name, like a DNS label.
    RegionName checked by check_place
}
name! {
    /// A node's name, like a DNS label.
    NodeName checked by check_place
}
name! {
    /// A group's name, like a DNS label.
    GroupName checked by check_place
}

/// Checks a channel's name without keeping it: for readers of messages that
/// borrow it.
pub fn check_channel(text: &str) -> Result<(), NameError> {
    check_length(text, MAX_CHANNEL_NAME_BYTES)?;
    check_characters(text, "a channel name (a-z A-Z 0-9 . _ - /)", |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/')
    })?;
    if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(NameError::Segment);
    }
    Ok(())
}

fn check_place(text: &str) -> Result<(), NameError> {
    check_length(text, MAX_PLACE_NAME_BYTES)?;
    check_characters(text, "this name (a-z 0-9 -)", |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
    })?;
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

fn check_length(text: &str, limit: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        bytes if bytes > limit => Err(NameError::TooLong { bytes, limit }),
        _ => Ok(()),
    }
}

fn check_characters(
    text: &str,
    allowed: &'static str,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<(), NameError> {
    // Everything allowed is ASCII, so bytes decide; characters are for the error.
    if text.bytes().all(&is_allowed) {
        return Ok(());
    }
    let found = text.char_indices().find(|(_, character)| {
        !u8::try_from(*character).is_ok_and(|b| b.is_ascii() && is_allowed(b))
    });
    match found {
        Some((position, character)) => Err(NameError::Character { character, position, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_paths_of_plain_segments() {
        for good in ["a", "prices/EUR.USD", "a_b-c/D/9", &"x".repeat(256), "...", "a/..."] {
            assert_eq!(ChannelName::parse(good).expect(good).as_str(), good);
        }
        assert_eq!(ChannelName::parse(""), Err(NameError::Empty));
        for bad in ["/a", "a/", "a//b", ".", "a/../b", "/"] {
            assert_eq!(ChannelName::parse(bad), Err(NameError::Segment), "{bad}");
        }
        assert!(matches!(
            ChannelName::parse("aé*"),
            Err(NameError::Character { character: 'é', position: 1, .. })
        ));
        assert_eq!(
            ChannelName::parse(&"x".repeat(257)),
            Err(NameError::TooLong { bytes: 257, limit: 256 })
        );
    }

    #[test]
    fn places_are_named_like_dns_labels() {
        for good in ["eu-1", "a", "0", &"x".repeat(63)] {
            assert_eq!(RegionName::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "A", "a.b", "a/b", "a_b", "-a", "a-", "é", &"x".repeat(64)] {
            assert!(RegionName::parse(bad).is_err(), "{bad}");
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
    }
}
