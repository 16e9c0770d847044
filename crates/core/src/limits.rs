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
/// An encoded cursor: all its tips, and full overrides.
pub const MAX_CURSOR_BYTES: usize = MEBIBYTE;
/// Tips in one cursor, those of its overrides included: whoever resumes may send
/// any, and they are looked at again until their branches are known.
pub const MAX_CURSOR_TIPS: usize = 16_384;
/// Tips of one origin in one cursor, see [`MAX_PARENTS`]: with room for branches
/// that a removed node never closed. Each message of the origin is compared with
/// all of them.
pub const MAX_CURSOR_TIPS_PER_PATH: usize = 4 * MAX_PARENTS;

// Publishing.

/// Publications in one unary call.
pub const MAX_PUBLICATIONS_PER_REQUEST: usize = 4096;
/// Publications of one session that are not yet acknowledged, and the answers
/// its table keeps for repeats: the second must not be less than the first.
pub const MAX_IN_FLIGHT_PUBLICATIONS: usize = 8192;
/// Publisher sessions that one origin keeps in one namespace; the idle are
/// evicted beyond it.
pub const MAX_SESSIONS_PER_NAMESPACE: usize = 10_000;
/// Stored sessions of a namespace: more than admission keeps, so that nothing it
/// keeps is missing after a restart.
pub const MAX_STORED_SESSIONS_PER_NAMESPACE: usize = 2 * MAX_SESSIONS_PER_NAMESPACE;
/// Answers of all sessions of a namespace together, 32 bytes each: 2,000 sessions
/// that keep all they may. The idle are evicted beyond it.
pub const MAX_SESSION_ANSWERS_PER_NAMESPACE: usize = 2_000 * MAX_IN_FLIGHT_PUBLICATIONS;
/// A session that was not used for so long may be evicted: longer than a
/// publisher tries to come back.
pub const SESSION_IDLE_MILLISECONDS: u64 = 10 * 60 * 1000;

// The log.

/// The chain hash is stored about every so many messages.
pub const CHAIN_HASH_INTERVAL: u64 = 256;
/// A stored run of messages is closed when it has grown to this: a reader that
/// wants one message of it reads all of it.
pub const MAX_RUN_BYTES: usize = 64 * KIBIBYTE;

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
/// The window a sender keeps to, whatever a receiver offers: what is in flight
/// is remembered per frame.
pub const MAX_WINDOW_BYTES: u64 = 64 * MEBIBYTE as u64;
/// Charged to the window for each message beside its bytes, and twice that for
/// each frame, so that a flood of tiny ones is bounded in memory as well.
pub const WINDOW_BYTES_PER_MESSAGE: u64 = 32;
/// What one frame may take of the window: its bytes, the largest message at its
/// end, and what is charged for each message.
pub const MAX_WINDOW_BYTES_OF_A_FRAME: u64 = (MAX_FRAME_BYTES + MAX_SEND_BYTES) as u64
    + WINDOW_BYTES_PER_MESSAGE * (MAX_FRAME_MESSAGES as u64 + 2);
/// Frames and holes of one log that the log writer has not answered. Holes take
/// nothing of the window; one frame of each message of a full window is far below
/// this.
pub const MAX_SUBMISSIONS_PER_LOG: usize = 262_144;
/// Log offers in one frame of the replication stream.
pub const MAX_OFFERS_PER_FRAME: usize = 4096;
/// Marks in one acknowledgement or welcome.
pub const MAX_MARKS_PER_FRAME: usize = 65_536;
/// Logs that one peer may offer: one for each opening of each member in each
/// namespace, for years. What is beyond is left to other peers, and said.
pub const MAX_LOGS_PER_PEER: usize = 262_144;
/// Bytes of base entries in one frame, see [`MAX_FRAME_BYTES`].
pub const MAX_BASE_ENTRIES_BYTES: usize = MEBIBYTE;
/// Base entries in one frame: none is shorter than four bytes.
pub const MAX_BASE_ENTRIES_PER_FRAME: usize = MAX_BASE_ENTRIES_BYTES / 4;
/// Trim points in one frame of base entries: each takes up to about 60 bytes.
pub const MAX_TRIM_POINTS_PER_FRAME: usize = MAX_BASE_ENTRIES_BYTES / 64;
/// What is kept of a `Nack`'s text, which is for people.
pub const MAX_NACK_DETAIL_BYTES: usize = 1024;
/// Openings of one member that are not known to be over. One is usual, a few
/// follow restores out of our sight; beyond this the member counts as holding
/// nothing until it welcomes us itself.
pub const MAX_OPENINGS_PER_MEMBER: usize = 256;
/// Retired openings remembered per member, the newest: one for each restart. An
/// acknowledgement that is this many restarts late does not come.
pub const MAX_RETIRED_OPENINGS_PER_MEMBER: usize = 4096;

