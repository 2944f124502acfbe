//! Functions and lines for addresses, from the program that died and from no other.
//!
//! The program's build id must be the one in the dump: symbols of another build name the wrong
//! lines, which is worse than none.

use std::path::{Path, PathBuf};

use addr2line::Loader;
use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSegment as _};

use super::loaded::Loaded;
use super::names::hex;

/// Where addresses are looked up, or why they are not.
pub(crate) enum Symbols {
    /// In this program.
    Found(Box<Found>),
    /// Nowhere, for this reason; the second says how to find the right program.
    None(String),
}

/// An open program.
pub(crate) struct Found {
    loader: Loader,
    /// What is added to an address of the record to get one of the file.
    slide: u64,
    /// Where it was, and where its file says that it begins to run.
    pub(crate) path: PathBuf,
    pub(crate) entry: u64,
}

/// One function at an address; several where functions were inlined, the innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) function: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

impl Symbols {
    /// Opens `binary`, or the program that the dump names.
    ///
    /// # Errors
    /// If `binary` was given and cannot be used.
    pub(crate) fn find(loaded: &Loaded, binary: Option<&Path>) -> Result<Self> {
        let Some(program) = loaded.record.as_ref().and_then(|record| record.program) else {
            return Ok(Self::None("the record does not say which program it was".to_owned()));
        };
        if program.load_base == 0 {
            return Ok(Self::None("the record does not say where the program lay".to_owned()));
        }
        let wanted = hex(&program.build_id);
        if let Some(path) = binary {
            return Found::open(path, &wanted, program.load_base).map(|found| match found {
                Ok(found) => Ok(Self::Found(Box::new(found))),
                Err(other) => bail!("{}", other.told(path, &wanted, loaded)),
            })?;
        }
        let Some(path) = loaded.program_path.as_ref().map(PathBuf::from) else {
            return Ok(Self::None(advice(&wanted, loaded)));
        };
        Ok(match Found::open(&path, &wanted, program.load_base) {
            Ok(Ok(found)) => Self::Found(Box::new(found)),
            Ok(Err(other)) => Self::None(other.told(&path, &wanted, loaded)),
            Err(error) => Self::None(format!("{error:#}; {}", advice(&wanted, loaded))),
        })
    }

    /// The functions at `address`; a return address belongs to the call before it.
    pub(crate) fn at(&self, address: u64, is_return: bool) -> Vec<Frame> {
        match self {
            Self::Found(found) => found.at(address, is_return),
            Self::None(_) => Vec::new(),
        }
    }
}

/// A program that is not the one that died.
struct Other {
    build_id: String,
}

impl Other {
    fn told(&self, path: &Path, wanted: &str, loaded: &Loaded) -> String {
        let shown = path.display();
        let found = match self.build_id.as_str() {
            "" => "no build id".to_owned(),
            id => format!("build id {id}"),
        };
        format!("{shown} has {found}, the dump is of {wanted}; {}", advice(wanted, loaded))
    }
}

/// How to find the right program.
fn advice(wanted: &str, loaded: &Loaded) -> String {
    let was = loaded.program_path.as_deref().unwrap_or("a path that the dump does not tell");
    format!(
        "the program was {was}; find its copy by `readelf -n FILE` showing build id {wanted} and \
         give it with --binary PATH"
    )
}

