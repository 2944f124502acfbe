//! What the IOMMU stopped, as the kernel's log tells it.
//!
//! A transfer that no mapping allows is stopped by the IOMMU; the device may report success all the
//! same. The kernel writes a line with the device and the address. Only who may read the log sees
//! it: root, or everybody where `kernel.dmesg_restrict` is 0.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use core_runtime::mem::Iova;
use hybrid_conventions::Bdf;

/// Records read at one look: a log's whole ring of short lines.
const MOST_RECORDS: usize = 8192;
/// Faults that are told in full.
const TOLD: usize = 4;

/// A transfer that the IOMMU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// To memory, or from it; `None` where the line does not tell.
    pub is_write: Option<bool>,
    /// Where to.
    pub address: Iova,
}

/// Reads the log from where it was when this was made.
#[derive(Debug)]
pub struct FaultLog {
    bdf: Bdf,
    log: Option<File>,
}

impl FaultLog {
    /// A log for one function; without permission it tells nothing.
    #[must_use]
    pub fn new(root: &Path, bdf: Bdf) -> Self {
        let open = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(root.join("dev/kmsg"));
        // A record each read; the end is where the newest one was.
        let log =
            open.ok().filter(|log| rustix::fs::seek(log, rustix::fs::SeekFrom::End(0)).is_ok());
        Self { bdf, log }
    }

    /// What the function did since the last look.
    pub fn take(&mut self) -> Vec<Fault> {
        let Some(log) = &mut self.log else { return Vec::new() };
        let mut record = [0; 8192];
        let mut faults = Vec::new();
        for _ in 0..MOST_RECORDS {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let line = String::from_utf8_lossy(&record[..len]);
                    faults.extend(fault_of(&line, self.bdf));
                }
                // Records were overwritten before they were read; the next one is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => break,
            }
        }
        faults
    }
}

/// The fault that a line of the log tells of this function.
#[must_use]
pub fn fault_of(line: &str, bdf: Bdf) -> Option<Fault> {
    intel(line, bdf).or_else(|| amd(line, bdf))
}

/// `DMAR: [DMA Write NO_PASID] Request device [01:00.0] fault addr 0x3000000000 [fault reason …`
fn intel(line: &str, bdf: Bdf) -> Option<Fault> {
    let rest = line.split_once("DMAR: [DMA ")?.1;
    let is_write = match rest.split([' ', ']']).next()? {
        "Write" => Some(true),
        "Read" => Some(false),
        _ => None,
    };
    let (device, rest) = rest.split_once("Request device [")?.1.split_once(']')?;
    // The kernel leaves the domain out.
    let short = Bdf::new(0, bdf.bus(), bdf.device(), bdf.function())?;
    if device.parse() != Ok(short) && device.parse() != Ok(bdf) {
        return None;
    }
    let address = hex(rest.split_once("fault addr ")?.1)?;
    Some(Fault { is_write, address })
}

/// `vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000e address=0x3000 …`
fn amd(line: &str, bdf: Bdf) -> Option<Fault> {
    let (before, event) = line.split_once("AMD-Vi: Event logged [IO_PAGE_FAULT ")?;
    // Newer kernels name the device in front, older ones inside.
    if !before.contains(&bdf.to_string()) && !event.contains(&format!("{bdf:#}")) {
        return None;
    }
    let address = hex(event.split_once("address=")?.1)?;
    // Bit 5: a write. AMD I/O Virtualization Technology 3.05, section 2.5.3.
    let flags = event.split_once("flags=").and_then(|(_, text)| hex(text));
    Some(Fault { is_write: flags.map(|flags| flags.0 >> 5 & 1 == 1), address })
}

fn hex(text: &str) -> Option<Iova> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    u64::from_str_radix(&text[..end], 16).ok().map(Iova)
}

/// One line for a report; `None` without faults.
#[must_use]
pub fn in_words(bdf: Bdf, faults: &[Fault]) -> Option<String> {
    if faults.is_empty() {
        return None;
    }
    let told: Vec<_> = faults
        .iter()
        .take(TOLD)
        .map(|fault| {
            let what = match fault.is_write {
                Some(true) => "a write to",
                Some(false) => "a read of",
                None => "a transfer at",
            };
            format!("{what} {}", fault.address)
        })
        .collect();
    let more = match faults.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("{bdf}: the iommu stopped {}{more}", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = "3,812,9131205,-;DMAR: [DMA Write NO_PASID] Request device [01:00.0] \
        fault addr 0x3000000000 [fault reason 0x05] PTE Write access is not set\n";
    const INTEL_OLD: &str = "DMAR: [DMA Read] Request device [01:00.0] PASID ffffffff \
        fault addr ffe00000 [fault reason 06] PTE Read access is not set";
    const AMD: &str = "vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000e \
        address=0xfffffffdf8000000 flags=0x0020]";
    const AMD_OLD: &str = "AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0 domain=0x000e \
        address=0x00000000fdf80000 flags=0x0000]";

    fn bdf(text: &str) -> Bdf {
        text.parse().expect("an address")
    }

    #[test]
    fn lines_of_both_vendors_old_and_new_give_address_and_direction() {
        for (line, is_write, address) in [
            (INTEL, true, 0x30_0000_0000),
            (INTEL_OLD, false, 0xffe0_0000),
            (AMD, true, 0xffff_fffd_f800_0000),
            (AMD_OLD, false, 0xfdf8_0000),
        ] {
            let fault = Fault { is_write: Some(is_write), address: Iova(address) };
            assert_eq!(fault_of(line, bdf("01:00.0")), Some(fault), "{line}");
            assert_eq!(fault_of(line, bdf("01:00.1")), None, "{line}");
        }
        for line in ["", "DMAR: [DMA ", "DMAR: [DMA Write] Request device [", "DMAR: DRHD: x"] {
            assert_eq!(fault_of(line, bdf("01:00.0")), None, "{line}");
        }
    }

    #[test]
    fn many_faults_are_one_line() {
        let fault = Fault { is_write: Some(true), address: Iova(0x3000) };
        let one = in_words(bdf("01:00.0"), &[fault]).expect("a line");
        assert_eq!(one, "0000:01:00.0: the iommu stopped a write to 0x3000");
        let many = in_words(bdf("01:00.0"), &[fault; 9]).expect("a line");
        assert!(many.ends_with("a write to 0x3000 and 5 more"), "{many}");
        assert_eq!(in_words(bdf("01:00.0"), &[]), None);
    }

    #[test]
    fn a_log_that_may_not_be_read_tells_nothing() {
        let mut log = FaultLog::new(Path::new("/nowhere"), bdf("01:00.0"));
        assert_eq!(log.take(), []);
    }
}
