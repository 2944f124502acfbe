//! A run as a value: everything that decides what happens in it.
//!
//! [`Plan::ordinary`] and [`Plan::swarm`] make one from a seed; [`Plan::to_text`] and
//! [`Plan::parse`] are the bundle that a failing run leaves, one `name value` a line, which needs
//! nothing else to be repeated. Two equal plans give the same run, bit for bit, in debug and in
//! release.

use std::fmt::Write as _;
use std::ops::Range;

use nvme_model::Rng;

use crate::catalogue::{self, CATALOGUE, Fault, Trigger, Weight};
use crate::world::HELD_NS;

/// What the host asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workload {
    /// Anything anywhere.
    #[default]
    Mixed,
    /// Nine operations of ten within 24 blocks.
    HotSpot,
    /// One block after the other.
    Sequential,
    /// Bursts, and silence between them until everything is answered.
    Bursty,
    /// Each operation reads, changes and writes back.
    ReadModifyWrite,
}

impl Workload {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("mixed", Self::Mixed),
        ("hot-spot", Self::HotSpot),
        ("sequential", Self::Sequential),
        ("bursty", Self::Bursty),
        ("read-modify-write", Self::ReadModifyWrite),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, workload)| *workload == self);
        named.map_or("mixed", |(name, _)| name)
    }

    /// By its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, workload)| *workload)
    }
}

macro_rules! plan {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)+) => {
        /// A run.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Plan {
            $($(#[$doc])* pub $name: $type,)+
            /// What the host asks for.
            pub workload: Workload,
            /// Operations that are sent, by number; the others are left out.
            pub keep: Vec<Range<u64>>,
            /// The faults, sorted.
            pub faults: Vec<Fault>,
        }

        impl Plan {
            fn write_numbers(&self, text: &mut String) {
                $(let _ = writeln!(text, "{} {}", stringify!($name), u64::from(self.$name));)+
            }

            fn set_number(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = narrow(name, value)?,)+
                    _ => return Err(format!("no setting is named {name:?}")),
                }
                Ok(())
            }
        }
    };
}

trait Narrow: Sized {
    fn narrow(value: u64) -> Option<Self>;
}

macro_rules! narrows {
    ($($type:ty)+) => {$(
        impl Narrow for $type {
            fn narrow(value: u64) -> Option<Self> {
                value.try_into().ok()
            }
        }
    )+};
}
narrows!(u8 u16 u32 u64);

