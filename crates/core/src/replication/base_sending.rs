//! The bases that one stream sends: what is left of messages that are trimmed here,
//! before the holes that they leave. When one is due, what it stands for, and how it is
//! cut into pages; reading the pages is the driver's business.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::directory::{Directory, DirectoryEntry};
use crate::identity::{LogName, MessageNumber, NamespaceNumber};
use crate::limits::{
    MAX_BASE_ENTRIES_BYTES, MAX_BASE_ENTRIES_PER_FRAME, MAX_TRIM_POINTS_PER_FRAME,
};
use crate::names::ChannelName;
use crate::projection::LoadError;
use crate::projection::channel_index::{IndexScan, all_trim_points, decode_any_trim_point};
use crate::replication::frames::{BaseEntries, Hole, NamespaceDigest};

/// Why a peer gets a base though no hole asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseCause {
    /// It is not ready: it takes the whole state over.
    NotReady,
    /// It holds the same messages and other channels: each sends its own to the other,
    /// and they merge.
    StateDiffers,
}

/// Whether a peer that answered a greeting with these digests gets the base of a
/// namespace, of which `ours` was said.
pub fn cause_of_base(ours: &NamespaceDigest, theirs: &[NamespaceDigest]) -> Option<BaseCause> {
    match theirs.iter().find(|theirs| theirs.namespace == ours.namespace) {
        None => Some(BaseCause::NotReady),
        Some(theirs) if theirs.tips == ours.tips && theirs.state != ours.state => {
            Some(BaseCause::StateDiffers)
        }
        Some(_) => None,
    }
}

/// How large a page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Bytes of directory entries, about.
    pub bytes: usize,
    /// Directory entries.
    pub entries: usize,
    /// Trim points.
    pub trim_points: usize,
}

impl Default for PageLimits {
    fn default() -> Self {
        Self {
            bytes: MAX_BASE_ENTRIES_BYTES,
            entries: MAX_BASE_ENTRIES_PER_FRAME,
            trim_points: MAX_TRIM_POINTS_PER_FRAME,
        }
    }
}

/// What the next page is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageSource {
    /// The directory of this namespace: see [`BaseSending::directory_page`].
    Directory(NamespaceNumber),
    /// So many entries of the stored channel index: see
    /// [`BaseSending::trim_points_page`].
    TrimPoints(IndexScan, usize),
}

/// The bases of one stream.
#[derive(Debug, Default)]
pub struct BaseSending {
    limits: PageLimits,
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
    /// No base yet, and pages of this size.
    pub fn new(limits: PageLimits) -> Self {
        Self { limits, ..Self::default() }
    }

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

    /// Whether a page can be sent.
    pub fn is_due(&self) -> bool {
        self.current.is_some() || !self.due.is_empty()
    }

    /// The base that comes next, if none is under way.
    pub fn next_to_begin(&self) -> Option<NamespaceNumber> {
        if self.current.is_some() { None } else { self.due.front().copied() }
    }

    /// Begins [the next base](Self::next_to_begin). Of each log of the namespace
    /// `floors` has the last message that is not held: all of that has been applied to
    /// what the pages are made of, or had come as a base itself.
    pub fn begin(&mut self, floors: BTreeMap<LogName, MessageNumber>) {
        if self.current.is_none()
            && let Some(namespace) = self.due.pop_front()
        {
            self.current = Some(Progress { namespace, floors, place: Place::Directory(None) });
        }
    }

    /// What the next page is made of; none if no base was begun.
    pub fn next_page(&self) -> Option<PageSource> {
        let Progress { namespace, place, .. } = self.current.as_ref()?;
        Some(match place {
            Place::Directory(_) => PageSource::Directory(*namespace),
            Place::TrimPoints(after) => {
                let scan = IndexScan { after: after.clone(), ..all_trim_points(*namespace) };
                PageSource::TrimPoints(scan, self.limits.trim_points)
            }
        })
    }

