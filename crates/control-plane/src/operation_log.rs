//! The operations that were delivered to regions: the last of them, durable, so
//! that an operator finds what became of one after any restart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use interlock_core::limits::{
    MAX_KEPT_OPERATIONS, MAX_KEPT_OPERATIONS_BYTES, MAX_OPERATION_DETAIL_BYTES,
};
use interlock_rpc::v1::{OperationOutcome, OperationRecord};
use prost::Message as _;

use crate::failure::Failure;
use crate::store::document::{Document, DocumentContent, EditDocumentError, OpenDocumentError};
use crate::store::{ControlPlaneStore, DocumentName};

/// All that is kept, oldest first.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredOperations {
    #[prost(message, repeated, tag = "1")]
    records: Vec<OperationRecord>,
    /// The number that was given last.
    #[prost(uint64, tag = "2")]
    last_number: u64,
}

#[derive(Clone, Debug, Default)]
struct Operations {
    records: VecDeque<OperationRecord>,
    last_number: u64,
}

impl DocumentContent for Operations {
    const NAME: DocumentName = DocumentName::Operations;
    const MAX_BYTES: usize = MAX_KEPT_OPERATIONS_BYTES;

    fn initial() -> Self {
        Self::default()
    }

    fn encode(&self) -> Bytes {
        StoredOperations {
            records: self.records.iter().cloned().collect(),
            last_number: self.last_number,
        }
        .encode_to_vec()
        .into()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let stored = StoredOperations::decode(bytes.clone()).map_err(|error| error.to_string())?;
        Ok(Self { records: stored.records.into(), last_number: stored.last_number })
    }
}

/// The number of an operation, given once, rising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OperationNumber(u64);

impl OperationNumber {
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// What an operation is, before anything was sent.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) region: String,
    pub(crate) action: &'static str,
    pub(crate) namespace: String,
    pub(crate) channel: String,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct OperationResult {
    /// Who answered, or was asked last; empty if nobody could be.
    pub(crate) node: String,
    pub(crate) outcome: OperationOutcome,
    pub(crate) detail: String,
}

/// The log could not be written; the operation was not begun, or its outcome is
/// not recorded.
#[derive(Debug, thiserror::Error)]
#[error("the operation could not be recorded: {0}")]
pub(crate) struct RecordError(String);

/// The bounded log of operations.
pub(crate) struct OperationLog {
    document: Document<Operations>,
    failure: Failure,
}

impl OperationLog {
    /// Opens the log. What was under way when the process ended has an unknown
    /// outcome.
    pub(crate) async fn open(
        store: Arc<dyn ControlPlaneStore>,
        failure: Failure,
    ) -> Result<Self, OpenLogError> {
        let log = Self { document: Document::open(store).await?, failure };
        let now = now_milliseconds();
        log.edit(move |operations| {
            let mut next = operations.clone();
            let mut changed = false;
            for record in &mut next.records {
                if record.outcome() == OperationOutcome::Running {
                    record.set_outcome(OperationOutcome::Unknown);
                    record.detail = "the control-plane stopped before the answer came".to_owned();
                    record.finished_at = now;
                    changed = true;
                }
            }
            changed.then_some(next)
        })
        .await?;
        Ok(log)
    }

    /// Records that an operation begins; durable before anything is sent.
    pub(crate) async fn begin(
        &self,
        operation: &Operation,
    ) -> Result<OperationRecord, RecordError> {
        let operation = operation.clone();
        let now = now_milliseconds();
        let operations = self
            .edit(move |operations| {
                let mut next = operations.clone();
                next.last_number += 1;
                next.records.push_back(OperationRecord {
                    number: next.last_number,
                    region: operation.region.clone(),
                    node: String::new(),
                    action: operation.action.to_owned(),
                    namespace: operation.namespace.clone(),
                    channel: operation.channel.clone(),
                    outcome: OperationOutcome::Running.into(),
                    detail: String::new(),
                    started_at: now,
                    finished_at: 0,
                });
                while next.records.len() > MAX_KEPT_OPERATIONS {
                    next.records.pop_front();
                }
                Some(next)
            })
            .await?;
        Ok(operations.records.back().expect("the edit appended a record").clone())
    }

    /// Records what became of an operation, and answers its record as it is then.
    pub(crate) async fn finish(
        &self,
        begun: OperationRecord,
        result: OperationResult,
    ) -> Result<OperationRecord, RecordError> {
        let mut finished = begun;
        finished.node = result.node;
        finished.detail = shortened(result.detail);
        finished.set_outcome(result.outcome);
        finished.finished_at = now_milliseconds();
        let record = finished.clone();
        self.edit(move |operations| {
            // A thousand newer ones may have pushed it out; then nothing is to be kept.
            let index = operations.records.iter().position(|it| it.number == record.number)?;
            let mut next = operations.clone();
            next.records[index] = record.clone();
            Some(next)
        })
        .await?;
        Ok(finished)
    }

