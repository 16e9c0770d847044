//! A network that can be cut: each push-node in a network namespace of its own,
//! all of them on one bridge with the rest of the mesh. A cut drops what comes
//! from one node at another's door, so it can be one-way.
//!
//! The bridge has a namespace too, so that no firewall of the machine looks into
//! it. Everything is named after this process and goes with it; what a killed run
//! left is removed by the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// All names begin so; the number of the process that made them follows.
const PREFIX: &str = "interlock-faults-";
/// The second byte of the networks: 10.213.x.0/24.
const NETWORK: u8 = 213;

/// The network of one mesh.
pub(crate) struct Network {
    name: String,
    /// The third byte of its addresses.
    number: u8,
    nodes: BTreeMap<String, u8>,
    cuts: BTreeSet<(String, String)>,
}

impl Network {
    /// Connects these nodes with each other and with this process.
    pub(crate) fn new(nodes: &[String]) -> Self {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let process = std::process::id();
        let count = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut network = Self {
            name: format!("{PREFIX}{process}-{count}"),
            number: free_network(),
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
        };
        network.connect(nodes, &format!("il{process}-{count}"));
        network
    }

    fn connect(&mut self, nodes: &[String], link: &str) {
        let hub = self.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "bridge", "up"]);
        let host = format!("{}/24", self.host());
        ip(&["link", "add", link, "type", "veth", "peer", "name", "host", "netns", &hub]);
        ip(&["address", "add", &host, "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", &hub, "link", "set", "host", "master", "bridge", "up"]);
        for (node, last) in nodes.iter().zip(1..) {
            self.nodes.insert(node.clone(), last);
            let (place, port) = (self.place(node), format!("port{last}"));
            ip(&["netns", "add", &place]);
            ip(&[
                "-n", &place, "link", "add", "mesh", "type", "veth", "peer", "name", &port,
                "netns", &hub,
            ]);
            let address = format!("{}/24", self.address(node));
            ip(&["-n", &place, "address", "add", &address, "dev", "mesh"]);
            ip(&["-n", &place, "link", "set", "mesh", "up"]);
            ip(&["-n", &place, "link", "set", "lo", "up"]);
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"]);
        }
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn place(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// Where the processes that are in no namespace of their own are reached.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, NETWORK, self.number, 254)
    }

    /// Where a node is reached.
    pub(crate) fn address(&self, node: &str) -> Ipv4Addr {
        Ipv4Addr::new(10, NETWORK, self.number, self.nodes[node])
    }

    /// What starts a program at a node's place. Only the network is another: disks
    /// that are mounted later are seen there too.
    pub(crate) fn entrance(&self, node: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.place(node))]
    }

    /// Drops what one node sends to another from now on.
    pub(crate) fn cut(&mut self, from: &str, to: &str) {
        if self.cuts.insert((from.to_owned(), to.to_owned())) {
            self.rule("-A", from, to);
        }
    }

    /// Lets it through again.
    pub(crate) fn mend(&mut self, from: &str, to: &str) {
        if self.cuts.remove(&(from.to_owned(), to.to_owned())) {
            self.rule("-D", from, to);
        }
    }

    /// Lets everything through again.
    pub(crate) fn mend_all(&mut self) {
        for (from, to) in self.cuts.clone() {
            self.mend(&from, &to);
        }
    }

    fn rule(&self, action: &str, from: &str, to: &str) {
        let source = self.address(from).to_string();
        let [program, place] = &self.entrance(to)[..] else { unreachable!("two words") };
        let rule = [place, "iptables", "-w", action, "INPUT", "-s", &source, "-j", "DROP"];
        run(program, &rule);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The links go with the ends that are in namespaces.
        for place in self.nodes.keys().map(|node| self.place(node)).chain([self.hub()]) {
            let removed = Command::new("ip").args(["netns", "delete", &place]).status();
            if !removed.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!("the network namespace {place} stays: {removed:?}");
            }
        }
    }
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn said(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network that this machine has no route to.
fn free_network() -> u8 {
    let start = std::process::id() % 250;
    (start..start + 250)
        .filter_map(|number| u8::try_from(number % 250).ok())
        .find(|number| {
            let network = format!("10.{NETWORK}.{number}.0/24");
            said(&["route", "show", "exact", &network]).trim().is_empty()
        })
        .expect("one of 250 networks is free")
}

/// Removes the namespaces of runs that are over and could not clean up, with the
/// processes that they left in them.
fn remove_leftovers() {
    for name in said(&["netns", "list"]).lines().filter_map(|line| line.split(' ').next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(process) = process else { continue };
        if Path::new("/proc").join(process).exists() {
            continue;
        }
        for left in said(&["netns", "pids", name]).lines() {
            run("kill", &["-9", left]);
        }
        ip(&["netns", "delete", name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirements;

    fn reaches(network: &Network, from: &str, to: &str) -> bool {
        let (to, entrance) = (network.address(to).to_string(), network.entrance(from));
        // What no port listens to is refused at once, what is cut is not answered.
        let script = format!("exec 3<>/dev/tcp/{to}/9");
        let output = Command::new(&entrance[0])
            .arg(&entrance[1])
            .args(["timeout", "1", "bash", "-c", &script])
            .output()
            .expect("it starts");
        String::from_utf8_lossy(&output.stderr).contains("refused")
    }

    #[test]
    fn a_cut_is_one_way_and_goes_away() {
        requirements::demand(&requirements::NETWORK);
        let mut network = Network::new(&["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        assert!(reaches(&network, "a", "b") && reaches(&network, "b", "c"));
        network.cut("a", "b");
        assert!(!reaches(&network, "a", "b"), "cut");
        // The answer cannot come back either way, but from elsewhere it does.
        assert!(reaches(&network, "c", "b") && reaches(&network, "a", "c"));
        network.mend_all();
        assert!(reaches(&network, "a", "b"));
        let name = network.name.clone();
        drop(network);
        assert!(!said(&["netns", "list"]).contains(&name));
    }
}
