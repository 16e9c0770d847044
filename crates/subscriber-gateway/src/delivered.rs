//! From what a push-node sends to what subscribers get, and the cursors that
//! both carry.

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::UnknownBranch;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use interlock_core::message::{Message, MessageChannel, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tonic::Status;

use crate::fan_out::{Item, LiveMessage};

/// How a follow begins.
pub(crate) struct Opened {
    pub(crate) namespace: NamespaceNumber,
    pub(crate) cursor: Cursor,
    pub(crate) rows: Vec<Row>,
}

/// A run with its messages decoded.
pub(crate) struct Run {
    pub(crate) log: LogName,
    pub(crate) row: Option<Row>,
    pub(crate) through: MessageNumber,
    pub(crate) messages: Vec<LiveMessage>,
}

pub(crate) fn opened(body: v1::FollowOpened) -> Result<Opened, Status> {
    let rows = body.rows.into_iter().map(row_of).collect::<Result<_, _>>()?;
    let cursor = Cursor::decode(&body.cursor).map_err(|error| unreadable("cursor", error))?;
    Ok(Opened { namespace: NamespaceNumber::new(body.namespace), cursor, rows })
}

pub(crate) fn run_of(run: v1::FollowRun) -> Result<Run, Status> {
    let log = log_of(run.log)?;
    let messages = run
        .sends
        .iter()
        .map(|bytes| live_message(log, bytes))
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    Ok(Run {
        log,
        row: run.row.map(row_of).transpose()?,
        through: MessageNumber::new(run.through),
        messages,
    })
}

pub(crate) fn log_of_gap(gap: &v1::DeliveryGap) -> Result<LogName, Status> {
    log_of(gap.log)
}

/// A channel event with its place in the order; none where an older push-node
/// does not say it.
pub(crate) fn channel_event(event: v1::ChannelEvent) -> Result<Item, Status> {
    let name = event.message.map(|name| name.into_core()).transpose();
    let name = name.map_err(|error| unreadable("channel event", error))?;
    let channel =
        ChannelName::parse(&event.channel).map_err(|error| unreadable("channel event", error))?;
    Ok(Item::Event { name, from: None, channel, event })
}

/// The gap to tell of a branch that stayed unknown.
pub(crate) fn unknown_branch(branch: UnknownBranch) -> v1::DeliveryGap {
    let UnknownBranch { tip } = branch;
    v1::DeliveryGap {
        reason: v1::GapReason::UnknownBranch.into(),
        log: Some(tip.log.into_wire()),
        from: 1,
        through: tip.m_id.get(),
    }
}

/// A message for subscribers; `None` for what only changes the directory, or is
/// of a kind that this build does not know.
fn live_message(log: LogName, bytes: &Bytes) -> Result<Option<LiveMessage>, Status> {
    let message = Message::decode(bytes).map_err(|error| unreadable("send", error))?;
    let (MessageKind::Publication, MessageChannel::Named(channel)) =
        (message.kind, message.channel)
    else {
        return Ok(None);
    };
    let name = MessageName { log, m_id: message.m_id };
    let delivered = v1::DeliveredMessage {
        channel: channel.to_string(),
        epoch: message.epoch.get(),
        message: Some(name.into_wire()),
        stamp: message.stamp.get(),
        key: message.key,
        possibly_repeated: message.possibly_repeated,
        payload: message.payload,
        traceparent: message
            .trace
            .as_ref()
            .map(interlock_rpc::trace::format_traceparent)
            .unwrap_or_default(),
    };
    Ok(Some(LiveMessage { name, channel, trace: message.trace, delivered }))
}

fn row_of(row: v1::LogRow) -> Result<Row, Status> {
    row.into_core().map_err(|error| unreadable("row", error))
}

fn log_of(log: Option<v1::LogName>) -> Result<LogName, Status> {
    let log = log.ok_or_else(|| unreadable("log", "it is missing"))?;
    log.into_core().map_err(|error| unreadable("log", error))
}

/// The push-node said something that this build cannot read: not the
/// subscriber's fault.
fn unreadable(what: &str, why: impl std::fmt::Display) -> Status {
    Status::internal(format!("the push-node's {what}: {why}"))
}

/// A subscriber's cursor, for a namespace.
pub(crate) fn subscriber_cursor(bytes: &[u8]) -> Result<Cursor, Status> {
    Cursor::decode(bytes).map_err(|error| {
        refusal(Reason::CursorInvalid, format!("the cursor cannot be read: {error}"))
            .field(InvalidField::new("start.cursor", error))
            .into_status()
    })
}

/// One consumer span per gateway for a message whose publish call was sampled,
/// so that its one trace ends where subscribers get it.
pub(crate) fn trace_delivery(namespace: &str, message: &LiveMessage) {
    interlock_rpc::trace::tell_step(message.trace.as_ref(), "delivered", || {
        interlock_telemetry::spans::process(namespace, message.channel.as_str(), message.name)
    });
}