impl Narrow for bool {
    fn narrow(value: u64) -> Option<Self> {
        match value {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

fn narrow<T: Narrow>(name: &str, value: u64) -> Result<T, String> {
    T::narrow(value).ok_or_else(|| format!("{name} is {value}, which is too much"))
}

plan! {
    /// What chance is drawn from.
    seed: u64,
    /// Operations.
    ops: u64,
    /// Bytes of a block.
    lba_bytes: u32,
    /// Blocks of the namespace.
    blocks: u32,
    /// Largest transfer, a power of two of pages; 0 is no limit.
    mdts: u8,
    /// Largest queue that the controller takes.
    max_queue_entries: u32,
    /// I/O queues of the controller.
    device_queues: u16,
    /// Doorbell stride.
    dstrd: u8,
    /// Blocks of the atomic write unit.
    awun: u32,
    /// The same for a power cut.
    awupf: u32,
    /// A volatile write cache.
    write_cache: bool,
    /// Shadow doorbells.
    shadow: bool,
    /// Completions in random order.
    out_of_order: bool,
    /// The model watches its host's memory.
    paranoid: bool,
    /// Commands fetched in one step.
    burst: u16,
    /// Shortest latency, in nanoseconds.
    latency_min_ns: u32,
    /// Longest latency.
    latency_max_ns: u32,
    /// From CC.EN = 1 to RDY = 1.
    ready_delay_us: u32,
    /// From CC.EN = 0 to RDY = 0.
    not_ready_delay_us: u32,
    /// From CC.SHN to SHST = 2.
    shutdown_delay_us: u32,
    /// I/O queues that the driver asks for.
    queues: u16,
    /// Commands in flight on each.
    depth: u16,
    /// Requests on each; 0 is twice the depth.
    requests: u16,
    /// Deadline of an I/O command.
    deadline_us: u32,
    /// Grace after an abort.
    grace_us: u32,
    /// Deadline of an admin command.
    admin_deadline_us: u32,
    /// Retries after the first try.
    retries: u8,
    /// Stray completions a second that are too many.
    rogue: u32,
    /// Tasks at once.
    tasks: u16,
    /// Entries of the rings between host and partition.
    ring: u32,
    /// Most operations that the host sends in a pass.
    batch: u16,
    /// One operation in so many is dropped half-way; 0 is none.
    drop_one_in: u16,
    /// One pass in so many the controller does not run; 0 is none.
    lag_one_in: u16,
    /// A pass takes up to this long.
    pass_ns: u32,
    /// CAP.TO, in units of 500 ms.
    cap_to: u8,
    /// A second namespace that lies about itself, in one way or another; 0 is none.
    liar: u8,
    /// After which ends the host starts a partition again: never, on-abnormal, on-failure, always.
    restart: u8,
    /// Crashes in a minute that it answers so; 0 is any number.
    crash_limit: u32,
    /// There is other storage for when the device is at fault.
    fallback: bool,
    /// A bug that is put in on purpose; 0 is none. Only where it was built in.
    plant: u8,
}

/// Faults per million operations, by weight, in an ordinary run: one in a hundred commands and
/// more, an operation being 1.3 of them.
const PER_MILLION: [(Weight, u64); 3] =
    [(Weight::Often, 13_000), (Weight::Seldom, 1_000), (Weight::Rarely, 120)];

/// Operations of a run in which each fault that is drawn for it is at least once.
pub(crate) const RUN_WITH_EACH: u64 = 10_000;

/// The fault that costs the device, so that the host's kernel has it, and operations from one to
/// the next where there would be none.
const LOSS: &str = "all-ones";
const OPS_PER_LOSS: u64 = 10_000;

impl Plan {
    /// An ordinary run of `ops` operations, with faults of every kind.
    #[must_use]
    pub fn ordinary(seed: u64, ops: u64, workload: Workload) -> Self {
        let mut plan = Self {
            seed,
            ops,
            lba_bytes: 512,
            blocks: 2048,
            mdts: 1,
            max_queue_entries: 64,
            device_queues: 4,
            dstrd: 0,
            awun: 8,
            awupf: 4,
            write_cache: true,
            shadow: false,
            out_of_order: true,
            paranoid: false,
            burst: 16,
            latency_min_ns: 1_000,
            latency_max_ns: 30_000,
            ready_delay_us: 500,
            not_ready_delay_us: 300,
            shutdown_delay_us: 500,
            queues: 2,
            depth: 31,
            requests: 0,
            deadline_us: 16_000,
            grace_us: 4_000,
            admin_deadline_us: 40_000,
            retries: 3,
            rogue: 4096,
            tasks: 40,
            ring: 64,
            batch: 16,
            drop_one_in: 200,
            lag_one_in: 8,
            pass_ns: 6_000,
            cap_to: 1,
            liar: 0,
            restart: 2,
            crash_limit: 2,
            fallback: true,
            plant: 0,
            workload,
            keep: core::iter::once(0..ops).collect(),
            faults: Vec::new(),
        };
        let all: Vec<usize> = (0..CATALOGUE.len()).collect();
        let mut rng = Rng::new(seed ^ 0xFA17);
        plan.faults = draw_faults(&mut rng, ops, &all, 1_000);
        plan.make_certain(&mut rng);
        plan
    }

    /// What a campaign is held to comes with each of its runs, or one in five, and not only by
    /// chance: a reset and a shutdown in which RDY does not fall, a hang that hears nobody, a
    /// device that is held for longer than anybody waits, a start that fails.
    fn make_certain(&mut self, rng: &mut Rng) {
        if self.ops < RUN_WITH_EACH {
            return;
        }
        for (name, choice) in [
            ("never-not-ready", 0),
            ("never-not-ready", 1),
            ("partition-hangs", 1),
            ("group-busy", HELD_NS - 1),
        ] {
            let kind = catalogue::find(name);
            let fault = |kind| Fault { choice, ..draw_fault(rng, kind, self.ops) };
            self.faults.extend(kind.map(fault));
        }
        if self.seed.is_multiple_of(5) {
            // The first command of each of its three attempts.
            let kind = catalogue::find("admin-dropped");
            let fault = |at| kind.map(|kind| Fault { at, kind, choice: 0 });
            self.faults.extend((1..=3).filter_map(fault));
        }
        self.faults.sort_unstable();
    }

    /// Like [`Plan::ordinary`], with everything that may vary drawn from the seed, and only some of
    /// the kinds of faults, often none.
    #[must_use]
    pub fn swarm(seed: u64, ops: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5A_AA55);
        let workload = Workload::ALL[rng.index(Workload::ALL.len())].1;
        let mut plan = Self::ordinary(seed, ops, workload);
        plan.vary_device(&mut rng);
        plan.vary_driver(&mut rng);
        let kinds: Vec<usize> = match rng.below(8) {
            0 => Vec::new(),
            1 => (0..CATALOGUE.len()).collect(),
            n => (0..CATALOGUE.len()).filter(|_| rng.below(8) < n).collect(),
        };
        let permille = pick(&mut rng, &[100, 300, 1_000, 3_000]);
        plan.faults = draw_faults(&mut rng, ops, &kinds, permille);
        plan
    }

    fn vary_device(&mut self, rng: &mut Rng) {
        self.lba_bytes = pick(rng, &[512, 512, 512, 1024, 4096]);
        self.blocks = pick(rng, &[64, 256, 2048]);
        self.mdts = pick(rng, &[0, 1, 1, 2, 3]);
        self.max_queue_entries = pick(rng, &[2, 3, 8, 64, 1024]);
        self.device_queues = pick(rng, &[1, 2, 4]);
        self.dstrd = pick(rng, &[0, 0, 1, 4]);
        self.awun = pick(rng, &[1, 2, 8, 64]);
        self.awupf = pick(rng, &[1, 1, 4]).min(self.awun);
        self.write_cache = rng.below(4) != 0;
        self.shadow = rng.below(3) == 0;
        self.out_of_order = rng.below(2) == 0;
        self.paranoid = rng.below(8) == 0;
        self.burst = pick(rng, &[1, 2, 16, 64]);
        self.latency_min_ns = pick(rng, &[0, 1_000, 5_000]);
        let longer = pick(rng, &[0, 1_000, 30_000, 300_000]);
        self.latency_max_ns = self.latency_min_ns + longer;
        self.ready_delay_us = pick(rng, &[0, 500, 5_000]);
        self.not_ready_delay_us = pick(rng, &[0, 300, 5_000]);
        self.shutdown_delay_us = pick(rng, &[0, 500, 5_000]);
        self.cap_to = pick(rng, &[0, 1, 1, 255]);
        self.liar = pick(rng, &[0, 0, 1, 2, 3, 4, 5, 6]);
    }

    fn vary_driver(&mut self, rng: &mut Rng) {
        self.queues = pick(rng, &[1, 1, 2, 3]);
        self.depth = pick(rng, &[1, 2, 3, 7, 15, 31, 32, 63]);
        self.requests = pick(rng, &[0, 0, 1, 8, 64]);
        self.deadline_us = pick(rng, &[8_000, 16_000, 80_000]);
        self.grace_us = pick(rng, &[500, 4_000, 20_000]);
        self.retries = pick(rng, &[0, 1, 3, 3]);
        self.rogue = pick(rng, &[16, 256, 100_000]);
        self.tasks = pick(rng, &[1, 3, 12, 40, 80]);
        self.ring = pick(rng, &[2, 8, 64, 256]);
        self.batch = pick(rng, &[1, 4, 16, 64]);
        self.drop_one_in = pick(rng, &[0, 8, 50, 200]);
        self.lag_one_in = pick(rng, &[0, 2, 8]);
        self.pass_ns = pick(rng, &[100, 2_000, 20_000]);
        self.restart = pick(rng, &[0, 1, 2, 2, 3]);
        self.crash_limit = pick(rng, &[0, 1, 5]);
        self.fallback = rng.below(4) != 0;
    }

    /// With the faults of these names alone, each of them early enough to strike. Those of the
    /// host's kernel, which has the device only after it was at fault, have losses of the device
    /// beside them.
    ///
    /// # Errors
    /// A name that no fault has.
    pub fn only_faults(&mut self, names: &[&str]) -> Result<(), String> {
        let mut kinds = Vec::new();
        for name in names {
            let unknown = || format!("no fault is named {name:?}; --list-faults prints the names");
            kinds.push(catalogue::find(name).ok_or_else(unknown)?);
        }
        let mut rng = Rng::new(self.seed ^ 0xFA17);
        self.faults = draw_faults(&mut rng, self.ops, &kinds, 1_000);
        for kind in &kinds {
            let span = match CATALOGUE[*kind].trigger {
                // By then even a run that is on the fallback for a while has had so many.
                Trigger::Io | Trigger::Op => self.ops / 4,
                Trigger::Admin => 8,
                Trigger::Kernel => 100,
            };
            self.faults.push(draw_fault(&mut rng, *kind, span));
        }
        if kinds.iter().any(|kind| CATALOGUE[*kind].trigger == Trigger::Kernel) {
            self.lose_the_device(&mut rng);
        }
        self.faults.sort_unstable();
        Ok(())
    }

    /// Now and then the host's kernel is to have the device, whatever else was drawn.
    fn lose_the_device(&mut self, rng: &mut Rng) {
        let Some(gone) = catalogue::find(LOSS) else { return };
        for loss in 0..self.ops.div_ceil(OPS_PER_LOSS) {
            let span = OPS_PER_LOSS.min(self.ops) / 4;
            let Fault { at, kind, choice } = draw_fault(rng, gone, span);
            self.faults.push(Fault { at: at + loss * OPS_PER_LOSS, kind, choice });
        }
        // The first loss is answered with it, and more of them are no crash loop.
        (self.fallback, self.restart) = (true, self.restart.max(2));
    }

    /// Whether operation `op` is sent.
    #[must_use]
    pub fn keeps(&self, op: u64) -> bool {
        let place = self.keep.partition_point(|range| range.end <= op);
        self.keep.get(place).is_some_and(|range| range.contains(&op))
    }

    /// Operations that are sent.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.keep.iter().map(|range| range.end - range.start).sum()
    }

    /// The plan as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from("hybrid-sim plan 1\n");
        self.write_numbers(&mut text);
        let _ = writeln!(text, "workload {}", self.workload.name());
        for range in &self.keep {
            let _ = writeln!(text, "keep {} {}", range.start, range.end);
        }
        for fault in &self.faults {
            let _ = writeln!(text, "fault {} {} {}", fault.kind().name, fault.at, fault.choice);
        }
        text
    }

