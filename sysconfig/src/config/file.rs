//! `machine.toml`, its drop-ins and the flags: three sources of the same wishes.
//!
//! Each key of the file has a flag of the same name. What flags ask is kept in a drop-in, so that
//! `verify`, the service and the next `apply` know it.

use clap::Args;
use hybrid_conventions::{Bdf, Bytes, CpuSet, Nanos, TimeUnit};
use serde::{Deserialize, Deserializer, de};

use super::{Cpuset, Smt, Thp};
use crate::failure::Failure;
use crate::root::Root;

/// The file, the folder of its drop-ins, and the drop-in that keeps the flags.
pub(crate) const FILE: &str = "/etc/hybrid-runtime/machine.toml";
pub(crate) const FOLDER: &str = "/etc/hybrid-runtime/machine.toml.d";
pub(crate) const KEPT: &str = "/etc/hybrid-runtime/machine.toml.d/90-flags.toml";

/// CPUs in any spelling, also as TOML's `[2, 3]` or `2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpus(pub(crate) CpuSet);

/// Huge pages of one size, on one node or spread over all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HugePages {
    pub(crate) size: Bytes,
    pub(crate) count: u64,
    pub(crate) node: Option<u32>,
}

/// What was asked, from one source or from all; [`None`] is "not said".
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "What to prepare (each is a key of machine.toml, _ for -)")]
pub(crate) struct Asked {
    /// CPUs that partitions get: `2-5,8` or `[2,3]` or `0x3c`. Never CPU 0
    #[arg(short = 'c', long, value_name = "CPUS", value_parser = cpus)]
    pub(crate) isolated_cores: Option<Cpus>,
    /// CPUs that Linux keeps [default: all others]
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    pub(crate) housekeeping: Option<Cpus>,
    /// Hardware threads that share a core with an isolated CPU [default: off]
    #[arg(long, value_enum)]
    #[serde(deserialize_with = "word")]
    pub(crate) smt: Option<Smt>,
    /// Control group of the isolated CPUs [default: auto]
    #[arg(long, value_enum)]
    #[serde(deserialize_with = "word")]
    pub(crate) cpuset: Option<Cpuset>,
    /// Transparent huge pages [default: never]
    #[arg(long, value_enum)]
    #[serde(deserialize_with = "word")]
    pub(crate) thp: Option<Thp>,
    /// Idle states that wake up slower are off on isolated CPUs [default: 10us]
    #[arg(long, value_name = "TIME", value_parser = micros)]
    #[serde(deserialize_with = "latency")]
    pub(crate) max_idle_latency: Option<Nanos>,
    /// Huge pages: SIZE=COUNT over all nodes, SIZE=COUNT@NODE on one; again for more. 2M=512
    #[arg(long, value_name = "SIZE=COUNT[@NODE]", value_parser = huge)]
    #[serde(deserialize_with = "huge_list")]
    pub(crate) hugepages: Option<Vec<HugePages>>,
    /// NVMe controllers for user space (vfio-pci): 0000:03:00.0; again for more (key: devices)
    #[arg(long = "device", value_name = "BDF")]
    #[serde(deserialize_with = "bdfs")]
    pub(crate) devices: Option<Vec<Bdf>>,
    /// Group whose members run the runtime without root [default: hybrid]
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
    /// Memory that the group may lock, for DMA [default: the huge pages, at least 64M]
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "bytes")]
    pub(crate) memlock: Option<Bytes>,
    /// Write the boot loader's parameters [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) boot: Option<bool>,
    /// Install the systemd unit that applies run-time settings at each boot [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) service: Option<bool>,
}

impl Asked {
    /// Reads the file and its drop-ins, in the order of their names.
    ///
    /// # Errors
    /// If a file is there and can't be read or understood.
    pub(crate) fn from_files(root: &Root, file: Option<&str>) -> Result<Self, Failure> {
        let mut asked = match file {
            Some(file) => read(root, file)?.ok_or_else(|| {
                Failure::missing(format_args!("{file} is not there; --config names a file"))
            })?,
            None => read(root, FILE)?.unwrap_or_default(),
        };
        for name in root.list(FOLDER).unwrap_or_default() {
            if name.ends_with(".toml") {
                let more = read(root, &format!("{FOLDER}/{name}"))?.unwrap_or_default();
                asked = more.over(asked);
            }
        }
        Ok(asked)
    }

    /// The drop-in that keeps the flags of former runs.
    ///
    /// # Errors
    /// As [`Asked::from_files`].
    pub(crate) fn kept(root: &Root) -> Result<Self, Failure> {
        Ok(read(root, KEPT)?.unwrap_or_default())
    }

    /// This, and where it says nothing, the other.
    pub(crate) fn over(self, other: Self) -> Self {
        Self {
            isolated_cores: self.isolated_cores.or(other.isolated_cores),
            housekeeping: self.housekeeping.or(other.housekeeping),
            smt: self.smt.or(other.smt),
            cpuset: self.cpuset.or(other.cpuset),
            thp: self.thp.or(other.thp),
            max_idle_latency: self.max_idle_latency.or(other.max_idle_latency),
            hugepages: self.hugepages.or(other.hugepages),
            devices: self.devices.or(other.devices),
            group: self.group.or(other.group),
            memlock: self.memlock.or(other.memlock),
            boot: self.boot.or(other.boot),
            service: self.service.or(other.service),
        }
    }

