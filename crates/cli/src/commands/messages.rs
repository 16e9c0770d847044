//! What several commands say of messages: names, levels of durability, starts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use interlock_client::{Durability, Start, v1};
use interlock_core::cursor::Cursor;
use interlock_core::identity::Incarnation;
use serde_json::{Value, json};

/// `--durability`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DurabilityArgument {
    /// Where it must be durable before the answer: local, peers:N or all.
    #[arg(long, default_value = "local", value_parser = durability)]
    durability: Durability,
}

impl DurabilityArgument {
    pub(crate) fn level(&self) -> Durability {
        self.durability
    }

    pub(crate) fn to_wire(&self) -> v1::Durability {
        self.durability.to_wire()
    }
}

impl std::fmt::Display for DurabilityArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.durability {
            Durability::Local => f.write_str("local"),
            Durability::Peers(count) => write!(f, "peers:{count}"),
            Durability::All => f.write_str("all"),
        }
    }
}

fn durability(text: &str) -> Result<Durability, String> {
    match text.split_once(':') {
        None if text == "local" => Ok(Durability::Local),
        None if text == "all" => Ok(Durability::All),
        Some(("peers", count)) => {
            count.parse().map(Durability::Peers).map_err(|error| format!("peers:{count}: {error}"))
        }
        _ => Err(format!("{text:?} is none of local, peers:N and all")),
    }
}

/// `now`, `oldest`, `last:N`, `time:RFC3339`, `cursor:TEXT`
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text.split_once(':') {
        None if text == "now" => Ok(Start::Now),
        None if text == "oldest" => Ok(Start::Oldest),
        Some(("last", count)) => {
            count.parse().map(Start::Last).map_err(|error| format!("last:{count}: {error}"))
        }
        Some(("time", time)) => {
            let time = humantime::parse_rfc3339_weak(time)
                .map_err(|error| format!("time:{time}: {error}"))?;
            let since = time
                .duration_since(std::time::UNIX_EPOCH)
                .map_err(|_| "time: lies before 1970".to_owned())?;
            Ok(Start::Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
        }
        Some(("cursor", cursor)) => Cursor::from_text(cursor)
            .map(|cursor| Start::Cursor(cursor.encode()))
            .map_err(|error| format!("cursor: {error}")),
        _ => Err(format!("{text:?} is none of now, oldest, last:N, time:RFC3339 and cursor:TEXT")),
    }
}

/// A log's name in an order: namespace, shard, origin, incarnation.
pub(crate) type LogKey = (u32, u32, u32, u64);

pub(crate) fn log_key(log: v1::LogName) -> LogKey {
    (log.namespace, log.shard, log.origin, log.incarnation)
}

/// An incarnation as it is written everywhere; nothing where there is none.
pub(crate) fn incarnation(number: u64) -> String {
    Incarnation::new(number).map_or_else(String::new, |incarnation| incarnation.to_string())
}

/// A message's name as JSON.
pub(crate) fn reference(name: &v1::MessageReference) -> Value {
    json!({
        "origin": name.origin,
        "incarnation": incarnation(name.incarnation),
        "m_id": name.m_id,
    })
}

/// A message as JSON: the payload as text where it is UTF-8, else as base64.
pub(crate) fn message(message: &v1::DeliveredMessage) -> Value {
    let name = message.message.unwrap_or_default();
    let mut value = json!({
        "type": "message",
        "channel": message.channel,
        "epoch": message.epoch,
        "origin": name.origin,
        "incarnation": incarnation(name.incarnation),
        "m_id": name.m_id,
        "time": rfc3339(message.stamp >> 16),
        "stamp": message.stamp,
    });
    match std::str::from_utf8(&message.payload) {
        Ok(text) => value["payload"] = json!(text),
        Err(_) => value["payload_base64"] = json!(BASE64_STANDARD.encode(&message.payload)),
    }
    if message.possibly_repeated {
        value["possibly_repeated"] = json!(true);
    }
    if !message.traceparent.is_empty() {
        value["traceparent"] = json!(message.traceparent);
    }
    value
}

/// A message as a line for people.
pub(crate) fn line(message: &v1::DeliveredMessage) -> String {
    let name = message.message.unwrap_or_default();
    format!(
        "{}  {}  {}:{}  {}",
        rfc3339(message.stamp >> 16),
        message.channel,
        name.origin,
        name.m_id,
        String::from_utf8_lossy(&message.payload)
    )
}

/// A gap as a sentence for people.
pub(crate) fn gap(gap: &v1::DeliveryGap) -> String {
    let log = gap.log.unwrap_or_default();
    format!(
        "messages {} to {} of origin {} may be missing ({})",
        gap.from,
        gap.through,
        log.origin,
        gap.reason().as_str_name().trim_start_matches("GAP_REASON_").to_lowercase()
    )
}

/// A cursor as text.
pub(crate) fn cursor_text(bytes: &[u8]) -> String {
    Cursor::decode(bytes).map(|cursor| cursor.to_text()).unwrap_or_default()
}

fn rfc3339(unix_milliseconds: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_milliseconds);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read() {
        assert_eq!(start("now"), Ok(Start::Now));
        assert_eq!(start("last:10"), Ok(Start::Last(10)));
        assert_eq!(start("time:1970-01-01T00:00:02Z"), Ok(Start::Time(2000)));
        assert!(start("last:x").is_err());
        assert!(start("cursor:nonsense").is_err());
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn levels_are_read() {
        assert_eq!(durability("local"), Ok(Durability::Local));
        assert_eq!(durability("peers:2"), Ok(Durability::Peers(2)));
        assert_eq!(durability("all"), Ok(Durability::All));
        assert!(durability("peers").is_err());
    }

    #[test]
    fn payloads_that_are_no_text_are_base64() {
        let binary =
            v1::DeliveredMessage { payload: vec![0xff, 0xfe].into(), ..Default::default() };
        assert_eq!(message(&binary)["payload_base64"], "//4=");
        let text = v1::DeliveredMessage { payload: "hello".into(), ..Default::default() };
        assert_eq!(message(&text)["payload"], "hello");
    }
}
