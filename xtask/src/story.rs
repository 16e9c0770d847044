//! The story of M1–M15 on real input: each step is told as it begins and fails
//! with what was expected and what was found.

mod input;
mod readers;

use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::demo::names;
use readers::path;
use xtask::interlock_command::{Interlock, eventually, finish};
use xtask::mesh::{Mesh, REGIONS};
use xtask::web_origin::WebOrigin;

pub use input::Input;

const EUROPE: &str = REGIONS[0];
const AMERICA: &str = REGIONS[1];
const ASIA: &str = REGIONS[2];

/// Tells the whole story; the first broken promise ends it.
pub fn tell(
    mesh: &mut Mesh,
    interlock: &Interlock,
    origin: &WebOrigin,
    input: &Input,
) -> Result<()> {
    let limit = input.limit();
    let story = Story { interlock, folder: mesh.folder().to_owned(), input, limit };
    step("M2 M15", "nodes are registered; groups and namespaces are placed", || story.place())?;
    step("M3", "a channel made once, at one node, is at every node of its groups", || {
        story.channels()
    })?;
    step("M2", "an operation through the control-plane reaches the region asked for", || {
        story.by_control_plane()
    })?;
    step("M15", "a namespace of two regions is at no node of the third", || story.residency())?;
    step("M5", "content from the regional web server is the same bytes everywhere", || {
        story.content(origin)
    })?;
    step("M7 M13 M14", "every line, once and in order, at subscribers of every region", || {
        story.lines_everywhere()
    })?;
    step("M4", "every node is master of what it accepts, all at the same time", || {
        story.all_are_masters()
    })?;
    step("M6 M8 M9 M10 M11", "a receiver that is killed gets the rest when it is back", || {
        story.receiver_dies(mesh)
    })?;
    step("M12", "an origin that is killed in the middle goes on where its log ends", || {
        story.origin_dies(mesh)
    })?;
    step("M14", "a cursor taken in one region goes on in another", || story.cursor_moves())?;
    step("M1", "a region serves alone, and what it accepted reaches the others later", || {
        story.alone(mesh)
    })?;
    step("M3 M14", "all nodes hold the same, by digest, and nothing waits", || {
        story.same_everywhere()
    })
}

fn step(method: &str, what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("story: {method:18} {what}");
    act().with_context(|| format!("{method}: {what}"))
}

struct Story<'a> {
    interlock: &'a Interlock,
    folder: std::path::PathBuf,
    input: &'a Input,
    /// How long anything may take; only reached when something is wrong.
    limit: Duration,
}