    /// A page of channels.
    pub fn directory_page(&mut self, directory: Option<&Directory>) -> Option<BaseEntries> {
        let Progress { namespace, place, .. } = self.current.as_mut()?;
        let Place::Directory(after) = place else { return None };
        let mut page = empty_page(*namespace);
        let (mut bytes, mut last) = (0, None);
        let channels = directory
            .into_iter()
            .flat_map(|directory| directory.list("", after.as_ref().map(ChannelName::as_str)));
        for (channel, definition) in channels {
            let (channel, definition) = (channel.clone(), definition.clone());
            let encoded = DirectoryEntry { channel: channel.clone(), definition }.encode();
            bytes += encoded.len();
            page.directory.push(encoded);
            if bytes >= self.limits.bytes || page.directory.len() >= self.limits.entries {
                last = Some(channel);
                break;
            }
        }
        *place = match last {
            Some(last) => Place::Directory(Some(last)),
            None => Place::TrimPoints(None),
        };
        Some(page)
    }

    /// A page of trim points, from what was found of the index. The base is complete with
    /// the last one.
    pub fn trim_points_page(
        &mut self,
        found: &[(Bytes, Bytes)],
    ) -> Result<Option<BaseEntries>, LoadError> {
        let Some(mut progress) = self.current.take() else { return Ok(None) };
        let mut page = empty_page(progress.namespace);
        let points = found.iter().map(|(key, value)| decode_any_trim_point(key, value));
        page.trim_points = points.collect::<Result<_, _>>()?;
        let next = found.last().filter(|_| found.len() >= self.limits.trim_points);
        match next {
            Some((key, _)) => {
                progress.place = Place::TrimPoints(Some(key.clone()));
                self.current = Some(progress);
            }
            None => {
                page.last = true;
                self.sent.insert(progress.namespace, progress.floors);
            }
        }
        Ok(Some(page))
    }
}

