//! `probe-util top`: a live view of the partitions of this machine.
//!
//! Looks at regions by `pread`, once an interval, and says what happened between two looks. A
//! partition that dies is shown as gone until its next incarnation is found; so is one whose host
//! has died. [`watch`] keeps the looks, [`core_load`] asks Linux who else was on the core,
//! [`screen`] draws, [`json`] prints the same as JSON.

mod core_load;
mod json;
mod screen;
mod terminal;
mod watch;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hybrid_conventions::{Exit, Nanos};

use crate::hosts::Which;
use crate::stop::Stop;

use screen::{View, WIDTH};
use watch::Watch;

/// Shortest interval: a partition publishes its figures about once a millisecond.
const SHORTEST: Duration = Duration::from_millis(50);

/// Arguments of `probe-util top`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys: q quit, left and right another partition, c since the start or since \
the last look, p pause, + and - the interval.

Examples:
  probe-util top
  probe-util top --once -d 5s          what happened in five seconds, as text
  probe-util top --json -n 10 | jq '.partitions[0].useful_percent'

It maps nothing and writes nothing: a partition does not notice it. Exit codes: 0 ok, 1 error, 130 \
and 143 on signals."
)]
pub(crate) struct Args {
    /// Time between two looks, at least 50ms
    #[arg(short, long, value_name = "TIME", default_value = "1s")]
    delay: Nanos,
    /// End after so many looks
    #[arg(short = 'n', long, value_name = "N")]
    iterations: Option<u64>,
    /// Print one screen as text, and end
    #[arg(long)]
    once: bool,
    /// Print JSON, schema top/1, one object a line and look
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Runs it.
///
/// # Errors
/// If there is nothing to look at where that is asked for once, or no terminal to draw on.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let delay = Duration::from_nanos(args.delay.get());
    if delay < SHORTEST {
        bail!("--delay {}: at least 50ms is allowed", args.delay);
    }
    let stop = Stop::install()?;
    let mut watch = Watch::new(args.which.clone());
    if args.once || args.json {
        // Who asks for figures wants some.
        args.which.some_partitions()?;
        watch.refresh();
        return print(args, &mut watch, &stop, delay);
    }
    if !std::io::stdout().is_terminal() {
        bail!("stdout is no terminal; --once prints a screen as text, --json prints JSON");
    }
    terminal::run(watch, &stop, delay, args.iterations)
}

/// As text or JSON, without a terminal.
fn print(args: &Args, watch: &mut Watch, stop: &Stop, delay: Duration) -> Result<Exit> {
    let looks = if args.once { 1 } else { args.iterations.unwrap_or(u64::MAX) };
    for _ in 0..looks {
        stop.wait(delay);
        if let Some(exit) = stop.exit() {
            return Ok(exit);
        }
        watch.refresh();
        let printed = if args.json { json::line(watch) } else { pages(watch)? };
        let mut out = std::io::stdout().lock();
        match out.write_all(printed.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written.context("writing to stdout")?,
        }
    }
    Ok(Exit::Ok)
}

/// A screen for each partition.
fn pages(watch: &Watch) -> Result<String> {
    let mut pages = Vec::new();
    for index in 0..watch.len() {
        let height = screen::whole_height(watch, index);
        pages.push(screen::text(watch, &View { index, ..View::default() }, WIDTH, height)?);
    }
    Ok(pages.join("\n"))
}
