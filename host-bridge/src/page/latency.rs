//! The charts of latencies that every report has: by percentile, the tail, and over time.

use hybrid_conventions::HumanNanos;

use super::distribution::Distribution;
use super::svg::{Chart, Scale, decades, steps};
use super::whole;

/// Percentiles that have a dot with its figure, in millionths.
const DOTS: [(u32, &str); 6] = [
    (500_000, "p50"),
    (900_000, "p90"),
    (990_000, "p99"),
    (999_000, "p99.9"),
    (999_900, "p99.99"),
    (999_990, "p99.999"),
];

/// Most powers of ten of samples whose rarest one has a place.
const NINES_MOST: f64 = 7.0;

/// Labels along the axis of percentiles: how many nines, and the words.
const NINES: [(f64, &str); 9] = [
    (0.0, "0"),
    (std::f64::consts::LOG10_2, "50"),
    (1.0, "90"),
    (2.0, "99"),
    (3.0, "99.9"),
    (4.0, "99.99"),
    (5.0, "99.999"),
    (6.0, "99.9999"),
    (7.0, "99.99999"),
];

/// One line of a chart: its class in the style sheet, its name, its values.
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// The class in the style sheet.
    pub class: &'static str,
    /// What it is called in the key and in tooltips.
    pub name: &'a str,
    /// What is drawn.
    pub values: &'a Distribution,
}

/// A piece of time, in seconds, and the share of it that others took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// When it begins.
    pub from: f64,
    /// When it ends.
    pub to: f64,
    /// 0 to 1.
    pub stolen: f64,
}

impl Piece {
    /// Where its point is drawn.
    #[must_use]
    pub const fn middle(&self) -> f64 {
        f64::midpoint(self.from, self.to)
    }
}

/// Microseconds, as charts have them.
#[must_use]
pub fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Labels for latencies, in microseconds, on a logarithmic axis.
#[must_use]
pub fn ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let label = |us: f64| HumanNanos(whole((us * 1e3).round())).to_string().replace(".0", "");
    decades(from, to).into_iter().map(|us| (us, label(us))).collect()
}

