//! `ChannelService`: edits and reads of channels at this node (METHOD M3). The
//! node that takes an edit is its provisional master: it fetches the source, if
//! the channel has one (METHOD M5), and stores the operation with the content.

use std::sync::Arc;

use interlock_core::admission::{
    ChannelChange, ChannelDraft, ChannelEdit, ChannelUpdate, EditCondition, EditRefusal, Etag,
};
use interlock_core::directory::Definition;
use interlock_core::identity::{MessageName, NamespaceNumber, PathName, ShardNumber};
use interlock_core::limits::MAX_CHANNEL_WATCHERS;
use interlock_core::message::{Source, TraceContext};
use interlock_core::names::ChannelName;
use interlock_core::topology::Namespace;
use interlock_rpc::convert::channel as wire;
use interlock_rpc::convert::identity::channel_name;
use interlock_rpc::convert::publish::{Durability, durability};
use interlock_rpc::convert::{IntoWire as _, InvalidField};
use interlock_rpc::services::channel::Service;
use interlock_rpc::status::{PublishOutcome, Reason, refusal};
use interlock_rpc::{trace, v1};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::acknowledgement_waiters::{Requirement, deadline_status};
use crate::channel_pages::{PageRequest, check_prefix};
use crate::channel_watch::ChannelWatch;
use crate::context::NodeContext;
use crate::deadline::answer_by;
use crate::refusals::{edit_status, ending_status, unknown_status};
use crate::source_fetcher::{FetchError, Fetched};
use crate::writer_commands::{EditAnswer, WriterCommand};

/// Events made ahead of a watcher.
const EVENTS_AHEAD: usize = 64;

/// Serves clients that edit and read channels.
#[derive(Clone)]
pub struct ChannelServer {
    context: Arc<NodeContext>,
    watchers: Arc<Semaphore>,
}

/// An edit that is durable where it was asked to be.
struct Done {
    channel: v1::Channel,
    name: MessageName,
    durable_at: Vec<String>,
}

/// An edit that changes nothing, durable where it was asked to be.
struct Unchanged {
    channel: v1::Channel,
    durable_at: Vec<String>,
}

