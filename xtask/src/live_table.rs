//! What `cargo xtask demo` shows while it runs: the mesh's state, drawn again and
//! again below the text that stands, and what ends and starts.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use xtask::interlock_command::Interlock;
use xtask::mesh::{Ended, Mesh, REGIONS};

/// Between two looks at the mesh's state.
const REFRESH: Duration = Duration::from_secs(1);
/// Between two looks at the processes and at Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// A table below standing text. Without a terminal it is printed when something
/// has happened, and not again and again.
pub struct LiveTable<'a> {
    interlock: &'a Interlock,
    screen: ProgressBar,
    /// When a process that ended is started again.
    away: BTreeMap<String, Instant>,
    is_news: bool,
}

impl<'a> LiveTable<'a> {
    /// Nothing is drawn yet.
    pub fn new(interlock: &'a Interlock) -> Result<Self> {
        let screen = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout())
            .with_style(ProgressStyle::with_template("{msg}")?);
        Ok(Self { interlock, screen, away: BTreeMap::new(), is_news: true })
    }

    /// Shows the mesh until Ctrl-C, and starts again what ended.
    pub fn show(
        mut self,
        mesh: &mut Mesh,
        restart_after: Duration,
        interrupted: &AtomicBool,
    ) -> Result<()> {
        let mut next = Instant::now();
        while !interrupted.load(Ordering::Relaxed) {
            let ended = mesh.take_ended();
            // Ctrl-C reaches the processes at the same time: those were asked to end.
            if interrupted.load(Ordering::Relaxed) {
                break;
            }
            for process in ended {
                self.note_end(process, restart_after);
            }
            self.start_again(mesh, restart_after);
            if Instant::now() >= next {
                self.draw(interrupted)?;
                next = Instant::now() + REFRESH;
            }
            std::thread::sleep(LOOK);
        }
        self.screen.abandon();
        Ok(())
    }

    fn note_end(&mut self, process: Ended, restart_after: Duration) {
        let Ended { name, status, log } = process;
        let seconds = restart_after.as_secs();
        self.say(&format!(
            "{name} ended ({status}) and is started again in {seconds} s; its log: {}",
            log.display()
        ));
        self.away.insert(name, Instant::now() + restart_after);
    }

    fn start_again(&mut self, mesh: &mut Mesh, restart_after: Duration) {
        let due = |at: &Instant| *at <= Instant::now();
        let names: Vec<String> =
            self.away.iter().filter(|(_, at)| due(at)).map(|(name, _)| name.clone()).collect();
        for name in names {
            match mesh.start_one(&name) {
                Ok(()) => {
                    self.away.remove(&name);
                    let number = mesh.process_number(&name).unwrap_or_default();
                    self.say(&format!("{name} runs again as process {number}"));
                }
                Err(error) => {
                    self.say(&format!("{name} does not start, it is tried again: {error:#}"));
                    self.away.insert(name, Instant::now() + restart_after);
                }
            }
        }
    }

    fn say(&mut self, text: &str) {
        self.is_news = true;
        self.screen.suspend(|| println!("demo: {text}"));
    }

    fn draw(&mut self, interrupted: &AtomicBool) -> Result<()> {
        if self.screen.is_hidden() && !std::mem::take(&mut self.is_news) {
            return Ok(());
        }
        let table = self.table()?;
        if interrupted.load(Ordering::Relaxed) {
            // Ctrl-C has ended `interlock status` too.
        } else if self.screen.is_hidden() {
            println!("{table}");
        } else {
            self.screen.set_message(table);
            self.screen.tick();
        }
        Ok(())
    }

    /// What `interlock status` says, or why it says nothing.
    fn table(&self) -> Result<String> {
        let output =
            self.interlock.command(REGIONS[0], &["status"]).stdin(Stdio::null()).output()?;
        let said = if output.status.success() { output.stdout } else { output.stderr };
        let text = String::from_utf8_lossy(&said);
        Ok(match output.status.success() {
            true => text.into_owned(),
            false => format!("`interlock status` ended with {}: {text}", output.status),
        })
    }
}