/// Latency by percentile; each step to the right is ten times rarer.
#[must_use]
pub fn by_percentile(curves: &[Curve<'_>]) -> String {
    let (low, high) = ends(curves);
    let most = curves.iter().map(|curve| rarest(curve.values)).fold(2.0, f64::max).ceil();
    let words = "latency by percentile, towards the tail";
    let mut chart = Chart::new(Scale::Linear(0.0, most), Scale::Log(low, high), words);
    chart.y_ticks(&ticks(low, high), "latency");
    let nines = NINES.iter().filter(|(nines, _)| *nines <= most);
    let mark = |(nines, label): &(f64, &str)| {
        // A long axis has no room for all of them on a phone.
        let left_out = most > 5.0 && [NINES[1].0, 4.0, 6.0].contains(nines);
        (*nines, if left_out { String::new() } else { (*label).to_owned() })
    };
    let marks: Vec<_> = nines.map(mark).collect();
    chart.x_ticks(&marks, "percentile");
    for curve in curves {
        let (count, last) = (curve.values.count(), rarest(curve.values));
        let (mut seen, mut points) = (0, Vec::new());
        for (upper, in_it) in curve.values.buckets() {
            points.push((nines_of(seen, count).min(last), us(*upper)));
            seen += in_it;
            points.push((nines_of(seen, count).min(last), us(*upper)));
        }
        chart.line(curve.class, &points);
        // Beyond the last sample there is nothing to tell.
        let told =
            DOTS.iter().map(|(ppm, name)| (-(1.0 - f64::from(*ppm) / 1e6).log10(), ppm, name));
        let told = told.filter(|(nines, ..)| *nines <= last);
        let dot = |(nines, ppm, name): (f64, &u32, &&str)| {
            let ns = curve.values.quantile(*ppm);
            (nines, us(ns), format!("{}, {name}: {}", curve.name, HumanNanos(ns)))
        };
        let mut dots: Vec<_> = told.map(dot).collect();
        let max = curve.values.max_ns();
        dots.push((last, us(max), format!("{}, greatest: {}", curve.name, HumanNanos(max))));
        chart.dots(curve.class, &dots);
    }
    chart.finish()
}

/// The share of values above each latency, both axes logarithmic.
#[must_use]
pub fn tail(curves: &[Curve<'_>]) -> String {
    let (low, high) = ends(curves);
    let most = curves.iter().map(|curve| curve.values.count()).max().unwrap_or(10).max(10);
    let floor = 10_f64.powf(-(most as f64).log10().ceil());
    let words = "share of values above each latency";
    let mut chart = Chart::new(Scale::Log(low, high), Scale::Log(floor, 1.0), words);
    let share = |value: f64| match value < 0.9e-5 {
        true => format!("{:e} %", (value * 1e10).round() / 1e8),
        false => format!("{} %", (value * 1e10).round() / 1e8),
    };
    let tens = |value: &f64| (value.log10() - value.log10().round()).abs() < 1e-6;
    let shares: Vec<_> =
        decades(floor, 1.0).into_iter().filter(tens).map(|value| (value, share(value))).collect();
    chart.y_ticks(&shares, "share that is slower");
    chart.x_ticks(&ticks(low, high), "latency");
    for curve in curves {
        let count = curve.values.count().max(1) as f64;
        let (mut left, mut points) = (curve.values.count(), Vec::new());
        for (upper, in_it) in curve.values.buckets() {
            points.push((us(*upper), left as f64 / count));
            left -= in_it;
            points.push((us(*upper), (left as f64 / count).max(floor)));
        }
        chart.line(curve.class, &points);
    }
    chart.finish()
}

/// An empty chart with time along the bottom; what others took is shaded, the darker the more.
#[must_use]
pub fn over_time(pieces: &[Piece], scale: Scale, words: &str) -> Chart {
    let end = pieces.last().map_or(1.0, |piece| piece.to);
    let mut chart = Chart::new(Scale::Linear(0.0, end), scale, words);
    for Piece { from, to, stolen } in pieces.iter().filter(|piece| piece.stolen > 0.0) {
        let tip = format!("{:.1} % taken away, {from:.2} s to {to:.2} s", stolen * 100.0);
        chart.band("stolen", *from, *to, *stolen, &tip);
    }
    let (scale, unit) = if end < 1.0 { (1e3, "ms") } else { (1.0, "s") };
    let label = |at: f64| (at / scale, format!("{} {unit}", (at * 1e3).round() / 1e3));
    let ticks: Vec<_> = steps(end * scale).into_iter().map(label).collect();
    chart.x_ticks(&ticks, "time");
    chart
}

/// How rare the greatest of them is, as powers of ten.
fn rarest(values: &Distribution) -> f64 {
    (values.count().max(1) as f64).log10().min(NINES_MOST)
}

fn nines_of(seen: u64, count: u64) -> f64 {
    -(1.0 - seen as f64 / count.max(1) as f64).log10()
}

/// Least and greatest latency of all curves, with a margin.
fn ends(curves: &[Curve<'_>]) -> (f64, f64) {
    let least = curves.iter().filter_map(|curve| curve.values.buckets().first());
    let least = least.map(|(ns, _)| *ns).min();
    let most = curves.iter().map(|curve| curve.values.max_ns()).max();
    let (low, high) = (us(least.unwrap_or(1)) * 0.8, us(most.unwrap_or(1)) * 1.2);
    let low = low.max(0.001);
    (low, high.max(low * 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(svg: &str, class: &str) -> Vec<(f64, f64)> {
        let line = svg.lines().find(|line| line.contains(&format!("\"line {class}\"")));
        let line = line.and_then(|line| line.split("points=\"").nth(1)).expect("a line");
        let pairs = line.split('"').next().expect("points").split(' ');
        let pair = |pair: &str| {
            let (x, y) = pair.split_once(',').expect("a point");
            (x.parse().expect("a number"), y.parse().expect("a number"))
        };
        pairs.map(pair).collect()
    }

    #[test]
    fn a_curve_goes_to_its_last_sample_and_no_further() {
        let few = Distribution::new([(1000, 90), (2000, 10)], 0, 2000);
        let many = Distribution::new([(1000, 9999), (50_000, 1)], 0, 50_000);
        let curves = [
            Curve { class: "a", name: "few <b>", values: &few },
            Curve { class: "b", name: "many", values: &many },
        ];
        let svg = by_percentile(&curves);
        let (few, many) = (points(&svg, "a"), points(&svg, "b"));
        let last = |points: &[(f64, f64)]| points.last().map(|(x, _)| *x);
        // 100 samples of an axis that ends at 1 in 10,000: half of the way.
        let (begin, half, end) = (few[0].0, last(&few), last(&many));
        let (half, end) = (half.expect("points") - begin, end.expect("points") - begin);
        assert!((half / end - 0.5).abs() < 0.01, "{half} of {end}");
        assert!(few.is_sorted_by(|a, b| a.0 <= b.0) && few.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(svg.contains("few &lt;b&gt;, p99: 2.0 us"), "{svg}");
        assert!(!svg.contains("few &lt;b&gt;, p99.9:") && svg.contains("many, p99.9:"), "{svg}");
        let tail = tail(&curves);
        assert!(points(&tail, "b").is_sorted_by(|a, b| a.1 <= b.1), "{tail}");
    }

    #[test]
    fn time_that_others_took_is_shaded() {
        let pieces =
            [Piece { from: 0.0, to: 0.5, stolen: 0.0 }, Piece { from: 0.5, to: 1.0, stolen: 0.25 }];
        let svg = over_time(&pieces, Scale::Linear(0.0, 1.0), "x").finish();
        assert_eq!(svg.matches("class=\"band stolen\"").count(), 1);
        assert!(svg.contains("25.0 % taken away, 0.50 s to 1.00 s"), "{svg}");
    }
}
