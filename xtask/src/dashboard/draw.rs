//! Panels as Grafana places them, drawn as SVG on one page.

use std::fmt::Write as _;

use super::{Panel, Series};

/// Of Grafana's 24 columns each.
const COLUMN: f64 = 60.0;
/// Of a row of its grid.
const ROW: f64 = 34.0;
const GAP: f64 = 8.0;
/// Room in a panel for its title, its legend, and the labels of its axes.
const TITLE: f64 = 34.0;
const BELOW: f64 = 48.0;
const LEFT: f64 = 74.0;

const COLOURS: [&str; 8] =
    ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#c0d8ff"];

const STYLE: &str = "body { margin: 0; background: #111217; position: relative; \
    font: 12px Inter, 'Helvetica Neue', Arial, sans-serif; } \
    svg { position: absolute; } text { fill: #ccccdc; } .soft { fill: #9b9ba8; } \
    .title { font-weight: 600; font-size: 14px; } .big { font-weight: 600; font-size: 34px; } \
    .grid { stroke: #2c2e36; } .panel { fill: #181b1f; stroke: #25272e; } path { fill: none; }";

/// Where a panel is: left, top, width, height, in pixels.
fn place(panel: &Panel<'_>) -> (f64, f64, f64, f64) {
    let grid = |name: &str| panel.json["gridPos"][name].as_f64().unwrap_or(0.0);
    let (x, y) = (grid("x") * COLUMN + GAP, grid("y") * ROW + GAP);
    (x, y, grid("w") * COLUMN - GAP, grid("h") * ROW - GAP)
}

/// Of the whole page.
pub(super) fn size(panels: &[Panel<'_>]) -> (u32, u32) {
    let ends = panels.iter().map(|panel| {
        let (x, y, w, h) = place(panel);
        (x + w + GAP, y + h + GAP)
    });
    let (width, height) = ends.fold((0.0, 0.0), |(a, b): (f64, f64), (x, y)| (a.max(x), b.max(y)));
    let whole = |pixels: f64| format!("{pixels:.0}").parse().unwrap_or(1000);
    (whole(width), whole(height))
}

/// The page.
pub(super) fn page(panels: &[Panel<'_>], span: (f64, f64)) -> String {
    let mut out = format!("<!doctype html><meta charset=utf-8><style>{STYLE}</style>\n");
    for panel in panels {
        let (x, y, width, height) = place(panel);
        let _ = write!(
            out,
            "<svg style=\"left:{x}px;top:{y}px\" width={width} height={height} \
             viewBox=\"0 0 {width} {height}\">"
        );
        match panel.json["type"].as_str() {
            Some("row") => {
                let title = escape(panel.json["title"].as_str().unwrap_or_default());
                let _ = write!(out, "<text class=title x=4 y=18>▾ {title}</text>");
            }
            Some("stat") => stat(&mut out, panel, (width, height)),
            _ => series(&mut out, panel, span, (width, height)),
        }
        out.push_str("</svg>\n");
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A value as the panel's unit writes it.
fn text(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let step = steps.iter().find(|(least, _)| value.abs() >= *least);
        let (by, name) = step.or(steps.last()).copied().unwrap_or((1.0, ""));
        format!("{} {name}", short(value / by)).trim_end().to_owned()
    };
    if value == 0.0 {
        let zero = match unit {
            "percentunit" => "0 %",
            "s" => "0 s",
            "bytes" => "0 B",
            "Bps" => "0 B/s",
            "iops" => "0 io/s",
            "cps" => "0 c/s",
            _ => "0",
        };
        return zero.to_owned();
    }
    const KIB: f64 = 1024.0;
    match unit {
        "percentunit" => format!("{} %", short(value * 100.0)),
        "s" => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]),
        "bytes" => {
            scaled(&[(KIB * KIB * KIB, "GiB"), (KIB * KIB, "MiB"), (KIB, "KiB"), (1.0, "B")])
        }
        "Bps" => scaled(&[(KIB * KIB, "MiB/s"), (KIB, "KiB/s"), (1.0, "B/s")]),
        "iops" => scaled(&[(1e6, "M io/s"), (1e3, "k io/s"), (1.0, "io/s")]),
        "cps" => scaled(&[(1e6, "M c/s"), (1e3, "k c/s"), (1.0, "c/s")]),
        _ => scaled(&[(1e6, "M"), (1e3, "k"), (1.0, "")]),
    }
}

/// Three digits, without zeros that say nothing.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        big if big >= 100.0 => 0,
        mid if mid >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn colour_of(name: &str) -> &str {
    match name {
        "green" => "#37872d",
        "red" => "#c4162a",
        "orange" => "#fa6400",
        "yellow" => "#e0b400",
        other => other,
    }
}

/// A number on the colour of its threshold.
fn stat(out: &mut String, panel: &Panel<'_>, (width, height): (f64, f64)) {
    let defaults = &panel.json["fieldConfig"]["defaults"];
    let last = panel.series.first().and_then(|one| Some((one, one.points.last()?.1)));
    let Some((one, value)) = last else { return };
    let steps = defaults["thresholds"]["steps"].as_array().into_iter().flatten();
    let mut reached =
        steps.filter(|step| step["value"].as_f64().is_none_or(|least| value >= least));
    let colour = reached.next_back().and_then(|step| step["color"].as_str()).unwrap_or("green");
    let mapped = defaults["mappings"].as_array().into_iter().flatten();
    let key = short(value);
    let word = mapped.filter_map(|map| map["options"][&key]["text"].as_str()).next();
    let shown = word
        .map_or_else(|| text(value, defaults["unit"].as_str().unwrap_or("short")), str::to_owned);
    let title = escape(panel.json["title"].as_str().unwrap_or_default());
    let _ = write!(
        out,
        "<rect width={width} height={height} rx=3 fill=\"{}\"/>\
         <text class=title style=\"fill:#fff\" x=10 y=22>{title}</text>\
         <text style=\"fill:#fff\" x=10 y=40>{}</text>\
         <text class=big style=\"fill:#fff\" x=10 y=86>{}</text>",
        colour_of(colour),
        escape(&one.name),
        escape(&shown)
    );
}

/// The colour of a series: the dashboard's, or the next of the usual ones.
fn colour(panel: &Panel<'_>, index: usize, name: &str) -> String {
    let overrides = panel.json["fieldConfig"]["overrides"].as_array().into_iter().flatten();
    let mine = overrides.filter(|one| one["matcher"]["options"] == name);
    let properties = mine.flat_map(|one| one["properties"].as_array().into_iter().flatten());
    let fixed = properties.filter_map(|property| property["value"]["fixedColor"].as_str()).next();
    match fixed {
        Some("green") => COLOURS[0].to_owned(),
        Some("red") => COLOURS[4].to_owned(),
        Some("blue") => COLOURS[5].to_owned(),
        Some(other) => other.to_owned(),
        None => COLOURS[index % COLOURS.len()].to_owned(),
    }
}

/// The end of an axis that begins at 0, and its step.
fn axis(most: f64, unit: &str) -> (f64, f64) {
    let most = if most > 0.0 { most } else { 1.0 };
    // Bytes are read in powers of 1024.
    let base = match unit {
        "bytes" | "Bps" => 1024_f64.powf(most.log(1024.0).floor()),
        _ => 1.0,
    };
    let rough = most / base / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let nice = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|n| n * power >= rough * 0.999);
    let step = nice.unwrap_or(10.0) * power * base;
    ((most / step).ceil() * step, step)
}

