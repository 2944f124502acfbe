//! The ladder's last rungs: the same blocks through a partition.

use std::path::Path;
use std::time::Duration;

use host_bridge::Isolation;
use hybrid_benches::figures::Series;
use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Cell, Sheet};

use crate::cli::RunArgs;
use crate::{job, launch, summary};

/// The same blocks through a partition: over the bridge, and through our driver on the model, or on
/// the device that was named. Returns the frequency of the counter, which partitions find out.
pub(super) fn add(
    args: &RunArgs,
    path: &Path,
    sheet: &mut Sheet,
    mut before: Option<f64>,
) -> Option<u64> {
    let mut hz = None;
    let file = path.is_file();
    let mut devices = vec![format!("uring:{}", path.display())];
    if args.machine.device != "model" {
        devices.push(args.machine.device.clone());
    } else if file {
        devices.push(format!("model:{}", path.display()));
    } else {
        sheet.note("model: not here: its image is a file; name a file, or another --device");
    }
    for device in devices {
        let mut run = args.clone();
        run.machine.device.clone_from(&device);
        run.output.latency = 1;
        let ran = job::setup(&run).and_then(|(mut setup, about)| {
            setup.check_syscalls = true;
            Ok((launch::run(setup)?, about))
        });
        let (ran, about) = match ran {
            Ok(ran) => ran,
            Err(failure) => {
                sheet.note(format!("{device}: not here: {}", failure.line));
                continue;
            }
        };
        hz = Some(ran.clock.hz());
        let Some(figures) = summary::Load::of(&ran, &ran.phases[about]) else { continue };
        // On a machine that is busy no window may be clean: then all of it counts.
        let iops = figures.iops.median().or(Some(figures.wall_iops));
        let mut all = Hist::new();
        figures.all.iter().for_each(|hist| all.merge(hist));
        let us = |series: &Series, ppm| {
            let whole = || (all.count() != 0).then(|| ran.ns(all.quantile(ppm) as f64));
            series.median().or_else(whole).map(|ns| ns / 1000.0)
        };
        sheet.row(vec![
            format!("partition, {}", device.split(':').next().unwrap_or("model")).into(),
            u64::from(args.load.depth).into(),
            Cell::maybe(iops, 0),
            Cell::maybe(us(&figures.p50_ns, 500_000), 1),
            Cell::maybe(us(&figures.p99_ns, 990_000), 1),
            Cell::maybe(us(&figures.p999_ns, 999_000), 1),
            Cell::None,
            calls(args.machine.isolation, ran.syscalls),
            Cell::None,
            Cell::maybe(iops.zip(before).map(|(a, b)| a / b), 2),
            "".into(),
            Cell::None,
            Cell::None,
        ]);
        before = iops.or(before);
    }
    hz
}

/// System calls of the partition's core.
fn calls(isolation: Isolation, counted: Option<(u64, Duration)>) -> Cell {
    match (isolation, counted) {
        // Its filter would have ended it at the first one.
        (Isolation::Process, _) => "none: sandboxed".into(),
        // The listener heard each one.
        (Isolation::Thread, Some((calls, time))) => {
            Cell::Float(calls as f64 / time.as_secs_f64().max(1e-9), 1)
        }
        (Isolation::Thread, None) => Cell::None,
    }
}
