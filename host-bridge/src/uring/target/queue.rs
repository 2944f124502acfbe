//! What sysfs says of a block device's queue.

use std::path::{Path, PathBuf};

/// The `queue` folder of a block device; of a partition, that of its disk.
#[derive(Debug)]
pub(super) struct Queue(Option<PathBuf>);

impl Queue {
    /// Of the device with this number, below `root`.
    pub(super) fn of(root: &Path, rdev: u64) -> Self {
        let (major, minor) = (libc::major(rdev), libc::minor(rdev));
        let device = root.join(format!("sys/dev/block/{major}:{minor}"));
        Self::under(&device)
    }

    /// Of the device whose folder this is.
    pub(super) fn under(device: &Path) -> Self {
        let places = [device.join("queue"), device.join("../queue")];
        Self(places.into_iter().find(|place| place.is_dir()))
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.as_ref()?.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Largest transfer that is not cut, in whole blocks; 128 KiB where nothing is said.
    pub(super) fn max_transfer(&self, lba_bytes: u32) -> u32 {
        let kib = self.number("max_sectors_kb").unwrap_or(128).clamp(4, 1 << 15);
        let bytes = u32::try_from(kib << 10).unwrap_or(1 << 25);
        (bytes - bytes % lba_bytes).max(lba_bytes)
    }

    /// Whether blocks can be given back.
    pub(super) fn discards(&self) -> bool {
        self.number("write_zeroes_unmap_max_bytes")
            .or_else(|| self.number("write_zeroes_max_bytes"))
            .is_some_and(|bytes| bytes != 0)
    }

    /// Whether there is a volatile cache; where nothing is said there is one.
    pub(super) fn write_cache(&self) -> bool {
        self.text("write_cache").is_none_or(|text| text != "write through")
    }

    /// Whether completions can be polled for; a line where not.
    pub(super) fn polled(&self, path: &Path, steps: &mut Vec<String>) -> bool {
        let polled = self.number("io_poll") == Some(1);
        if !polled {
            steps.push(format!(
                "{}: without IOPOLL: the device has no poll queues (queue/io_poll is 0); \
                 completions come by interrupt; for NVMe boot with nvme.poll_queues=1 or more",
                path.display()
            ));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn queue(root: &TempDir, files: &[(&str, &str)]) -> Queue {
        for (name, text) in files {
            root.write(&format!("sys/dev/block/259:1/queue/{name}"), text);
        }
        Queue::of(root.path(), libc::makedev(259, 1))
    }

    #[test]
    fn limits_are_read_and_rounded_to_blocks() {
        let root = TempDir::new("queue");
        let queue = queue(
            &root,
            &[
                ("max_sectors_kb", "1280"),
                ("io_poll", "1"),
                ("write_cache", "write through"),
                ("write_zeroes_unmap_max_bytes", "0"),
            ],
        );
        assert_eq!(queue.max_transfer(4096), 1280 << 10);
        assert_eq!(queue.max_transfer(1 << 20), 1 << 20);
        assert!(!queue.write_cache() && !queue.discards());
        let mut steps = Vec::new();
        assert!(queue.polled(Path::new("/dev/nvme0n1"), &mut steps) && steps.is_empty());
    }

    #[test]
    fn a_device_that_says_nothing_is_taken_for_the_worse() {
        let root = TempDir::new("queue-none");
        let queue = queue(&root, &[]);
        assert_eq!(queue.max_transfer(512), 128 << 10);
        assert!(queue.write_cache() && !queue.discards());
        let mut steps = Vec::new();
        assert!(!queue.polled(Path::new("/dev/sda"), &mut steps));
        assert!(steps[0].contains("nvme.poll_queues"), "{steps:?}");
    }

    #[test]
    fn a_partition_has_its_disks_queue() {
        let root = TempDir::new("queue-part");
        root.write("sys/dev/block/259:0/queue/max_sectors_kb", "64");
        root.write("sys/dev/block/259:0/part/size", "1");
        let part = root.path().join("sys/dev/block/259:0/part");
        assert_eq!(Queue::under(&part).max_transfer(512), 64 << 10);
    }
}
