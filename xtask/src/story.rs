//! The story of M1–M15 on real input: each step is told as it begins and fails
//! with what was expected and what was found.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::demo::names;
use crate::web_origin::WebOrigin;
use xtask::interlock_command::{Interlock, eventually, finish};
use xtask::mesh::{Mesh, REGIONS};

/// How long anything in the story may take; only reached when something is wrong.
const LIMIT: Duration = Duration::from_secs(120);

const EUROPE: &str = REGIONS[0];
const AMERICA: &str = REGIONS[1];
const ASIA: &str = REGIONS[2];

/// Tells the whole story; the first broken promise ends it.
pub fn tell(
    mesh: &mut Mesh,
    interlock: &Interlock,
    origin: &WebOrigin,
    input: &Path,
    lines: &[Vec<u8>],
) -> Result<()> {
    let story = Story { interlock, folder: mesh.folder().to_owned(), lines };
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
        story.lines_everywhere(input)
    })?;
    step("M4", "every node is master of what it accepts, all at the same time", || {
        story.all_are_masters(input)
    })?;
    step("M6 M8 M9 M10 M11", "a receiver that is killed gets the rest when it is back", || {
        story.receiver_dies(mesh, input)
    })?;
    step("M12", "an origin that is killed in the middle goes on where its log ends", || {
        story.origin_dies(mesh)
    })?;
    step("M14", "a cursor taken in one region goes on in another", || story.cursor_moves())?;
    step("M1", "a region serves alone, and what it accepted reaches the others later", || {
        story.alone(mesh, input)
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
    lines: &'a [Vec<u8>],
}

/// A subscriber of the story: a running `interlock subscribe` and its file.
struct Subscriber {
    region: &'static str,
    child: Child,
    file: std::path::PathBuf,
    what: String,
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
        eventually("every node takes its namespaces", LIMIT, || {
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
            eventually("the change", LIMIT, || {
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
            eventually("the content", LIMIT, || {
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

    fn lines_everywhere(&self, input: &Path) -> Result<()> {
        let subscribers =
            self.subscribe_everywhere("lines", "demo/hello", "now", self.lines.len())?;
        self.publish(EUROPE, "demo/hello", input)?;
        self.all_got(subscribers, self.lines)?;
        // And again from the stored history.
        let late = self.subscribe_everywhere("late", "demo/hello", "oldest", self.lines.len())?;
        self.all_got(late, self.lines)
    }

    fn all_are_masters(&self, input: &Path) -> Result<()> {
        for region in REGIONS {
            self.interlock.json(region, &["channel", "create", &format!("demo/from-{region}")])?;
        }
        let mut publishing = Vec::new();
        for region in REGIONS {
            let channel = format!("demo/from-{region}");
            publishing.push((region, self.start_publishing(region, &channel, input)?));
        }
        for (region, child) in publishing {
            finish(child, &format!("publishing in {region}"), LIMIT)?;
        }
        for region in REGIONS {
            let channel = format!("demo/from-{region}");
            let subscribers = self.subscribe_everywhere(
                &format!("from-{region}"),
                &channel,
                "oldest",
                self.lines.len(),
            )?;
            self.all_got(subscribers, self.lines)?;
        }
        Ok(())
    }

    fn receiver_dies(&self, mesh: &mut Mesh, input: &Path) -> Result<()> {
        self.interlock.json(EUROPE, &["channel", "create", "demo/receiver-dies"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "receiver-dies", true)?;
        }
        let subscribers = self.subscribe_everywhere(
            "receiver-dies",
            "demo/receiver-dies",
            "oldest",
            self.lines.len(),
        )?;
        mesh.kill(&Mesh::push_node(ASIA))?;
        self.publish(EUROPE, "demo/receiver-dies", input)?;
        // The queue of the dead peer holds what it has still to get.
        eventually("the queue for the dead peer", LIMIT, || {
            let queue = self.queue(EUROPE, ASIA)?;
            ensure!(queue >= self.lines.len() as u64, "the queue for asia holds {queue} messages");
            Ok(())
        })?;
        mesh.start_push_node(ASIA)?;
        self.all_got(subscribers, self.lines)?;
        eventually("the queue runs empty", LIMIT, || {
            let queue = self.queue(EUROPE, ASIA)?;
            ensure!(queue == 0, "the queue for asia still holds {queue} messages");
            Ok(())
        })
    }

    fn origin_dies(&self, mesh: &mut Mesh) -> Result<()> {
        self.interlock.json(EUROPE, &["channel", "create", "demo/origin-dies"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "origin-dies", true)?;
        }
        let subscribers = self.subscribe_everywhere(
            "origin-dies",
            "demo/origin-dies",
            "oldest",
            self.lines.len(),
        )?;
        let asia = subscribers
            .iter()
            .position(|subscriber| subscriber.region == ASIA)
            .context("no subscriber")?;
        let arriving = subscribers[asia].file.clone();

        let mut publishing = self
            .interlock
            .command(EUROPE, &["-o", "json", "publish", "demo/origin-dies", "--lines", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting interlock")?;
        let mut lines = publishing.stdin.take().context("no stdin")?;
        let third = self.lines.len() / 3;
        self.feed(&mut lines, 0..third)?;
        eventually("the first lines in asia", LIMIT, || {
            ensure!(fs::metadata(&arriving)?.len() > 0, "nothing has come yet");
            Ok(())
        })?;
        // These are under way when the power goes.
        self.feed(&mut lines, third..2 * third)?;
        mesh.kill(&Mesh::push_node(EUROPE))?;
        self.feed(&mut lines, 2 * third..self.lines.len())?;
        drop(lines);
        mesh.start_push_node(EUROPE)?;
        finish(publishing, "publishing over the restart", LIMIT)?;
        self.all_got(subscribers, self.lines)
    }

    fn feed(&self, to: &mut impl Write, lines: Range<usize>) -> Result<()> {
        for line in &self.lines[lines] {
            to.write_all(line)?;
            to.write_all(b"\n")?;
        }
        Ok(to.flush()?)
    }

    fn cursor_moves(&self) -> Result<()> {
        let half = (self.lines.len() / 2).max(1);
        let cursor_file = self.folder.join("moving.cursor");
        let mut got = Vec::new();
        for (region, count) in [(EUROPE, half), (ASIA, self.lines.len() - half)] {
            if count == 0 {
                continue;
            }
            let file = self.folder.join(format!("moving-{region}.bin"));
            let count = count.to_string();
            let arguments = [
                "subscribe",
                "demo/hello",
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
                LIMIT,
            )?;
            got.extend(fs::read(&file)?);
        }
        compare(&got, self.lines, "the subscriber that moved from europe to asia")
    }

    fn alone(&self, mesh: &mut Mesh, input: &Path) -> Result<()> {
        self.interlock.json(AMERICA, &["channel", "create", "demo/alone"])?;
        for region in REGIONS {
            self.sees_channel(region, "demo", "alone", true)?;
        }
        mesh.kill("control-plane")?;
        mesh.kill(&Mesh::push_node(EUROPE))?;
        mesh.kill(&Mesh::push_node(ASIA))?;
        // A restart with nobody else reachable, the control-plane included.
        mesh.kill(&Mesh::push_node(AMERICA))?;
        mesh.start_push_node(AMERICA)?;
        self.publish(AMERICA, "demo/alone", input)?;
        let subscriber =
            self.subscribe("alone", AMERICA, "demo/alone", "oldest", self.lines.len())?;
        self.got(subscriber, self.lines)?;
        mesh.start_push_node(EUROPE)?;
        mesh.start_push_node(ASIA)?;
        mesh.start_control_plane()?;
        let subscribers =
            self.subscribe_everywhere("after-alone", "demo/alone", "oldest", self.lines.len())?;
        self.all_got(subscribers, self.lines)
    }

    fn same_everywhere(&self) -> Result<()> {
        eventually("equal digests and empty queues", LIMIT, || {
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
        eventually(&format!("{namespace}/{channel} in {region}"), LIMIT, || {
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

    fn publish(&self, region: &str, channel: &str, input: &Path) -> Result<()> {
        let answer = self.interlock.json(region, &["publish", channel, "--lines", path(input)?])?;
        ensure!(answer["published"] == self.lines.len(), "publishing said {answer}");
        Ok(())
    }

    fn start_publishing(&self, region: &str, channel: &str, input: &Path) -> Result<Child> {
        self.interlock.start(region, &["-o", "json", "publish", channel, "--lines", path(input)?])
    }

    fn subscribe(
        &self,
        name: &str,
        region: &'static str,
        channel: &str,
        from: &str,
        count: usize,
    ) -> Result<Subscriber> {
        let file = self.folder.join(format!("{name}-{region}.bin"));
        let ready = self.folder.join(format!("{name}-{region}.cursor"));
        let count = count.to_string();
        let arguments = [
            "subscribe",
            channel,
            "--from",
            from,
            "--raw",
            "--count",
            &count,
            "--output-file",
            path(&file)?,
            "--cursor-file",
            path(&ready)?,
        ];
        let child = self.interlock.start(region, &arguments)?;
        // The cursor file appears once the subscription stands.
        eventually("the subscription", LIMIT, || {
            ensure!(ready.exists(), "{name} in {region} has no position yet");
            Ok(())
        })?;
        Ok(Subscriber {
            region,
            child,
            file,
            what: format!("the subscriber of {channel} in {region}"),
        })
    }

    fn subscribe_everywhere(
        &self,
        name: &str,
        channel: &str,
        from: &str,
        count: usize,
    ) -> Result<Vec<Subscriber>> {
        REGIONS
            .into_iter()
            .map(|region| self.subscribe(name, region, channel, from, count))
            .collect()
    }

    fn all_got(&self, subscribers: Vec<Subscriber>, lines: &[Vec<u8>]) -> Result<()> {
        subscribers.into_iter().try_for_each(|subscriber| self.got(subscriber, lines))
    }

    fn got(&self, subscriber: Subscriber, lines: &[Vec<u8>]) -> Result<()> {
        finish(subscriber.child, &subscriber.what, LIMIT)?;
        compare(&fs::read(&subscriber.file)?, lines, &subscriber.what)
    }
}

/// Every line byte for byte, once and in order: payloads are written with one
/// `\n` each, and no line holds a `\n`.
fn compare(got: &[u8], lines: &[Vec<u8>], who: &str) -> Result<()> {
    let mut rest = got;
    for (number, line) in lines.iter().enumerate() {
        let matches = rest.starts_with(line) && rest.get(line.len()) == Some(&b'\n');
        if !matches {
            let found = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            bail!(
                "{who}: line {} should be {:?} but is {:?}",
                number + 1,
                excerpt(line),
                excerpt(found)
            );
        }
        rest = &rest[line.len() + 1..];
    }
    ensure!(rest.is_empty(), "{who}: {} bytes came after the last line", rest.len());
    Ok(())
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    if bytes.len() > 60 { format!("{shown}… ({} bytes)", bytes.len()) } else { shown }
}

fn row<'a>(rows: &'a Value, key: &str, value: &str) -> Result<&'a Value> {
    rows.as_array()
        .and_then(|rows| rows.iter().find(|row| row[key] == value))
        .with_context(|| format!("no row with {key} {value} in {rows}"))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
