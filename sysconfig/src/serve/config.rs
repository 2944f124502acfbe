//! What the helper may do, and for whom: `/etc/hybrid-runtime/helper.toml`.
//!
//! Read once, at start. The file must belong to root and be writable by nobody else; whatever it
//! does not list is refused. Names of users and groups come from `/etc/passwd` and `/etc/group`.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use hybrid_conventions::{Bdf, CpuSet};
use serde::Deserialize;

use crate::config::file::told;
use crate::failure::Failure;
use crate::root::Root;

/// Where the file and the socket are, unless said otherwise.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/hybrid-runtime/helper.toml";
pub(crate) const DEFAULT_SOCKET: &str = "/run/hybrid-runtime/sysconfig.sock";

/// The file's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    socket: Option<PathBuf>,
    /// Octal, as text: "0660".
    mode: Option<String>,
    /// Group of the socket and of the device nodes that a bind makes.
    group: Option<String>,
    /// Who may ask, by name or number; root always may.
    #[serde(default)]
    users: Vec<String>,
    /// Whose primary group lets them ask.
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    device: Vec<FileDevice>,
    irq: Option<FileIrq>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDevice {
    bdf: String,
    verbs: Vec<Verb>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIrq {
    cpus: String,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Give it to vfio-pci.
    Bind,
    /// Give it back to the kernel's driver.
    Unbind,
    /// Then give what the kernel makes of it, `/dev/nvmeXnY` and `/dev/ngXnY`, to the group.
    Nodes,
}

/// A device that the file lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) bdf: Bdf,
    pub(crate) verbs: Vec<Verb>,
}

/// The helper's orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) socket: PathBuf,
    pub(crate) mode: u32,
    pub(crate) gid: Option<u32>,
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    pub(crate) devices: Vec<Listed>,
    /// Interrupts may be moved to these CPUs, and to no others.
    pub(crate) irq_cpus: CpuSet,
}

