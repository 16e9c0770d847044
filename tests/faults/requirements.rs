//! What a fault needs of the machine. Where it is missing the run fails and says
//! what: a fault that is left out silently would count as survived.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

/// Something that has to be there.
pub(crate) struct Requirement {
    what: &'static str,
    how: &'static str,
    is_there: fn() -> bool,
}

const ROOT: Requirement = Requirement {
    what: "root's rights",
    how: "run it as root, or in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN",
    is_there: || std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0),
};

/// For disks that lose, fail and fill up.
pub(crate) const DISK: [Requirement; 2] = [
    ROOT,
    Requirement {
        what: "/dev/fuse",
        how: "load the kernel's module `fuse`, or give the container the device",
        is_there: || OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
    },
];

/// For networks that break.
pub(crate) const NETWORK: [Requirement; 4] = [
    ROOT,
    Requirement {
        what: "`ip`",
        how: "apt-get install iproute2",
        is_there: || answers("ip", &["-V"]),
    },
    Requirement {
        what: "`iptables`",
        how: "apt-get install iptables",
        is_there: || answers("iptables", &["-V"]),
    },
    Requirement {
        what: "`nsenter`",
        how: "apt-get install util-linux",
        is_there: || answers("nsenter", &["-V"]),
    },
];

fn answers(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Says what is missing, if anything is.
pub(crate) fn demand(requirements: &[Requirement]) {
    let missing: Vec<String> = requirements
        .iter()
        .filter(|requirement| !(requirement.is_there)())
        .map(|requirement| format!("{} ({})", requirement.what, requirement.how))
        .collect();
    assert!(missing.is_empty(), "these faults need what is not here: {}", missing.join("; "));
}

#[test]
#[should_panic(expected = "need what is not here: a unicorn (breed one)")]
fn what_is_missing_is_said() {
    let unicorn = Requirement { what: "a unicorn", how: "breed one", is_there: || false };
    demand(&[unicorn]);
}
