//! The first partition: what the device is, how fast it is, and whether it may be overwritten.
//!
//! Runs on the core ([`run`]), and says lines that the host reads ([`Survey::parse`]).

use std::fmt::Write as _;

use hybrid_conformance::Rig;
use hybrid_conformance::suite::{Cx, Fixture, Space};
use nvme_driver::{ControllerConfig, Namespace};
use nvme_spec::fixed_text;

use crate::core::{Core, Work};
use crate::mark::{self, Owner};

/// Reads one after the other from which the speed is taken.
const PROBES: u64 = 64;

/// A read that takes this long, or less, is a fast device's: all operations are done.
const FAST_READ_NS: u64 = 20_000;

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Model number and firmware.
    pub(crate) name: String,
    /// A line for each namespace that is used.
    pub(crate) namespaces: Vec<String>,
    /// By what the numbers of operations are divided.
    pub(crate) scale: u64,
    /// Why it cannot be used.
    pub(crate) refused: Option<String>,
}

/// On the core: looks, and marks what it may overwrite.
pub(crate) fn run(core: &Core, work: &Work) -> String {
    let Work { seed, scale, nsid, may_write, .. } = *work;
    let cx = Cx { backend: core, seed, scale, nsid, may_write };
    let mut said = String::new();
    if let Err(why) = look(&cx, &mut said) {
        // Into a `String` nothing fails.
        let _ = write!(said, "refused {}", why.replace('\n', " "));
    }
    said
}

fn look(cx: &Cx<'_>, said: &mut String) -> Result<(), String> {
    let rig: Fixture<'_> =
        Rig::new(cx.backend, ControllerConfig::default()).map_err(|error| error.to_string())?;
    rig.bring_up().map_err(|error| error.to_string())?;
    let id = rig.controller.identify();
    let _ = writeln!(said, "name {} {}", fixed_text(&id.mn).trim(), fixed_text(&id.fr).trim());
    let spaces = match cx.spaces(&rig) {
        Ok(spaces) => spaces,
        Err(skip) => return Err(no_space(cx, &rig, &skip.0)),
    };
    let _ = writeln!(said, "scale {}", scale(&rig, spaces[0])?);
    for space in spaces {
        let ns = space.ns;
        let (nsid, blocks, lba_bytes) = (ns.nsid().0, ns.blocks(), ns.lba_bytes());
        let most = ns.max_transfer_bytes();
        let _ = write!(said, "namespace {nsid}: {blocks} blocks of {lba_bytes} bytes");
        let _ = writeln!(said, ", {most} bytes a command");
        if cx.may_write {
            take_over(&rig, ns)?;
        }
    }
    rig.run(rig.controller.shutdown()).map_err(|error| error.to_string())
}

fn no_space(cx: &Cx<'_>, rig: &Fixture<'_>, why: &str) -> String {
    let there: Vec<_> = rig.controller.namespaces().map(|ns| ns.nsid().to_string()).collect();
    match cx.nsid {
        Some(nsid) => {
            format!("namespace {nsid} cannot be used; those that can are {}", there.join(", "))
        }
        None => {
            let refused = rig.controller.all_namespaces().filter_map(|ns| {
                ns.refusal().map(|refusal| format!("; namespace {}: {refusal}", ns.nsid().0))
            });
            format!("{why}{}", refused.collect::<String>())
        }
    }
}

fn take_over(rig: &Fixture<'_>, ns: &'static Namespace) -> Result<(), String> {
    let nsid = ns.nsid().0;
    match mark::owner(rig, ns).map_err(|why| format!("namespace {nsid}: {why}"))? {
        Owner::Suite => Ok(()),
        Owner::Nobody => mark::put(rig, ns).map_err(|why| format!("namespace {nsid}: {why}")),
        Owner::Somebody(lba) => Err(format!(
            "namespace {nsid} carries data (block {lba} is not blank) and is not overwritten; \
             erase it first, with `nvme format` or `blkdiscard -z` under its kernel driver, or \
             choose another one with --namespace"
        )),
    }
}

/// How many times slower than a fast device this one is.
fn scale(rig: &Fixture<'_>, space: Space) -> Result<u64, String> {
    let clock = rig.backend.parts().clock();
    let begun = rig.backend.now();
    for at in 0..PROBES {
        let buf = rig.filled(space.lba_bytes(), 0);
        let read = rig.run(space.ns.read(space.lba(at % space.blocks), buf));
        drop(read.map_err(|failed| failed.to_string())?);
    }
    let each = clock.ticks_to_ns(rig.backend.now().since(begun)) / PROBES;
    Ok((each / FAST_READ_NS).clamp(1, 64))
}

impl Survey {
    /// From what [`run`] said.
    pub(crate) fn parse(said: &str) -> Self {
        let mut survey = Self { scale: 1, ..Self::default() };
        for line in said.lines() {
            match line.split_once(' ') {
                Some(("name", name)) => survey.name = name.trim().to_owned(),
                Some(("scale", scale)) => survey.scale = scale.parse().unwrap_or(1),
                Some(("namespace", _)) => survey.namespaces.push(line.to_owned()),
                Some(("refused", why)) => survey.refused = Some(why.to_owned()),
                _ => {}
            }
        }
        survey
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_core_says_is_understood() {
        let said = "name QEMU NVMe Ctrl 7.2\nscale 12\nnamespace 1: 8 blocks of 512 bytes\n\
                    refused namespace 1 carries data";
        let survey = Survey::parse(said);
        assert_eq!((survey.name.as_str(), survey.scale), ("QEMU NVMe Ctrl 7.2", 12));
        assert_eq!(survey.namespaces, ["namespace 1: 8 blocks of 512 bytes"]);
        assert_eq!(survey.refused.as_deref(), Some("namespace 1 carries data"));
        assert_eq!(Survey::parse("").scale, 1);
    }
}
