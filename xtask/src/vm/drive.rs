//! Emulated drives: what one looks like, how it is written in a line, and what QEMU is told.
//!
//! A line is `NAMESPACE[+NAMESPACE…][,OPTION…]`, a namespace `SIZE[/LBA][@NSID][z]`. So
//! `64M+32M/4096@7,mdts=1` is a drive whose namespace 1 has 64 MiB in blocks of 512 bytes and whose
//! namespace 7 has 32 MiB in blocks of 4096, and which takes two pages a command. With `log` every
//! write and flush of the drive's is noted in a file (QEMU's blklogwrites), which the guest has the
//! host look at.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use hybrid_conventions::Bytes;

/// Options of a drive line, for the help.
pub(crate) const SYNTAX: &str =
    "NAMESPACE[+NAMESPACE...][,mdts=N][,cmb=MIB][,queues=N][,beside][,log]";

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) size_bytes: u64,
    pub(crate) lba_bytes: u64,
    pub(crate) nsid: u32,
    pub(crate) zoned: bool,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    pub(crate) namespaces: Vec<Namespace>,
    /// The identify field: commands take at most 2^N pages; 0 sets no limit.
    pub(crate) mdts: u32,
    /// Controller memory buffer.
    pub(crate) cmb_mib: u32,
    /// I/O queue pairs that it offers.
    pub(crate) queues: u32,
    /// A second function of the drive before: both are in one IOMMU group.
    pub(crate) beside: bool,
    /// Writes and flushes are noted.
    pub(crate) log: bool,
}

impl FromStr for Namespace {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (text, zoned) = match text.strip_suffix('z') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (text, nsid) = match text.split_once('@') {
            Some((text, nsid)) => (text, nsid.parse().ok().filter(|nsid| *nsid > 0)),
            None => (text, Some(0)),
        };
        let nsid = nsid.context("a namespace's number is a whole number from 1, as in 64M@7")?;
        let (size, lba) = text.split_once('/').unwrap_or((text, "512"));
        let size_bytes = size.parse::<Bytes>().map_err(|error| anyhow::anyhow!("{error}"))?.0;
        let lba_bytes = lba.parse::<Bytes>().map_err(|error| anyhow::anyhow!("{error}"))?.0;
        ensure!(matches!(lba_bytes, 512 | 4096), "blocks have 512 or 4096 bytes, not {lba_bytes}");
        ensure!(size_bytes >= 1 << 20, "a namespace has at least 1M, not {size_bytes} bytes");
        Ok(Self { size_bytes, lba_bytes, nsid, zoned })
    }
}

impl FromStr for Drive {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let namespaces = parts.next().unwrap_or_default();
        let namespaces: Result<Vec<Namespace>> = namespaces.split('+').map(str::parse).collect();
        let namespaces = number(namespaces.with_context(|| format!("drive {text:?}: {SYNTAX}"))?)?;
        let mut drive =
            Self { namespaces, mdts: 7, cmb_mib: 0, queues: 16, beside: false, log: false };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number =
                || value.parse().with_context(|| format!("drive {text:?}: {key} needs a number"));
            match key {
                "mdts" => drive.mdts = number()?,
                "cmb" => drive.cmb_mib = number()?,
                "queues" => drive.queues = number()?,
                "beside" if value.is_empty() => drive.beside = true,
                "log" if value.is_empty() => drive.log = true,
                _ => bail!("drive {text:?} has option {part:?}; allowed is {SYNTAX}"),
            }
        }
        Ok(drive)
    }
}

/// Gives the namespaces without a number the first free ones.
fn number(mut namespaces: Vec<Namespace>) -> Result<Vec<Namespace>> {
    for index in 0..namespaces.len() {
        if namespaces[index].nsid == 0 {
            let free = (1..).find(|nsid| namespaces.iter().all(|other| other.nsid != *nsid));
            namespaces[index].nsid = free.unwrap_or(1);
        }
    }
    let mut nsids: Vec<u32> = namespaces.iter().map(|namespace| namespace.nsid).collect();
    nsids.sort_unstable();
    nsids.dedup();
    ensure!(nsids.len() == namespaces.len(), "two namespaces have one number");
    Ok(namespaces)
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let plus = if index == 0 { "" } else { "+" };
            let Namespace { size_bytes, lba_bytes, nsid, zoned } = namespace;
            let zoned = if *zoned { "z" } else { "" };
            write!(f, "{plus}{}M/{lba_bytes}@{nsid}{zoned}", size_bytes >> 20)?;
        }
        Ok(())
    }
}

