use proptest::prelude::*;

use super::*;

/// What happens next in a small world of three members.
#[derive(Clone, Debug)]
enum Step {
    Create {
        at: usize,
        channel: usize,
    },
    Describe {
        at: usize,
        channel: usize,
    },
    Delete {
        at: usize,
        channel: usize,
    },
    Publish {
        at: usize,
        channel: usize,
    },
    /// A frame of some log, from anywhere in it.
    Deliver {
        from: usize,
        to: usize,
        log: usize,
        start: usize,
        count: usize,
    },
    Sync {
        at: usize,
    },
    /// What is not durable is lost.
    Crash {
        at: usize,
    },
    /// The disk is copied.
    Copy {
        at: usize,
    },
    /// The last copy is put back.
    Restore {
        at: usize,
    },
    Wipe {
        at: usize,
    },
    /// The wall clock there jumps.
    Clock {
        at: usize,
        milliseconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0_usize..3;
    let channel = 0_usize..3;
    prop_oneof![
        2 => (at.clone(), channel.clone()).prop_map(|(at, channel)| Step::Create { at, channel }),
        2 => (at.clone(), channel.clone()).prop_map(|(at, channel)| Step::Describe { at, channel }),
        1 => (at.clone(), channel.clone()).prop_map(|(at, channel)| Step::Delete { at, channel }),
        6 => (at.clone(), channel).prop_map(|(at, channel)| Step::Publish { at, channel }),
        12 => (at.clone(), at.clone(), 0_usize..12, 0_usize..6, 1_usize..8).prop_map(
            |(from, to, log, start, count)| Step::Deliver { from, to, log, start, count }
        ),
        6 => at.clone().prop_map(|at| Step::Sync { at }),
        2 => at.clone().prop_map(|at| Step::Crash { at }),
        2 => at.clone().prop_map(|at| Step::Copy { at }),
        2 => at.clone().prop_map(|at| Step::Restore { at }),
        1 => at.clone().prop_map(|at| Step::Wipe { at }),
        1 => (at, 0_u64..200_000).prop_map(|(at, milliseconds)| Step::Clock { at, milliseconds }),
    ]
}

struct World {
    members: Vec<Member>,
    copies: Vec<Option<Disk>>,
    next_incarnation: u64,
    said: u64,
}

impl World {
    fn new() -> Self {
        let members = (1..=3).map(|number| Member::new(number, u64::from(number))).collect();
        Self { members, copies: vec![None; 3], next_incarnation: 100, said: 0 }
    }

