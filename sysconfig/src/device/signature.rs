//! Whose data a block device carries: a small read-only prober.
//!
//! Called by [`super::in_use`] for a disk and each of its partitions. It reads a few places and
//! compares them with the marks that formats leave there; it needs no tool and writes nothing. More
//! than one mark may be there (an old filesystem under a new partition table): all are named.
//! Offsets are those that the formats' own headers define; libblkid looks at the same ones.

use std::io;

/// What can be read at a place; a disk, or an image in a test.
pub(crate) trait ReadAt {
    /// Fills `bytes` from `offset`, wholly.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, bytes, offset)
    }
}

/// What a format is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    PartitionTable,
    Raid,
    Volume,
    Encrypted,
    Cache,
    Swap,
    Filesystem,
}

impl Kind {
    /// How a table calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::PartitionTable => "partition table",
            Self::Raid => "RAID member",
            Self::Volume => "volume manager",
            Self::Encrypted => "encrypted",
            Self::Cache => "cache",
            Self::Swap => "swap",
            Self::Filesystem => "filesystem",
        }
    }
}

/// A format that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Signature {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
}

/// Where a mark stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start(u64),
    /// So many bytes before the end.
    End(u64),
}

/// Bytes that a format leaves at a place.
struct Mark {
    kind: Kind,
    name: &'static str,
    place: Place,
    bytes: &'static [u8],
}

const fn mark(kind: Kind, name: &'static str, offset: u64, bytes: &'static [u8]) -> Mark {
    Mark { kind, name, place: Place::Start(offset), bytes }
}

const fn tail(kind: Kind, name: &'static str, before_end: u64, bytes: &'static [u8]) -> Mark {
    Mark { kind, name, place: Place::End(before_end), bytes }
}

const BCACHE: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const BCACHEFS: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
const MD_LITTLE: &[u8] = b"\xfc\x4e\x2b\xa9";
const MD_BIG: &[u8] = b"\xa9\x2b\x4e\xfc";

