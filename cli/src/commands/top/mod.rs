//! `isol8 top`: a server's workers, queue, tenants and dead letters, live; or one look with `--once`.

mod snapshot;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use client::Client;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{execute, queue};
use tokio::io::{AsyncReadExt as _, stdin};

use self::snapshot::Snapshot;
use crate::args::TopArgs;
use crate::{credentials, printer, roles};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(1);
/// Ctrl-C and Ctrl-D, which raw terminals hand over as what they are.
const INTERRUPT: u8 = 3;
const END: u8 = 4;

pub(crate) async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let client = credentials::client(&args.remote, None)?;
    // A screen that nobody sees cannot be left with a key either.
    if args.once || args.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let snapshot = Snapshot::take(&client).await?;
        if args.json {
            printer::line(serde_json::to_string_pretty(&snapshot.to_json())?);
        } else {
            printer::line(view::render(client.host(), &snapshot, None));
        }
        return Ok(ExitCode::SUCCESS);
    }
    // A server that cannot be asked at all is an error before it is a screen.
    let first = Snapshot::take(&client).await?;
    let screen = Screen::enter()?;
    let outcome = tokio::select! {
        outcome = follow(&client, first, &screen) => outcome,
        left = until_left() => left,
        signalled = roles::interrupted() => signalled.map_err(Into::into),
    };
    drop(screen);
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Looks and draws, for ever. A look that fails is told of on the screen, over what was seen last.
async fn follow(client: &Client, first: Snapshot, screen: &Screen) -> anyhow::Result<()> {
    let (mut last, mut before) = (first, None);
    let mut trouble = None;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let mut text = view::render(client.host(), &last, before.as_ref());
        if let Some(error) = &trouble {
            text = format!("[ERR] {error}; what follows was seen earlier\n{text}");
        }
        screen.draw(&text)?;
        ticks.tick().await;
        match Snapshot::take(client).await {
            Ok(snapshot) => {
                before = Some(std::mem::replace(&mut last, snapshot));
                trouble = None;
            }
            Err(error) => trouble = Some(format!("{error:#}")),
        }
    }
}

/// Waits until somebody wants to leave.
async fn until_left() -> anyhow::Result<()> {
    let mut keys = stdin();
    loop {
        match keys.read_u8().await {
            Ok(b'q' | b'Q' | INTERRUPT | END) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("cannot read the keyboard"),
        }
    }
}

/// The terminal while it is ours; given back on drop.
struct Screen;

impl Screen {
    fn enter() -> anyhow::Result<Self> {
        enable_raw_mode().context("cannot take over the terminal")?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws what fits.
    fn draw(&self, text: &str) -> anyhow::Result<()> {
        let (columns, rows) = size().context("cannot learn the terminal's size")?;
        let mut out = io::stdout().lock();
        for (row, line) in (0..rows).zip(text.lines()) {
            let line: String = line.chars().take(usize::from(columns)).collect();
            queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine))?;
            write!(out, "{line}")?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush().context("cannot write to the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that has gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
