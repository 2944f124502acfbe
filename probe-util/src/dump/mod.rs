//! `probe-util dump FILE`: explains a crash dump.
//!
//! [`loaded`] takes the file apart and believes only what its checksums confirm; [`symbols`] turns
//! addresses into functions, if the program at hand is the very one that died; [`text`] and
//! [`json`] print, [`core`] writes for gdb. A damaged file is printed as far as it goes, with an
//! error for each place that is not.

mod core;
mod events;
mod json;
mod loaded;
mod names;
mod symbols;
mod text;
mod verdict;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::crash::file::FILE_MAX_BYTES;
use hybrid_conventions::Exit;

use loaded::Loaded;
use symbols::Symbols;

/// Arguments of `probe-util dump`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util dump /var/lib/hybrid-runtime/20261126T002614.764Z-feed-1-panic.hycrash
  probe-util dump FILE --binary target/release/feed-handler
  probe-util dump FILE --core dead.core && gdb PROGRAM dead.core
  probe-util dump FILE --json | jq '.commands[] | select(.verdict == \"never answered\")'

Exit codes: 0 ok, 1 error; a damaged file is printed as far as it goes and ends with 1.")]
pub(crate) struct Args {
    /// The dump, *.hycrash
    file: PathBuf,
    /// Print JSON, schema crash-dump/1
    #[arg(long)]
    json: bool,
    /// Write an ELF core instead, with the registers and the backtrace's frames, for gdb
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    core: Option<PathBuf>,
    /// The program that died, for its symbols; the dump says where it was
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// If there is no such file, it is no dump at all, or the program given is another one.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let shown = args.file.display();
    let metadata = std::fs::metadata(&args.file).with_context(|| format!("reading {shown}"))?;
    if metadata.len() > FILE_MAX_BYTES {
        bail!("{shown} has {} bytes, a dump has at most {FILE_MAX_BYTES}", metadata.len());
    }
    let bytes = std::fs::read(&args.file).with_context(|| format!("reading {shown}"))?;
    let loaded = Loaded::parse(&bytes).with_context(|| format!("{shown} is no crash dump"))?;
    let symbols = Symbols::find(&loaded, args.binary.as_deref())?;
    let names = events::dictionary(&loaded, args.binary.as_deref());
    if let Some(path) = &args.core {
        core::write(&loaded, &symbols, path)?;
    } else {
        let printed = match args.json {
            true => json::print(&loaded, &symbols, &names)?,
            false => text::print(&loaded, &symbols, &names),
        };
        std::io::stdout().lock().write_all(printed.as_bytes()).context("writing the dump")?;
    }
    let mut err = std::io::stderr().lock();
    for problem in &loaded.problems {
        let (at, what) = (problem.offset, &problem.what);
        writeln!(err, "probe-util: {shown}: at byte {at}: {what}").context("writing errors")?;
    }
    Ok(if loaded.problems.is_empty() { Exit::Ok } else { Exit::Error })
}
