//! In which namespaces this node may accept. A founder starts ready once; any
//! other member whose database knows nothing of a namespace takes the whole
//! state of a ready one first (the log writer follows that).
//!
//! The record of having been ready is durable before the namespace is opened, so
//! that a disk that is lost later does not start ready a second time.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use interlock_core::admission::NamespaceReadiness;
use interlock_core::identity::NamespaceNumber;
use interlock_core::topology::Topology;
use interlock_storage::StorageError;
use tokio::sync::{mpsc, watch};

use crate::context::NodeContext;
use crate::failure::NodeFailure;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;
use crate::writer_commands::WriterCommand;

const LOCK: &str = "no holder of the readiness lock panics";

/// The namespaces that are ready, for status and links.
#[derive(Debug, Default)]
pub struct ReadinessBoard {
    ready: RwLock<BTreeSet<NamespaceNumber>>,
    changes: watch::Sender<u64>,
}

impl ReadinessBoard {
    /// Whether a namespace is ready.
    pub fn is_ready(&self, namespace: NamespaceNumber) -> bool {
        self.ready.read().expect(LOCK).contains(&namespace)
    }

    /// Rises when a namespace becomes ready.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Only a member is ready.
    fn retain(&self, member_of: &[NamespaceNumber]) {
        let mut ready = self.ready.write().expect(LOCK);
        let before = ready.len();
        ready.retain(|namespace| member_of.contains(namespace));
        if ready.len() != before {
            self.changes.send_modify(|change| *change += 1);
        }
    }

    fn insert(&self, namespace: NamespaceNumber) {
        if self.ready.write().expect(LOCK).insert(namespace) {
            self.changes.send_modify(|change| *change += 1);
        }
    }
}

/// Who tells the topology that a founder has opened a namespace.
#[derive(Clone, Debug)]
pub enum OpenedRecorder {
    /// A static topology: the record on this disk is all there is.
    OnDiskOnly,
    /// The control-plane's link, which tries until it has succeeded and answers
    /// through the second channel.
    ControlPlane(mpsc::UnboundedSender<NamespaceNumber>),
}

/// What the readiness task hears.
pub struct ReadinessInputs {
    /// Backfills that are complete.
    pub backfilled: mpsc::UnboundedReceiver<NamespaceNumber>,
    /// Namespaces that the topology records as opened by this founder.
    pub recorded: mpsc::UnboundedReceiver<NamespaceNumber>,
    /// Whom to tell of what is opened.
    pub recorder: OpenedRecorder,
    /// Whether a founder may begin by itself: under a control-plane always, with
    /// a static topology when it is told to bootstrap.
    pub may_found: bool,
}

/// Decides for each namespace of the topology, until the node ends.
pub async fn watch_readiness(context: Arc<NodeContext>, inputs: ReadinessInputs) {
    let mut task = ReadinessTask { context: Arc::clone(&context), known: BTreeSet::new() };
    if let Err(error) = task.run(inputs).await {
        context.failure.report(NodeFailure::Storage(error.to_string()));
    }
}

struct ReadinessTask {
    context: Arc<NodeContext>,
    known: BTreeSet<NamespaceNumber>,
}

impl ReadinessTask {
    async fn run(&mut self, mut inputs: ReadinessInputs) -> Result<(), StorageError> {
        let mut topology = self.context.topology.watch();
        let mut ending = self.context.tasks.ending();
        loop {
            let newest = topology.borrow_and_update().clone();
            let member_of = newest.namespaces_of(self.context.me().node);
            // Whoever is a member again is decided about again.
            self.known.retain(|namespace| member_of.contains(namespace));
            self.context.readiness.retain(&member_of);
            for namespace in member_of {
                if self.known.insert(namespace) {
                    self.decide(&newest, namespace, &inputs).await?;
                }
            }
            tokio::select! {
                changed = topology.changed() => if changed.is_err() { return Ok(()) },
                Some(namespace) = inputs.backfilled.recv() => {
                    self.record(namespace).await?;
                    self.open(namespace);
                }
                Some(namespace) = inputs.recorded.recv() => self.open(namespace),
                () = until_set(&mut ending) => return Ok(()),
            }
        }
    }

    async fn decide(
        &self,
        topology: &Topology,
        namespace: NamespaceNumber,
        inputs: &ReadinessInputs,
    ) -> Result<(), StorageError> {
        let me = self.context.me().node;
        let document = document_of(namespace);
        let record =
            on_disk(&self.context.storage, move |storage| storage.load_document(&document));
        let recorded = record.await?.is_some();
        let readiness =
            NamespaceReadiness::at_opening(topology, me, namespace, recorded, inputs.may_found);
        if !readiness.is_ready() {
            tracing::info!(
                namespace = %self.context.namespace_name(namespace),
                "taking over the state of another member before accepting anything"
            );
            // A writer that is ending accepts nothing anyway.
            let _ = self.context.writer.tell(WriterCommand::BeginBackfill(namespace));
            return Ok(());
        }
        let to_be_told = topology.namespace(namespace).is_some_and(|namespace| {
            namespace.founders.iter().any(|founder| founder.node == me && !founder.opened)
        });
        if !recorded {
            self.record(namespace).await?;
        }
        match &inputs.recorder {
            OpenedRecorder::ControlPlane(recorder) if to_be_told => {
                // The link outlives this task, or the node is ending.
                let _ = recorder.send(namespace);
                // A founder that opens for the first time waits for the answer.
                if recorded {
                    self.open(namespace);
                }
            }
            _ => self.open(namespace),
        }
        Ok(())
    }

    async fn record(&self, namespace: NamespaceNumber) -> Result<(), StorageError> {
        let document = document_of(namespace);
        let incarnation = self.context.me().incarnation.get().to_be_bytes();
        on_disk(&self.context.storage, move |storage| {
            storage.store_document(&document, &incarnation)
        })
        .await
    }

    fn open(&self, namespace: NamespaceNumber) {
        if self.context.readiness.is_ready(namespace) {
            return;
        }
        tracing::info!(
            namespace = %self.context.namespace_name(namespace),
            "ready: publications and edits are accepted"
        );
        let _ = self.context.writer.tell(WriterCommand::SetReady(namespace));
        self.context.readiness.insert(namespace);
    }
}

/// Where it is kept that this node has been ready in a namespace.
pub fn document_of(namespace: NamespaceNumber) -> String {
    format!("ready/{namespace}")
}