    /// A page of operations, newest first: those below `before`, of `region` if
    /// one is given. And where the next page begins, if there is one.
    pub(crate) fn page(
        &self,
        region: Option<&str>,
        before: Option<OperationNumber>,
        limit: usize,
    ) -> (Vec<OperationRecord>, Option<OperationNumber>) {
        let operations = self.document.current();
        let mut matching = operations
            .records
            .iter()
            .rev()
            .filter(|record| before.is_none_or(|before| record.number < before.get()))
            .filter(|record| region.is_none_or(|region| record.region == region));
        let page: Vec<OperationRecord> = matching.by_ref().take(limit).cloned().collect();
        let more = matching.next().is_some();
        let next = page.last().filter(|_| more).map(|last| OperationNumber::new(last.number));
        (page, next)
    }

    async fn edit(
        &self,
        edit: impl Fn(&Operations) -> Option<Operations>,
    ) -> Result<Arc<Operations>, RecordError> {
        let edited = self
            .document
            .edit(|operations| Ok::<_, std::convert::Infallible>(edit(operations)))
            .await;
        edited.map_err(|error| {
            let reason = error.to_string();
            if matches!(error, EditDocumentError::OutcomeUnknown(_)) {
                self.failure.report(reason.clone());
            }
            RecordError(reason)
        })
    }
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// Its document.
    #[error(transparent)]
    Document(#[from] OpenDocumentError),
    /// What was under way could not be marked.
    #[error("{0}")]
    Record(String),
}

impl From<RecordError> for OpenLogError {
    fn from(error: RecordError) -> Self {
        Self::Record(error.to_string())
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_OPERATION_DETAIL_BYTES {
        text.truncate(text.floor_char_boundary(MAX_OPERATION_DETAIL_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

fn now_milliseconds() -> u64 {
    // Before 1970 the clock is wrong, and the record says so by its zero.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    async fn open(store: &Arc<dyn ControlPlaneStore>) -> OperationLog {
        OperationLog::open(Arc::clone(store), Failure::new()).await.expect("opens")
    }

    fn store() -> Arc<dyn ControlPlaneStore> {
        Arc::new(MemoryStore::new())
    }

    fn operation(region: &str) -> Operation {
        Operation {
            region: region.to_owned(),
            action: "create",
            namespace: "news".to_owned(),
            channel: "front".to_owned(),
        }
    }

    fn done() -> OperationResult {
        OperationResult {
            node: "eu-1".to_owned(),
            outcome: OperationOutcome::Done,
            detail: String::new(),
        }
    }

    fn numbers(records: &[OperationRecord]) -> Vec<u64> {
        records.iter().map(|record| record.number).collect()
    }

    #[tokio::test]
    async fn records_survive_and_those_under_way_become_unknown() {
        let store = store();
        let log = open(&store).await;
        let first = log.begin(&operation("eu")).await.expect("recorded");
        assert_eq!(first.outcome(), OperationOutcome::Running);
        let first = log.finish(first, done()).await.expect("recorded");
        log.begin(&operation("us")).await.expect("recorded");
        drop(log);

        let log = open(&store).await;
        let (records, next) = log.page(None, None, 10);
        assert_eq!(numbers(&records), [2, 1], "newest first");
        assert_eq!(next, None);
        assert_eq!(records[0].outcome(), OperationOutcome::Unknown);
        assert!(records[0].finished_at > 0);
        assert_eq!(records[1], first);
        let third = log.begin(&operation("eu")).await.expect("recorded");
        assert_eq!(third.number, 3, "numbers go on over restarts");
    }

    #[tokio::test]
    async fn pages_cover_everything_once() {
        let log = open(&store()).await;
        for index in 0..25 {
            let region = if index % 3 == 0 { "us" } else { "eu" };
            log.begin(&operation(region)).await.expect("recorded");
        }
        for region in [None, Some("us"), Some("eu"), Some("mars")] {
            let (all, _) = log.page(region, None, 1000);
            for limit in [1, 4, 25, 26] {
                let mut paged = Vec::new();
                let mut before = None;
                loop {
                    let (page, next) = log.page(region, before, limit);
                    assert!(page.len() <= limit);
                    paged.extend(page);
                    match next {
                        Some(_) => before = next,
                        None => break,
                    }
                }
                assert_eq!(numbers(&paged), numbers(&all), "{region:?} by {limit}");
            }
        }
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_numbers_are_not_reused() {
        let store = store();
        let log = open(&store).await;
        let first = log.begin(&operation("eu")).await.expect("recorded");
        for _ in 0..MAX_KEPT_OPERATIONS + 5 {
            log.begin(&operation("eu")).await.expect("recorded");
        }
        let (records, _) = log.page(None, None, usize::MAX);
        assert_eq!(records.len(), MAX_KEPT_OPERATIONS);
        assert_eq!(records[0].number, MAX_KEPT_OPERATIONS as u64 + 6);
        // The one that was pushed out can still end.
        let finished = log.finish(first, done()).await.expect("nothing to record");
        assert_eq!(finished.outcome(), OperationOutcome::Done);
        assert_eq!(log.page(None, None, usize::MAX).0.len(), MAX_KEPT_OPERATIONS);
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        for pad in 0..4 {
            let text = shortened("x".repeat(pad) + &"é".repeat(MAX_OPERATION_DETAIL_BYTES));
            assert!(text.len() <= MAX_OPERATION_DETAIL_BYTES && text.ends_with('…'));
        }
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