// Answers to operators: each fits into what a gRPC client takes.

/// Logs in one status: a mesh of a hundred nodes with a hundred namespaces.
pub const MAX_STATUS_LOGS: usize = 10_000;
/// Queues of all peers in one status.
pub const MAX_STATUS_QUEUES: usize = 20_000;
/// Alarms in one status: more nobody reads.
pub const MAX_STATUS_ALARMS: usize = 1_000;
/// Marks in one verification, about 60 bytes each.
pub const MAX_VERIFIED_LOGS: usize = 65_536;

// Subscribing.

/// Channels and prefixes that one stream names.
pub const MAX_SUBSCRIBE_CHANNELS: usize = 256;

const _: () = assert!(MAX_FRAME_BYTES + MAX_SEND_BYTES < MAX_RECEIVED_MESSAGE_BYTES);
const _: () = assert!(MAX_PAYLOAD_BYTES < MAX_SEND_BYTES);
// A cursor within its other limits is within its bytes: a tip takes its path's
// origin, shape and count, an incarnation and a number.
const _: () = assert!(
    MAX_CURSOR_TIPS * (5 + 3 + 2 + 8 + 9) + MAX_CURSOR_OVERRIDES * (MAX_CHANNEL_NAME_BYTES + 8)
        < MAX_CURSOR_BYTES
);
const _: () = assert!(
    MAX_DESCRIPTION_BYTES
        + 2 * MAX_LABELS * (MAX_LABEL_BYTES + 4)
        + MAX_SOURCE_PATH_BYTES
        + MAX_ETAG_BYTES
        + MAX_MEDIA_TYPE_BYTES
        < MAX_OPERATION_BYTES - MAX_CONTENT_BYTES
);

// The gateway.

/// Connections to a push-node that subscribers who read alone share.
pub const PRIVATE_READ_CONNECTIONS: usize = 4;
/// Subscribers that read alone over one of them: fewer streams than a server
/// takes on a connection, so that none waits there without a word.
pub const MAX_PRIVATE_READS_PER_CONNECTION: usize = 256;
/// What one of them leaves unread at the gateway: all together 256 MiB.
pub const PRIVATE_READ_WINDOW_BYTES: u32 = 256 * KIBIBYTE as u32;
/// How long a subscriber waits until another has finished reading alone.
pub const PRIVATE_READ_PATIENCE_MILLISECONDS: u64 = 5_000;
/// Connections to a push-node that streams of clients, handed on, share.
pub const FORWARDED_STREAM_CONNECTIONS: usize = 4;
/// Such streams over one of them, see [`MAX_PRIVATE_READS_PER_CONNECTION`].
pub const MAX_FORWARDED_STREAMS_PER_CONNECTION: usize = 256;
/// How long a subscriber may read nothing before the stream that was opened for
/// it alone ends; it goes on from its cursor when it reads again.
pub const SUBSCRIBER_STALL_MILLISECONDS: u64 = 10_000;
/// What a gateway keeps of a namespace for all readers who keep up together;
/// whoever is further behind reads alone.
pub const LIVE_QUEUE_BYTES: usize = 8 * MEBIBYTE;
/// Subscriptions of one gateway. One whose subscriber does not read holds a few
/// responses of about 256 KiB each.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// Responses that a subscriber may leave unread before its session waits.
pub const MAX_UNREAD_RESPONSES: usize = 2;
/// From this age on, what was last heard of an origin is told again each time it
/// has doubled.
pub const STALE_ORIGIN_MILLISECONDS: u64 = 10_000;