/// Lines over time, or areas on one another.
fn series(out: &mut String, panel: &Panel<'_>, span: (f64, f64), (width, height): (f64, f64)) {
    let defaults = &panel.json["fieldConfig"]["defaults"];
    let unit = defaults["unit"].as_str().unwrap_or("short");
    let title = escape(panel.json["title"].as_str().unwrap_or_default());
    let stacked = defaults["custom"]["stacking"]["mode"] == "normal";
    let fill = defaults["custom"]["fillOpacity"].as_f64().unwrap_or(0.0) / 100.0;
    let _ = write!(
        out,
        "<rect class=panel x=0.5 y=0.5 width={} height={} rx=3 />\
         <text class=title x=10 y=22>{title}</text>",
        width - 1.0,
        height - 1.0
    );
    let lines = if stacked { stack(&panel.series) } else { plain(&panel.series) };
    let all = lines.iter().flatten().map(|(_, low, high)| low.max(*high));
    let (top, step) = axis(all.fold(0.0, f64::max), unit);
    let (right, bottom) = (width - 14.0, height - BELOW);
    let x = |at: f64| LEFT + (right - LEFT) * (at - span.0) / (span.1 - span.0).max(1e-9);
    let y = |value: f64| bottom - (bottom - TITLE) * value / top;
    let mut at = 0.0;
    while at <= top * 1.001 {
        let _ = write!(
            out,
            "<line class=grid x1={LEFT} x2={right} y1={0:.1} y2={0:.1} />\
             <text class=soft text-anchor=end x={1} y={2:.1}>{3}</text>",
            y(at),
            LEFT - 8.0,
            y(at) + 4.0,
            text(at, unit)
        );
        at += step;
    }
    let every = if width < 400.0 { 30.0 } else { 15.0 };
    let mut seconds = 0.0;
    while seconds <= span.1 - span.0 {
        let label = format!("{}:{:02.0}", (seconds / 60.0_f64).floor(), seconds % 60.0);
        let (at, below) = (x(span.0 + seconds), bottom + 16.0);
        let _ =
            write!(out, "<text class=soft text-anchor=middle x={at:.1} y={below}>{label}</text>");
        seconds += every;
    }
    for (index, (one, line)) in panel.series.iter().zip(&lines).enumerate() {
        let colour = colour(panel, index, &one.name);
        for piece in line.split(|(_, _, high)| !high.is_finite()).filter(|p| !p.is_empty()) {
            let over = piece.iter().map(|(at, _, high)| format!("{:.1} {:.1}", x(*at), y(*high)));
            let over = over.collect::<Vec<_>>().join(" L");
            let under = piece.iter().rev();
            let under = under.map(|(at, low, _)| format!("{:.1} {:.1}", x(*at), y(*low)));
            let under = under.collect::<Vec<_>>().join(" L");
            let _ = write!(
                out,
                "<path style=\"fill:{colour};fill-opacity:{fill}\" d=\"M{over} L{under} Z\"/>\
                 <path stroke=\"{colour}\" stroke-width=1.4 d=\"M{over}\"/>"
            );
        }
    }
    legends(out, panel, (width, height));
}

