//! Channels: what describes one, and what an edit sets.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use interlock_core::admission::{EditCondition, Etag, EtagError};
use interlock_core::directory::{Definition, LostOperation};
use interlock_core::identity::{Epoch, NamespaceNumber};
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use interlock_core::message::{ChannelLimits, OperationError, Presentation, Source};
use interlock_core::names::{ChannelName, NamespaceName};

use super::{IntoWire as _, InvalidField};
use crate::v1;

/// A channel as clients see it.
pub fn channel(
    namespace: &NamespaceName,
    name: &ChannelName,
    definition: &Definition,
) -> v1::Channel {
    let presentation = definition.presentation().cloned().unwrap_or_default();
    let limits = definition.limits();
    let source = definition.source();
    v1::Channel {
        namespace: namespace.as_str().to_owned(),
        name: name.as_str().to_owned(),
        epoch: definition.epoch().get(),
        etag: Etag::of(definition).to_string(),
        description: presentation.description,
        labels: presentation.labels,
        source: source.map(|source| source.path.clone()).unwrap_or_default(),
        content: source.and_then(content_info),
        max_payload_bytes: limits.max_payload_bytes,
        max_publications_per_second: limits.max_publications_per_second,
        provisional: definition.is_provisional(),
        deleted: definition.is_deleted(),
    }
}

/// What describes a source's content; `None` before it was fetched.
pub fn content_info(source: &Source) -> Option<v1::ChannelContentInfo> {
    let digest = source.digest?;
    let mut hexadecimal = String::with_capacity(64);
    for byte in digest {
        write!(hexadecimal, "{byte:02x}").expect("a String takes all that is written");
    }
    Some(v1::ChannelContentInfo {
        size_bytes: source.content.len() as u64,
        digest: hexadecimal,
        etag: source.etag.clone(),
        media_type: source.media_type.clone(),
        fetched_at: source.fetched_at.get(),
    })
}

/// An operation that a concurrent one outweighed.
pub fn lost_operation(namespace: NamespaceNumber, lost: &LostOperation) -> v1::LostOperation {
    v1::LostOperation {
        message: Some(lost.name(namespace).into_wire()),
        what: lost.what(),
        epoch: lost.epoch.get(),
        version: lost.version().get(),
        stamp: lost.stamp.stamp.get(),
    }
}

/// What an edit was made from: epoch 0 is the present one, and an empty etag any.
pub fn condition(epoch: u64, etag: &str) -> Result<EditCondition, InvalidField> {
    let etag = match etag {
        "" => None,
        text => Some(text.parse().map_err(|error: EtagError| InvalidField::new("etag", error))?),
    };
    Ok(EditCondition { epoch: (epoch != 0).then(|| Epoch::new(epoch)), etag })
}

/// Description and labels within their limits.
pub fn presentation(
    description: String,
    labels: BTreeMap<String, String>,
) -> Result<Presentation, InvalidField> {
    let presentation = Presentation { description, labels };
    presentation.check().map_err(over_limit)?;
    Ok(presentation)
}

/// Limits of a channel's publications; 0 is the node's default.
pub fn limits(
    max_payload_bytes: u32,
    max_publications_per_second: u32,
) -> Result<ChannelLimits, InvalidField> {
    if max_payload_bytes as usize > MAX_PAYLOAD_BYTES {
        let reason = format!("is above {MAX_PAYLOAD_BYTES}");
        return Err(InvalidField::new("max_payload_bytes", reason));
    }
    Ok(ChannelLimits { max_payload_bytes, max_publications_per_second })
}

/// A source that is yet to be fetched. Its path is joined to the region's web
/// origin, so it must not be able to name another.
pub fn source(path: String) -> Result<Source, InvalidField> {
    let wrong = |reason| Err(InvalidField::new("source", reason));
    if !path.is_empty() {
        if !path.starts_with('/') || path.starts_with("//") {
            return wrong("must be a path that begins with one slash");
        }
        if path.chars().any(|character| character.is_control() || character == '\\') {
            return wrong("must not hold backslashes or control characters");
        }
        let segments = path.split(['?', '#']).next().unwrap_or_default().split('/');
        if segments.into_iter().any(|segment| matches!(segment, "." | "..")) {
            return wrong("must not hold the segments `.` or `..`");
        }
    }
    let source = Source { path, ..Source::default() };
    source.check().map_err(over_limit)?;
    Ok(source)
}

/// The core names the register; the request has its fields side by side.
fn over_limit(error: OperationError) -> InvalidField {
    match error {
        OperationError::OverLimit { field, limit } => {
            let field = match field {
                "source.path" => "source",
                field if field.starts_with("a label") => "labels",
                field => field,
            };
            InvalidField::new(field, format!("is beyond its limit of {limit}"))
        }
        other => InvalidField::new("", other),
    }
}
