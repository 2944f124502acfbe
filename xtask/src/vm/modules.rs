//! Which kernel modules a guest loads, and in which order.
//!
//! The packages carry no `modules.dep`: `depmod` makes it where a kernel is installed, and this one
//! is not installed. Each module names those it needs in its section `.modinfo`, as
//! `depends=a,b`, which stands as text between zero bytes; that is read here. Packaged modules may
//! be compressed with xz; they are unpacked once and kept beside the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::Run;

/// The modules of one kernel, by name.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    paths: BTreeMap<String, PathBuf>,
    /// Unpacks what is compressed.
    busybox: PathBuf,
}

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) depends: Vec<String>,
    /// The ELF file.
    pub(crate) content: Vec<u8>,
}

impl Modules {
    /// Finds the modules below `dir`; `busybox` unpacks them.
    pub(crate) fn find(dir: &Path, busybox: &Path) -> Result<Self> {
        let mut modules = Self { paths: BTreeMap::new(), busybox: busybox.to_owned() };
        modules.walk(dir)?;
        Ok(modules)
    }

    fn walk(&mut self, dir: &Path) -> Result<()> {
        let list = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in list {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                self.walk(&path)?;
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((stem, _)) = name.split_once(".ko") {
                self.paths.insert(normal(stem), path);
            }
        }
        Ok(())
    }

    /// `wanted` and what they need, each after what it needs. A wanted module that this kernel
    /// doesn't have is left out: it is built in, or later kernels have it no more.
    pub(crate) fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in wanted.iter().map(|name| normal(name)) {
            if self.paths.contains_key(&name) {
                self.add(&name, &mut Vec::new(), &mut order)?;
            }
        }
        Ok(order)
    }

    fn add(&self, name: &str, above: &mut Vec<String>, order: &mut Vec<Module>) -> Result<()> {
        if order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if above.iter().any(|other| other == name) {
            bail!("kernel modules need one another in a circle: {} {name}", above.join(" "));
        }
        let Some(path) = self.paths.get(name) else {
            bail!("kernel module {name}, which {} needs, is not there", above.join(" of "));
        };
        let content = self.read(path)?;
        let depends = depends(&content);
        above.push(name.to_owned());
        for other in &depends {
            self.add(other, above, order)?;
        }
        above.pop();
        order.push(Module { name: name.to_owned(), depends, content });
        Ok(())
    }

    /// A module's bytes; a compressed one is unpacked beside itself.
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let mut path = path.to_owned();
        if path.extension().is_some_and(|extension| extension == "xz") {
            let plain = path.with_extension("");
            if !plain.exists() {
                let unpack = Run::new("").arg(self.busybox.to_string_lossy()).arg("unxz");
                let unpack = unpack.arg("-k").arg(path.to_string_lossy());
                ensure!(unpack.succeeds(Path::new("/")), "`{}` failed", unpack.line());
            }
            path = plain;
        }
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A line for each module as `depmod` writes them: a path, and what must be loaded before.
pub(crate) fn modules_dep(order: &[Module]) -> String {
    let mut text = String::new();
    for module in order {
        let mut needs = Vec::new();
        all_needs(module, order, &mut needs);
        let needs: String = needs.iter().map(|name| format!(" {name}.ko")).collect();
        text.push_str(&format!("{}.ko:{needs}\n", module.name));
    }
    text
}

fn all_needs(module: &Module, order: &[Module], needs: &mut Vec<String>) {
    for name in &module.depends {
        if !needs.contains(name) {
            needs.push(name.clone());
            if let Some(other) = order.iter().find(|other| other.name == *name) {
                all_needs(other, order, needs);
            }
        }
    }
}

/// In module names `-` and `_` are one.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// What a module says it needs.
fn depends(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let entry = content.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(KEY));
    let text = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(name: &str, modules: &[(&str, &str)]) -> (PathBuf, Modules) {
        let root = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        for (path, needs) in modules {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, format!("\x7fELF\0license=GPL\0depends={needs}\0retpoline=Y\0"))
                .expect("a file");
        }
        let found = Modules::find(&root, Path::new("/bin/busybox")).expect("modules");
        (root, found)
    }

    fn names(order: &[Module]) -> Vec<&str> {
        order.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let (root, modules) = planted(
            "order",
            &[
                ("drivers/vfio/pci/vfio-pci.ko", "vfio-pci-core,vfio"),
                ("drivers/vfio/pci/vfio-pci-core.ko", "vfio,irqbypass"),
                ("drivers/vfio/vfio.ko", ""),
                ("virt/lib/irqbypass.ko", ""),
            ],
        );
        let order = modules.in_order(&["vfio_pci", "vfio", "vfio_virqfd"]).expect("an order");
        assert_eq!(names(&order), ["vfio", "irqbypass", "vfio_pci_core", "vfio_pci"]);
        let dep = modules_dep(&order);
        assert!(dep.contains("vfio_pci.ko: vfio_pci_core.ko vfio.ko irqbypass.ko\n"), "{dep}");
        assert!(dep.starts_with("vfio.ko:\n"), "{dep}");
        fs::remove_dir_all(root).expect("our own folder");
    }

    #[test]
    fn what_a_module_needs_must_be_there() {
        let (root, modules) = planted("gap", &[("a.ko", "b"), ("b.ko", "c")]);
        let error = modules.in_order(&["a"]).expect_err("c is not there").to_string();
        assert_eq!(error, "kernel module c, which a of b needs, is not there");
        fs::remove_dir_all(root).expect("our own folder");
    }

    #[test]
    fn a_circle_ends() {
        let (root, modules) = planted("circle", &[("a.ko", "b"), ("b.ko", "a")]);
        let error = modules.in_order(&["a"]).expect_err("a circle").to_string();
        assert_eq!(error, "kernel modules need one another in a circle: a b a");
        fs::remove_dir_all(root).expect("our own folder");
    }

    #[test]
    fn needs_are_read_from_between_zero_bytes() {
        assert_eq!(depends(b"x\0depends=t10-pi,crc64\0y"), ["t10_pi", "crc64"]);
        assert!(depends(b"x\0depends=\0y").is_empty());
        assert!(depends(b"undepends=a\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