impl Config {
    /// Reads and checks the file.
    pub(crate) fn read(root: &Root, path: &str) -> Result<Self, Failure> {
        let real = root.path(path);
        let shown = real.display();
        let meta = std::fs::metadata(&real).map_err(|error| {
            Failure::missing(format_args!(
                "{shown}: {error}; it lists the devices and users that sysconfig serve works for \
                 (sysconfig serve --example prints one)"
            ))
        })?;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(Failure::error(format_args!(
                "{shown} belongs to uid {} with mode {:04o}: what root obeys, only root may write; \
                 chown root {shown}; chmod go-w {shown}",
                meta.uid(),
                meta.mode() & 0o7777
            )));
        }
        let text = std::fs::read_to_string(&real)
            .map_err(|error| Failure::error(format_args!("{shown}: {error}")))?;
        Self::parse(root, &text).map_err(|line| Failure::error(format_args!("{shown}: {line}")))
    }

    /// Checks the text.
    pub(crate) fn parse(root: &Root, text: &str) -> Result<Self, String> {
        let one_line = |error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            format!("line {line}: {}", told(&error))
        };
        let file: File = toml::from_str(text).map_err(one_line)?;
        let user = |name: &String| id(root, "/etc/passwd", "user", name);
        let group = |name: &String| id(root, "/etc/group", "group", name);
        let mut devices: Vec<Listed> = Vec::new();
        for device in file.device {
            let bdf: Bdf = device.bdf.parse().map_err(|error| format!("device: {error}"))?;
            if devices.iter().any(|listed| listed.bdf == bdf) {
                return Err(format!("device {bdf} is listed twice"));
            }
            devices.push(Listed { bdf, verbs: device.verbs });
        }
        let cpus = file.irq.map_or("".to_owned(), |irq| irq.cpus);
        let irq_cpus = match cpus.as_str() {
            "" => CpuSet::EMPTY,
            cpus => cpus.parse().map_err(|error| format!("irq.cpus: {error}"))?,
        };
        let mode = file.mode.unwrap_or("0660".to_owned());
        let bits = u32::from_str_radix(&mode, 8).ok().filter(|bits| bits & !0o777 == 0);
        let mode = bits.ok_or(format!("mode {mode:?} is not octal, such as \"0660\""))?;
        Ok(Self {
            socket: file.socket.unwrap_or(DEFAULT_SOCKET.into()),
            mode,
            gid: file.group.as_ref().map(group).transpose()?,
            uids: file.users.iter().map(user).collect::<Result<_, _>>()?,
            gids: file.groups.iter().map(group).collect::<Result<_, _>>()?,
            devices,
            irq_cpus,
        })
    }

    /// Whether the file lets this user ask at all.
    pub(crate) fn lets(&self, uid: u32, gid: u32) -> bool {
        uid == 0 || self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

/// A number, or the third field of the line that begins with the name.
fn id(root: &Root, file: &str, what: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = root.read(file).map_err(|error| format!("{file}: {error}"))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    number.ok_or(format!("{what} {name:?} is not in {file}"))
}

/// What `--example` prints.
pub(crate) const EXAMPLE: &str = include_str!("../../units/helper.toml");

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a folder");
        let etc = folder.path().join("etc");
        std::fs::create_dir_all(&etc).expect("made");
        std::fs::write(etc.join("passwd"), "root:x:0:0::/:/bin/sh\nhybrid:x:990:980::/:\n")
            .expect("written");
        std::fs::write(etc.join("group"), "hybrid:x:980:\n").expect("written");
        let root = Root::at(folder.path());
        (folder, root)
    }

    #[test]
    fn the_example_is_a_good_file() {
        let (_folder, root) = root();
        let config = Config::parse(&root, EXAMPLE).expect("it is what we print");
        assert_eq!((config.uids, config.gid, config.mode), (vec![990], Some(980), 0o660));
        assert_eq!(config.devices.len(), 1);
        assert_eq!(config.devices[0].verbs, [Verb::Bind, Verb::Unbind, Verb::Nodes]);
        assert_eq!(config.irq_cpus, "0-1".parse().expect("a set"));
    }

    #[test]
    fn an_empty_file_lets_root_ask_for_nothing() {
        let (_folder, root) = root();
        let config = Config::parse(&root, "").expect("all is optional");
        assert!(config.devices.is_empty() && config.irq_cpus.is_empty());
        assert!(config.lets(0, 0));
        assert!(!config.lets(990, 980));
    }

    #[test]
    fn bad_files_are_refused_in_one_line() {
        let (_folder, root) = root();
        for (text, said) in [
            ("user = [\"x\"]", "line 1: unknown field"),
            ("user = [\"x\"]", "; the nearest is users"),
            ("\nusers = [\"nobody-here\"]", "user \"nobody-here\" is not in"),
            ("mode = \"9\"", "mode \"9\" is not octal"),
            ("[[device]]\nbdf = \"x\"\nverbs = []", "pci address"),
            ("[[device]]\nbdf = \"03:00.0\"\nverbs = [\"erase\"]", "unknown variant"),
            (
                "[[device]]\nbdf=\"03:00.0\"\nverbs=[]\n[[device]]\nbdf=\"0000:03:00.0\"\nverbs=[]",
                "listed twice",
            ),
            ("[irq]\ncpus = \"x\"", "irq.cpus"),
            ("= =", "line 1"),
        ] {
            let error = Config::parse(&root, text).expect_err(text);
            assert!(error.contains(said) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, root) = root();
        let path = folder.path().join("helper.toml");
        std::fs::write(&path, "").expect("written");
        let set = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
        };
        set(0o666);
        let failure = Config::read(&root, "/helper.toml").expect_err("anybody could write it");
        assert!(failure.line.contains("only root may write"), "{}", failure.line);
        let missing = Config::read(&root, "/absent.toml").expect_err("not there");
        assert_eq!(missing.exit, hybrid_conventions::Exit::Missing);
        if std::fs::metadata(&path).expect("there").uid() == 0 {
            set(0o644);
            assert!(Config::read(&root, "/helper.toml").is_ok());
        }
    }
}