impl Found {
    fn open(path: &Path, wanted: &str, load_base: u64) -> Result<Result<Self, Other>> {
        let shown = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("reading {shown}"))?;
        let object = object::File::parse(&*bytes);
        let object = object.with_context(|| format!("{shown} is no program"))?;
        let id = object.build_id().with_context(|| format!("{shown}: its notes"))?;
        let build_id = hex(id.unwrap_or_default());
        if build_id != wanted || build_id.is_empty() {
            return Ok(Err(Other { build_id }));
        }
        // Where the file's first byte wants to lie: 0 in a program that can lie anywhere.
        let first = object.segments().find(|segment| segment.file_range().0 == 0);
        let first = first.map_or(0, |segment| segment.address());
        let loader = Loader::new(path).ok().with_context(|| format!("{shown}: its symbols"))?;
        let slide = first.wrapping_sub(load_base);
        Ok(Ok(Self { loader, slide, path: path.to_owned(), entry: object.entry() }))
    }

    /// Where in the memory of the dead an address of the file was.
    pub(crate) const fn in_memory(&self, address: u64) -> u64 {
        address.wrapping_sub(self.slide)
    }

    fn at(&self, address: u64, is_return: bool) -> Vec<Frame> {
        let address = address.wrapping_add(self.slide).wrapping_sub(u64::from(is_return));
        let mut frames = Vec::new();
        if let Ok(mut found) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = found.next() {
                let name = frame.function.and_then(|name| name.raw_name().ok().map(demangled));
                let at = frame.location;
                frames.push(Frame {
                    function: name,
                    file: at.as_ref().and_then(|at| at.file).map(str::to_owned),
                    line: at.and_then(|at| at.line),
                });
            }
        }
        let nameless = frames.iter().all(|frame| frame.function.is_none());
        if nameless && let Some(symbol) = self.loader.find_symbol(address) {
            let function = Some(demangled(symbol.into()));
            match frames.first_mut() {
                Some(frame) => frame.function = function,
                None => frames.push(Frame { function, ..Frame::default() }),
            }
        }
        frames
    }
}

/// A name without its hash.
fn demangled(name: std::borrow::Cow<'_, str>) -> String {
    format!("{:#}", rustc_demangle::demangle(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::loaded::Record;
    use hybrid_abi::crash::CrashHeader;
    use hybrid_abi::crash::program::Program;
    use object::ObjectSymbol as _;
    use zerocopy::FromZeros;

    const BASE: u64 = 0x5555_0000_0000;

    /// This program: its path, its build id, and where a function of it lies in the file.
    fn this() -> (PathBuf, Vec<u8>, u64) {
        let path = std::env::current_exe().expect("a path");
        let bytes = std::fs::read(&path).expect("this program");
        let object = object::File::parse(&*bytes).expect("a program");
        let id = object.build_id().expect("notes").expect("a build id").to_vec();
        let wanted = |name: &str| name.contains("names") && name.contains("opcode");
        let symbol = object.symbols().find(|symbol| symbol.name().is_ok_and(wanted));
        (path, id, symbol.expect("a function").address())
    }

    fn dump_of(build_id: &[u8], path: &Path) -> Loaded {
        let mut program = Program { build_id: [0; 20], reserved: 0, load_base: BASE };
        program.build_id[..build_id.len()].copy_from_slice(build_id);
        let record = Record { program: Some(program), ..Record::empty(CrashHeader::new_zeroed()) };
        let program_path = Some(path.to_string_lossy().into_owned());
        Loaded { record: Some(record), program_path, ..Loaded::default() }
    }

    #[test]
    fn addresses_become_functions_of_the_program_that_died() {
        let (path, id, address) = this();
        let symbols = Symbols::find(&dump_of(&id, &path), None).expect("symbols");
        let frames = symbols.at(BASE + address + 1, true);
        let functions: Vec<_> = frames.iter().filter_map(|frame| frame.function.clone()).collect();
        let is_it = |name: &String| name.ends_with("dump::names::opcode");
        assert!(functions.iter().any(is_it), "{frames:?}");
        assert!(frames.iter().any(|frame| frame.line.is_some()), "{frames:?}");
    }

    #[test]
    fn another_build_is_refused_with_the_way_to_the_right_one() {
        let (path, mut id, _) = this();
        id[0] ^= 1;
        let loaded = dump_of(&id, &path);
        let Ok(Symbols::None(why)) = Symbols::find(&loaded, None) else { panic!("symbols") };
        let wanted = hex(&id);
        assert!(why.contains(&format!("the dump is of {wanted}")), "{why}");
        assert!(why.contains(&format!("showing build id {wanted}")), "{why}");
        assert!(why.contains("--binary PATH"), "{why}");
        let given = Symbols::find(&loaded, Some(&path)).err().expect("an error");
        assert!(given.to_string().contains("has build id"), "{given}");
        let nowhere = Symbols::find(&loaded, Some(Path::new("/nonexistent"))).err();
        assert_eq!(nowhere.expect("an error").to_string(), "reading /nonexistent");
    }
}