impl ChannelServer {
    /// Serves this node's clients.
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self { context, watchers: Arc::new(Semaphore::new(MAX_CHANNEL_WATCHERS)) }
    }

    /// Has an edit stored and waits until it is durable enough.
    async fn edit(
        &self,
        namespace: &Namespace,
        edit: ChannelEdit,
        level: Durability,
        deadline: Instant,
        action: &'static str,
    ) -> Result<Done, Status> {
        let context = &self.context;
        let requirement = Requirement::new(level, namespace.number, context.me().node);
        requirement.check(&context.topology.current())?;
        let channel = edit.channel.clone();
        let (sender, receiver) = oneshot::channel();
        let command = WriterCommand::Edit(Box::new(edit), sender);
        context.writer.submit(command).await.map_err(|_| ending_status())?;
        let EditAnswer { name, definition, topology } = receiver
            .await
            .map_err(|_| unknown_status(false))?
            .map_err(|refused| edit_status(&refused))?;
        context.metrics.channel_operations.with([action]).increment();
        // Whoever reads after the answer sees what was answered.
        context.until_applied(&name).await;
        let current = || context.topology.current();
        let reached = requirement.wait(&context.hub, &name, &topology, current, deadline).await;
        if !reached.satisfied {
            return Err(deadline_status(&reached, &name, false));
        }
        let channel = wire::channel(&namespace.name, &channel, &definition);
        Ok(Done { channel, name, durable_at: reached.durable_at })
    }

    /// Answers an edit that would change nothing, because the web server has what
    /// is held: as durable as was asked for, it is the message that brought it.
    async fn unchanged(
        &self,
        namespace: &Namespace,
        channel: &ChannelName,
        held: &Definition,
        level: Durability,
        deadline: Instant,
    ) -> Result<Unchanged, Status> {
        let context = &self.context;
        let topology = context.topology.current();
        let requirement = Requirement::new(level, namespace.number, context.me().node);
        requirement.check(&topology)?;
        let here = vec![context.name().to_string()];
        let mut unchanged =
            Unchanged { channel: wire::channel(&namespace.name, channel, held), durable_at: here };
        if let Some(name) = source_writer(namespace.number, held) {
            let current = || context.topology.current();
            let reached = requirement.wait(&context.hub, &name, &topology, current, deadline).await;
            if !reached.satisfied {
                return Err(deadline_status(&reached, &name, true));
            }
            unchanged.durable_at = reached.durable_at;
        }
        Ok(unchanged)
    }

    /// The definition of a channel as it is durable here.
    fn definition(
        &self,
        namespace: &Namespace,
        channel: &ChannelName,
    ) -> Result<Definition, Status> {
        let directory = self.context.directories.namespace(namespace.number);
        directory
            .read(|directory| directory.get(channel).cloned())
            .ok_or_else(|| unknown_channel(channel))
    }

    /// A definition that can be read or edited: not deleted.
    fn live_definition(
        &self,
        namespace: &Namespace,
        channel: &ChannelName,
    ) -> Result<Definition, Status> {
        let definition = self.definition(namespace, channel)?;
        if definition.is_deleted() { Err(unknown_channel(channel)) } else { Ok(definition) }
    }

    /// Fetches a source (METHOD M5). `None` if the web server says that what is
    /// held is what it has.
    async fn fetch(&self, path: &str, held: Option<&Source>) -> Result<Option<Source>, Status> {
        let etag = held.filter(|held| held.path == path && held.digest.is_some());
        let etag = etag.map(|held| held.etag.as_str());
        let fetched = self.context.sources.fetch(path, etag).await;
        let outcome = match &fetched {
            Ok(Fetched::NotModified) => "not_modified",
            Ok(Fetched::Content(_)) => "content",
            Err(_) => "failed",
        };
        self.context.metrics.source_fetches.with([outcome]).increment();
        match fetched.map_err(|error| fetch_status(&error))? {
            Fetched::NotModified => Ok(None),
            Fetched::Content(content) => {
                // The same bytes under another ETag are no change.
                if held.is_some_and(|held| held.path == path && held.digest == Some(content.digest))
                {
                    return Ok(None);
                }
                Ok(Some(Source {
                    path: path.to_owned(),
                    content: content.content,
                    digest: Some(content.digest),
                    etag: content.etag,
                    media_type: content.media_type,
                    fetched_at: self.context.clock.wall(),
                }))
            }
        }
    }

    /// The source that an edit sets: fetched, or taken away by an empty path.
    async fn source_to_set(
        &self,
        path: String,
        held: Option<&Source>,
    ) -> Result<Option<Source>, Status> {
        let source = wire::source(path)?;
        if source.path.is_empty() {
            return Ok(Some(source));
        }
        self.fetch(&source.path, held).await
    }
}

#[tonic::async_trait]
impl Service for ChannelServer {
    type WatchChannelsStream = ReceiverStream<Result<v1::WatchChannelsResponse, Status>>;

    async fn create_channel(
        &self,
        request: Request<v1::CreateChannelRequest>,
    ) -> Result<Response<v1::CreateChannelResponse>, Status> {
        let Call { deadline, trace, request } = self.call(request);
        let namespace = self.context.member_namespace(&request.namespace)?;
        let level = durability(request.durability)?;
        let channel = channel_name(&request.channel, "channel")?;
        let draft = ChannelDraft {
            presentation: wire::presentation(request.description, request.labels)?,
            limits: wire::limits(request.max_payload_bytes, request.max_publications_per_second)?,
            source: None,
        };
        // A name that is taken is refused before anything is fetched for it.
        if let Ok(held) = self.live_definition(&namespace, &channel) {
            let text = format!("channel {channel} exists with epoch {}", held.epoch());
            return Err(refusal(Reason::ChannelExists, text)
                .with("epoch", held.epoch())
                .outcome(&PublishOutcome::not_stored())
                .into());
        }
        let source = match request.source.is_empty() {
            true => None,
            false => self.source_to_set(request.source, None).await?,
        };
        let change = ChannelChange::Create(ChannelDraft { source, ..draft });
        let edit = ChannelEdit { namespace: namespace.number, channel, change, trace };
        let done = self.edit(&namespace, edit, level, deadline, "create").await?;
        Ok(Response::new(v1::CreateChannelResponse {
            channel: Some(done.channel),
            message: Some(done.name.into_wire()),
            durable_at: done.durable_at,
        }))
    }

