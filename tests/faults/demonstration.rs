//! `cargo xtask demo` as people run it: the story on whatever input, and a mesh
//! that comes back when something in it is killed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::{binaries, the_machine};

/// How long the demonstration may take for anything that it says.
const PATIENCE: Duration = Duration::from_secs(120);
const MEBIBYTE: usize = 1024 * 1024;

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(binaries().join("xtask"));
    command.args(["demo", "--no-build", "--folder"]).arg(folder);
    command
}

/// Runs the story on this input: whether it held, and what was said.
fn story(input: &[u8]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("input");
    std::fs::write(&file, input).expect("written");
    let output = demo(&folder.path().join("mesh"))
        .args(["--check", "--input"])
        .arg(&file)
        .output()
        .expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_story_holds_for_however_few_lines() {
    let _machine = the_machine().blocking_lock();
    let longest = [b"first\n".as_slice(), &vec![b'x'; MEBIBYTE]].concat();
    for input in [b"".as_slice(), b"only", &longest] {
        let (held, said) = story(input);
        assert!(held, "{} bytes of input: {said}", input.len());
    }
}

#[test]
fn a_line_over_the_limit_is_named_before_anything_starts() {
    let (held, said) = story(&[b"first\n".as_slice(), &vec![b'x'; MEBIBYTE + 1]].concat());
    assert!(!held);
    assert!(said.contains("line 2 has 1048577 bytes"), "{said}");
    assert!(!said.contains("story:"), "{said}");
}

/// A running demonstration and what it says.
struct Demo {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Demo {
    fn start(folder: &Path) -> Self {
        let mut child = demo(folder)
            .args(["--restart-after", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that begins so: what follows.
    fn until(&self, beginning: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it does not say {beginning:?}"));
            if let Some(rest) = line.trim_start().strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    fn signal(signal: &str, process: &str) {
        let killed = Command::new("kill").args([signal, process]).status().expect("it starts");
        assert!(killed.success(), "kill {signal} {process}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It takes its processes with it.
        if let Ok(None) = self.child.try_wait() {
            Self::signal("-TERM", &self.child.id().to_string());
            let _ = self.child.wait();
        }
    }
}

/// What README says to try: kill a push-node, and it comes back.
#[test]
fn what_is_killed_in_the_demonstration_runs_again() {
    let _machine = the_machine().blocking_lock();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut demo = Demo::start(&folder.path().join("mesh"));
    let first = demo.until("kill -9 ");
    Demo::signal("-9", &first);
    let how = demo.until("demo: asia-1 ended ");
    assert!(how.contains("signal: 9") && how.contains("asia-1.log"), "{how}");
    let second = demo.until("demo: asia-1 runs again as process ");
    assert_ne!(first, second);
    demo.until("asia-1");
    Demo::signal("-TERM", &demo.child.id().to_string());
    let status = demo.child.wait().expect("it ends");
    assert!(status.success(), "{status}");
}
