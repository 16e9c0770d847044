//! Protobuf to core and back, with errors that name the field.
//!
//! What comes in is anyone's bytes: every conversion to the core checks. Payloads
//! and encoded messages are handed on without a copy.

pub mod channel;
pub mod delivery;
pub mod frames;
pub mod identity;
pub mod publish;
#[cfg(test)]
mod tests;
pub mod topology;

use std::fmt;

/// A field that breaks a rule. The same request will always be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// The path of the field, as in `publication.channel`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidField {
    /// `field` is wrong for this reason.
    pub fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }

    /// A message field that has to be there is not.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "is missing")
    }

    /// The same, seen from the message that has the field's message as `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        let separator = if self.field.is_empty() { "" } else { "." };
        self.field = format!("{parent}{separator}{}", self.field);
        self
    }
}

/// A protobuf message that stands for one of the core's types.
pub trait IntoCore {
    /// The core's type.
    type Core;

    /// Checks and converts.
    fn into_core(self) -> Result<Self::Core, InvalidField>;
}

/// A type of the core that travels as a protobuf message.
pub trait IntoWire {
    /// The protobuf message.
    type Wire;

    /// Converts.
    fn into_wire(self) -> Self::Wire;
}

/// Converts a field's message, and names the field in the error.
pub(crate) fn field<W: IntoCore>(value: W, name: &str) -> Result<W::Core, InvalidField> {
    value.into_core().map_err(|error| error.within(name))
}

/// The same for a message that has to be there.
pub(crate) fn required<W: IntoCore>(value: Option<W>, name: &str) -> Result<W::Core, InvalidField> {
    field(value.ok_or_else(|| InvalidField::missing(name))?, name)
}

/// The same for one message of many.
pub(crate) fn repeated<W: IntoCore>(
    values: Vec<W>,
    name: &str,
) -> Result<Vec<W::Core>, InvalidField> {
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            value.into_core().map_err(|error| error.within(&format!("{name}[{index}]")))
        })
        .collect()
}

/// Refuses more of a repeated field than `limit`.
pub(crate) fn at_most(count: usize, limit: usize, name: &str) -> Result<(), InvalidField> {
    if count > limit {
        return Err(InvalidField::new(name, format!("has {count} entries, more than {limit}")));
    }
    Ok(())
}

/// Parses text with the core's rules for it.
pub(crate) fn parse<T>(
    text: &str,
    parser: impl FnOnce(&str) -> Result<T, interlock_core::names::NameError>,
    name: &str,
) -> Result<T, InvalidField> {
    parser(text).map_err(|error| InvalidField::new(name, error))
}
