//! Gives a function back to the kernel's own driver.
//!
//! By `driver_override` and `drivers_probe`, never by `new_id`: only this one function changes.
//! Needs root; everybody else gets the command. The device must be closed: an unbind waits for it.

use std::fs;
use std::path::Path;

use hybrid_conventions::Bdf;

use super::probe::link_name;

/// Why it is still on vfio-pci.
#[derive(Debug, thiserror::Error)]
pub enum GiveBackError {
    /// Mostly for want of root.
    #[error(
        "{bdf} was not given back to the kernel's driver ({step}: {source}); as root: sysconfig \
         unbind {bdf}"
    )]
    Refused {
        /// The function.
        bdf: Bdf,
        /// The file of sysfs.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No driver took it.
    #[error("{bdf} was let go by vfio-pci, and no driver took it; as root: modprobe nvme")]
    NoDriver {
        /// The function.
        bdf: Bdf,
    },
}

/// Lets go of `bdf` and has the kernel look for a driver. Returns the driver's name.
///
/// # Errors
/// [`GiveBackError`].
pub fn give_back(root: &Path, bdf: Bdf) -> Result<String, GiveBackError> {
    let pci = root.join("sys/bus/pci");
    let function = pci.join(format!("devices/{bdf}"));
    let address = bdf.to_string();
    // A line end alone clears the override.
    let steps = [
        ("driver_override", function.join("driver_override"), "\n"),
        ("unbind", pci.join("drivers/vfio-pci/unbind"), address.as_str()),
        ("drivers_probe", pci.join("drivers_probe"), address.as_str()),
    ];
    for (step, file, text) in steps {
        let refused = |source| GiveBackError::Refused { bdf, step, source };
        fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(refused)?;
    }
    match link_name(&function.join("driver")) {
        Some(driver) if driver != "vfio-pci" => Ok(driver),
        _ => Err(GiveBackError::NoDriver { bdf }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_override_is_cleared_before_the_kernel_looks_for_a_driver() {
        let root = TempDir::new("give-back");
        let bdf: Bdf = "03:00.0".parse().expect("an address");
        let device = "sys/bus/pci/devices/0000:03:00.0";
        root.write(&format!("{device}/driver_override"), "");
        root.write("sys/bus/pci/drivers/vfio-pci/unbind", "");
        root.write("sys/bus/pci/drivers_probe", "");
        let error = give_back(root.path(), bdf).expect_err("nobody is there to bind");
        assert!(error.to_string().ends_with("as root: modprobe nvme"), "{error}");
        let read = |name: &str| fs::read_to_string(root.path().join(name)).expect("a file");
        assert_eq!(read(&format!("{device}/driver_override")), "\n");
        assert_eq!(read("sys/bus/pci/drivers/vfio-pci/unbind"), "0000:03:00.0");
        assert_eq!(read("sys/bus/pci/drivers_probe"), "0000:03:00.0");
        let link = root.path().join(device).join("driver");
        std::os::unix::fs::symlink("../drivers/nvme", link).expect("a link");
        assert_eq!(give_back(root.path(), bdf).expect("bound"), "nvme");
    }

    #[test]
    fn who_may_not_write_gets_the_command() {
        let root = TempDir::new("give-back");
        let bdf: Bdf = "03:00.0".parse().expect("an address");
        let line = give_back(root.path(), bdf).expect_err("no such file").to_string();
        assert!(line.ends_with("as root: sysconfig unbind 0000:03:00.0"), "{line}");
    }
}
