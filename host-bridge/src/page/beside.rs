//! What another run or another program measured, for the same axes.

use std::path::{Path, PathBuf};

use super::distribution::Distribution;
use super::latency::Curve;

/// Classes of the style sheet, one for each that is allowed.
const CLASSES: [&str; 4] = ["beside1", "beside2", "beside3", "beside4"];

/// A distribution out of an `.hgrm` file, called by the file's name.
#[derive(Clone, Debug)]
pub struct Beside {
    class: &'static str,
    name: String,
    values: Distribution,
}

impl Beside {
    /// Reads the files, at most four.
    ///
    /// # Errors
    /// One line: which file, and what is wrong with it.
    pub fn read(paths: &[PathBuf]) -> Result<Vec<Self>, String> {
        if paths.len() > CLASSES.len() {
            return Err(format!("{} files, allowed are {}", paths.len(), CLASSES.len()));
        }
        paths.iter().zip(CLASSES).map(|(path, class)| Self::read_one(path, class)).collect()
    }

    fn read_one(path: &Path, class: &'static str) -> Result<Self, String> {
        let of = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of(&error))?;
        let values = Distribution::parse_hgrm(&text).map_err(|error| of(&error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { class, name, values })
    }

    /// How it is drawn.
    #[must_use]
    pub fn curve(&self) -> Curve<'_> {
        Curve { class: self.class, name: &self.name, values: &self.values }
    }
}
