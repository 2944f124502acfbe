//! How a run ends early: an exit code and one line.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use hybrid_conventions::Exit;

/// What is printed, and with what the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn error(line: impl Display) -> Self {
        Self { exit: Exit::Error, line: line.to_string() }
    }

    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::error(format_args!("{}: {error}", path.display()))
    }
}

impl From<host_bridge::RuntimeError> for Failure {
    fn from(error: host_bridge::RuntimeError) -> Self {
        Self { exit: error.exit(), line: error.to_string() }
    }
}

/// Whether result files can be written there, before anything is measured for them.
pub(crate) fn check_folders<'a>(
    files: impl IntoIterator<Item = &'a Option<PathBuf>>,
) -> Result<(), Failure> {
    for path in files.into_iter().flatten() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
            return Err(Failure::error(format_args!(
                "{}: a result needs the name of a file in a folder that is there",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Writes a result file.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::file(path, &error))
}