// Calls.

/// Connections of one server; one beyond is closed at once.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Calls that one connection may have open.
pub const MAX_CALLS_PER_CONNECTION: u32 = 1_024;
/// Unread bytes that one call of a client may have at a server: what other clients
/// get by default, and enough for single calls.
pub const CALL_WINDOW_BYTES: u32 = MEBIBYTE as u32;
/// The same between services, and for publishers far away: 8 MiB keep a 100 ms link
/// of 640 Mbit/s busy.
pub const BULK_WINDOW_BYTES: u32 = 8 * MEBIBYTE as u32;
/// HTTP/2 frames of clients: small enough that calls take turns.
pub const CALL_HTTP2_FRAME_BYTES: u32 = 64 * KIBIBYTE as u32;
/// HTTP/2 frames between services: fewer, and so cheaper.
pub const BULK_HTTP2_FRAME_BYTES: u32 = 256 * KIBIBYTE as u32;
/// No call waits longer for other members, whatever it asks for.
pub const MAX_CALL_WAIT_MILLISECONDS: u64 = 60 * 60 * 1000;
/// Channels in one page of a list that asks for no number.
pub const DEFAULT_PAGE_CHANNELS: usize = 100;
/// Channels in one page of a list.
pub const MAX_PAGE_CHANNELS: usize = 1000;
/// A page of a list ends at this size, however few channels are in it: with the
/// largest definition at its end it is far below [`MAX_RECEIVED_MESSAGE_BYTES`].
pub const MAX_PAGE_BYTES: usize = MEBIBYTE;
/// Watchers of channels at one node: each is told of every change, and holds some
/// definitions that it has not read.
pub const MAX_CHANNEL_WATCHERS: usize = 1024;
/// Sources that one node fetches at a time: each holds up to
/// [`MAX_CONTENT_BYTES`], and a connection to the region's web server.
pub const MAX_SOURCE_FETCHES: usize = 32;
/// The most messages that a start at `last n` names: their places are held in
/// memory while they are looked for.
pub const MAX_LAST_MESSAGES: u32 = 65_536;
/// Starts that one node looks for on its disk at a time; others wait their turn.
pub const MAX_START_SEARCHES: usize = 8;
/// The name by which a gateway follows, for people: a host's name.
pub const MAX_GATEWAY_NAME_BYTES: usize = 253;
/// Origins that a follower leaves out.
pub const MAX_EXCLUDED_ORIGINS: usize = MAX_NODES;
/// Operations that a control-plane keeps: what operators do in days, in a document
/// that is written whole.
pub const MAX_KEPT_OPERATIONS: usize = 1000;
/// What is kept of an operation's error text.
pub const MAX_OPERATION_DETAIL_BYTES: usize = 512;
/// The document of all kept operations.
pub const MAX_KEPT_OPERATIONS_BYTES: usize = 4 * MEBIBYTE;
/// Operations that a control-plane has under way: operators are few, and each is a
/// write.
pub const MAX_RUNNING_OPERATIONS: usize = 64;
/// Operations in one page of a list that asks for no number.
pub const DEFAULT_PAGE_OPERATIONS: usize = 100;

const _: () = assert!(MAX_PAGE_BYTES + MAX_OPERATION_BYTES < MAX_RECEIVED_MESSAGE_BYTES);
const _: () = assert!(CALL_WINDOW_BYTES < BULK_WINDOW_BYTES);
const _: () =
    assert!(MAX_KEPT_OPERATIONS * (MAX_OPERATION_DETAIL_BYTES + 1024) < MAX_KEPT_OPERATIONS_BYTES);
