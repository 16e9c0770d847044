//! How many unacknowledged bytes the stream may have under way.

use crate::limits::{MAX_FRAME_BYTES, MAX_WINDOW_BYTES};

/// Whose turn it is: what is new, or what is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// One frame catches the log up.
    Live,
    /// There is more.
    Backlog,
}

/// The stream's window. A quarter of it is kept for what is new, so that a
/// backlog cannot fill all of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    limit: u64,
    in_flight: u64,
    granted: u64,
}

impl Window {
    /// The window that a receiver offered. At least a frame: one is sent anyway
    /// when nothing is under way.
    pub(super) fn new(offered: u64) -> Self {
        let limit = offered.clamp(MAX_FRAME_BYTES as u64, MAX_WINDOW_BYTES);
        Self { limit, in_flight: 0, granted: 0 }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// How large a frame may be now, if one is worth sending: small rests of the
    /// window are left until they have grown (the silly window).
    pub(super) fn room(&self, urgency: Urgency) -> Option<u64> {
        let used = self.in_flight + self.granted;
        if used == 0 {
            return Some(MAX_FRAME_BYTES as u64);
        }
        let limit = match urgency {
            Urgency::Live => self.limit,
            Urgency::Backlog => self.limit / 4 * 3,
        };
        let room = limit.saturating_sub(used);
        (room >= self.limit / 16).then_some(room.min(MAX_FRAME_BYTES as u64))
    }

    /// A frame of up to so many bytes is being read.
    pub(super) fn grant(&mut self, bytes: u64) {
        self.granted += bytes;
    }

    /// The frame was read, or is not going to be.
    pub(super) fn settle(&mut self, granted: u64) {
        self.granted = self.granted.saturating_sub(granted);
    }

    /// A frame went out.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    /// Frames were acknowledged or given up.
    pub(super) fn freed(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = MAX_FRAME_BYTES as u64;

    #[test]
    fn keeps_a_part_for_what_is_new() {
        let mut window = Window::new(8 * FRAME);
        while let Some(room) = window.room(Urgency::Backlog) {
            window.sent(room);
        }
        assert_eq!(window.in_flight(), 6 * FRAME);
        assert_eq!(window.room(Urgency::Live), Some(FRAME));
    }

    #[test]
    fn one_frame_passes_a_window_of_nothing() {
        let mut window = Window::new(0);
        assert_eq!(window.room(Urgency::Backlog), Some(FRAME));
        window.grant(FRAME);
        assert_eq!(window.room(Urgency::Live), None);
        window.settle(FRAME);
        window.sent(3 * FRAME);
        assert_eq!(window.room(Urgency::Live), None);
        window.freed(3 * FRAME);
        assert_eq!(window.room(Urgency::Live), Some(FRAME));
    }

    #[test]
    fn small_rests_are_left_to_grow() {
        let mut window = Window::new(8 * FRAME);
        window.sent(8 * FRAME - 100);
        assert_eq!(window.room(Urgency::Live), None);
        window.freed(FRAME / 2);
        assert_eq!(window.room(Urgency::Live), Some(FRAME / 2 + 100));
    }
}