    /// Reads what [`Plan::to_text`] wrote. Lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut plan = Self::ordinary(1, 0, Workload::Mixed);
        (plan.keep, plan.faults) = (Vec::new(), Vec::new());
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, first)| first != "hybrid-sim plan 1") {
            return Err("the first line is not `hybrid-sim plan 1`".to_owned());
        }
        for (number, line) in lines.filter(|(_, line)| !line.starts_with('#')) {
            plan.parse_line(line).map_err(|error| format!("line {number}: {error}"))?;
        }
        plan.keep.sort_by_key(|range| range.start);
        plan.faults.sort_unstable();
        Ok(plan)
    }

    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            [] => {}
            ["workload", name] => {
                let unknown = || format!("no workload is named {name:?}");
                self.workload = Workload::find(name).ok_or_else(unknown)?;
            }
            ["keep", start, end] => self.keep.push(number(start)?..number(end)?),
            ["fault", name, at, choice] => {
                let unknown = || format!("no fault is named {name:?}");
                let kind = catalogue::find(name).ok_or_else(unknown)?;
                self.faults.push(Fault { at: number(at)?, kind, choice: number(choice)? });
            }
            [name, value] => self.set_number(name, number(value)?)?,
            _ => return Err(format!("{line:?} is neither `NAME VALUE` nor a fault")),
        }
        Ok(())
    }
}