/// Time, lower and upper value of a point.
type Band = (f64, f64, f64);

fn plain(series: &[Series]) -> Vec<Vec<Band>> {
    let line = |one: &Series| one.points.iter().map(|(at, value)| (*at, 0.0, *value)).collect();
    series.iter().map(line).collect()
}

fn stack(series: &[Series]) -> Vec<Vec<Band>> {
    let mut below: Vec<(f64, f64)> = Vec::new();
    let mut lines = Vec::new();
    for one in series {
        let mut line = Vec::new();
        for (at, value) in &one.points {
            let value = if value.is_finite() { *value } else { 0.0 };
            match below.iter_mut().find(|(there, _)| (there - at).abs() < 0.01) {
                Some((_, sum)) => {
                    line.push((*at, *sum, *sum + value));
                    *sum += value;
                }
                None => {
                    line.push((*at, 0.0, value));
                    below.push((*at, value));
                }
            }
        }
        lines.push(line);
    }
    lines
}

/// What has a name and was ever more than nothing comes first; what has no room is counted.
fn legends(out: &mut String, panel: &Panel<'_>, (width, height): (f64, f64)) {
    let mut at = 12.0;
    let mut left = panel.series.len();
    let seen = |one: &Series| one.points.iter().any(|(_, value)| *value > 0.0);
    let (some, none): (Vec<_>, Vec<_>) =
        panel.series.iter().enumerate().partition(|(_, one)| seen(one));
    for (index, one) in some.into_iter().chain(none) {
        let long = 34.0 + one.name.chars().count() as f64 * 6.6;
        if at + long > width - 60.0 && left > 1 {
            break;
        }
        let (line, words) = (height - 13.0, height - 8.0);
        let _ = write!(
            out,
            "<rect x={at:.0} y={line:.0} width=14 height=4 rx=1 fill=\"{}\"/>\
             <text x={:.0} y={words:.0}>{}</text>",
            colour(panel, index, &one.name),
            at + 20.0,
            escape(&one.name)
        );
        at += long;
        left -= 1;
    }
    if left != 0 {
        let _ = write!(out, "<text class=soft x={at:.0} y={:.0}>+ {left}</text>", height - 8.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_figures() {
        assert_eq!(axis(93.0, "short"), (100.0, 25.0));
        assert_eq!(axis(0.0, "short"), (1.0, 0.25));
        let mib = 1024.0 * 1024.0;
        assert_eq!(axis(19.0 * mib, "bytes"), (20.0 * mib, 5.0 * mib));
    }

    #[test]
    fn values_have_their_units_and_three_digits() {
        assert_eq!(text(0.0331, "s"), "33.1 ms");
        assert_eq!(text(0.5, "percentunit"), "50 %");
        assert_eq!(text(18.0 * 1024.0 * 1024.0, "bytes"), "18 MiB");
        assert_eq!(
            (text(0.0, "s"), text(1234.0, "iops")),
            ("0 s".to_owned(), "1.23 k io/s".into())
        );
        assert_eq!(
            (short(100.0), short(0.5), short(40.0)),
            ("100".into(), "0.5".into(), "40".to_owned())
        );
    }

    #[test]
    fn areas_stand_on_one_another() {
        let one = |points: &[(f64, f64)]| Series { name: String::new(), points: points.to_vec() };
        let lines = stack(&[one(&[(1.0, 2.0), (2.0, 3.0)]), one(&[(2.0, 4.0)])]);
        assert_eq!(lines[0], [(1.0, 0.0, 2.0), (2.0, 0.0, 3.0)]);
        assert_eq!(lines[1], [(2.0, 3.0, 7.0)]);
    }
}