    fn fresh(&mut self) -> u64 {
        // Incarnations have no order: neither may anything that depends on them.
        self.next_incarnation += 1;
        self.next_incarnation.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn reopen(&mut self, at: usize, disk: Disk) {
        let bits = self.fresh();
        let now = self.members[at].now;
        let opened = Member::open(at as u32 + 1, bits, disk, topology());
        self.members[at] = Member { now, ..opened };
    }

    fn step(&mut self, step: &Step) {
        const CHANNELS: [&str; 3] = ["news", "prices", "pages"];
        self.said += 1;
        let text = format!("said {}", self.said);
        match *step {
            Step::Create { at, channel } => {
                let _ = self.members[at].create(EVERYWHERE, CHANNELS[channel]);
            }
            Step::Describe { at, channel } => {
                let _ = self.members[at].describe(EVERYWHERE, CHANNELS[channel], &text);
            }
            Step::Delete { at, channel } => {
                let _ = self.members[at].delete(EVERYWHERE, CHANNELS[channel]);
            }
            Step::Publish { at, channel } => {
                let _ = self.members[at].publish(EVERYWHERE, CHANNELS[channel], &text);
            }
            Step::Deliver { from, to, log, start, count } => {
                let logs: Vec<LogName> = self.members[from].disk.logs.keys().copied().collect();
                if logs.is_empty() || from == to {
                    return;
                }
                let log = logs[log % logs.len()];
                let first = self.members[from].disk.logs[&log].row.first_m_id().get();
                if let Some(frame) = self.members[from].frame(&log, first + start as u64, count) {
                    let outcome = self.members[to].receive(&frame);
                    assert!(!matches!(outcome, FrameOutcome::OwnLogAhead { .. }));
                }
            }
            Step::Sync { at } => self.members[at].sync(),
            Step::Crash { at } => {
                let mut disk = std::mem::take(&mut self.members[at].disk);
                disk.crash();
                self.reopen(at, disk);
            }
            Step::Copy { at } => {
                let mut copy = self.members[at].disk.clone();
                copy.crash();
                self.copies[at] = Some(copy);
            }
            Step::Restore { at } => {
                if let Some(copy) = self.copies[at].clone() {
                    self.reopen(at, copy);
                }
            }
            Step::Wipe { at } => self.reopen(at, Disk::default()),
            Step::Clock { at, milliseconds } => {
                self.members[at].now = WallTime::new(NOW.get() - 100_000 + milliseconds);
            }
        }
    }

    /// Everyone gets everything: whole logs in an order that does not respect
    /// parents, until nothing changes.
    fn heal(&mut self, backwards: bool) {
        for member in &mut self.members {
            member.sync();
        }
        loop {
            let mut changed = false;
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
                let mut logs: Vec<LogName> = self.members[from].disk.logs.keys().copied().collect();
                if backwards {
                    logs.reverse();
                }
                for log in logs {
                    let frame = self.members[from].whole_log(&log);
                    let outcome = self.members[to].receive(&frame);
                    changed |= matches!(outcome, FrameOutcome::Appended { .. });
                }
                self.members[to].sync();
            }
            if !changed {
                return;
            }
        }
    }
}

fn marks(member: &Member) -> Vec<(LogName, Row, Mark, Mark)> {
    let logs = member.admission.logs().iter();
    logs.map(|(name, held)| (*name, held.row.clone(), held.appended, held.durable)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// METHOD M3, M4, M10, M12: in whatever order frames of several logs come,
    /// over crashes, restored copies and wiped disks, members that have heard all
    /// of each other hold equal logs and equal directories; and opening again
    /// changes neither.
    #[test]
    fn members_converge(
        steps in proptest::collection::vec(step(), 1..150),
        backwards in any::<bool>(),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            for member in &world.members {
                let logs = member.admission.logs();
                prop_assert!(logs.iter().all(|(_, held)| held.stopped.is_none()));
                prop_assert!(logs.iter().all(|(_, held)| held.durable <= held.appended));
                let parents = logs.iter().flat_map(|(_, held)| held.row.parent_names());
                for parent in parents {
                    prop_assert!(logs.holds(&parent), "{parent} is not held, its child is");
                }
            }
        }
        world.heal(backwards);

        let [first, second, third] = &world.members[..] else { unreachable!() };
        for other in [second, third] {
            prop_assert_eq!(marks(first), marks(other));
            let (one, two) = (first.admission.logs(), other.admission.logs());
            prop_assert_eq!(one.tips_digest(EVERYWHERE), two.tips_digest(EVERYWHERE));
            let digest =
                |member: &Member| member.admission.directory(EVERYWHERE).map(Directory::digest);
            prop_assert_eq!(digest(first), digest(other));
        }
        for number in 1..=3 {
            let disk = world.members[number as usize - 1].disk.clone();
            let opened = Member::open(number, 7, disk, topology());
            let before = &world.members[number as usize - 1];
            prop_assert_eq!(marks(before), marks(&opened));
            let digest =
                |member: &Member| member.admission.directory(EVERYWHERE).map(Directory::digest);
            if before.disk.logs.is_empty() {
                continue;
            }
            prop_assert_eq!(digest(before), digest(&opened));
        }
        check_paths(first)?;
    }
}

/// Along every path the numbers have no holes, and stamps rise within each log
/// and from parents to children.
fn check_paths(member: &Member) -> Result<(), TestCaseError> {
    for (name, log) in &member.disk.logs {
        let first = log.row.first_m_id();
        prop_assert_eq!(log.entries[0].m_id, first);
        prop_assert!(log.entries.is_sorted_by(|a, b| a.stamp < b.stamp));
        for parent in log.row.parent_names() {
            let parent_log = &member.disk.logs[&parent.log];
            let at = parent.m_id.since(parent_log.row.first_m_id()) as usize;
            prop_assert!(parent_log.entries[at].stamp < log.entries[0].stamp);
            prop_assert_eq!(parent.log.path(), name.path());
        }
        let highest = log.row.parents.iter().map(|parent| parent.m_id.get()).max().unwrap_or(0);
        prop_assert_eq!(first.get(), highest + 1);
    }
    Ok(())
}