    async fn update_channel(
        &self,
        request: Request<v1::UpdateChannelRequest>,
    ) -> Result<Response<v1::UpdateChannelResponse>, Status> {
        let Call { deadline, trace, request } = self.call(request);
        let namespace = self.context.member_namespace(&request.namespace)?;
        let level = durability(request.durability)?;
        let channel = channel_name(&request.channel, "channel")?;
        let mut condition = wire::condition(request.epoch, &request.etag)?;
        wire::limits(
            request.max_payload_bytes.unwrap_or_default(),
            request.max_publications_per_second.unwrap_or_default(),
        )?;
        wire::presentation(
            request.description.clone().unwrap_or_default(),
            request.labels.clone(),
        )?;
        if !request.set_labels && !request.labels.is_empty() {
            let reason = "goes with set_labels, which replaces all labels";
            return Err(InvalidField::new("labels", reason).into());
        }
        let mut unchanged_source = None;
        let source = match request.source {
            Some(path) => {
                let held = self.live_definition(&namespace, &channel)?;
                // What is stale is refused before anything is fetched for it.
                check_condition(&channel, &held, condition)?;
                let source = self.source_to_set(path, held.source()).await?;
                // Meant for the epoch whose source it was compared with.
                condition.epoch = Some(held.epoch());
                unchanged_source = source.is_none().then_some(held);
                source
            }
            None => None,
        };
        let update = ChannelUpdate {
            description: request.description,
            labels: request.set_labels.then_some(request.labels),
            source,
            max_payload_bytes: request.max_payload_bytes,
            max_publications_per_second: request.max_publications_per_second,
        };
        if let Some(held) = unchanged_source
            && update == ChannelUpdate::default()
        {
            // The source was all there was to set, and it is what is held.
            let done = self.unchanged(&namespace, &channel, &held, level, deadline).await?;
            return Ok(Response::new(v1::UpdateChannelResponse {
                channel: Some(done.channel),
                message: None,
                durable_at: done.durable_at,
            }));
        }
        let change = ChannelChange::Update { condition, update };
        let edit = ChannelEdit { namespace: namespace.number, channel, change, trace };
        let done = self.edit(&namespace, edit, level, deadline, "update").await?;
        Ok(Response::new(v1::UpdateChannelResponse {
            channel: Some(done.channel),
            message: Some(done.name.into_wire()),
            durable_at: done.durable_at,
        }))
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::DeleteChannelResponse>, Status> {
        let Call { deadline, trace, request } = self.call(request);
        let namespace = self.context.member_namespace(&request.namespace)?;
        let level = durability(request.durability)?;
        let channel = channel_name(&request.channel, "channel")?;
        let condition = wire::condition(request.epoch, &request.etag)?;
        let change = ChannelChange::Delete { condition };
        let edit = ChannelEdit { namespace: namespace.number, channel, change, trace };
        let done = self.edit(&namespace, edit, level, deadline, "delete").await?;
        Ok(Response::new(v1::DeleteChannelResponse {
            epoch: done.channel.epoch,
            message: Some(done.name.into_wire()),
            durable_at: done.durable_at,
        }))
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::GetChannelResponse>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        let channel = channel_name(&request.channel, "channel")?;
        let definition = self.definition(&namespace, &channel)?;
        let directory = self.context.directories.namespace(namespace.number);
        let lost_operations = directory.read(|directory| {
            directory
                .lost_operations(&channel)
                .map(|lost| wire::lost_operation(namespace.number, lost))
                .collect()
        });
        Ok(Response::new(v1::GetChannelResponse {
            channel: Some(wire::channel(&namespace.name, &channel, &definition)),
            lost_operations,
        }))
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        let page = PageRequest::of(request)?;
        let directory = self.context.directories.namespace(namespace.number);
        Ok(Response::new(directory.read(|directory| page.read(&namespace, directory))))
    }

    async fn watch_channels(
        &self,
        request: Request<v1::WatchChannelsRequest>,
    ) -> Result<Response<Self::WatchChannelsStream>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        check_prefix(&request.prefix)?;
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            refusal(Reason::TooManyConnections, "this node has as many watchers as it takes")
        })?;
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let watch = ChannelWatch::new(Arc::clone(&self.context), namespace, request.prefix, sender);
        self.context.tasks.spawn("a watch of channels", async move {
            watch.run().await;
            drop(permit);
        })?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_channel_content(
        &self,
        request: Request<v1::GetChannelContentRequest>,
    ) -> Result<Response<v1::GetChannelContentResponse>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        let channel = channel_name(&request.channel, "channel")?;
        let definition = self.live_definition(&namespace, &channel)?;
        let content = definition
            .source()
            .and_then(|source| Some((source.content.clone(), wire::content_info(source)?)));
        let (content, info) = content.ok_or_else(|| {
            refusal(Reason::NoContent, format!("channel {channel} has no content"))
        })?;
        Ok(Response::new(v1::GetChannelContentResponse { content, info: Some(info) }))
    }

    async fn refresh_channel_content(
        &self,
        request: Request<v1::RefreshChannelContentRequest>,
    ) -> Result<Response<v1::RefreshChannelContentResponse>, Status> {
        let Call { deadline, trace, request } = self.call(request);
        let namespace = self.context.member_namespace(&request.namespace)?;
        let level = durability(request.durability)?;
        let channel = channel_name(&request.channel, "channel")?;
        let held = self.live_definition(&namespace, &channel)?;
        let path = held.source().map(|source| source.path.clone()).unwrap_or_default();
        if path.is_empty() {
            let text = format!("channel {channel} has no source");
            return Err(refusal(Reason::NoSource, text).into());
        }
        let Some(source) = self.fetch(&path, held.source()).await? else {
            let done = self.unchanged(&namespace, &channel, &held, level, deadline).await?;
            return Ok(Response::new(v1::RefreshChannelContentResponse {
                channel: Some(done.channel),
                changed: false,
                message: None,
                durable_at: done.durable_at,
            }));
        };
        // Meant for the epoch whose source was fetched.
        let condition = EditCondition { epoch: Some(held.epoch()), etag: None };
        let update = ChannelUpdate { source: Some(source), ..ChannelUpdate::default() };
        let change = ChannelChange::Update { condition, update };
        let edit = ChannelEdit { namespace: namespace.number, channel, change, trace };
        let done = self.edit(&namespace, edit, level, deadline, "refresh").await?;
        Ok(Response::new(v1::RefreshChannelContentResponse {
            channel: Some(done.channel),
            changed: true,
            message: Some(done.name.into_wire()),
            durable_at: done.durable_at,
        }))
    }
}

