//! `ChannelService`: edits and reads of channels at this node (METHOD M3). The
//! node that takes an edit is its provisional master: it fetches the source, if
//! the channel has one (METHOD M5), and stores the operation with the content.

use std::sync::Arc;

use interlock_core::admission::{
    ChannelChange, ChannelDraft, ChannelEdit, ChannelUpdate, EditCondition, Etag,
};
use interlock_core::directory::Definition;
use interlock_core::identity::{Epoch, MessageName};
use interlock_core::limits::MAX_CHANNEL_NAME_BYTES;
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
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::acknowledgement_waiters::{Requirement, deadline_status};
use crate::channel_watch::ChannelWatch;
use crate::context::NodeContext;
use crate::deadline::answer_by;
use crate::refusals::{edit_status, ending_status, unknown_status};
use crate::source_fetcher::{FetchError, Fetched};
use crate::writer_commands::{EditAnswer, WriterCommand};

/// Channels in one page if the request names no size.
const DEFAULT_PAGE: usize = 100;
/// Channels in one page at most.
const MAX_PAGE: usize = 1000;
/// Events made ahead of a watcher.
const EVENTS_AHEAD: usize = 64;

/// Serves clients that edit and read channels.
#[derive(Clone)]
pub struct ChannelServer {
    context: Arc<NodeContext>,
}

/// An edit that is durable where it was asked to be.
struct Done {
    channel: v1::Channel,
    name: MessageName,
    durable_at: Vec<String>,
}

impl ChannelServer {
    /// Serves this node's clients.
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self { context }
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
        let topology = context.topology.current();
        let requirement = Requirement::of(level, namespace.number, &topology, context.me().node)?;
        let channel = edit.channel.clone();
        let (sender, receiver) = oneshot::channel();
        let command = WriterCommand::Edit(Box::new(edit), sender);
        context.writer.submit(command).await.map_err(|_| ending_status())?;
        let EditAnswer { name, definition } = receiver
            .await
            .map_err(|_| unknown_status(false))?
            .map_err(|refused| edit_status(&refused))?;
        context.metrics.channel_operations.with([action]).increment();
        // Whoever reads after the answer sees what was answered.
        context.until_applied(&name).await;
        let current = || context.topology.current();
        let reached = requirement.wait(&context.hub, &name, current, deadline).await;
        if !reached.satisfied {
            return Err(deadline_status(&reached, &name, false));
        }
        let channel = wire_channel(namespace, &channel, &definition);
        Ok(Done { channel, name, durable_at: reached.durable_at })
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
        let condition = condition(request.epoch, &request.etag)?;
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
        let mut unchanged_source = false;
        let source = match request.source {
            Some(path) => {
                let held = self.live_definition(&namespace, &channel)?;
                let source = self.source_to_set(path, held.source()).await?;
                unchanged_source = source.is_none();
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
        if unchanged_source && update == ChannelUpdate::default() {
            // The source was all there was to set, and it is what is held.
            let held = self.live_definition(&namespace, &channel)?;
            return Ok(Response::new(v1::UpdateChannelResponse {
                channel: Some(wire_channel(&namespace, &channel, &held)),
                message: None,
                durable_at: vec![self.context.name().to_string()],
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
        let condition = condition(request.epoch, &request.etag)?;
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
            channel: Some(wire_channel(&namespace, &channel, &definition)),
            lost_operations,
        }))
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        check_prefix(&request.prefix)?;
        let size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => usize::try_from(size).unwrap_or(MAX_PAGE).min(MAX_PAGE),
        };
        let after = (!request.page_token.is_empty()).then_some(request.page_token.as_str());
        if let Some(after) = after {
            channel_name(after, "page_token")?;
        }
        let directory = self.context.directories.namespace(namespace.number);
        let response = directory.read(|directory| {
            let page = directory.page(&request.prefix, after, request.show_deleted, size);
            v1::ListChannelsResponse {
                channels: page
                    .channels
                    .iter()
                    .map(|(name, definition)| wire_channel(&namespace, name, definition))
                    .collect(),
                next_page_token: page.next_after.map(ToString::to_string).unwrap_or_default(),
            }
        });
        Ok(Response::new(response))
    }

    async fn watch_channels(
        &self,
        request: Request<v1::WatchChannelsRequest>,
    ) -> Result<Response<Self::WatchChannelsStream>, Status> {
        let request = request.into_inner();
        let namespace = self.context.member_namespace(&request.namespace)?;
        check_prefix(&request.prefix)?;
        let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
        let watch = ChannelWatch::new(Arc::clone(&self.context), namespace, request.prefix, sender);
        self.context.tasks.spawn(watch.run());
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
            return Ok(Response::new(v1::RefreshChannelContentResponse {
                channel: Some(wire_channel(&namespace, &channel, &held)),
                changed: false,
                message: None,
                durable_at: vec![self.context.name().to_string()],
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

/// A channel as clients see it, with the etag that edits are compared by.
pub(crate) fn wire_channel(
    namespace: &Namespace,
    name: &ChannelName,
    definition: &Definition,
) -> v1::Channel {
    let etag = Etag::of(definition).to_string();
    v1::Channel { etag, ..wire::channel(&namespace.name, name, definition) }
}

fn condition(epoch: u64, etag: &str) -> Result<EditCondition, Status> {
    let etag = match etag {
        "" => None,
        text => Some(text.parse::<Etag>().map_err(|error| InvalidField::new("etag", error))?),
    };
    Ok(EditCondition { epoch: (epoch != 0).then(|| Epoch::new(epoch)), etag })
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

fn check_prefix(prefix: &str) -> Result<(), Status> {
    if prefix.len() > MAX_CHANNEL_NAME_BYTES {
        let reason = format!("is longer than a channel's name, {MAX_CHANNEL_NAME_BYTES} bytes");
        return Err(InvalidField::new("prefix", reason).into());
    }
    Ok(())
}
