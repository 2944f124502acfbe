//! What the steps need beyond cargo: found, installed where we may, or named with its command.
//!
//! As root we install and say so. Otherwise the command is printed and `xtask` ends with exit code
//! 3. A whole toolchain is never downloaded here: that is the developer's decision.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::command::Run;
use crate::vm;

/// Something that a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Rustfmt,
    Clippy,
    NoStdTarget,
    Miri,
    /// What the nightly compiler builds the fuzzer's program with.
    NightlyStd,
    /// Builds libFuzzer, which is C++.
    Cxx,
    /// Counts instructions.
    Valgrind,
    /// Runs beside each rung of the ladder.
    Fio,
    /// The emulator of the guests.
    Qemu,
    /// Makes a Debian of its own to install the package in.
    Debootstrap,
    /// Boots that Debian.
    Nspawn,
    /// Reads the package as Debian's policy does.
    Lintian,
    /// What apt knows of Debian's packages; a guest is made of some, which are not installed.
    AptLists,
}

/// Whether a tool can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Yes,
    /// It can't, and its steps are skipped for this reason.
    No(String),
    /// It can't, and this command would change that.
    Missing {
        why: &'static str,
        fix: String,
    },
}

impl Tool {
    /// The bare-metal target that the no_std crates must build for.
    pub(crate) const TARGET: &str = "x86_64-unknown-none";

    const fn why(self) -> &'static str {
        match self {
            Self::Rustfmt => "rustfmt checks the format",
            Self::Clippy => "clippy checks the lints",
            Self::NoStdTarget => "the no_std crates are built for a target without std",
            Self::Miri => "Miri looks for undefined behaviour",
            Self::NightlyStd => "libFuzzer's program is built with a nightly compiler",
            Self::Cxx => "libFuzzer is built with a C++ compiler",
            Self::Valgrind => "valgrind counts the instructions of the hot paths",
            Self::Fio => "fio runs beside our io_uring, and reads the job files of the ladder",
            Self::Qemu => "QEMU emulates the machine of the guests",
            Self::Debootstrap => "debootstrap makes the tree in which the package is tried",
            Self::Nspawn => "systemd-nspawn boots the tree, for the units",
            Self::Lintian => "lintian reads the package as Debian's policy does",
            Self::AptLists => "the guests are made of Debian packages, and apt knows of none",
        }
    }

    fn probe(self) -> Run {
        match self {
            Self::Rustfmt => Run::new("cargo fmt --version"),
            Self::Clippy => Run::new("cargo clippy --version"),
            Self::NoStdTarget => Run::new("rustc --print target-libdir --target").arg(Self::TARGET),
            Self::Miri => Run::new("cargo +nightly miri --version"),
            Self::NightlyStd => Run::new("rustc +nightly --print target-libdir"),
            Self::Cxx => Run::new("c++ --version"),
            Self::Valgrind => Run::new("valgrind --version"),
            Self::Fio => Run::new("fio --version"),
            Self::Qemu => Run::new(vm::QEMU).arg("--version"),
            Self::Debootstrap => Run::new("debootstrap --version"),
            Self::Nspawn => Run::new("systemd-nspawn --version"),
            Self::Lintian => Run::new("lintian --version"),
            Self::AptLists => Run::new("apt-cache show").arg(vm::KERNEL_PACKAGE),
        }
    }

    fn fix(self) -> Run {
        let run = match self {
            Self::Rustfmt => Run::new("rustup component add rustfmt"),
            Self::Clippy => Run::new("rustup component add clippy"),
            Self::NoStdTarget => Run::new("rustup target add").arg(Self::TARGET),
            Self::Miri => Run::new("rustup component add --toolchain nightly miri rust-src"),
            Self::NightlyStd => Run::new("rustup component add --toolchain nightly rust-std"),
            // A machine that is new has no lists.
            Self::Cxx => {
                Run::shell("apt-get update && apt-get install -y --no-install-recommends g++")
            }
            Self::Valgrind => {
                Run::shell("apt-get update && apt-get install -y --no-install-recommends valgrind")
            }
            Self::Fio => {
                Run::shell("apt-get update && apt-get install -y --no-install-recommends fio")
            }
            Self::Qemu => Run::shell(
                "apt-get update && apt-get install -y --no-install-recommends qemu-system-x86",
            ),
            Self::Debootstrap => Run::shell(
                "apt-get update && apt-get install -y --no-install-recommends debootstrap",
            ),
            Self::Nspawn => Run::shell(
                "apt-get update && apt-get install -y --no-install-recommends systemd-container",
            ),
            Self::Lintian => {
                Run::shell("apt-get update && apt-get install -y --no-install-recommends lintian")
            }
            Self::AptLists => Run::new("apt-get update"),
        };
        // Tens of megabytes: minutes mean that there is no way out of this machine.
        run.limit(Duration::from_secs(300))
    }

    fn is_here(self, dir: &Path) -> bool {
        match self {
            // rustc names the directory whether or not it is there.
            Self::NoStdTarget | Self::NightlyStd => {
                self.probe().output(dir).is_some_and(|path| Path::new(path.trim()).is_dir())
            }
            Self::AptLists => vm::packages_are_known(),
            _ => self.probe().succeeds(dir),
        }
    }

    /// Looks for the tool without changing anything.
    pub(crate) fn find(self, dir: &Path) -> Found {
        if !self.is_required() && !has_nightly(dir) {
            let reason = "no nightly toolchain; `rustup toolchain install nightly` would bring it";
            return Found::No(reason.to_owned());
        }
        if self.is_here(dir) {
            return Found::Yes;
        }
        if self.is_package() && !Run::new("apt-get --version").succeeds(dir) {
            return Found::No(format!("{}; this machine has no apt", self.why()));
        }
        Found::Missing { why: self.why(), fix: self.fix().line() }
    }

    /// Installs the tool; the reason if that didn't work.
    pub(crate) fn install(self, dir: &Path, log: &Path) -> Found {
        match self.fix().run(dir, log).trouble() {
            None if self.is_here(dir) => Found::Yes,
            None => Found::No(format!("`{}` did not bring it", self.fix().line())),
            Some(trouble) => Found::No(format!("`{}`: {trouble}", self.fix().line())),
        }
    }

    /// Whether apt brings it; what is not is a part of the toolchain.
    pub(crate) const fn is_package(self) -> bool {
        !matches!(
            self,
            Self::Rustfmt | Self::Clippy | Self::NoStdTarget | Self::Miri | Self::NightlyStd
        )
    }

    /// Whether a run without it is incomplete enough to end with exit code 3; what is not required
    /// wants a nightly compiler.
    pub(crate) const fn is_required(self) -> bool {
        !matches!(self, Self::Miri | Self::NightlyStd)
    }
}

