//! What is to be reached, what was, and by which measurements.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Whether more or less of something is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The ratio has to reach the goal.
    AtLeast,
    /// The ratio must not exceed it.
    AtMost,
}

/// One figure to reach.
#[derive(Clone, Debug)]
pub struct Goal {
    /// As scripts name it.
    pub name: &'static str,
    bound: Bound,
    goal: f64,
    /// Not measured if absent.
    ratio: Option<f64>,
}

impl Goal {
    /// Whether it was measured and reached.
    pub fn is_met(&self) -> bool {
        self.ratio.is_some_and(|ratio| match self.bound {
            Bound::AtLeast => ratio >= self.goal,
            Bound::AtMost => ratio <= self.goal,
        })
    }
}

/// One row of a table: what a contender came to.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The work.
    pub work: &'static str,
    /// Who did it, and in which mode.
    pub contender: String,
    /// The medians, as people read them.
    pub figures: String,
    /// The command that repeats one turn.
    pub command: String,
}

/// All goals, and what was measured for them.
#[derive(Clone, Debug)]
pub struct Goals {
    goals: Vec<Goal>,
    /// In the order of measuring.
    pub measured: Vec<Measured>,
}

/// The names of goals, what is to be reached, and in which direction.
const ALL: [(&str, Bound, f64); 21] = [
    ("publish stream / peer with fsync", Bound::AtLeast, 5.0),
    ("publish stream / peer without fsync", Bound::AtLeast, 2.5),
    ("publish stream / RocksDB floor", Bound::AtLeast, 0.6),
    ("unary publish / peer with fsync", Bound::AtLeast, 3.0),
    ("durable at B / peer with fsync", Bound::AtLeast, 40.0),
    ("durable at B / peer without fsync", Bound::AtLeast, 2.0),
    ("latency A to B p50 / peer with fsync", Bound::AtMost, 0.5),
    ("latency A to B p99 / peer with fsync", Bound::AtMost, 0.4),
    ("latency A to B p50 / peer without fsync", Bound::AtMost, 1.0),
    ("fan-out to 1000 / peer's core", Bound::AtLeast, 1.0),
    ("catch-up / live rate", Bound::AtLeast, 20.0),
    ("live p99 during catch-up / before", Bound::AtMost, 2.0),
    ("restart with 10 million messages, seconds", Bound::AtMost, 2.0),
    ("cost per message, backlog 10^7 / 10^3", Bound::AtMost, 1.1),
    ("cost per message, 90 % in foreign namespaces / none", Bound::AtMost, 1.1),
    ("cost per message, 10^6 channels / 10", Bound::AtMost, 1.4),
    ("cost per peer, 32 peers / 2", Bound::AtMost, 1.1),
    ("memory with a dead peer and 10 million queued, MiB", Bound::AtMost, 512.0),
    ("payload 1 KiB / peer with fsync", Bound::AtLeast, 1.0),
    ("payload 64 KiB / peer with fsync", Bound::AtLeast, 1.0),
    ("payload 1 MiB / peer with fsync", Bound::AtLeast, 1.0),
];

impl Goals {
    /// None measured yet.
    pub fn new() -> Self {
        let goals = ALL.iter().map(|(name, bound, goal)| Goal {
            name,
            bound: *bound,
            goal: *goal,
            ratio: None,
        });
        Self { goals: goals.collect(), measured: Vec::new() }
    }

    /// What was measured for a goal.
    ///
    /// # Panics
    /// Where no goal has this name.
    pub fn reach(&mut self, name: &str, ratio: f64) {
        let goal = self.goals.iter_mut().find(|goal| goal.name == name);
        goal.unwrap_or_else(|| panic!("no goal is called {name:?}")).ratio = Some(ratio);
    }

    /// All of them, for tables.
    pub fn rows(&self) -> impl Iterator<Item = [String; 4]> {
        self.goals.iter().map(|goal| {
            let sign = match goal.bound {
                Bound::AtLeast => "≥",
                Bound::AtMost => "≤",
            };
            let ratio = goal.ratio.map_or_else(|| "not measured".into(), |it| format!("{it:.2}"));
            let met = if goal.is_met() { "yes" } else { "no" };
            [goal.name.to_owned(), ratio, format!("{sign} {}", goal.goal), met.to_owned()]
        })
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let goals = self.goals.iter().map(|goal| {
            json!({"name": goal.name, "ratio": goal.ratio, "goal": goal.goal, "met": goal.is_met()})
        });
        json!({ "goals": goals.collect::<Vec<_>>() })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for [name, ratio, goal, met] in self.rows() {
            let _ = writeln!(text, "{name:56} {ratio:>14} {goal:>8}  {met}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_there_and_not_met() {
        let mut goals = Goals::new();
        goals.reach("unary publish / peer with fsync", 3.5);
        goals.reach("latency A to B p99 / peer with fsync", 0.41);
        let value = goals.to_json();
        let of = |name: &str| {
            let goals = value["goals"].as_array().expect("a list");
            goals.iter().find(|goal| goal["name"] == name).expect("it is there").clone()
        };
        assert_eq!(of("unary publish / peer with fsync")["met"], true);
        assert_eq!(of("latency A to B p99 / peer with fsync")["met"], false);
        let missing = of("publish stream / RocksDB floor");
        assert_eq!((missing["ratio"].clone(), missing["met"].clone()), (Value::Null, json!(false)));
    }
}
