//! Who gets which message, in which order: filters, the shared position, and
//! what happens to a reader that is behind.