/// What every edit begins with.
struct Call<T> {
    deadline: Instant,
    trace: Option<TraceContext>,
    request: T,
}

impl ChannelServer {
    fn call<T>(&self, request: Request<T>) -> Call<T> {
        Call {
            deadline: answer_by(&request, self.context.config.limits.default_deadline()),
            trace: trace::of_request(&request),
            request: request.into_inner(),
        }
    }
}

/// Refuses what admission would: the definition is another than the client has
/// seen.
fn check_condition(
    channel: &ChannelName,
    held: &Definition,
    condition: EditCondition,
) -> Result<(), Status> {
    let channel = channel.clone();
    let epoch = held.epoch();
    if condition.epoch.is_some_and(|meant| meant != epoch) {
        return Err(edit_status(&EditRefusal::StaleEpoch { channel, epoch }));
    }
    let etag = Etag::of(held);
    if condition.etag.is_some_and(|seen| seen != etag) {
        return Err(edit_status(&EditRefusal::StaleEtag { channel, etag }));
    }
    Ok(())
}

/// The message that wrote the source which is held.
fn source_writer(namespace: NamespaceNumber, held: &Definition) -> Option<MessageName> {
    let stamp = held.registers()?.source.stamp?;
    let path = PathName { namespace, shard: ShardNumber::new(0), origin: stamp.origin };
    Some(MessageName { log: path.log(stamp.incarnation), m_id: stamp.m_id })
}

fn unknown_channel(channel: &ChannelName) -> Status {
    refusal(Reason::UnknownChannel, format!("channel {channel} is not known")).into()
}

/// A fetch that failed: the old content stays, nothing was stored.
fn fetch_status(error: &FetchError) -> Status {
    let text = error.to_string();
    let answer = match error {
        FetchError::BadPath { reason, .. } => {
            refusal(Reason::InvalidField, text.clone()).field(InvalidField::new("source", reason))
        }
        _ => refusal(Reason::SourceFailed, text),
    };
    answer.with("may_pass", error.may_pass()).outcome(&PublishOutcome::not_stored()).into()
}
