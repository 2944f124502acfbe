//! Writes the seeds of all targets into a folder: `fuzz-seeds DIR` makes `DIR/TARGET/seed-N`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use hybrid_conventions::Exit;
use hybrid_fuzz::seeds;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: fuzz-seeds wants the folder to write to");
        return ExitCode::from(Exit::Error.code());
    };
    match seeds::write_all(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", dir.display());
            ExitCode::from(Exit::Error.code())
        }
    }
}
