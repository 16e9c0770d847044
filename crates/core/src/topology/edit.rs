//! Edits of the topology document: pure functions from one version to the next.
