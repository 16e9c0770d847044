//! Three regions and a control-plane on loopback, each service a process of its
//! own: started, killed, restarted, stopped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The regions of the demonstration.
pub const REGIONS: [&str; 3] = ["europe", "america", "asia"];

/// How long a process may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a process may take to stop after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Where ports are looked for: below those that Linux gives to outgoing
/// connections (32768 and up). A connection that looks for a killed node could
/// otherwise be given the node's own port, and the node could not start again.
const PORTS: Range<u16> = 20_000..32_000;

/// A mesh of processes under one folder.
pub struct Mesh {
    folder: PathBuf,
    binaries: PathBuf,
    web_origins: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    ports: BTreeMap<String, u16>,
    places: BTreeMap<String, Place>,
    processes: BTreeMap<String, Child>,
}

/// Where a process of the mesh lives, if not on loopback with its data under the
/// mesh's folder.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address that it listens at.
    pub address: IpAddr,
    /// What starts a program there: the first words of the command.
    pub entrance: Vec<String>,
    /// Its data folder, if it has another one.
    pub data: Option<PathBuf>,
}

impl Mesh {
    /// A mesh that keeps its data, ports and logs under `folder`; `web_origins`
    /// gives regions the base address of their web server (METHOD M5).
    pub fn new(
        folder: &Path,
        binaries: &Path,
        web_origins: BTreeMap<String, String>,
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("creating {}", folder.display()))?;
        let mut mesh = Self {
            folder: folder.to_owned(),
            binaries: binaries.to_owned(),
            web_origins,
            environment: BTreeMap::new(),
            ports: BTreeMap::new(),
            places: BTreeMap::new(),
            processes: BTreeMap::new(),
        };
        mesh.choose_ports()?;
        mesh.write_context()?;
        Ok(mesh)
    }

    /// Gives the processes that are started from now on a variable.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Takes the binaries of another folder for the processes that are started from now
    /// on.
    pub fn set_binaries(&mut self, folder: &Path) {
        folder.clone_into(&mut self.binaries);
    }

    /// Puts a process elsewhere, from its next start on.
    pub fn set_place(&mut self, name: &str, place: Place) {
        self.places.insert(name.to_owned(), place);
    }

    /// Whether a folder is one that a mesh has used.
    pub fn was_made_in(folder: &Path) -> bool {
        ports_file(folder).exists()
    }

    /// The context file for the `interlock` command.
    pub fn context_file(&self) -> PathBuf {
        self.folder.join("context.toml")
    }

    /// Where the mesh keeps what it writes.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of a region's push-node.
    pub fn push_node(region: &str) -> String {
        format!("{region}-1")
    }

    /// The name of a region's gateway.
    pub fn gateway(region: &str) -> String {
        format!("{region}-gateway")
    }

    /// Starts all processes and waits until each listens.
    pub fn start(&mut self) -> Result<()> {
        self.start_control_plane()?;
        for region in REGIONS {
            self.start_push_node(region)?;
        }
        for region in REGIONS {
            self.start_gateway(region)?;
        }
        Ok(())
    }

    /// Starts the control-plane.
    pub fn start_control_plane(&mut self) -> Result<()> {
        let arguments = vec![
            "--listen".to_owned(),
            self.address("control-plane"),
            "--metrics-listen".to_owned(),
            self.address("control-plane metrics"),
            "--data-dir".to_owned(),
            self.data("control-plane"),
        ];
        self.spawn("control-plane", "control-plane", &arguments)
    }

    /// Starts a region's push-node.
    pub fn start_push_node(&mut self, region: &str) -> Result<()> {
        let name = Self::push_node(region);
        let mut arguments = vec![
            "--node".to_owned(),
            name.clone(),
            "--region".to_owned(),
            region.to_owned(),
            "--data-dir".to_owned(),
            self.data(&name),
            "--client-listen".to_owned(),
            self.address(&name),
            "--replication-listen".to_owned(),
            self.address(&format!("{name} replication")),
            "--metrics-listen".to_owned(),
            self.address(&format!("{name} metrics")),
            "--control-plane".to_owned(),
            self.url("control-plane"),
        ];
        if let Some(origin) = self.web_origins.get(region) {
            arguments.extend([
                "--web-origin".to_owned(),
                origin.clone(),
                "--allow-private-sources".to_owned(),
            ]);
        }
        self.spawn(&name, "push-node", &arguments)
    }

    /// Starts a region's gateway.
    pub fn start_gateway(&mut self, region: &str) -> Result<()> {
        let name = Self::gateway(region);
        let arguments = vec![
            "--gateway".to_owned(),
            name.clone(),
            "--region".to_owned(),
            region.to_owned(),
            "--listen".to_owned(),
            self.address(&name),
            "--metrics-listen".to_owned(),
            self.address(&format!("{name} metrics")),
            "--push-nodes".to_owned(),
            self.url(&Self::push_node(region)),
        ];
        self.spawn(&name, "subscriber-gateway", &arguments)
    }

    /// Ends a process as a power switch would (SIGKILL) and reaps it.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let mut child =
            self.processes.remove(name).with_context(|| format!("{name} does not run"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks a process to stop (SIGTERM) and waits for it.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let Some(mut child) = self.processes.remove(name) else { return Ok(()) };
        stop_child(name, &mut child)
    }

    /// Stops everything, gateways first.
    pub fn stop_all(&mut self) -> Result<()> {
        for region in REGIONS {
            self.stop(&Self::gateway(region))?;
        }
        let mut nodes: Vec<(String, Child)> =
            std::mem::take(&mut self.processes).into_iter().collect();
        for (_, child) in &nodes {
            signal(child)?;
        }
        for (name, child) in &mut nodes {
            wait_or_kill(name, child)?;
        }
        Ok(())
    }

    /// The processes that ended without being asked to: they are no longer part
    /// of the mesh until they are started again.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (name, child) in &mut self.processes {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push(Ended { name: name.clone(), status, log: log_of(&self.folder, name) });
            }
        }
        for Ended { name, .. } in &ended {
            self.processes.remove(name);
        }
        ended
    }

    /// Starts a process by its name.
    pub fn start_one(&mut self, name: &str) -> Result<()> {
        if name == "control-plane" {
            return self.start_control_plane();
        }
        for region in REGIONS {
            if name == Self::push_node(region) {
                return self.start_push_node(region);
            }
            if name == Self::gateway(region) {
                return self.start_gateway(region);
            }
        }
        bail!("no process of the mesh is called {name}")
    }

    /// The number of a process that runs, for `kill`.
    pub fn process_number(&self, name: &str) -> Option<u32> {
        self.processes.get(name).map(Child::id)
    }

    /// `name  address  process number` lines for people.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        for name in self.ports.keys() {
            let _ = write!(text, "  {name:26} {}", self.address(name));
            if let Some(number) = self.process_number(name) {
                let _ = write!(text, "  process {number}");
            }
            text.push('\n');
        }
        text
    }

    fn spawn(&mut self, name: &str, binary: &str, arguments: &[String]) -> Result<()> {
        let log_path = log_of(&self.folder, name);
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut child = self
            .program(name, binary)
            .args(arguments)
            .arg("--announce")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {binary}"))?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        if let Err(error) = wait_for_announcement(stdout) {
            let ended = child.try_wait().ok().flatten();
            let _ = child.kill();
            let _ = child.wait();
            let how = ended.map_or_else(String::new, |status| format!(" (it ended with {status})"));
            return Err(error
                .context(format!("{name} does not listen{how}; its log: {}", log_path.display())));
        }
        self.processes.insert(name.to_owned(), child);
        Ok(())
    }

    /// A binary, at the place of a process.
    fn program(&self, name: &str, binary: &str) -> Command {
        let binary = self.binaries.join(binary);
        let entrance = self.places.get(name).map_or(&[][..], |place| &place.entrance);
        match entrance {
            [] => Command::new(binary),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
        }
    }

    /// Where a process keeps its data.
    pub fn data_folder(&self, name: &str) -> PathBuf {
        let elsewhere = self.places.get(name).and_then(|place| place.data.clone());
        elsewhere.unwrap_or_else(|| self.folder.join("data").join(name))
    }

    fn data(&self, name: &str) -> String {
        self.data_folder(name).display().to_string()
    }

    /// Of a process, or of what it listens at besides: `asia-1 replication`.
    fn address(&self, name: &str) -> String {
        let process = name.split(' ').next().unwrap_or(name);
        let place = self.places.get(process);
        let address = place.map_or(IpAddr::from(Ipv4Addr::LOCALHOST), |place| place.address);
        format!("{address}:{}", self.ports[name])
    }

    /// `http://address:port` of a process.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}", self.address(name))
    }

    /// Keeps the ports of the last start where they are still free, so that a
    /// kept context file stays true.
    fn choose_ports(&mut self) -> Result<()> {
        let file = ports_file(&self.folder);
        let kept: BTreeMap<String, u16> = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        // Held until all are chosen.
        let mut held = Vec::new();
        let take = |port| {
            let listener = TcpListener::bind(("127.0.0.1", port));
            held.extend(listener.ok());
            held.last().and_then(|it| it.local_addr().ok()).is_some_and(|it| it.port() == port)
        };
        self.ports = assign_ports(process_addresses(), &kept, first_port(), take)
            .with_context(|| format!("too few ports of {PORTS:?} are free"))?;
        fs::write(&file, serde_json::to_vec_pretty(&self.ports)?)?;
        Ok(())
    }

    fn write_context(&self) -> Result<()> {
        let mut text = String::from("current = \"demo\"\n\n[contexts.demo]\n");
        let _ = writeln!(
            text,
            "control_plane = \"{}\"\ndefault_region = \"{}\"",
            self.url("control-plane"),
            REGIONS[0]
        );
        for region in REGIONS {
            let _ = writeln!(
                text,
                "\n[contexts.demo.regions.{region}]\npush_nodes = [\"{}\"]\ngateways = [\"{}\"]",
                self.url(&Self::push_node(region)),
                self.url(&Self::gateway(region)),
            );
        }
        fs::write(self.context_file(), text)?;
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A process that ended without being asked to.
#[derive(Debug)]
pub struct Ended {
    /// Which one.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// Where it said why, if it did.
    pub log: PathBuf,
}

/// Where a mesh begins to look for ports: another place for each, so that meshes that
/// start at the same time do not meet.
fn first_port() -> u16 {
    static MESHES: AtomicU16 = AtomicU16::new(0);
    let mesh = usize::from(MESHES.fetch_add(1, Ordering::Relaxed));
    let place = (std::process::id() % 149) as usize * 80 + mesh * 40;
    PORTS.start + u16::try_from(place % PORTS.len()).expect("a place among the ports")
}

/// A port for each name: the kept one where it can be taken, else the next from
/// `first` on that can. `None` when there are too few.
fn assign_ports(
    names: Vec<String>,
    kept: &BTreeMap<String, u16>,
    first: u16,
    mut take: impl FnMut(u16) -> bool,
) -> Option<BTreeMap<String, u16>> {
    // All that are kept go first, so that none is given to another name.
    let mut ports: BTreeMap<String, u16> = names
        .iter()
        .filter_map(|name| Some((name.clone(), *kept.get(name)?)))
        .filter(|(_, port)| take(*port))
        .collect();
    let mut rest = (first..PORTS.end).chain(PORTS.start..first);
    for name in names {
        if let Entry::Vacant(place) = ports.entry(name) {
            place.insert(rest.by_ref().find(|port| take(*port))?);
        }
    }
    Some(ports)
}

fn ports_file(folder: &Path) -> PathBuf {
    folder.join("ports.json")
}

fn log_of(folder: &Path, name: &str) -> PathBuf {
    folder.join("logs").join(format!("{name}.log"))
}

fn process_addresses() -> Vec<String> {
    let mut names = vec!["control-plane".to_owned(), "control-plane metrics".to_owned()];
    for region in REGIONS {
        let node = Mesh::push_node(region);
        let gateway = Mesh::gateway(region);
        names.extend([format!("{node} replication"), format!("{node} metrics"), node]);
        names.extend([format!("{gateway} metrics"), gateway]);
    }
    names
}

/// Waits for the one line that a service prints once it listens, and goes on
/// draining its stdout afterwards so that the pipe never fills.
fn wait_for_announcement(stdout: std::process::ChildStdout) -> Result<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = receiver
            .recv_timeout(left)
            .map_err(|_| anyhow!("no announcement within {START_LIMIT:?}"))?;
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] == "listening" {
            return Ok(());
        }
    }
}

