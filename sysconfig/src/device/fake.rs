//! A kernel for tests: a tree of files and links that answers writes to PCI files as Linux does.
//!
//! It knows drivers, overrides, probing, unbinding, and device nodes that appear a while later.
//! Each write is kept, so that a test can see that nothing else was touched.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::signature::ReadAt;
use super::tree::Tree;

/// Bytes at places.
type Marks = Vec<(u64, Vec<u8>)>;

/// The tree and its behaviour.
#[derive(Default)]
pub(crate) struct FakeKernel {
    pub(crate) files: RefCell<BTreeMap<String, String>>,
    pub(crate) links: RefCell<BTreeMap<String, String>>,
    /// Bytes of block devices at places; all others are zero.
    pub(crate) disks: RefCell<BTreeMap<String, Marks>>,
    /// Block devices that the kernel has claimed.
    pub(crate) claimed: RefCell<Vec<String>>,
    pub(crate) writes: RefCell<Vec<String>>,
    /// Writes to paths that end so are refused with this error number.
    pub(crate) refuse: RefCell<Option<(String, i32)>>,
    /// A driver that takes nothing.
    pub(crate) deaf_driver: RefCell<Option<String>>,
    /// Looks until the nodes of vfio appear; [`None`] for never.
    pub(crate) nodes_after: Cell<Option<u32>>,
    pub(crate) pauses: Cell<u32>,
    /// Pauses until these files are there: what the kernel makes in its own time.
    pub(crate) later: RefCell<Vec<(u32, String, String)>>,
    /// Programs that were run.
    pub(crate) runs: RefCell<Vec<String>>,
    /// Modules that modprobe finds: the driver's folder appears.
    pub(crate) modules: RefCell<Vec<String>>,
}

impl FakeKernel {
    /// One NVMe drive at 0000:03:00.0, alone in group 7, on `nvme`, with a disk without data.
    pub(crate) fn with_drive() -> Self {
        let kernel = Self::default();
        kernel.nodes_after.set(Some(3));
        kernel.function("0000:03:00.0", "0x010802", Some("nvme"), Some(7));
        kernel.disk("0000:03:00.0", "nvme0", "nvme0n1");
        for driver in ["nvme", "vfio-pci"] {
            kernel.file(&format!("/sys/bus/pci/drivers/{driver}/bind"), "");
        }
        kernel.file("/dev/vfio/vfio", "");
        kernel.file("/proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n");
        kernel.file("/proc/swaps", "Filename\tType\n");
        kernel
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        self.files.borrow_mut().insert(path.to_owned(), text.to_owned());
    }

    pub(crate) fn link_to(&self, path: &str, target: &str) {
        self.links.borrow_mut().insert(path.to_owned(), target.to_owned());
    }

