//! Sends the base of a namespace on one stream: what is left of messages that are
//! trimmed here, before the holes that they leave. A page at a time, so that a
//! large namespace delays neither acknowledgements nor what is new.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use interlock_core::directory::DirectoryEntry;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber};
use interlock_core::limits::{
    MAX_BASE_ENTRIES_BYTES, MAX_BASE_ENTRIES_PER_FRAME, MAX_TRIM_POINTS_PER_FRAME,
};
use interlock_core::names::ChannelName;
use interlock_core::projection::channel_index::{all_trim_points, decode_any_trim_point};
use interlock_core::replication::frames::{BaseEntries, Hole, TrimPoint};
use interlock_storage::{ProjectionKind, StorageError};

use crate::context::NodeContext;
use crate::stored_messages::on_disk;

/// The bases of one stream.
#[derive(Debug, Default)]
pub struct BaseSending {
    due: VecDeque<NamespaceNumber>,
    current: Option<Progress>,
    /// The floors as of the beginning of the last base that was sent whole.
    sent: BTreeMap<NamespaceNumber, BTreeMap<LogName, MessageNumber>>,
}

/// How far one base is.
#[derive(Debug)]
struct Progress {
    namespace: NamespaceNumber,
    /// The floors as it began: what it stands for.
    floors: BTreeMap<LogName, MessageNumber>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// After this channel.
    Directory(Option<ChannelName>),
    /// After this key of the index.
    TrimPoints(Option<Bytes>),
}

impl BaseSending {
    /// Whether a hole may follow: the base that stands for it has been sent.
    pub fn covers(&self, hole: &Hole) -> bool {
        let floors = self.sent.get(&hole.log.namespace);
        floors
            .and_then(|floors| floors.get(&hole.log))
            .is_some_and(|floor| *floor >= hole.through.m_id)
    }

    /// The base of a namespace is to be sent, as of now.
    pub fn need(&mut self, namespace: NamespaceNumber) {
        let is_under_way =
            self.current.as_ref().is_some_and(|current| current.namespace == namespace);
        if !is_under_way && !self.due.contains(&namespace) {
            self.due.push_back(namespace);
        }
    }

    /// The next page, if a base is due.
    pub async fn next_page(
        &mut self,
        context: &NodeContext,
    ) -> Result<Option<BaseEntries>, StorageError> {
        let mut progress = match self.current.take() {
            Some(progress) => progress,
            None => match self.due.pop_front() {
                Some(namespace) => Progress::begin(context, namespace).await,
                None => return Ok(None),
            },
        };
        let page = progress.page(context).await?;
        if page.last {
            self.sent.insert(progress.namespace, progress.floors);
        } else {
            self.current = Some(progress);
        }
        Ok(Some(page))
    }
}

impl Progress {
    async fn begin(context: &NodeContext, namespace: NamespaceNumber) -> Self {
        // A floor is told after what it stands for was stored and applied; a hole
        // that was taken from another may not have been gone over yet.
        context.durable.until_applied(namespace).await;
        let logs = context.durable.logs(|log| log.namespace == namespace);
        let floors = logs.into_iter().map(|log| (log.row.log, log.floor)).collect();
        Self { namespace, floors, place: Place::Directory(None) }
    }

    async fn page(&mut self, context: &NodeContext) -> Result<BaseEntries, StorageError> {
        let mut page = BaseEntries {
            namespace: self.namespace,
            directory: Vec::new(),
            trim_points: Vec::new(),
            last: false,
        };
        match &mut self.place {
            Place::Directory(after) => {
                let last = directory_page(context, self.namespace, after.as_ref(), &mut page);
                self.place = match last {
                    Some(last) => Place::Directory(Some(last)),
                    None => Place::TrimPoints(None),
                };
            }
            Place::TrimPoints(after) => {
                let (points, next) = trim_points(context, self.namespace, after.take()).await?;
                page.trim_points = points;
                page.last = next.is_none();
                *after = next;
            }
        }
        Ok(page)
    }
}

/// Fills a page with channels; the last of them if there are more.
fn directory_page(
    context: &NodeContext,
    namespace: NamespaceNumber,
    after: Option<&ChannelName>,
    page: &mut BaseEntries,
) -> Option<ChannelName> {
    context.directories.namespace(namespace).read(|directory| {
        let mut bytes = 0;
        for (channel, definition) in directory.list("", after.map(ChannelName::as_str)) {
            let (channel, definition) = (channel.clone(), definition.clone());
            let encoded = DirectoryEntry { channel: channel.clone(), definition }.encode();
            bytes += encoded.len();
            page.directory.push(encoded);
            let is_full = page.directory.len() >= MAX_BASE_ENTRIES_PER_FRAME;
            if bytes >= MAX_BASE_ENTRIES_BYTES || is_full {
                return Some(channel);
            }
        }
        None
    })
}

/// A page of trim points, and where the next one begins.
async fn trim_points(
    context: &NodeContext,
    namespace: NamespaceNumber,
    after: Option<Bytes>,
) -> Result<(Vec<TrimPoint>, Option<Bytes>), StorageError> {
    let scan = all_trim_points(namespace);
    let stored = on_disk(&context.storage, move |storage| {
        storage.scan_projection(
            ProjectionKind::ChannelIndex,
            &scan.prefix,
            after.as_deref(),
            MAX_TRIM_POINTS_PER_FRAME,
        )
    });
    let stored = stored.await?;
    let next = (stored.len() == MAX_TRIM_POINTS_PER_FRAME)
        .then(|| stored.last().map(|(key, _)| key.clone()))
        .flatten();
    let points = stored.iter().map(|(key, value)| decode_any_trim_point(key, value));
    let points = points.collect::<Result<_, _>>().map_err(|error| StorageError::Read {
        what: "the channel index",
        detail: error.to_string(),
    })?;
    Ok((points, next))
}
