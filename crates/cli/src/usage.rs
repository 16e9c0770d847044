//! The caller's mistakes, which end with an exit code of their own.

use std::fmt;

/// The caller's mistake.
#[derive(Debug)]
pub struct UsageError(String);

impl UsageError {
    /// A mistake, in words; as the context of an error it makes that one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A mistake of the caller, as an error.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(UsageError::new(text))
}
