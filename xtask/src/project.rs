//! The workspace as `cargo metadata` describes it: packages, their targets and their arrows.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command::Run;

/// The workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One member of the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) targets: Vec<Target>,
    pub(crate) deps: Vec<Dep>,
    pub(crate) features: Vec<String>,
}

/// One thing that cargo builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`, `example`.
    pub(crate) kind: String,
}

/// One dependency as written in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dep {
    pub(crate) name: String,
    pub(crate) kind: DepKind,
    pub(crate) optional: bool,
}

/// Which table of the manifest a dependency stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DepKind {
    Normal,
    Dev,
    Build,
}

impl Project {
    /// Asks cargo about the workspace that contains `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let run = Run::new("cargo metadata --format-version 1 --no-deps");
        let json = run.output(dir).context("cargo metadata failed; see above")?;
        Self::parse(&json)
    }

    pub(crate) fn parse(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).context("cargo metadata is not JSON")?;
        let packages = list(&value["packages"]).map(package).collect::<Result<_>>()?;
        Ok(Self {
            root: text(&value["workspace_root"])?.into(),
            target: text(&value["target_directory"])?.into(),
            packages,
        })
    }

    pub(crate) fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// `--features P/std` for those of `packages` that have a heap-backed form for tests.
    pub(crate) fn std_features(&self, packages: &[&str]) -> Vec<String> {
        let has_std = |name: &&&str| {
            let package = self.package(name);
            package.is_some_and(|package| package.features.iter().any(|f| f == "std"))
        };
        packages
            .iter()
            .filter(has_std)
            .flat_map(|name| ["--features".to_owned(), format!("{name}/std")])
            .collect()
    }
}

impl Package {
    pub(crate) fn targets_of(&self, kind: &str) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |target| target.kind == kind)
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn text(value: &Value) -> Result<&str> {
    match value.as_str() {
        Some(text) => Ok(text),
        None => bail!("cargo metadata has {value} where a text belongs"),
    }
}

fn package(value: &Value) -> Result<Package> {
    let manifest = Path::new(text(&value["manifest_path"])?);
    Ok(Package {
        name: text(&value["name"])?.to_owned(),
        dir: manifest.parent().unwrap_or(manifest).to_owned(),
        targets: list(&value["targets"]).map(target).collect::<Result<_>>()?,
        deps: list(&value["dependencies"]).map(dep).collect::<Result<_>>()?,
        features: value["features"]
            .as_object()
            .map(|features| features.keys().cloned().collect())
            .unwrap_or_default(),
    })
}

fn target(value: &Value) -> Result<Target> {
    Ok(Target { name: text(&value["name"])?.to_owned(), kind: text(&value["kind"][0])?.to_owned() })
}

fn dep(value: &Value) -> Result<Dep> {
    Ok(Dep {
        name: text(&value["name"])?.to_owned(),
        kind: match value["kind"].as_str() {
            None => DepKind::Normal,
            Some("dev") => DepKind::Dev,
            Some("build") => DepKind::Build,
            Some(other) => bail!("cargo metadata has dependency kind {other:?}"),
        },
        optional: value["optional"].as_bool().unwrap_or(false),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const METADATA: &str = r#"{
        "workspace_root": "/w", "target_directory": "/w/target",
        "packages": [
            {"name": "hybrid-abi", "manifest_path": "/w/core-runtime/abi/Cargo.toml",
             "features": {}, "dependencies": [],
             "targets": [{"name": "hybrid_abi", "kind": ["lib"]}]},
            {"name": "core-runtime", "manifest_path": "/w/core-runtime/Cargo.toml",
             "features": {"std": ["hybrid-shm/std"]},
             "dependencies": [
                {"name": "hybrid-abi", "kind": null, "optional": false},
                {"name": "loom", "kind": "dev", "optional": false}],
             "targets": [{"name": "core_runtime", "kind": ["lib"]},
                         {"name": "loom_ring", "kind": ["test"]}]},
            {"name": "hybrid-benches", "manifest_path": "/w/benches/Cargo.toml",
             "features": {}, "dependencies": [],
             "targets": [{"name": "ring", "kind": ["bin"]}, {"name": "driver", "kind": ["bin"]}]}
        ]}"#;

    #[test]
    fn packages_targets_and_arrows_are_read() {
        let project = Project::parse(METADATA).expect("metadata");
        assert_eq!(project.target, Path::new("/w/target"));
        let core = project.package("core-runtime").expect("a package");
        assert_eq!(core.dir, Path::new("/w/core-runtime"));
        assert_eq!(core.deps[0].kind, DepKind::Normal);
        assert_eq!(core.deps[1].kind, DepKind::Dev);
        let tests: Vec<_> = core.targets_of("test").map(|t| t.name.as_str()).collect();
        assert_eq!(tests, ["loom_ring"]);
        assert!(project.package("nothing").is_none());
    }

    #[test]
    fn only_packages_with_a_std_feature_get_it() {
        let project = Project::parse(METADATA).expect("metadata");
        let features = project.std_features(&["hybrid-abi", "core-runtime", "nothing"]);
        assert_eq!(features, ["--features", "core-runtime/std"]);
    }

    #[test]
    fn metadata_that_is_something_else_is_an_error() {
        assert!(Project::parse("").is_err());
        assert!(Project::parse("{}").is_err());
        assert!(Project::parse(r#"{"workspace_root": 5}"#).is_err());
    }
}
