//! Progress of builds and installations, on standard error: a spinner for each thing under way on a
//! terminal, else a line for each step.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use worker::engine::images::Event;

/// Time between two steps of a spinner.
const TICK: Duration = Duration::from_millis(100);
/// Longest part of a build's line that is shown.
const SHOWN_CHARS: usize = 90;

/// Shows what is under way.
pub(crate) struct Screen {
    bars: MultiProgress,
    running: Mutex<HashMap<String, (Option<ProgressBar>, Instant)>>,
    is_terminal: bool,
}

impl Screen {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { bars: MultiProgress::new(), running: Mutex::default(), is_terminal }
    }

    /// Shows what `topic` is doing now.
    pub(crate) fn tell(&self, topic: &str, line: &str) {
        let line: String = line.chars().take(SHOWN_CHARS).collect();
        if !self.is_terminal {
            return self.write_line(&format!("[INFO] {topic}: {line}"));
        }
        let mut running = self.lock();
        let (bar, _) = running
            .entry(topic.to_owned())
            .or_insert_with(|| (Some(self.add_spinner(topic)), Instant::now()));
        if let Some(bar) = bar {
            bar.set_message(line);
        }
    }

    /// Shows an event of a build.
    pub(crate) fn show(&self, event: Event<'_>) {
        match event {
            Event::Started { image } => {
                self.lock().entry(image.to_owned()).or_insert_with(|| {
                    (self.is_terminal.then(|| self.add_spinner(image)), Instant::now())
                });
                self.tell(image, "building");
            }
            // Steps are few; what they print is only for a terminal, where it is overwritten.
            Event::Output { image, line } => {
                if self.is_terminal || line.starts_with("Step ") {
                    self.tell(image, line);
                }
            }
            Event::Built { image } => {
                let seconds =
                    self.lock().get(image).map_or(0.0, |(_, start)| start.elapsed().as_secs_f64());
                self.done(image);
                self.write_line(&format!("[INFO] {image}: built in {seconds:.1} s"));
            }
            Event::PredecessorInUse { image } => {
                self.write_line(&format!(
                    "[WARN] {image}: the image it replaces is still used by a container and stays"
                ));
            }
        }
    }

    /// Ends what is shown of `topic`.
    pub(crate) fn done(&self, topic: &str) {
        if let Some((Some(bar), _)) = self.lock().remove(topic) {
            bar.finish_and_clear();
        }
    }

    /// Ends all that is shown.
    pub(crate) fn close(&self) {
        for (_, (bar, _)) in self.lock().drain() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Option<ProgressBar>, Instant)>> {
        self.running.lock().expect("nothing panics while holding it")
    }

    fn add_spinner(&self, topic: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}")
            .expect("the template is valid");
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(topic.to_owned());
        bar.enable_steady_tick(TICK);
        bar
    }

    /// Progress that can't be shown is no reason to stop.
    fn write_line(&self, line: &str) {
        self.bars.suspend(|| writeln!(std::io::stderr().lock(), "{line}")).ok();
    }
}
