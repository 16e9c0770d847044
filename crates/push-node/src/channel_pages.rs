//! Pages of the list of channels: a page ends by number or by size, whichever
//! comes first, so that an answer is never larger than a client reads.

use interlock_core::directory::Directory;
use interlock_core::limits::{
    DEFAULT_PAGE_CHANNELS, MAX_CHANNEL_NAME_BYTES, MAX_PAGE_BYTES, MAX_PAGE_CHANNELS,
};
use interlock_core::topology::Namespace;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::channel::channel;
use interlock_rpc::convert::identity::channel_name;
use interlock_rpc::v1;
use prost::Message as _;

/// A request for a page, checked.
#[derive(Debug)]
pub struct PageRequest {
    prefix: String,
    after: Option<String>,
    show_deleted: bool,
    channels: usize,
}

impl PageRequest {
    /// Reads what a client asks for.
    pub fn of(request: v1::ListChannelsRequest) -> Result<Self, InvalidField> {
        check_prefix(&request.prefix)?;
        let after = (!request.page_token.is_empty()).then_some(request.page_token);
        if let Some(after) = &after {
            channel_name(after, "page_token")?;
        }
        let channels = match request.page_size {
            0 => DEFAULT_PAGE_CHANNELS,
            size => usize::try_from(size).map_or(MAX_PAGE_CHANNELS, |it| it.min(MAX_PAGE_CHANNELS)),
        };
        let show_deleted = request.show_deleted;
        Ok(Self { prefix: request.prefix, after, show_deleted, channels })
    }

    /// The page as the directory is now.
    pub fn read(&self, namespace: &Namespace, directory: &Directory) -> v1::ListChannelsResponse {
        let after = self.after.as_deref();
        let page = directory.page(&self.prefix, after, self.show_deleted, self.channels);
        let mut bytes = 0;
        let mut channels = Vec::with_capacity(page.channels.len());
        for (name, definition) in &page.channels {
            let listed = channel(&namespace.name, name, definition);
            bytes += listed.encoded_len();
            channels.push(listed);
            // One is always there, so that every page gets further.
            if bytes >= MAX_PAGE_BYTES {
                break;
            }
        }
        let next = match channels.len() < page.channels.len() {
            true => page.channels.get(channels.len() - 1).map(|(name, _)| *name),
            false => page.next_after,
        };
        let next_page_token = next.map(ToString::to_string).unwrap_or_default();
        v1::ListChannelsResponse { channels, next_page_token }
    }
}

/// A prefix that some channel may have.
pub fn check_prefix(prefix: &str) -> Result<(), InvalidField> {
    if prefix.len() > MAX_CHANNEL_NAME_BYTES {
        let reason = format!("is longer than a channel's name, {MAX_CHANNEL_NAME_BYTES} bytes");
        return Err(InvalidField::new("prefix", reason));
    }
    Ok(())
}
