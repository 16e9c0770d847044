//! A seeded world over the core and the memory storage.
