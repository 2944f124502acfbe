//! The figures as a file, for node_exporter's textfile collector.
//!
//! Written beside its place and renamed, so that a reader sees a whole one; at the start, every so
//! often, and once more at the end.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::stopper::{Service, Woken};
use super::{Telemetry, families, text};
use crate::warnings::{WarningKind, Warnings};

/// The writer. Dropping it writes once more and ends it.
#[derive(Debug)]
pub struct TextfileExport {
    _service: Service,
}

impl TextfileExport {
    /// Writes, and goes on to do so.
    ///
    /// # Errors
    /// If it cannot be written now; later failures are a warning each time that they begin.
    pub fn start(
        telemetry: &Telemetry,
        path: &Path,
        every: Duration,
        warnings: &Warnings,
    ) -> io::Result<Self> {
        let (telemetry, warnings) = (telemetry.clone(), warnings.clone());
        let path = path.to_owned();
        write(&path, &telemetry)?;
        let service = Service::start("hybrid-textfile", move |stop| {
            let mut well = true;
            loop {
                let last = stop.wait(None, Some(every)) == Woken::Stop;
                let outcome = write(&path, &telemetry);
                if let (true, Err(error)) = (well, &outcome) {
                    let line = || format!("{} is not written any more: {error}", path.display());
                    warnings.say_each(WarningKind::Export, line);
                }
                well = outcome.is_ok();
                if last {
                    return;
                }
            }
        })?;
        Ok(Self { _service: service })
    }
}

fn write(path: &Path, telemetry: &Telemetry) -> io::Result<()> {
    replace(path, text::write(&families::collect(telemetry)).as_bytes())
}

/// Puts a whole new file in the place of an old one. Everyone may read it, whatever the umask (a
/// service's is 0077): the collector is another user, and figures are no secret.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside: PathBuf = path.with_file_name(beside);
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        // What is left of it helps nobody.
        let _ = fs::remove_file(&beside);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = TempDir::new("textfile");
        let path = dir.path().join("hybrid.prom");
        for text in ["first\n", "second\n"] {
            replace(&path, text.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
            let mode = fs::metadata(&path).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
        let there = fs::read_dir(dir.path()).expect("a directory").count();
        assert_eq!(there, 1);
        assert!(replace(&dir.path().join("no/hybrid.prom"), b"x").is_err());
        assert!(replace(Path::new("/"), b"x").is_err());
    }
}
