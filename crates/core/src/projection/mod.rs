//! What the log means: directory, channel index, publisher sessions.