impl Story<'_> {
    fn place(&self) -> Result<()> {
        self.interlock
            .json(EUROPE, &["group", "apply", "world", "--regions", &REGIONS.join(",")])?;
        self.interlock
            .json(EUROPE, &["group", "apply", "west", "--regions", &[EUROPE, AMERICA].join(",")])?;
        self.interlock.json(EUROPE, &["namespace", "create", "demo", "--groups", "world"])?;
        self.interlock.json(EUROPE, &["namespace", "create", "west-only", "--groups", "west"])?;
        let nodes = self.interlock.json(EUROPE, &["node", "list"])?;
        for region in REGIONS {
            let name = Mesh::push_node(region);
            let node = row(&nodes["nodes"], "name", &name)?;
            ensure!(node["region"] == region, "{name} is registered in {}", node["region"]);
            ensure!(node["liveness"] == "alive", "{name} is {}", node["liveness"]);
        }
        eventually("every node takes its namespaces", self.limit, || {
            let status = self.interlock.json(EUROPE, &["status"])?;
            for region in REGIONS {
                let node = row(&status["nodes"], "name", &Mesh::push_node(region))?;
                let demo = row(&node["namespaces"], "name", "demo")?;
                ensure!(demo["ready"] == true, "{region} is not ready for demo");
            }
            Ok(())
        })
    }

    fn channels(&self) -> Result<()> {
        self.interlock
            .json(EUROPE, &["channel", "create", "demo/hello", "--description", "Try me"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "hello", true)?;
        }
        // Changed in a second region, deleted in a third.
        self.interlock.json(AMERICA, &["channel", "create", "demo/short-lived"])?;
        self.sees_channel(ASIA, "demo", "short-lived", true)?;
        self.interlock.json(
            ASIA,
            &["channel", "update", "demo/short-lived", "--description", "changed in asia"],
        )?;
        for region in REGIONS {
            eventually("the change", self.limit, || {
                let shown =
                    self.interlock.json(region, &["channel", "show", "demo/short-lived"])?;
                ensure!(
                    shown["channel"]["description"] == "changed in asia",
                    "{region} shows {shown}"
                );
                Ok(())
            })?;
        }
        self.interlock.json(ASIA, &["channel", "delete", "demo/short-lived"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "short-lived", false)?;
        }
        let (code, _) =
            self.interlock.refused(EUROPE, &["publish", "demo/short-lived", "too late"])?;
        ensure!(code == 3, "publishing to a deleted channel ended with {code}, not 3");
        let (code, _) = self.interlock.refused(AMERICA, &["channel", "create", "demo/hello"])?;
        ensure!(code == 4, "creating a channel that exists ended with {code}, not 4");
        Ok(())
    }

    fn by_control_plane(&self) -> Result<()> {
        self.interlock.json(ASIA, &["channel", "create", "demo/ordered", "--via-control-plane"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "ordered", true)?;
        }
        Ok(())
    }

    fn residency(&self) -> Result<()> {
        self.interlock.json(EUROPE, &["channel", "create", "west-only/news"])?;
        self.interlock.json(EUROPE, &["publish", "west-only/news", "stays in the west"])?;
        self.sees_channel(AMERICA, "west-only", "news", true)?;
        let (code, _) = self.interlock.refused(ASIA, &["channel", "list", "west-only"])?;
        ensure!(code == 4, "asia answered for a namespace it does not hold with {code}, not 4");
        let status = self.interlock.json(EUROPE, &["status"])?;
        let node = row(&status["nodes"], "name", &Mesh::push_node(ASIA))?;
        if let Ok(namespace) = row(&node["namespaces"], "name", "west-only") {
            ensure!(namespace["member"] != true, "asia is a member of west-only");
            ensure!(
                namespace["messages"].as_u64().unwrap_or(0) == 0,
                "asia holds messages of west-only"
            );
        }
        Ok(())
    }

    fn content(&self, origin: &WebOrigin) -> Result<()> {
        self.interlock
            .json(AMERICA, &["channel", "create", "demo/page", "--source", "/page.txt"])?;
        self.serve_content(b"opening hours: 9 to 5\n")?;
        let unchanged = self.interlock.json(AMERICA, &["channel", "refresh", "demo/page"])?;
        ensure!(unchanged["changed"] == false, "a refresh without a change said {unchanged}");
        let changed: &[u8] = b"closed \x00\xff today\n";
        origin.replace(changed.to_vec());
        let refreshed = self.interlock.json(EUROPE, &["channel", "refresh", "demo/page"])?;
        ensure!(refreshed["changed"] == true, "a refresh after a change said {refreshed}");
        self.serve_content(changed)
    }

    fn serve_content(&self, expected: &[u8]) -> Result<()> {
        for region in REGIONS {
            eventually("the content", self.limit, || {
                let output = self
                    .interlock
                    .command(region, &["channel", "content", "demo/page"])
                    .output()?;
                ensure!(output.stdout == expected, "{region} serves other bytes");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn lines_everywhere(&self) -> Result<()> {
        let channel = "demo/hello";
        let subscribers = self.subscribe_everywhere("lines", channel, "now")?;
        self.publish(EUROPE, channel)?;
        let closings = self.close(channel, &[EUROPE, AMERICA, ASIA])?;
        self.all_got(subscribers, channel, &closings)?;
        // And again from the stored history.
        let late = self.subscribe_everywhere("late", channel, "oldest")?;
        self.all_got(late, channel, &closings)
    }

    fn all_are_masters(&self) -> Result<()> {
        for origin in REGIONS {
            self.everywhere(origin, &format!("from-{origin}"))?;
        }
        let mut publishing = Vec::new();
        for origin in REGIONS {
            let channel = format!("demo/from-{origin}");
            publishing.push((origin, self.start_publishing(origin, &channel)?));
        }
        for (origin, child) in publishing {
            finish(child, &format!("publishing in {origin}"), self.limit)?;
        }
        for origin in REGIONS {
            let channel = format!("demo/from-{origin}");
            let mut closing = vec![origin];
            closing.extend(REGIONS.into_iter().filter(|other| *other != origin));
            let closings = self.close(&channel, &closing)?;
            let name = format!("from-{origin}");
            let subscribers = self.subscribe_everywhere(&name, &channel, "oldest")?;
            self.all_got(subscribers, &channel, &closings)?;
        }
        Ok(())
    }

    fn receiver_dies(&self, mesh: &mut Mesh) -> Result<()> {
        let channel = self.everywhere(EUROPE, "receiver-dies")?;
        let subscribers = self.subscribe_everywhere("receiver-dies", &channel, "oldest")?;
        mesh.kill(&Mesh::push_node(ASIA))?;
        self.publish(EUROPE, &channel)?;
        // The queue of the dead peer holds what it has still to get.
        let lines = self.input.lines().len() as u64;
        eventually("the queue for the dead peer", self.limit, || {
            let queue = self.queue(EUROPE, ASIA)?;
            ensure!(queue >= lines, "the queue for asia holds {queue} messages");
            Ok(())
        })?;
        mesh.start_push_node(ASIA)?;
        let closings = self.close(&channel, &[EUROPE, AMERICA, ASIA])?;
        self.all_got(subscribers, &channel, &closings)?;
        eventually("the queue runs empty", self.limit, || {
            let queue = self.queue(EUROPE, ASIA)?;
            ensure!(queue == 0, "the queue for asia still holds {queue} messages");
            Ok(())
        })
    }

    fn origin_dies(&self, mesh: &mut Mesh) -> Result<()> {
        let channel = self.everywhere(EUROPE, "origin-dies")?;
        let subscribers = self.subscribe_everywhere("origin-dies", &channel, "oldest")?;
        let asia = subscribers
            .iter()
            .find(|subscriber| subscriber.region == ASIA)
            .context("no subscriber")?;
        let arriving = asia.file.clone();

        let mut publishing = self
            .interlock
            .command(EUROPE, &["-o", "json", "publish", &channel, "--lines", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting interlock")?;
        let mut pipe = publishing.stdin.take().context("no stdin")?;
        let lines = self.input.lines();
        let (first, rest) = lines.split_at((lines.len() / 3).max(1).min(lines.len()));
        feed(&mut pipe, first)?;
        if !first.is_empty() {
            eventually("the first lines in asia", self.limit, || {
                ensure!(fs::metadata(&arriving)?.len() > 0, "nothing has come yet");
                Ok(())
            })?;
        }
        let (under_way, last) = rest.split_at(rest.len() / 2);
        let fed: Result<()> = thread::scope(|scope| {
            let (half_fed, half) = mpsc::channel();
            // Nobody reads what is fed while the node is away: a full pipe must not
            // hold up its restart.
            let feeding = scope.spawn(move || {
                feed(&mut pipe, under_way)?;
                // Nobody waits only where the story has failed.
                let _ = half_fed.send(());
                feed(&mut pipe, last)
            });
            // These are under way when the power goes.
            half.recv_timeout(self.limit).context("the publisher takes no lines")?;
            mesh.kill(&Mesh::push_node(EUROPE))?;
            mesh.start_push_node(EUROPE)?;
            feeding.join().map_err(|_| anyhow!("feeding the lines panicked"))?
        });
        match (fed, finish(publishing, "publishing over the restart", self.limit)) {
            // Why the lines were not taken is known to the publisher alone.
            (Err(fed), Err(finished)) => return Err(finished.context(format!("{fed:#}"))),
            (fed, finished) => fed.and(finished)?,
        }
        let closings = self.close(&channel, &[EUROPE, AMERICA, ASIA])?;
        self.all_got(subscribers, &channel, &closings)
    }

    fn cursor_moves(&self) -> Result<()> {
        let channel = "demo/hello";
        let closings: Vec<String> = [EUROPE, AMERICA, ASIA]
            .into_iter()
            .map(|region| self.input.closing(channel, region))
            .collect();
        let all = self.input.lines().len() + closings.len();
        let cursor_file = self.folder.join("moving.cursor");
        let mut got = Vec::new();
        for (region, count) in [(EUROPE, all / 2), (ASIA, all - all / 2)] {
            let file = self.folder.join(format!("moving-{region}.bin"));
            let count = count.to_string();
            let arguments = [
                "subscribe",
                channel,
                "--from",
                "oldest",
                "--raw",
                "--count",
                &count,
                "--output-file",
                path(&file)?,
                "--cursor-file",
                path(&cursor_file)?,
            ];
            finish(
                self.interlock.start(region, &arguments)?,
                &format!("the subscriber in {region}"),
                self.limit,
            )?;
            got.extend(fs::read(&file)?);
        }
        let who = "the subscriber that moved from europe to asia";
        self.input.compare(&got, &closings, who)
    }

    fn alone(&self, mesh: &mut Mesh) -> Result<()> {
        let channel = self.everywhere(AMERICA, "alone")?;
        mesh.kill("control-plane")?;
        mesh.kill(&Mesh::push_node(EUROPE))?;
        mesh.kill(&Mesh::push_node(ASIA))?;
        // A restart with nobody else reachable, the control-plane included.
        mesh.kill(&Mesh::push_node(AMERICA))?;
        mesh.start_push_node(AMERICA)?;
        self.publish(AMERICA, &channel)?;
        let mut closings = self.close(&channel, &[AMERICA])?;
        let subscriber = self.subscribe("alone", AMERICA, &channel, "oldest", closings.len())?;
        self.got(subscriber, &closings)?;
        mesh.start_push_node(EUROPE)?;
        mesh.start_push_node(ASIA)?;
        mesh.start_control_plane()?;
        closings.extend(self.close(&channel, &[EUROPE, ASIA])?);
        let subscribers = self.subscribe_everywhere("after-alone", &channel, "oldest")?;
        self.all_got(subscribers, &channel, &closings)
    }

    fn same_everywhere(&self) -> Result<()> {
        eventually("equal digests and empty queues", self.limit, || {
            let status = self.interlock.json(EUROPE, &["status"])?;
            let mut digests = Vec::new();
            for region in REGIONS {
                let node = row(&status["nodes"], "name", &Mesh::push_node(region))?;
                let demo = row(&node["namespaces"], "name", "demo")?;
                digests.push((demo["tips_digest"].clone(), demo["state_digest"].clone()));
                for peer in node["peers"].as_array().context("no peers")? {
                    ensure!(
                        peer["queue_messages"] == 0,
                        "{region} has a queue of {} for {}",
                        peer["queue_messages"],
                        peer["name"]
                    );
                }
                let alarms = node["alarms"].as_array().map_or(0, Vec::len);
                ensure!(alarms == 0, "{region} has alarms: {}", node["alarms"]);
            }
            ensure!(!digests[0].0.is_null(), "the status has no digests");
            ensure!(
                digests.iter().all(|digest| *digest == digests[0]),
                "digests differ: {digests:?}"
            );
            Ok(())
        })
    }

    fn sees_channel(
        &self,
        region: &str,
        namespace: &str,
        channel: &str,
        expected: bool,
    ) -> Result<()> {
        eventually(&format!("{namespace}/{channel} in {region}"), self.limit, || {
            let listed =
                names(&self.interlock.json(region, &["channel", "list", namespace])?, "channels");
            let found = listed.iter().any(|name| name == channel);
            ensure!(found == expected, "{region} lists {listed:?}");
            Ok(())
        })
    }

    fn queue(&self, at: &str, peer: &str) -> Result<u64> {
        let status = self.interlock.json(at, &["status"])?;
        let node = row(&status["nodes"], "name", &Mesh::push_node(at))?;
        row(&node["peers"], "name", &Mesh::push_node(peer))?["queue_messages"]
            .as_u64()
            .context("no queue_messages")
    }

    /// Makes a channel of `demo` and waits until every region has it.
    fn everywhere(&self, region: &str, name: &str) -> Result<String> {
        let channel = format!("demo/{name}");
        self.interlock.json(region, &["channel", "create", &channel])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", name, true)?;
        }
        Ok(channel)
    }

    fn publish(&self, region: &str, channel: &str) -> Result<()> {
        let file = path(self.input.path())?;
        let answer = self.interlock.json(region, &["publish", channel, "--lines", file])?;
        ensure!(answer["published"] == self.input.lines().len(), "publishing said {answer}");
        Ok(())
    }

    fn start_publishing(&self, region: &str, channel: &str) -> Result<Child> {
        let file = path(self.input.path())?;
        self.interlock.start(region, &["-o", "json", "publish", channel, "--lines", file])
    }
}

fn feed(to: &mut ChildStdin, lines: &[Vec<u8>]) -> Result<()> {
    for line in lines {
        to.write_all(line)?;
        to.write_all(b"\n")?;
    }
    Ok(to.flush()?)
}

fn row<'a>(rows: &'a Value, key: &str, value: &str) -> Result<&'a Value> {
    rows.as_array()
        .and_then(|rows| rows.iter().find(|row| row[key] == value))
        .with_context(|| format!("no row with {key} {value} in {rows}"))
}