    /// The text of a drop-in that says the same.
    pub(crate) fn to_toml(&self) -> String {
        let mut lines =
            vec!["# The flags of sysconfig apply; sysconfig reset takes it away.".into()];
        let mut text = |key: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("{key} = {value}")));
        };
        let quoted = |value: &dyn ToString| Some(format!("\"{}\"", value.to_string()));
        let named = |name: Option<clap::builder::PossibleValue>| {
            name.map(|name| format!("\"{}\"", name.get_name()))
        };
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        use clap::ValueEnum as _;
        text("isolated_cores", self.isolated_cores.and_then(|list| quoted(&list.0)));
        text("housekeeping", self.housekeeping.and_then(|list| quoted(&list.0)));
        text("smt", named(self.smt.and_then(|value| value.to_possible_value())));
        text("cpuset", named(self.cpuset.and_then(|value| value.to_possible_value())));
        text("thp", named(self.thp.and_then(|value| value.to_possible_value())));
        text("max_idle_latency", self.max_idle_latency.as_ref().and_then(|time| quoted(time)));
        let pages = |pages: &HugePages| {
            let node = pages.node.map_or_else(String::new, |node| format!("@{node}"));
            format!("\"{}={}{node}\"", pages.size, pages.count)
        };
        text("hugepages", self.hugepages.as_ref().map(|all| list(all.iter().map(pages).collect())));
        let bdf = |bdf: &Bdf| format!("\"{bdf}\"");
        text("devices", self.devices.as_ref().map(|all| list(all.iter().map(bdf).collect())));
        text("group", self.group.as_ref().and_then(|group| quoted(group)));
        text("memlock", self.memlock.as_ref().and_then(|bytes| quoted(bytes)));
        text("boot", self.boot.map(|value| value.to_string()));
        text("service", self.service.map(|value| value.to_string()));
        lines.join("\n") + "\n"
    }
}

fn read(root: &Root, file: &str) -> Result<Option<Asked>, Failure> {
    let text = match root.read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::error(format_args!("{file}: {error}"))),
    };
    toml::from_str(&text).map(Some).map_err(|error: toml::de::Error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        let line = before.matches('\n').count() + 1;
        Failure::error(format_args!("{file} line {line}: {}", told(&error)))
    })
}

/// What is wrong, on one line; of an unknown key the one that was likely meant.
pub(crate) fn told(error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', "; ");
    // serde's words: unknown field `a`, expected one of `b`, `c`.
    let mut names = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let likely = match (message.starts_with("unknown field"), names.next()) {
        (true, Some(seen)) => hybrid_conventions::config::nearest(&seen, names),
        _ => String::new(),
    };
    message + &likely
}

fn cpus(text: &str) -> Result<Cpus, String> {
    match text.parse::<CpuSet>() {
        Ok(set) if set.is_empty() => Err("no cpu is in it; write it as 2-5,8".to_owned()),
        Ok(set) => Ok(Cpus(set)),
        Err(error) => Err(error.to_string()),
    }
}

fn micros(text: &str) -> Result<Nanos, String> {
    Nanos::parse(text, TimeUnit::Micro).map_err(|error| error.to_string())
}

fn huge(text: &str) -> Result<HugePages, String> {
    let form = || format!("{text:?} is not understood; write it as 2M=512 or 2M=512@0");
    let (size, count) = text.split_once('=').ok_or_else(form)?;
    let (count, node) = match count.split_once('@') {
        None => (count, None),
        Some((count, node)) => (count, Some(node.parse().map_err(|_| form())?)),
    };
    let size: Bytes = size.parse().map_err(|_| form())?;
    if !size.get().is_power_of_two() || size.get() < 1 << 16 {
        return Err(format!("{size} is no size of huge pages; allowed are 2M and 1G"));
    }
    Ok(HugePages { size, count: count.parse().map_err(|_| form())?, node })
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(u32),
            Numbers(Vec<u32>),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Text(text) => text,
            Form::Number(cpu) => cpu.to_string(),
            Form::Numbers(all) => all.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        cpus(&text).map_err(de::Error::custom)
    }
}

fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn word<'de, D: Deserializer<'de>, T: clap::ValueEnum>(d: D) -> Result<Option<T>, D::Error> {
    parsed(d, |text| {
        T::from_str(text, false).map_err(|_| {
            let all = T::value_variants().iter().filter_map(T::to_possible_value);
            let names: Vec<String> = all.map(|value| value.get_name().to_owned()).collect();
            format!("{text:?} is not allowed; allowed are {}", names.join(", "))
        })
    })
}

fn latency<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Nanos>, D::Error> {
    parsed(d, micros)
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Bytes>, D::Error> {
    parsed(d, |text| {
        text.parse().map_err(|error: hybrid_conventions::BytesError| error.to_string())
    })
}

fn many<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let all: Result<Vec<T>, String> = texts.iter().map(|text| parse(text)).collect();
    all.map(Some).map_err(de::Error::custom)
}

fn huge_list<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<HugePages>>, D::Error> {
    many(d, huge)
}

fn bdfs<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Bdf>>, D::Error> {
    many(d, |text| text.parse().map_err(|error: hybrid_conventions::BdfError| error.to_string()))
}
