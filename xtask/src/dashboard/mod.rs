//! `cargo xtask dashboard`: the shipped dashboard, looked at without a Grafana.
//!
//! A real Prometheus scrapes a real replay, which a client restarts once; every query of every
//! panel is put to it as Grafana would, and [`draw`] draws what it answered, with the dashboard's
//! own places, units, thresholds and names. A query that is refused, or a panel without a value, is
//! an error: so this is a test of the dashboard, too. [`live`] has the two programs.

mod draw;
mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hybrid_conventions::Exit;
use serde_json::Value;

use crate::command::Run;
use crate::project::Project;
use live::{Live, Prometheus};

const DASHBOARD: &str = "host-bridge/monitoring/grafana-dashboard.json";

/// Between two scrapes.
const EVERY: Duration = Duration::from_secs(1);

/// `$__rate_interval`: four scrapes, as Grafana has it.
const RATE: &str = "4s";

/// What is asked for.
pub(crate) struct Wanted {
    /// The picture, instead of `docs/images/dashboard.png`.
    pub(crate) out: Option<PathBuf>,
}

/// One line of a panel.
#[derive(Debug)]
struct Series {
    name: String,
    /// Seconds since 1970, and the value.
    points: Vec<(f64, f64)>,
}

/// One panel, and what its queries gave.
#[derive(Debug)]
struct Panel<'a> {
    json: &'a Value,
    series: Vec<Series>,
}

/// Draws it.
pub(crate) fn run(project: &Project, wanted: &Wanted) -> Result<Exit> {
    let picture = project.root.join("docs/images/dashboard.png");
    let picture = std::path::absolute(wanted.out.clone().unwrap_or(picture))?;
    for (program, package) in [("prometheus", "prometheus"), ("chromium", "chromium")] {
        if !Run::new(program).arg("--version").succeeds(&project.root) {
            eprintln!("error: {program} is not here: apt-get install {package}");
            return Ok(Exit::Missing);
        }
    }
    let build = Run::new("cargo build --release -p feed-handler");
    ensure!(build.command(&project.root).status()?.success(), "`{}` failed", build.line());
    let dir = project.target.join("dashboard");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let text = fs::read_to_string(project.root.join(DASHBOARD)).context(DASHBOARD)?;
    let dashboard: Value = serde_json::from_str(&text).context(DASHBOARD)?;

    let live = Live::start(&project.target.join("release/feed-handler"), &dir)?;
    let prometheus = Prometheus::start(&dir, live.metrics(), EVERY)?;
    println!("a replay on the model is scraped for a minute and a quarter");
    let span = live.play(&prometheus)?;
    let panels = dashboard["panels"].as_array().context("it has no panels")?;
    let seen: Vec<Panel<'_>> =
        panels.iter().map(|panel| ask(&prometheus, panel, span)).collect::<Result<_>>()?;
    drop(prometheus);
    drop(live);

    let page = dir.join("dashboard.html");
    fs::write(&page, draw::page(&seen, span))?;
    shot(&page, &picture, draw::size(&seen))?;
    println!("{}: {} panels, each with what Prometheus answered", picture.display(), seen.len());
    Ok(Exit::Ok)
}

/// Puts a panel's queries to Prometheus.
fn ask<'a>(prometheus: &Prometheus, json: &'a Value, span: (f64, f64)) -> Result<Panel<'a>> {
    let mut series = Vec::new();
    let title = json["title"].as_str().unwrap_or_default();
    for target in json["targets"].as_array().into_iter().flatten() {
        let query = target["expr"].as_str().with_context(|| format!("{title}: no query"))?;
        let query = query.replace("$__rate_interval", RATE).replace("$partition", ".*");
        let result = match target["instant"] == true {
            true => prometheus.query(&query, span.1),
            false => prometheus.query_range(&query, span, EVERY),
        };
        let result = result.with_context(|| format!("{title}: {query}"))?;
        let found = result.as_array().cloned().unwrap_or_default();
        let name = target["legendFormat"].as_str().unwrap_or_default();
        series.extend(
            found
                .iter()
                .map(|one| Series { name: legend(name, &one["metric"]), points: points(one) }),
        );
    }
    let is_row = json["type"] == "row";
    let values = series.iter().flat_map(|one| &one.points).filter(|(_, value)| value.is_finite());
    if !is_row && values.count() == 0 {
        bail!("{title}: Prometheus has no value for it");
    }
    Ok(Panel { json, series })
}

/// `{{partition}} (cpu {{cpu}})` with the labels' values.
fn legend(format: &str, labels: &Value) -> String {
    let mut text = format.to_owned();
    for (name, value) in labels.as_object().into_iter().flatten() {
        text = text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default());
    }
    text
}

fn points(series: &Value) -> Vec<(f64, f64)> {
    let one = |pair: &Value| {
        let value = pair[1].as_str()?.parse().ok()?;
        Some((pair[0].as_f64()?, value))
    };
    let range = series["values"].as_array().into_iter().flatten();
    range.chain(series.get("value")).filter_map(one).collect()
}

/// A picture of a page.
fn shot(page: &Path, picture: &Path, (width, height): (u32, u32)) -> Result<()> {
    let dir = page.parent().context("a folder")?;
    let run = Run::new("chromium --headless --no-sandbox --disable-gpu --hide-scrollbars")
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("--window-size={width},{height}"))
        .arg("--force-device-scale-factor=1.5")
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .limit(Duration::from_secs(60));
    let log = dir.join("chromium.log");
    match run.run(dir, &log).trouble() {
        None => Ok(()),
        Some(trouble) => bail!("`{}`: {trouble}; see {}", run.line(), log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_those_that_grafana_would_write() {
        let labels = json!({ "partition": "feed", "cpu": "1" });
        assert_eq!(legend("{{partition}} (cpu {{cpu}})", &labels), "feed (cpu 1)");
        assert_eq!(legend("useful", &labels), "useful");
    }

    #[test]
    fn values_are_read_from_both_kinds_of_answers() {
        let range = json!({ "values": [[1.0, "2"], [2.5, "NaN"], [3, "0.5"]] });
        let read = points(&range);
        assert_eq!((read.len(), read[0], read[2]), (3, (1.0, 2.0), (3.0, 0.5)));
        assert!(read[1].1.is_nan());
        assert_eq!(points(&json!({ "value": [7, "1"] })), [(7.0, 1.0)]);
    }

    #[test]
    fn the_shipped_dashboard_is_drawn() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let text = fs::read_to_string(root.join(DASHBOARD)).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let points: Vec<_> = (0..20).map(|at| (f64::from(at), f64::from(at % 7))).collect();
        let series = |name: &str| Series { name: name.to_owned(), points: points.clone() };
        let seen: Vec<_> = panels
            .iter()
            .map(|json| Panel { json, series: vec![series("<a>"), series("b")] })
            .collect();
        let page = draw::page(&seen, (0.0, 19.0));
        assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
        for panel in panels {
            assert!(page.contains(panel["title"].as_str().expect("a title")), "{panel}");
        }
        assert!(!page.contains("NaN") && !page.contains("<a>"));
    }
}