fn draw_fault(rng: &mut Rng, kind: usize, span: u64) -> Fault {
    Fault { at: 1 + rng.below(span.max(1)), kind, choice: rng.next_u64() }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.index(from.len())]
}

/// Faults of these kinds in a run of `ops` operations, at `permille` of the ordinary rate.
fn draw_faults(rng: &mut Rng, ops: u64, kinds: &[usize], permille: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (weight, per_million) in PER_MILLION {
        let these = kinds.iter().copied().filter(|kind| CATALOGUE[*kind].weight == weight);
        let these: Vec<usize> = these.collect();
        let wanted = (ops * per_million / 1_000).saturating_mul(permille) / 1_000_000;
        // At least one of each, where there is room for it.
        let wanted = if ops >= RUN_WITH_EACH { wanted.max(these.len() as u64) } else { wanted };
        if these.is_empty() {
            continue;
        }
        for i in 0..wanted {
            let first = usize::try_from(i).unwrap_or(0);
            let kind = these.get(first).copied().unwrap_or_else(|| these[rng.index(these.len())]);
            let span = match CATALOGUE[kind].trigger {
                Trigger::Io | Trigger::Op => ops,
                // A bring-up takes about ten commands, and the seldom faults make bring-ups.
                Trigger::Admin => 40 + ops / 2_000,
                // A fallback lasts for a thousand or two.
                Trigger::Kernel => 200 + ops / 50,
            };
            faults.push(draw_fault(rng, kind, span));
        }
    }
    faults.sort_unstable();
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_back_as_it_was_written() {
        for seed in 0..20 {
            let mut plan = Plan::swarm(seed, 20_000);
            plan.keep = vec![3..7, 9..20_000];
            let text = plan.to_text();
            assert_eq!(Plan::parse(&text), Ok(plan));
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        let parse = |rest: &str| Plan::parse(&format!("hybrid-sim plan 1\n{rest}\n"));
        assert_eq!(parse("depth 99999").unwrap_err(), "line 2: depth is 99999, which is too much");
        assert_eq!(parse("# fine\nfault x 1 2").unwrap_err(), "line 3: no fault is named \"x\"");
        assert_eq!(parse("deep 1").unwrap_err(), "line 2: no setting is named \"deep\"");
        assert!(Plan::parse("").unwrap_err().contains("first line"));
    }

    #[test]
    fn an_ordinary_run_has_each_fault_and_about_one_in_a_hundred_operations_has_one() {
        let plan = Plan::ordinary(1, 100_000, Workload::Mixed);
        for (at, kind) in CATALOGUE.iter().enumerate() {
            assert!(plan.faults.iter().any(|fault| fault.kind == at), "{kind:?}");
        }
        assert!((900..1_500).contains(&plan.faults.len()), "{}", plan.faults.len());
    }

    #[test]
    fn operations_that_are_left_out_are_not_kept() {
        let mut plan = Plan::ordinary(1, 100, Workload::Mixed);
        plan.keep = vec![3..7, 9..10];
        let kept: Vec<u64> = (0..100).filter(|op| plan.keeps(*op)).collect();
        assert_eq!(kept, [3, 4, 5, 6, 9]);
        assert_eq!(plan.kept(), 5);
    }
}