fn empty_page(namespace: NamespaceNumber) -> BaseEntries {
    BaseEntries { namespace, directory: Vec::new(), trim_points: Vec::new(), last: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HybridTime;
    use crate::identity::{ChainHash, Mark, MessageName};
    use crate::message::{Message, MessageKind};
    use crate::projection::channel_index::{ChannelHash, trim_point_key};
    use crate::replication::frames::TrimPoint;
    use crate::replication::specimens::{log_of, number};

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

    fn hole(through: u64) -> Hole {
        let through = Mark { m_id: number(through), hash: ChainHash::EMPTY };
        Hole { log: log_of(1, 1), from: number(1), through, stamp: HybridTime::ZERO }
    }

    fn directory(channels: &[&str]) -> Directory {
        let mut directory = Directory::new();
        for (m_id, channel) in (1..).zip(channels) {
            let message = Message {
                m_id: number(m_id),
                groups: Vec::new(),
                kind: MessageKind::Publication,
                stamp: HybridTime::new(m_id),
                parents: Vec::new(),
                topology_version: Default::default(),
                channel: ChannelName::parse(channel).expect("a good name").into(),
                epoch: crate::identity::Epoch::new(1),
                version: crate::identity::RegisterVersion::new(1),
                key: Bytes::new(),
                publisher: None,
                possibly_repeated: false,
                trace: None,
                payload: Bytes::new(),
            };
            let name = MessageName { log: log_of(1, 1), m_id: number(m_id) };
            directory.apply(&name, &message);
        }
        directory
    }

    /// Sends all pages of what is under way: channels and trim points, a page each.
    fn pages(
        sending: &mut BaseSending,
        directory: &Directory,
        stored: &[(Bytes, Bytes)],
    ) -> Vec<(usize, usize)> {
        let mut pages = Vec::new();
        while let Some(source) = sending.next_page() {
            let page = match source {
                PageSource::Directory(_) => sending.directory_page(Some(directory)),
                PageSource::TrimPoints(scan, limit) => {
                    let is_after = |key: &Bytes| scan.after.as_ref().is_none_or(|it| key > it);
                    let found = stored.iter().filter(|(key, _)| is_after(key));
                    let found: Vec<_> = found.take(limit).cloned().collect();
                    sending.trim_points_page(&found).expect("they can be read")
                }
            };
            let page = page.expect("one is under way");
            pages.push((page.directory.len(), page.trim_points.len()));
            assert_eq!(page.last, sending.next_page().is_none());
        }
        pages
    }

    #[test]
    fn a_base_is_cut_into_pages_and_stands_for_the_floors_it_began_with() {
        let limits = PageLimits { entries: 2, trim_points: 2, ..PageLimits::default() };
        let mut sending = BaseSending::new(limits);
        sending.need(NAMESPACE);
        sending.need(NAMESPACE);
        assert!(sending.is_due() && sending.next_page().is_none());
        assert_eq!(sending.next_to_begin(), Some(NAMESPACE));
        sending.begin([(log_of(1, 1), number(5))].into());
        // It is trimmed further meanwhile: that is another base's.
        assert_eq!(sending.next_to_begin(), None);
        sending.need(NAMESPACE);
        assert!(!sending.covers(&hole(5)), "it has not been sent");
        let mut stored: Vec<(Bytes, Bytes)> = (1..=3)
            .map(|channel| {
                let channel = ChannelHash::new(channel);
                let point = TrimPoint { log: log_of(1, 1), channel, m_id: number(4) };
                (trim_point_key(&point), Bytes::copy_from_slice(&4_u64.to_be_bytes()))
            })
            .collect();
        stored.sort();
        let directory = directory(&["a", "b", "c"]);
        assert_eq!(pages(&mut sending, &directory, &stored), [(2, 0), (1, 0), (0, 2), (0, 1)]);
        assert!(sending.covers(&hole(5)) && !sending.covers(&hole(6)));
        assert!(!sending.is_due(), "asked for while it was under way");
    }

    /// Channels with much to say fill a page before their number does, and each one goes
    /// however much that is.
    #[test]
    fn a_page_ends_when_it_is_large_enough() {
        let directory = directory(&["a", "b", "c"]);
        let entry = |(channel, definition): (&ChannelName, &crate::directory::Definition)| {
            let (channel, definition) = (channel.clone(), definition.clone());
            DirectoryEntry { channel, definition }.encode().len()
        };
        let bytes = directory.list("", None).map(entry).max().expect("three channels");
        for (bytes, expected) in
            [(1, vec![1, 1, 1]), (bytes + 1, vec![2, 1]), (3 * bytes + 1, vec![3])]
        {
            let limits = PageLimits { bytes, entries: 1_000, trim_points: 1 };
            let mut sending = BaseSending::new(limits);
            sending.need(NAMESPACE);
            sending.begin(BTreeMap::new());
            let mut sent: Vec<usize> = pages(&mut sending, &directory, &[])
                .into_iter()
                .map(|(channels, _)| channels)
                .collect();
            assert_eq!(sent.pop(), Some(0), "the trim points");
            sent.retain(|channels| *channels > 0);
            assert_eq!(sent, expected, "{bytes} bytes");
        }
    }

    #[test]
    fn an_empty_base_is_one_page_of_each_kind() {
        let mut sending = BaseSending::default();
        assert_eq!(sending.directory_page(None), None, "none was begun");
        sending.need(NAMESPACE);
        sending.begin(BTreeMap::new());
        assert_eq!(pages(&mut sending, &Directory::new(), &[]), [(0, 0), (0, 0)]);
        assert!(!sending.covers(&hole(1)));
    }

    #[test]
    fn who_is_not_ready_and_who_differs_gets_a_base() {
        let digest = |tips, state| NamespaceDigest {
            namespace: NAMESPACE,
            tips: [tips; 16],
            state: [state; 16],
        };
        let cause = |theirs: &[NamespaceDigest]| cause_of_base(&digest(1, 1), theirs);
        assert_eq!(cause(&[]), Some(BaseCause::NotReady));
        assert_eq!(cause(&[digest(1, 2)]), Some(BaseCause::StateDiffers));
        assert_eq!(cause(&[digest(2, 2)]), None, "messages follow first");
        assert_eq!(cause(&[digest(1, 1)]), None);
    }
}