/// Whether there is a nightly toolchain.
pub(crate) fn has_nightly(dir: &Path) -> bool {
    let list = Run::new("rustup toolchain list").output(dir);
    list.is_some_and(|list| list.lines().any(|line| line.starts_with("nightly")))
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Tool; 13] = [
        Tool::Rustfmt,
        Tool::Clippy,
        Tool::NoStdTarget,
        Tool::Miri,
        Tool::NightlyStd,
        Tool::Cxx,
        Tool::Valgrind,
        Tool::Fio,
        Tool::Qemu,
        Tool::Debootstrap,
        Tool::Nspawn,
        Tool::Lintian,
        Tool::AptLists,
    ];

    #[test]
    fn every_fix_is_a_command_that_can_be_typed() {
        for tool in ALL {
            let line = tool.fix().line();
            assert!(line.starts_with("rustup ") || line.starts_with("apt-get "), "{tool:?}");
            assert!(!tool.why().is_empty());
        }
    }

    #[test]
    fn a_toolchain_is_never_installed_silently() {
        for tool in ALL {
            assert!(!tool.fix().line().contains("toolchain install"), "{tool:?}");
        }
    }

    #[test]
    fn only_what_wants_a_nightly_compiler_may_be_absent() {
        assert!(!Tool::Miri.is_required() && !Tool::NightlyStd.is_required());
        assert!(Tool::Clippy.is_required() && Tool::NoStdTarget.is_required());
    }
}
