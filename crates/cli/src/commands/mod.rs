//! A file for each noun of the command line.

pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod channels;
pub(crate) mod completion;
pub(crate) mod cursors;
pub(crate) mod dev;
pub(crate) mod groups;
pub(crate) mod history;
pub(crate) mod lag;
pub(crate) mod messages;
pub(crate) mod namespaces;
mod node_removal;
pub(crate) mod nodes;
pub(crate) mod operations;
pub(crate) mod publish;
mod publish_lines;
pub(crate) mod regions;
mod reports;
pub(crate) mod status;
pub(crate) mod subscribe;
pub(crate) mod topology;
mod verdict;
pub(crate) mod verify;
