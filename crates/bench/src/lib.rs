//! What measurements of a mesh share, and what its comparison with another system
//! shares with them: the same pace, the same payloads, the same count of latencies
//! and the same report, so that a ratio compares the systems and not the tools.

mod latencies;
mod machine;
mod pace;
mod payload;
mod progress;
mod report;

pub use latencies::Latencies;
pub use machine::Machine;
pub use pace::Pace;
pub use payload::{PayloadKind, Payloads, Stamp};
pub use progress::Progress;
pub use report::{Figure, Report, Unit};