fn signal(child: &Child) -> Result<()> {
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the child has no pid")?;
    // A child that has ended already is what was wanted.
    let _ = kill_process(pid, Signal::TERM);
    Ok(())
}

fn stop_child(name: &str, child: &mut Child) -> Result<()> {
    signal(child)?;
    wait_or_kill(name, child)
}

fn wait_or_kill(name: &str, child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + STOP_LIMIT;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    bail!("{name} did not stop within {STOP_LIMIT:?} of SIGTERM and was killed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(folder: &Path) -> Mesh {
        Mesh::new(folder, Path::new("/nowhere"), BTreeMap::new()).expect("free ports")
    }

    /// Takes ports as a machine does that has these in use.
    fn assign(kept: &BTreeMap<String, u16>, used: &[u16]) -> Option<BTreeMap<String, u16>> {
        let mut taken: std::collections::BTreeSet<u16> = used.iter().copied().collect();
        assign_ports(process_addresses(), kept, PORTS.end - 5, move |port| taken.insert(port))
    }

    #[test]
    fn ports_are_kept_while_nobody_else_has_them() {
        let first = assign(&BTreeMap::new(), &[PORTS.end - 4]).expect("there are many");
        let distinct: std::collections::BTreeSet<u16> = first.values().copied().collect();
        assert_eq!(distinct.len(), process_addresses().len());
        assert!(distinct.iter().all(|port| PORTS.contains(port)));
        assert!(!distinct.contains(&(PORTS.end - 4)), "it is in use");
        assert_eq!(assign(&first, &[]).as_ref(), Some(&first));
        let second = assign(&first, &[first["asia-1"]]).expect("there are many");
        for (name, port) in &first {
            let is_kept = second[name] == *port;
            assert_eq!(is_kept, name != "asia-1", "{name}");
        }
        let all: Vec<u16> = PORTS.collect();
        assert_eq!(assign(&BTreeMap::new(), &all), None);
    }

    #[test]
    fn the_context_file_names_the_ports() {
        let folder = tempfile::tempdir().expect("a folder");
        let mesh = mesh(folder.path());
        let context = fs::read_to_string(mesh.context_file()).expect("written");
        assert!(context.contains(&mesh.url("asia-1")), "{context}");
        let kept: BTreeMap<String, u16> =
            serde_json::from_slice(&fs::read(ports_file(folder.path())).expect("written"))
                .expect("readable");
        assert_eq!(kept, mesh.ports);
    }

    #[test]
    fn a_process_that_ends_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mesh = mesh(folder.path());
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().expect("a shell");
        mesh.processes.insert("asia-1".to_owned(), child);
        let deadline = Instant::now() + START_LIMIT;
        let ended = loop {
            let ended = mesh.take_ended();
            if !ended.is_empty() {
                break ended;
            }
            assert!(Instant::now() < deadline, "the end is not noticed");
            std::thread::yield_now();
        };
        assert_eq!((ended[0].name.as_str(), ended[0].status.code()), ("asia-1", Some(7)));
        assert!(mesh.take_ended().is_empty());
        assert!(mesh.start_one("asia-2").is_err());
    }
}