impl Drive {
    /// Makes the files behind its namespaces and tells QEMU of it; it is called `nvmeINDEX` and
    /// sits behind root port `port`.
    pub(crate) fn arguments(&self, index: usize, port: usize, dir: &Path) -> Result<Vec<String>> {
        let mut arguments = vec!["-device".to_owned(), self.device(index, port)];
        for namespace in &self.namespaces {
            let name = format!("nvme{index}n{}", namespace.nsid);
            let path = dir.join(format!("{name}.img"));
            let file = File::create(&path).and_then(|file| file.set_len(namespace.size_bytes));
            file.with_context(|| format!("cannot make {}", path.display()))?;
            // A block device of its own outlives the drive that is unplugged from it.
            let mut node = |name: &str, words: String| {
                arguments.push("-blockdev".to_owned());
                arguments.push(format!("{words},node-name={name}"));
            };
            let fast = "cache.direct=off,cache.no-flush=on";
            let raw = |file: &Path| {
                let file = file.display();
                format!("driver=raw,{fast},file.driver=file,file.filename={file}")
            };
            if self.log {
                let notes = notes(dir, index, namespace.nsid);
                File::create(&notes).with_context(|| format!("cannot make {}", notes.display()))?;
                node(&format!("{name}-data"), raw(&path));
                node(&format!("{name}-notes"), raw(&notes));
                // Flushes have to come as far as the notes.
                node(&name, format!("driver=blklogwrites,file={name}-data,log={name}-notes"));
            } else {
                node(&name, raw(&path));
            }
            arguments.push("-device".to_owned());
            arguments.push(namespace.device(&name, index));
        }
        Ok(arguments)
    }

    /// The words after `-device`, which are also those of `device_add`.
    pub(crate) fn device(&self, index: usize, port: usize) -> String {
        let Self { mdts, cmb_mib, queues, .. } = self;
        let addr = if self.beside { "00.1" } else { "00.0,multifunction=on" };
        format!(
            "nvme,id=nvme{index},serial=HYBRID{index},bus=rp{port},addr={addr},mdts={mdts},\
             cmb_size_mb={cmb_mib},max_ioqpairs={queues}"
        )
    }
}

/// The file with the notes of a drive that has some.
pub(crate) fn notes(dir: &Path, drive: usize, nsid: u32) -> PathBuf {
    dir.join(format!("nvme{drive}n{nsid}.notes"))
}

impl Namespace {
    fn device(&self, drive: &str, index: usize) -> String {
        let Self { lba_bytes, nsid, .. } = self;
        let zoned = if self.zoned { ",zoned=on,zoned.zone_size=1M" } else { "" };
        format!(
            "nvme-ns,id={drive},drive={drive},bus=nvme{index},nsid={nsid},\
             logical_block_size={lba_bytes},physical_block_size={lba_bytes}{zoned}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        format!("{:#}", text.parse::<Drive>().expect_err("no drive"))
    }

    #[test]
    fn a_line_says_what_a_drive_looks_like() {
        let drive: Drive =
            "64M+32M/4096@7z,mdts=1,cmb=16,queues=2,beside,log".parse().expect("one");
        const MIB: u64 = 1 << 20;
        let first = Namespace { size_bytes: 64 * MIB, lba_bytes: 512, nsid: 1, zoned: false };
        let second = Namespace { size_bytes: 32 * MIB, lba_bytes: 4096, nsid: 7, zoned: true };
        let namespaces = vec![first, second];
        let expected =
            Drive { namespaces, mdts: 1, cmb_mib: 16, queues: 2, beside: true, log: true };
        assert_eq!(drive, expected);
        assert_eq!(drive.to_string(), "64M/512@1+32M/4096@7z");
    }

    #[test]
    fn numbers_are_given_around_those_that_were_chosen() {
        let drive: Drive = "1M+1M@1+1M".parse().expect("a drive");
        let nsids: Vec<_> = drive.namespaces.iter().map(|namespace| namespace.nsid).collect();
        assert_eq!(nsids, [2, 1, 3]);
    }

    #[test]
    fn bad_lines_are_refused_with_what_is_allowed() {
        assert!(refused("").contains(SYNTAX));
        assert!(refused("64M/513").contains("512 or 4096 bytes, not 513"));
        assert!(refused("64M@0").contains("from 1"));
        assert!(refused("64M@x").contains("from 1"));
        assert!(refused("1").contains("at least 1M"));
        assert!(refused("64M@3+64M@3").contains("one number"));
        assert!(refused("64M,mdts=x").contains("mdts needs a number"));
        assert!(refused("64M,color=red").contains("color=red"));
        assert!(refused("64M,beside=1").contains("beside=1"));
    }

    #[test]
    fn qemu_is_told_of_the_drive_and_each_namespace() {
        let dir = std::env::temp_dir().join(format!("xtask-{}-drive", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let drive: Drive = "2M/4096@7,mdts=1".parse().expect("a drive");
        let line = drive.arguments(1, 2, &dir).expect("arguments").join(" ");
        assert!(line.starts_with("-device nvme,id=nvme1,serial=HYBRID1,bus=rp2,"), "{line}");
        assert!(
            line.contains("mdts=1,cmb_size_mb=0,max_ioqpairs=16 -blockdev driver=raw"),
            "{line}"
        );
        assert!(line.contains(
            "-device nvme-ns,id=nvme1n7,drive=nvme1n7,bus=nvme1,nsid=7,logical_block_size"
        ));
        assert_eq!(std::fs::metadata(dir.join("nvme1n7.img")).expect("a file").len(), 2 << 20);
        std::fs::remove_dir_all(&dir).expect("our own folder");
    }
}
