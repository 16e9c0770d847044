//! Every limit of the product, in one place, each with its reason, and with its
//! unit in its name. Limits that data on disk or wire depends on (what a reader
//! refuses) may be raised later, never lowered.

const KIBIBYTE: usize = 1024;
const MEBIBYTE: usize = 1024 * KIBIBYTE;

// Names.

/// A channel's name. It is in every message of the channel.
pub const MAX_CHANNEL_NAME_BYTES: usize = 256;
/// Names of namespaces, regions, nodes and groups: they become DNS labels and
/// metric labels.
pub const MAX_PLACE_NAME_BYTES: usize = 63;
/// A namespace's name, see [`MAX_PLACE_NAME_BYTES`].
pub const MAX_NAMESPACE_NAME_BYTES: usize = MAX_PLACE_NAME_BYTES;

// The topology: one document that every node holds and that travels whole.

/// Regions of one mesh.
pub const MAX_REGIONS: usize = 256;
/// Groups of one mesh.
pub const MAX_GROUPS: usize = 1024;
/// Nodes of one mesh, removed ones included.
pub const MAX_NODES: usize = 1024;
/// Namespaces of one mesh.
pub const MAX_NAMESPACES: usize = 4096;
/// An address, `host:port`: the longest DNS name, and a port.
pub const MAX_ADDRESS_BYTES: usize = 253 + 6;
/// The encoded document, see [`MAX_RECEIVED_MESSAGE_BYTES`]: all nodes at their
/// longest, and what a few thousand namespaces usually take.
pub const MAX_TOPOLOGY_BYTES: usize = 3 * MEBIBYTE;

// Messages.

/// A publication's payload. A push mesh carries changes, not files; larger ones
/// would hold up what is behind them in a frame.
pub const MAX_PAYLOAD_BYTES: usize = MEBIBYTE;
/// The key of a keyed publication: it is part of stored keys.
pub const MAX_KEY_BYTES: usize = 256;
/// Groups in one message: those of its namespace when it was accepted.
pub const MAX_GROUPS_PER_MESSAGE: usize = 64;
/// Parents of one log: the branches of one origin that close at one opening.
/// One is usual, two follow a restore.
pub const MAX_PARENTS: usize = 256;
/// The highest m_id: what one origin publishes in centuries. Below the type's
/// end, so that "the next number" always exists.
pub const MAX_MESSAGE_NUMBER: u64 = (1 << 62) - 1;
/// The payload of a channel operation: the content and all other registers.
pub const MAX_OPERATION_BYTES: usize = MAX_CONTENT_BYTES + 64 * KIBIBYTE;
/// One encoded message of any kind, also of kinds this build does not know.
pub const MAX_SEND_BYTES: usize = MAX_OPERATION_BYTES + 64 * KIBIBYTE;

// Definitions of channels.

/// Labels of one channel.
pub const MAX_LABELS: usize = 64;
/// A label's key, and a label's value.
pub const MAX_LABEL_BYTES: usize = 256;
/// A channel's description: a screen of text.
pub const MAX_DESCRIPTION_BYTES: usize = 4096;
/// Content fetched from a region's web origin: it travels in one message.
pub const MAX_CONTENT_BYTES: usize = MEBIBYTE;
/// The path of a source under the web origin: what web servers take in a line.
pub const MAX_SOURCE_PATH_BYTES: usize = 2048;
/// An ETag as kept from the web origin.
pub const MAX_ETAG_BYTES: usize = 1024;
/// A media type as kept from the web origin.
pub const MAX_MEDIA_TYPE_BYTES: usize = 255;
/// Channels a namespace may have, tombstones included: definitions are in
/// memory.
pub const MAX_CHANNELS_PER_NAMESPACE: usize = 1_000_000;
/// Lost operations kept to be shown, per channel.
pub const MAX_AUDIT_ENTRIES_PER_CHANNEL: usize = 32;

// Clocks.

/// How far ahead of the wall clock received stamps move the hybrid clock.
pub const MAX_CLOCK_LEAD_MILLISECONDS: u64 = 60_000;

// Cursors.

/// Channels that a cursor positions apart from the rest; each costs its name and
/// its tips in every cursor of the stream.
pub const MAX_CURSOR_OVERRIDES: usize = 256;
/// An encoded cursor: about 15 bytes a tip, and full overrides.
pub const MAX_CURSOR_BYTES: usize = MEBIBYTE;

// Publishing.

/// Publications in one unary call.
pub const MAX_PUBLICATIONS_PER_REQUEST: usize = 4096;
/// Publications of one session that are not yet acknowledged, and the answers
/// its table keeps for repeats: the second must not be less than the first.
pub const MAX_IN_FLIGHT_PUBLICATIONS: usize = 8192;
/// Publisher sessions that one origin keeps in one namespace; the idle are
/// evicted beyond it.
pub const MAX_SESSIONS_PER_NAMESPACE: usize = 10_000;
/// Answers of all sessions of a namespace together, 32 bytes each: 2,000 sessions
/// that keep all they may. The idle are evicted beyond it.
pub const MAX_SESSION_ANSWERS_PER_NAMESPACE: usize = 2_000 * MAX_IN_FLIGHT_PUBLICATIONS;
/// A session that was not used for so long may be evicted: longer than a
/// publisher tries to come back.
pub const SESSION_IDLE_MILLISECONDS: u64 = 10 * 60 * 1000;

// The log.

/// The chain hash is stored about every so many messages.
pub const CHAIN_HASH_INTERVAL: u64 = 256;

// Replication.

/// What a sender aims to put into one frame.
pub const MAX_FRAME_BYTES: usize = MEBIBYTE;
/// Messages in one frame.
pub const MAX_FRAME_MESSAGES: usize = 4096;
/// What a gRPC receiver takes: a frame that ends with the largest message, with
/// room.
pub const MAX_RECEIVED_MESSAGE_BYTES: usize = 4 * MEBIBYTE;
/// Unacknowledged bytes on one stream: one WAN path at 50 ms and over 1 Gbit/s.
pub const WINDOW_BYTES: u64 = 8 * MEBIBYTE as u64;
/// Log offers in one frame of the replication stream.
pub const MAX_OFFERS_PER_FRAME: usize = 4096;
/// Marks in one acknowledgement or welcome.
pub const MAX_MARKS_PER_FRAME: usize = 65_536;
/// Bytes of base entries in one frame, see [`MAX_FRAME_BYTES`].
pub const MAX_BASE_ENTRIES_BYTES: usize = MEBIBYTE;

// Subscribing.

/// Channels and prefixes that one stream names.
pub const MAX_SUBSCRIBE_CHANNELS: usize = 256;

const _: () = assert!(MAX_FRAME_BYTES + MAX_SEND_BYTES < MAX_RECEIVED_MESSAGE_BYTES);
const _: () = assert!(MAX_PAYLOAD_BYTES < MAX_SEND_BYTES);
const _: () = assert!(
    MAX_DESCRIPTION_BYTES
        + 2 * MAX_LABELS * (MAX_LABEL_BYTES + 4)
        + MAX_SOURCE_PATH_BYTES
        + MAX_ETAG_BYTES
        + MAX_MEDIA_TYPE_BYTES
        < MAX_OPERATION_BYTES - MAX_CONTENT_BYTES
);
