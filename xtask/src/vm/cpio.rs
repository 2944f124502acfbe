//! A writer of cpio archives in the form "newc", which Linux unpacks as its first file system.
//!
//! The form is in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`: a
//! header of hexadecimal text, the name, the bytes, each padded to four. The kernel takes several
//! archives one after another, so what every guest shares is written once. All entries belong to
//! root and carry time 0: the same content gives the same bytes.

use std::collections::BTreeSet;

/// Type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Begins each header.
const MAGIC: &str = "070701";

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory, and those above it that are not there yet.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        if self.directories.insert(clean(path).to_owned()) {
            self.entry(path, DIRECTORY | mode, b"");
        }
    }

    /// Adds a file and the directories above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | mode, content);
    }

    /// Adds a symbolic link and the directories above it.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, target.as_bytes());
    }

    /// The finished archive, padded so that another may follow.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, b"");
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let path = clean(path);
        for (at, _) in path.match_indices('/') {
            if self.directories.insert(path[..at].to_owned()) {
                self.entry(&path[..at], DIRECTORY | 0o755, b"");
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = clean(path);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        self.inodes += 1;
        let size = u32::try_from(content.len()).expect("a file of the guest is below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is short");
        // ino, mode, uid, gid, nlink, mtime, filesize, four device numbers, namesize, check.
        let fields = [self.inodes, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0]
            .map(|field| format!("{field:08x}"));
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Names in an archive are relative to its root.
fn clean(path: &str) -> &str {
    path.trim_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand from the kernel's document: one file `a` with two bytes.
    const GOLDEN: &str = "070701\
        00000001000081a40000000000000000000000010000000000000002\
        0000000000000000000000000000000000000002\
        00000000a\0hi\0\0\
        070701\
        00000002000000000000000000000000000000010000000000000000\
        000000000000000000000000000000000000000b\
        00000000TRAILER!!!\0\0\0\0";

    #[test]
    fn one_file_gives_the_bytes_of_the_document() {
        let mut archive = Archive::default();
        archive.file("/a", 0o644, b"hi");
        assert_eq!(String::from_utf8(archive.finish()).expect("text"), GOLDEN);
    }

    /// Name, mode and content of each entry, read by the rules of the document.
    fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = at;
            let field = |index: usize| {
                let from = header + 6 + index * 8;
                let text = std::str::from_utf8(&bytes[from..from + 8]).expect("hexadecimal");
                usize::from_str_radix(text, 16).expect("a number")
            };
            assert_eq!(&bytes[at..at + 6], MAGIC.as_bytes());
            let name_end = at + 110 + field(11) - 1;
            let name = String::from_utf8(bytes[at + 110..name_end].to_vec()).expect("a name");
            let from = (name_end + 1).next_multiple_of(4);
            let content = bytes[from..from + field(6)].to_vec();
            at = (from + field(6)).next_multiple_of(4);
            found.push((name, u32::try_from(field(1)).expect("a mode"), content));
        }
        found
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/x", 0o755, b"1234");
        archive.file("/usr/bin/y", 0o755, b"12345");
        archive.directory("/usr/bin", 0o700);
        archive.directory("/tmp", 0o1777);
        let bytes = archive.finish();
        let found = entries(&bytes);
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/x", "usr/bin/y", "tmp", TRAILER]);
        assert_eq!(found[1].1, DIRECTORY | 0o755);
        assert_eq!(found[3], ("usr/bin/y".to_owned(), REGULAR | 0o755, b"12345".to_vec()));
        assert_eq!(found[4].1, DIRECTORY | 0o1777);
    }

    #[test]
    fn a_link_holds_its_target() {
        let mut archive = Archive::default();
        archive.symlink("/bin/sh", "busybox");
        let found = entries(&archive.finish());
        assert_eq!(found[1], ("bin/sh".to_owned(), SYMLINK | 0o777, b"busybox".to_vec()));
    }

    #[test]
    fn archives_can_follow_one_another() {
        let mut first = Archive::default();
        first.file("/a", 0o644, b"odd");
        let mut bytes = first.finish();
        assert_eq!(bytes.len() % 4, 0);
        let mut second = Archive::default();
        second.file("/b", 0o644, b"");
        bytes.extend(second.finish());
        let names: Vec<_> = entries(&bytes).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", TRAILER, "b", TRAILER]);
    }
}
