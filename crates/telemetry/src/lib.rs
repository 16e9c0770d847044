//! Interlock's logs, traces and metrics.
