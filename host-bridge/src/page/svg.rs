//! Charts as SVG, written by hand: axes, lines, bars. Colours come from the page's style sheet, so
//! that light and dark share one drawing; each point's figures are in its tooltip.

use std::fmt::Write as _;

use super::escape;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 148.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 56.0;

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From and to.
    Linear(f64, f64),
    /// From and to, above 0.
    Log(f64, f64),
}

impl Scale {
    /// 0 to 1.
    fn place(self, value: f64) -> f64 {
        let (from, to, value) = match self {
            Self::Linear(from, to) => (from, to, value),
            Self::Log(from, to) => (from.log10(), to.log10(), value.max(1e-12).log10()),
        };
        if to > from { ((value - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
    }
}

/// A drawing that grows.
#[derive(Clone, Debug)]
pub struct Chart {
    x: Scale,
    y: Scale,
    body: String,
    label: String,
}

impl Chart {
    /// An empty one; `label` says in words what it shows.
    #[must_use]
    pub fn new(x: Scale, y: Scale, label: &str) -> Self {
        Self { x, y, body: String::new(), label: label.to_owned() }
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// Grid lines across, with their labels.
    pub fn y_ticks(&mut self, ticks: &[(f64, String)], title: &str) {
        for (value, label) in ticks {
            let y = self.at_y(*value);
            let _ = writeln!(
                self.body,
                "<line class=grid x1={LEFT} x2={} y1={y:.1} y2={y:.1} />\
                 <text class=tick x={} y={:.1} text-anchor=end>{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 5.0,
            );
        }
        let (x, y) = (16.0, (HEIGHT - BOTTOM + TOP) / 2.0);
        let _ = writeln!(
            self.body,
            "<text class=title transform=\"translate({x} {y}) rotate(-90)\" \
             text-anchor=middle>{title}</text>"
        );
    }

    /// Labels below.
    pub fn x_ticks(&mut self, ticks: &[(f64, String)], title: &str) {
        let base = HEIGHT - BOTTOM;
        for (value, label) in ticks {
            let x = self.at_x(*value);
            let _ = writeln!(
                self.body,
                "<line class=grid x1={x:.1} x2={x:.1} y1={TOP} y2={base} />\
                 <text class=tick x={x:.1} y={} text-anchor=middle>{label}</text>",
                base + 21.0,
            );
        }
        let _ = writeln!(
            self.body,
            "<text class=title x={} y={} text-anchor=middle>{title}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 8.0,
        );
    }

    /// A line through points.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.is_empty() {
            return;
        }
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.at_x(*x), self.at_y(*y));
        }
        let _ =
            writeln!(self.body, "<polyline class=\"line {class}\" points=\"{}\" />", path.trim());
    }

    /// Dots with tooltips.
    pub fn dots(&mut self, class: &str, points: &[(f64, f64, String)]) {
        for (x, y, tip) in points {
            let _ = writeln!(
                self.body,
                "<circle class=\"dot {class}\" cx={:.1} cy={:.1} r=4><title>{}</title></circle>",
                self.at_x(*x),
                self.at_y(*y),
                escape(tip),
            );
        }
    }

    /// A band from top to bottom, as dark as `strength` says (0 to 1).
    pub fn band(&mut self, class: &str, from: f64, to: f64, strength: f64, tip: &str) {
        let (left, right) = (self.at_x(from), self.at_x(to));
        let _ = writeln!(
            self.body,
            "<rect class=\"band {class}\" x={left:.1} y={TOP} width={:.1} height={} \
             opacity={:.2}><title>{tip}</title></rect>",
            (right - left).max(1.0),
            HEIGHT - TOP - BOTTOM,
            (0.4 * strength).clamp(0.05, 0.4),
        );
    }

    /// The drawing.
    #[must_use]
    pub fn finish(self) -> String {
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n{}</svg>\n",
            self.label, self.body
        )
    }
}

/// Powers of ten, and 2 and 5 times them where there are few, from below `from` to above `to`.
#[must_use]
pub fn decades(from: f64, to: f64) -> Vec<f64> {
    let (first, last) = (from.max(1e-9).log10().floor(), to.max(1e-9).log10().ceil());
    let dense = last - first <= 3.0;
    let mut ticks = Vec::new();
    let mut decade = first;
    while decade <= last {
        for step in [1.0, 2.0, 5.0] {
            let value = step * 10_f64.powf(decade);
            if (dense || step == 1.0) && value >= from * 0.999 && value <= to * 1.001 {
                ticks.push(value);
            }
        }
        decade += 1.0;
    }
    ticks
}

/// Round numbers from 0 to `to`, at most six: steps of 1, 2 or 5 times a power of ten.
#[must_use]
pub fn steps(to: f64) -> Vec<f64> {
    let least = to.max(1e-9) / 5.0;
    let ten = 10_f64.powf(least.log10().floor());
    let fits = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * ten >= least * 0.999);
    let step = fits.unwrap_or(10.0) * ten;
    (0..6).map(|n| f64::from(n) * step).filter(|at| *at <= to * 1.001).collect()
}

/// A round number in few letters: `200 k`, `1.5 M`.
#[must_use]
pub fn short(value: f64) -> String {
    let scales = [(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")];
    let (scale, unit) = scales.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1.0, ""));
    format!("{}{unit}", (value / scale * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_within_the_frame() {
        for scale in [Scale::Linear(0.0, 10.0), Scale::Log(1.0, 1000.0)] {
            for value in [-1.0, 0.0, 1.0, 10.0, 1000.0, 1e9] {
                assert!((0.0..=1.0).contains(&scale.place(value)));
            }
        }
        assert_eq!(Scale::Log(1.0, 100.0).place(10.0), 0.5);
        assert_eq!(Scale::Linear(3.0, 3.0).place(3.0), 0.5);
    }

    #[test]
    fn ticks_are_round() {
        let near = |ticks: Vec<f64>, wanted: &[f64]| {
            ticks.len() == wanted.len()
                && ticks.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9 * b)
        };
        assert!(near(decades(0.4, 30.0), &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0]));
        assert!(near(decades(1.0, 1e5), &[1.0, 10.0, 100.0, 1000.0, 1e4, 1e5]));
        let words = |to| steps(to).into_iter().map(short).collect::<Vec<_>>();
        assert_eq!(words(1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(words(320.0), ["0", "100", "200", "300"]);
        assert_eq!(words(1_110_000.0), ["0", "500 k", "1 M"]);
        assert_eq!(words(0.0)[0], "0");
        assert_eq!([0.0, 250.0, 1.5e6, 2e5].map(short), ["0", "250", "1.5 M", "200 k"]);
    }
}
