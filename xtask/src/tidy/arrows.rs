//! Who may depend on whom; the table is [`super::tables::ARROWS`].

use crate::project::{Dep, DepKind, Package};

use super::Violation;
use super::tables::{ARROWS, DEV_ARROWS, OPEN_TO_ALL, OPTIONAL_ARROWS};

/// Checks every arrow between packages of the workspace.
pub(super) fn check(packages: &[Package]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in packages {
        let manifest = format!("{}/Cargo.toml", package.name);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            let message = "the package has no row in the table of arrows; a new one is an ADR";
            found.push(Violation::new(&manifest, 0, message));
            continue;
        };
        for dep in package.deps.iter().filter(|dep| is_ours(&dep.name, packages)) {
            if let Some(message) = refuse(&package.name, dep, allowed) {
                found.push(Violation::new(&manifest, 0, message));
            }
        }
    }
    found
}

fn is_ours(name: &str, packages: &[Package]) -> bool {
    ARROWS.iter().any(|(ours, _)| *ours == name) || packages.iter().any(|p| p.name == name)
}

/// Why an arrow is not allowed, if it isn't.
fn refuse(from: &str, dep: &Dep, allowed: &[&str]) -> Option<String> {
    let to = dep.name.as_str();
    // A package's tests may name the package itself, to switch a feature on.
    if to == OPEN_TO_ALL || allowed.contains(&to) || (dep.kind == DepKind::Dev && to == from) {
        return None;
    }
    if dep.kind == DepKind::Dev && DEV_ARROWS.contains(&(from, to)) {
        return None;
    }
    if OPTIONAL_ARROWS.contains(&(from, to)) {
        let message = format!("{from} may depend on {to} only as `optional`: its library must not");
        return (!dep.optional && dep.kind != DepKind::Dev).then_some(message);
    }
    Some(format!("{from} must not depend on {to}; a new arrow is an ADR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dep(name: &str, kind: DepKind, optional: bool) -> Dep {
        Dep { name: name.to_owned(), kind, optional }
    }

    fn found(from: &str, dep: Dep) -> Vec<String> {
        let package = Package { name: from.to_owned(), deps: vec![dep], ..Package::default() };
        check(&[package]).into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn arrows_of_the_design_are_allowed() {
        for (from, to) in [
            ("nvme-driver", "core-runtime"),
            ("nvme-model", "nvme-spec"),
            ("host-bridge", "nvme-model"),
            ("xtask", "hybrid-conventions"),
            ("nvme-driver", "zerocopy"),
            ("hybrid-conformance", "host-bridge"),
        ] {
            assert!(found(from, dep(to, DepKind::Normal, false)).is_empty(), "{from} -> {to}");
        }
        assert!(found("nvme-driver", dep("nvme-model", DepKind::Dev, false)).is_empty());
        assert!(found("core-runtime", dep("core-runtime", DepKind::Dev, false)).is_empty());
    }

    #[test]
    fn arrows_against_the_design_are_caught() {
        for (from, to, kind) in [
            ("nvme-model", "nvme-driver", DepKind::Normal),
            ("nvme-model", "nvme-driver", DepKind::Dev),
            ("nvme-driver", "nvme-model", DepKind::Normal),
            ("core-runtime", "nvme-driver", DepKind::Normal),
            ("hybrid-abi", "hybrid-shm", DepKind::Normal),
            ("hybrid-benches", "feed-handler", DepKind::Normal),
            ("sysconfig", "host-bridge", DepKind::Build),
            ("probe-util", "core-runtime", DepKind::Normal),
        ] {
            assert_eq!(found(from, dep(to, kind, false)).len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn the_app_sees_the_host_only_as_an_option() {
        assert!(found("feed-handler", dep("host-bridge", DepKind::Normal, true)).is_empty());
        assert_eq!(
            found("feed-handler", dep("host-bridge", DepKind::Normal, false)),
            ["feed-handler may depend on host-bridge only as `optional`: its library must not"]
        );
    }

    #[test]
    fn a_package_without_a_row_is_caught() {
        assert_eq!(found("newcomer", dep("serde", DepKind::Normal, false)).len(), 1);
    }

    #[test]
    fn the_table_has_no_cycle() {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < ARROWS.len() {
            let next = ARROWS.iter().find(|(name, deps)| {
                !done.contains(name) && deps.iter().all(|dep| done.contains(dep))
            });
            done.push(next.expect("the rest is a cycle").0);
        }
    }
}
