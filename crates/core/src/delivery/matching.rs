//! Which channels a reader asked for: exact names, and prefixes that end in `*`.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::MAX_SUBSCRIBE_CHANNELS;
use crate::names::{ChannelName, NameError, check_channel};

/// Why a list of channels was refused. Trying the same list again cannot help.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// More entries than one reader may name.
    #[error("{given} channels were named; one subscription holds at most {MAX_SUBSCRIBE_CHANNELS}")]
    TooMany {
        /// How many were named.
        given: usize,
    },
    /// An entry that is neither a name nor a prefix.
    #[error("{pattern:?}: {reason}")]
    Name {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: NameError,
    },
}

/// One entry of a filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// One channel.
    Exact(ChannelName),
    /// All channels whose names begin so; empty means all.
    Prefix(Arc<str>),
}

impl Pattern {
    /// Reads `name`, `prefix*` or `*`.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let wrong = |reason| FilterError::Name { pattern: text.to_owned(), reason };
        match text.strip_suffix('*') {
            Some(prefix) => {
                // A prefix may end in the middle of a segment or after a slash.
                let whole = prefix.strip_suffix('/').unwrap_or(prefix);
                if !whole.is_empty() {
                    check_channel(whole).map_err(wrong)?;
                }
                Ok(Self::Prefix(Arc::from(prefix)))
            }
            None => ChannelName::parse(text).map(Self::Exact).map_err(wrong),
        }
    }
}

/// Which channels of a namespace a reader asked for. The default matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelFilter {
    exact: BTreeSet<ChannelName>,
    prefixes: Vec<Arc<str>>,
}

impl ChannelFilter {
    /// Reads a list of names and prefixes; an empty list matches every channel.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, FilterError> {
        if patterns.len() > MAX_SUBSCRIBE_CHANNELS {
            return Err(FilterError::TooMany { given: patterns.len() });
        }
        let mut filter = Self::default();
        for pattern in patterns {
            match Pattern::parse(pattern.as_ref())? {
                Pattern::Exact(name) => {
                    filter.exact.insert(name);
                }
                Pattern::Prefix(prefix) => filter.prefixes.push(prefix),
            }
        }
        filter.prefixes.sort();
        filter.prefixes.dedup();
        Ok(filter)
    }

    /// Whether a channel matches.
    pub fn matches(&self, channel: &str) -> bool {
        if self.exact.is_empty() && self.prefixes.is_empty() {
            return true;
        }
        self.exact.contains(channel)
            || self.prefixes.iter().any(|prefix| channel.starts_with(&**prefix))
    }

    /// The exact names asked for.
    pub fn exact(&self) -> impl Iterator<Item = &ChannelName> {
        self.exact.iter()
    }

    /// The exact names, if nothing else was asked for.
    pub fn only_exact(&self) -> Option<impl Iterator<Item = &ChannelName>> {
        let is_exact = self.prefixes.is_empty() && !self.exact.is_empty();
        is_exact.then(|| self.exact.iter())
    }

    /// The one channel this filter matches, if it matches exactly one.
    pub fn single(&self) -> Option<&ChannelName> {
        if self.prefixes.is_empty() && self.exact.len() == 1 { self.exact.first() } else { None }
    }

    /// As the wire carries it.
    pub fn to_patterns(&self) -> Vec<String> {
        let exact = self.exact.iter().map(ToString::to_string);
        exact.chain(self.prefixes.iter().map(|prefix| format!("{prefix}*"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_exactly_and_prefixes_from_the_start() {
        let filter = ChannelFilter::parse(&["news", "prices/*"]).expect("valid");
        assert!(filter.matches("news"));
        assert!(!filter.matches("news/today"));
        assert!(filter.matches("prices/eur"));
        assert!(!filter.matches("old/prices/eur"));
        assert!(!filter.matches("prices"));
    }

    #[test]
    fn nothing_asked_for_and_a_star_match_all() {
        assert!(ChannelFilter::default().matches("any/thing"));
        assert!(ChannelFilter::parse(&["*"]).expect("valid").matches("any/thing"));
        assert!(!ChannelFilter::parse(&["a"]).expect("valid").matches("any/thing"));
    }

    #[test]
    fn patterns_round_trip() {
        let filter = ChannelFilter::parse(&["b", "a", "p/*", "q*", "a"]).expect("valid");
        let patterns = filter.to_patterns();
        assert_eq!(patterns, ["a", "b", "p/*", "q*"]);
        assert_eq!(ChannelFilter::parse(&patterns).expect("valid"), filter);
    }

    #[test]
    fn bad_entries_are_named() {
        let error = ChannelFilter::parse(&["fine", "not fine"]).expect_err("a space");
        assert!(error.to_string().contains("not fine"));
        assert!(ChannelFilter::parse(&["a*b"]).is_err());
        assert!(ChannelFilter::parse(&["a//*"]).is_err());
        let many = vec!["a"; MAX_SUBSCRIBE_CHANNELS + 1];
        assert_eq!(
            ChannelFilter::parse(&many),
            Err(FilterError::TooMany { given: MAX_SUBSCRIBE_CHANNELS + 1 })
        );
    }
}