    pub(crate) fn function(
        &self,
        bdf: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let base = format!("/sys/bus/pci/devices/{bdf}");
        for (file, text) in [
            ("class", class),
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("numa_node", "-1"),
            ("driver_override", "(null)"),
        ] {
            self.file(&format!("{base}/{file}"), &format!("{text}\n"));
        }
        if let Some(driver) = driver {
            self.link_to(&format!("{base}/driver"), &format!("../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            let groups = "/sys/kernel/iommu_groups";
            self.link_to(&format!("{base}/iommu_group"), &format!("../../{group}"));
            self.file(&format!("{groups}/{group}/devices/{bdf}"), "");
        }
    }

    pub(crate) fn disk(&self, bdf: &str, controller: &str, disk: &str) {
        let folder = format!("/sys/bus/pci/devices/{bdf}/nvme/{controller}");
        self.file(&format!("{folder}/{disk}/x"), "");
        self.file(&format!("{folder}/state"), "live\n");
        self.block(disk, "259:0");
    }

    /// A block device of 64 MiB that carries nothing.
    pub(crate) fn block(&self, name: &str, number: &str) {
        self.file(&format!("/sys/class/block/{name}/dev"), &format!("{number}\n"));
        self.file(&format!("/sys/class/block/{name}/size"), "131072\n");
        self.disks.borrow_mut().insert(format!("/dev/{name}"), Vec::new());
    }

    pub(crate) fn partition(&self, disk: &str, name: &str, number: &str) {
        self.block(name, number);
        self.file(&format!("/sys/class/block/{disk}/{name}/partition"), "1\n");
    }

    pub(crate) fn driver(&self, bdf: &str) -> Option<String> {
        self.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver"))
    }

    fn probe(&self, bdf: &str) {
        let base = format!("/sys/bus/pci/devices/{bdf}");
        if self.driver(bdf).is_some() {
            return;
        }
        let wanted = self.read(&format!("{base}/driver_override")).unwrap_or_default();
        let class = self.read(&format!("{base}/class")).unwrap_or_default();
        let driver = match wanted.trim() {
            "" | "(null)" if class.trim() == "0x010802" => "nvme",
            "" | "(null)" => return,
            driver => driver,
        };
        let known = self.exists(&format!("/sys/bus/pci/drivers/{driver}"));
        if !known || self.deaf_driver.borrow().as_deref() == Some(driver) {
            return;
        }
        self.link_to(&format!("{base}/driver"), &format!("../../bus/pci/drivers/{driver}"));
        if driver == "vfio-pci" {
            self.pauses.set(0);
        }
    }

    /// The nodes of vfio appear some looks after the bind.
    fn appear(&self) {
        let due = self.nodes_after.get().is_some_and(|after| self.pauses.get() >= after);
        let groups: Vec<String> = self
            .links
            .borrow()
            .iter()
            .filter(|(path, target)| path.ends_with("/driver") && target.ends_with("vfio-pci"))
            .filter_map(|(path, _)| self.link_name(&path.replace("/driver", "/iommu_group")))
            .collect();
        for group in groups {
            if due {
                self.file(&format!("/dev/vfio/{group}"), "");
            }
        }
    }
}

struct FakeDisk(Marks);

impl ReadAt for FakeDisk {
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

impl Tree for FakeKernel {
    fn read(&self, path: &str) -> io::Result<String> {
        self.files.borrow().get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        self.writes.borrow_mut().push(format!("{path} = {}", text.trim()));
        if let Some((end, error)) = self.refuse.borrow().as_ref()
            && path.ends_with(end.as_str())
        {
            return Err(io::Error::from_raw_os_error(*error));
        }
        if path == "/sys/bus/pci/drivers_probe" {
            self.probe(text.trim());
        } else if let Some(driver) = path.strip_suffix("/unbind") {
            self.links.borrow_mut().remove(driver);
        } else {
            self.file(path, text);
        }
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{path}/");
        let files = self.files.borrow();
        let links = self.links.borrow();
        let mut names: Vec<String> = files
            .keys()
            .chain(links.keys())
            .filter_map(|known| Some(known.strip_prefix(&prefix)?.split('/').next()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn link(&self, path: &str) -> Option<String> {
        self.links.borrow().get(path).cloned()
    }

    fn exists(&self, path: &str) -> bool {
        self.appear();
        let is = |known: &String| known == path || known.starts_with(&format!("{path}/"));
        self.files.borrow().keys().any(is) || self.links.borrow().keys().any(is)
    }

    fn open(&self, path: &str, exclusive: bool) -> io::Result<Box<dyn ReadAt>> {
        if exclusive && self.claimed.borrow().iter().any(|claimed| claimed == path) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let disk = self.disks.borrow().get(path).cloned();
        Ok(Box::new(FakeDisk(disk.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn run(&self, program: &str, args: &[&str]) -> bool {
        self.runs.borrow_mut().push(format!("{program} {}", args.join(" ")));
        if program.ends_with("modprobe") {
            let known = self.modules.borrow().iter().any(|module| args.contains(&module.as_str()));
            if known {
                self.file(&format!("/sys/bus/pci/drivers/{}/bind", args[0]), "");
            }
            return known;
        }
        let [_, verb, bdf, rest @ ..] = args else { return false };
        let base = format!("/sys/bus/pci/devices/{bdf}");
        let wanted = if *verb == "set-override" { rest[0] } else { "" };
        self.file(&format!("{base}/driver_override"), wanted);
        self.links.borrow_mut().remove(&format!("{base}/driver"));
        self.probe(bdf);
        true
    }

    fn give_to_group(&self, path: &str, gid: u32) -> io::Result<()> {
        self.writes.borrow_mut().push(format!("{path} = group {gid}"));
        Ok(())
    }

    fn pause(&self, _: Duration) {
        self.pauses.set(self.pauses.get() + 1);
        let due = |(after, ..): &mut (u32, String, String)| *after <= self.pauses.get();
        let due: Vec<_> = self.later.borrow_mut().extract_if(.., due).collect();
        for (_, path, text) in due {
            self.file(&path, &text);
        }
    }
}
