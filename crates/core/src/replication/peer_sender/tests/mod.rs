//! A sender driven by hand, in virtual time.

mod driver;
mod greeting;
mod hostile;
mod served_logs;