/// Marks at fixed places. `md` at the end, MBR, FAT and ZFS need more than that: [`probe`].
const MARKS: &[Mark] = &[
    mark(Kind::PartitionTable, "GPT", 512, b"EFI PART"),
    mark(Kind::PartitionTable, "GPT", 4096, b"EFI PART"),
    tail(Kind::PartitionTable, "GPT backup", 512, b"EFI PART"),
    tail(Kind::PartitionTable, "GPT backup", 4096, b"EFI PART"),
    mark(Kind::Raid, "mdadm 1.1", 0, MD_LITTLE),
    mark(Kind::Raid, "mdadm 1.2", 4096, MD_LITTLE),
    tail(Kind::Raid, "DDF", 512, b"\xde\x11\xde\x11"),
    tail(Kind::Raid, "Intel RST", 1024, b"Intel Raid ISM Cfg Sig. "),
    mark(Kind::Volume, "LVM2", 0, b"LABELONE"),
    mark(Kind::Volume, "LVM2", 512, b"LABELONE"),
    mark(Kind::Volume, "LVM2", 1024, b"LABELONE"),
    mark(Kind::Volume, "LVM2", 1536, b"LABELONE"),
    mark(Kind::Volume, "Stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    mark(Kind::Volume, "VDO", 0, b"dmvdo001"),
    mark(Kind::Volume, "Ceph BlueStore", 0, b"bluestore block device"),
    mark(Kind::Encrypted, "LUKS", 0, b"LUKS\xba\xbe"),
    mark(Kind::Encrypted, "LUKS", 16384, b"SKUL\xba\xbe"),
    mark(Kind::Encrypted, "BitLocker", 3, b"-FVE-FS-"),
    mark(Kind::Cache, "bcache", 4096 + 24, BCACHE),
    mark(Kind::Filesystem, "bcachefs", 4096 + 24, BCACHEFS),
    mark(Kind::Swap, "Linux", 4096 - 10, b"SWAPSPACE2"),
    mark(Kind::Swap, "Linux", 4096 - 10, b"SWAP-SPACE"),
    mark(Kind::Swap, "Linux", 16384 - 10, b"SWAPSPACE2"),
    mark(Kind::Swap, "Linux", 65536 - 10, b"SWAPSPACE2"),
    mark(Kind::Swap, "hibernated", 4096 - 10, b"S1SUSPEND"),
    mark(Kind::Filesystem, "ext2/3/4", 1024 + 56, b"\x53\xef"),
    mark(Kind::Filesystem, "XFS", 0, b"XFSB"),
    mark(Kind::Filesystem, "btrfs", 65536 + 64, b"_BHRfS_M"),
    mark(Kind::Filesystem, "F2FS", 1024, b"\x10\x20\xf5\xf2"),
    mark(Kind::Filesystem, "EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    mark(Kind::Filesystem, "NTFS", 3, b"NTFS    "),
    mark(Kind::Filesystem, "exFAT", 3, b"EXFAT   "),
    mark(Kind::Filesystem, "squashfs", 0, b"hsqs"),
    mark(Kind::Filesystem, "JFS", 32768, b"JFS1"),
    mark(Kind::Filesystem, "ReiserFS", 65536 + 52, b"ReIsEr"),
    mark(Kind::Filesystem, "ISO 9660", 32769, b"CD001"),
    mark(Kind::Filesystem, "UDF", 32769, b"BEA01"),
    mark(Kind::Filesystem, "GFS2", 65536, b"\x01\x16\x19\x70"),
    mark(Kind::Filesystem, "OCFS2", 8192, b"OCFSV2"),
    mark(Kind::Filesystem, "HFS+", 1024, b"H+\x00\x04"),
    mark(Kind::Filesystem, "APFS", 32, b"NXSB"),
    mark(Kind::Filesystem, "VMFS", 1 << 20, b"\x0d\xd0\x01\xc0"),
];

/// What `device`, `size` bytes long, carries, each once; empty for one that carries nothing known.
///
/// # Errors
/// A place within `size` that cannot be read.
pub(crate) fn probe(device: &dyn ReadAt, size: u64) -> io::Result<Vec<Signature>> {
    let look = Look { device, size };
    let mut found = Vec::new();
    for mark in MARKS {
        let offset = match mark.place {
            Place::Start(offset) => Some(offset),
            Place::End(before) => size.checked_sub(before),
        };
        if look.has(offset, mark.bytes)? {
            found.push(Signature { kind: mark.kind, name: mark.name });
        }
    }
    found.extend(look.md_at_the_end()?);
    found.extend(look.boot_sector()?);
    found.extend(look.zfs()?);
    found.sort_unstable();
    found.dedup();
    // The backup goes without saying where the table itself is there.
    let gpt = found.iter().any(|signature| signature.name == "GPT");
    found.retain(|signature| !(gpt && ["GPT backup", "MBR"].contains(&signature.name)));
    Ok(found)
}

/// A device and its length.
struct Look<'a> {
    device: &'a dyn ReadAt,
    size: u64,
}

impl Look<'_> {
    fn has(&self, offset: Option<u64>, bytes: &[u8]) -> io::Result<bool> {
        let Some(offset) = offset else { return Ok(false) };
        let mut there = [0_u8; 32];
        let Some(there) = there.get_mut(..bytes.len()) else { return Ok(false) };
        Ok(self.read(offset, there)? && there == bytes)
    }

    /// Whether the place is on the device at all.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
        let inside = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.size);
        if inside {
            self.device.read_at(bytes, offset)?;
        }
        Ok(inside)
    }

    /// Superblocks 0.90 (in the last whole 64 KiB) and 1.0 (8 KiB before the end, on 4 KiB).
    fn md_at_the_end(&self) -> io::Result<Option<Signature>> {
        let old = (self.size & !0xffff).checked_sub(0x1_0000);
        let new = self.size.checked_sub(8192).map(|offset| offset & !4095);
        let name = if self.has(old, MD_LITTLE)? || self.has(old, MD_BIG)? {
            "mdadm 0.90"
        } else if self.has(new, MD_LITTLE)? {
            "mdadm 1.0"
        } else {
            return Ok(None);
        };
        Ok(Some(Signature { kind: Kind::Raid, name }))
    }

    /// An MBR, or a FAT: both end their first sector in 55 aa.
    fn boot_sector(&self) -> io::Result<Option<Signature>> {
        let mut sector = [0_u8; 512];
        if !self.read(0, &mut sector)? || sector[510..] != [0x55, 0xaa] {
            return Ok(None);
        }
        let is_fat =
            [(54, &b"FAT12   "[..]), (54, b"FAT16   "), (82, b"FAT32   "), (54, b"FAT     ")]
                .iter()
                .any(|(at, name)| sector[*at..].starts_with(name));
        if is_fat {
            return Ok(Some(Signature { kind: Kind::Filesystem, name: "FAT" }));
        }
        // Four entries of 16 bytes: a boot flag of 00 or 80; at least one type is not 0.
        let entries = || sector[446..510].chunks_exact(16);
        let sound = entries().all(|entry| entry[0] & 0x7f == 0);
        let used = entries().any(|entry| entry[4] != 0);
        Ok((sound && used).then_some(Signature { kind: Kind::PartitionTable, name: "MBR" }))
    }

    /// Two labels of 256 KiB at each end; the second half of each is a ring of uberblocks, one in
    /// at least each 1 KiB slot's beginning, whose magic is 0x00bab10c in either order.
    fn zfs(&self) -> io::Result<Option<Signature>> {
        const LABEL: u64 = 256 << 10;
        let end = self.size & !(LABEL - 1);
        let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
        let mut ring = vec![0_u8; 128 << 10];
        for label in labels.into_iter().flatten() {
            if !self.read(label + (128 << 10), &mut ring)? {
                continue;
            }
            let is_uberblock = |slot: &[u8]| {
                slot.starts_with(&0x00ba_b10c_u64.to_le_bytes())
                    || slot.starts_with(&0x00ba_b10c_u64.to_be_bytes())
            };
            if ring.chunks(1024).any(is_uberblock) {
                return Ok(Some(Signature { kind: Kind::Volume, name: "ZFS" }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sparse image: zeroes, and some bytes at some places.
    struct Image(Vec<(u64, Vec<u8>)>);

    impl ReadAt for Image {
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
            bytes.fill(0);
            for (at, data) in &self.0 {
                for (byte, place) in data.iter().zip(*at..) {
                    let inside = place.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
                    if let Some(target) = inside.and_then(|index| bytes.get_mut(index)) {
                        *target = *byte;
                    }
                }
            }
            Ok(())
        }
    }

    const SIZE: u64 = 64 << 20;

    fn names(parts: &[(u64, &[u8])], size: u64) -> Vec<String> {
        let image = Image(parts.iter().map(|(at, data)| (*at, data.to_vec())).collect());
        let found = probe(&image, size).expect("an image can be read");
        found.iter().map(|found| format!("{}: {}", found.kind.word(), found.name)).collect()
    }

    #[test]
    fn an_empty_device_carries_nothing_whatever_its_size() {
        for size in [0, 1, 511, 512, 4096, 8191, 65536, 300_000, SIZE, SIZE + 512, 1 << 43] {
            assert!(names(&[], size).is_empty(), "{size}");
        }
    }

    #[test]
    fn each_format_is_known_by_the_bytes_that_its_specification_names() {
        for (offset, bytes, name) in [
            (512, &b"EFI PART"[..], "partition table: GPT"),
            (4096, b"EFI PART", "partition table: GPT"),
            (SIZE - 512, b"EFI PART", "partition table: GPT backup"),
            (1080, b"\x53\xef", "filesystem: ext2/3/4"),
            (0, b"XFSB", "filesystem: XFS"),
            (65600, b"_BHRfS_M", "filesystem: btrfs"),
            (512, b"LABELONE", "volume manager: LVM2"),
            (0, b"\xfc\x4e\x2b\xa9", "RAID member: mdadm 1.1"),
            (4096, b"\xfc\x4e\x2b\xa9", "RAID member: mdadm 1.2"),
            (SIZE - 8192, b"\xfc\x4e\x2b\xa9", "RAID member: mdadm 1.0"),
            (SIZE - 65536, b"\xfc\x4e\x2b\xa9", "RAID member: mdadm 0.90"),
            (SIZE - 65536, b"\xa9\x2b\x4e\xfc", "RAID member: mdadm 0.90"),
            (4086, b"SWAPSPACE2", "swap: Linux"),
            (0, b"LUKS\xba\xbe\x00\x02", "encrypted: LUKS"),
            (4120, BCACHE, "cache: bcache"),
            (1024, b"\x10\x20\xf5\xf2", "filesystem: F2FS"),
            (3, b"NTFS    ", "filesystem: NTFS"),
            (131_072 + 5 * 1024, &0x00ba_b10c_u64.to_le_bytes(), "volume manager: ZFS"),
            (SIZE - 131_072, &0x00ba_b10c_u64.to_be_bytes(), "volume manager: ZFS"),
        ] {
            assert_eq!(names(&[(offset, bytes)], SIZE), [name], "{name} at {offset}");
        }
    }

    #[test]
    fn marks_at_the_end_follow_an_odd_size() {
        let size = SIZE + 5 * 512;
        let old = (size & !0xffff) - 65536;
        let new = (size - 8192) & !4095;
        assert_eq!(names(&[(old, MD_LITTLE)], size), ["RAID member: mdadm 0.90"]);
        assert_eq!(names(&[(new, MD_LITTLE)], size), ["RAID member: mdadm 1.0"]);
    }

    #[test]
    fn an_mbr_needs_an_entry_and_a_fat_is_not_one() {
        let end: (u64, &[u8]) = (510, b"\x55\xaa");
        assert!(names(&[end], SIZE).is_empty(), "a boot sector without partitions");
        assert_eq!(names(&[end, (450, b"\x83")], SIZE), ["partition table: MBR"]);
        assert!(names(&[end, (450, b"\x83"), (446, b"\x12")], SIZE).is_empty(), "a bad flag");
        assert_eq!(names(&[end, (82, b"FAT32   "), (450, b"\x83")], SIZE), ["filesystem: FAT"]);
        assert_eq!(
            names(&[end, (450, b"\xee"), (512, b"EFI PART"), (SIZE - 512, b"EFI PART")], SIZE),
            ["partition table: GPT"]
        );
    }

    #[test]
    fn all_formats_that_are_there_are_named() {
        let found = names(&[(1080, b"\x53\xef"), (512, b"EFI PART")], SIZE);
        assert_eq!(found, ["partition table: GPT", "filesystem: ext2/3/4"]);
    }

    #[test]
    fn a_device_that_cannot_be_read_is_an_error_and_never_an_empty_one() {
        struct Broken;
        impl ReadAt for Broken {
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        assert_eq!(probe(&Broken, SIZE).map_err(|error| error.raw_os_error()), Err(Some(5)));
    }

    /// The formatters of this machine write what the table says; those that are not there are
    /// reported, not passed over.
    #[test]
    fn real_formatters_are_recognised() {
        for (tool, args, name) in [
            ("mke2fs", &["-q", "-F", "-t", "ext4"][..], "filesystem: ext2/3/4"),
            ("mkswap", &[], "swap: Linux"),
            ("mkfs.fat", &[], "filesystem: FAT"),
            ("mkfs.xfs", &["-q", "-f"], "filesystem: XFS"),
            ("mkfs.btrfs", &["-q", "-f"], "filesystem: btrfs"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("image");
            let file = std::fs::File::create(&path).expect("a file");
            let size = 320 << 20;
            file.set_len(size).expect("a sparse file");
            let sbin = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
            let tool_path = sbin
                .iter()
                .map(|dir| format!("{dir}/{tool}"))
                .find(|path| std::path::Path::new(path).exists());
            let Some(tool_path) = tool_path else {
                hybrid_conventions::testing::skipped(
                    &format!("device::signature::real_formatters_are_recognised ({tool})"),
                    &format!("{tool} is not installed"),
                );
                continue;
            };
            let done = std::process::Command::new(tool_path).args(args).arg(&path).output();
            let done = done.expect("it runs");
            assert!(done.status.success(), "{tool}: {}", String::from_utf8_lossy(&done.stderr));
            let file = std::fs::File::open(&path).expect("a file");
            let found = probe(&file, size).expect("readable");
            let found: Vec<String> =
                found.iter().map(|one| format!("{}: {}", one.kind.word(), one.name)).collect();
            assert_eq!(found, [name], "{tool}");
        }
    }
}
