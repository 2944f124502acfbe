//! Writes the seeds of all targets into a folder: `fuzz-seeds DIR` makes `DIR/TARGET/seed-N`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use hybrid_conventions::Exit;
use hybrid_fuzz::{TARGETS, seeds};

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: fuzz-seeds wants the folder to write to");
        return ExitCode::from(Exit::Error.code());
    };
    let written = TARGETS.iter().try_for_each(|target| {
        let dir = dir.join(target.name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds::of(target.name).iter().enumerate() {
            fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
        Ok::<(), std::io::Error>(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", dir.display());
            ExitCode::from(Exit::Error.code())
        }
    }
}
