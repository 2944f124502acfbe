//! One partition on one screen, at least 80 by 24: drawn for a terminal, or as text.
//!
//! What the loop did with its time comes first, then I/O and latencies, rings and what went wrong,
//! tasks by time, and who else was on the core. Figures are of the time between the last two looks,
//! totals are since the partition's start.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hybrid_abi::view::HistogramView;
use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::{Frame, Terminal};

use super::watch::{Watch, Watched};
use crate::look::{Between, Look, TaskRow};

/// Columns that there are at least; nothing needs more.
pub(super) const WIDTH: u16 = 80;

/// Rows of a task table at least, its title included.
const TASKS_LEAST: usize = 2;

/// Heights of the eight blocks of a sparkline, lowest first.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Columns of a sparkline.
const SPARKS: usize = 20;

/// What the user chose.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) index: usize,
    pub(super) since_start: bool,
    pub(super) paused: bool,
    pub(super) color: bool,
    pub(super) delay: Duration,
}

impl Default for View {
    fn default() -> Self {
        let delay = Duration::from_secs(1);
        Self { index: 0, since_start: false, paused: false, color: false, delay }
    }
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, watch: &Watch, view: &View) {
    let area = frame.area();
    let page = Page { view, width: area.width.max(20).into() };
    frame.render_widget(page.text(watch, area.height.into()), area);
}

/// The same as text.
///
/// # Errors
/// Never but for a screen of no size.
pub(super) fn text(watch: &Watch, view: &View, width: u16, height: u16) -> Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).context("a screen")?;
    terminal.draw(|frame| draw(frame, watch, view)).context("a screen")?;
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let cells = (0..width).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// The height at which nothing of a partition is left out.
pub(super) fn whole_height(watch: &Watch, index: usize) -> u16 {
    let tasks = watch.get(index).and_then(Watched::now).map_or(0, |look| look.tasks().count());
    u16::try_from(tasks.max(1) + 24).unwrap_or(u16::MAX).min(500)
}

struct Page<'a> {
    view: &'a View,
    width: usize,
}

impl Page<'_> {
    fn style(&self, color: Color) -> Style {
        if self.view.color { Style::new().fg(color) } else { Style::new() }
    }

    fn dim(&self) -> Style {
        if self.view.color { Style::new().add_modifier(Modifier::DIM) } else { Style::new() }
    }

    /// Something that is wrong if it is not zero.
    fn bad(&self, count: u64) -> Style {
        if count == 0 { Style::new() } else { self.style(Color::Red) }
    }

    fn text(&self, watch: &Watch, height: usize) -> Text<'static> {
        let Some(watched) = watch.get(self.view.index) else {
            let keys = self.keys(0);
            let wait = "probe-util top: no partition runs; waiting for one".to_owned();
            return Text::from(vec![Line::from(wait), Line::default(), keys]);
        };
        let mut lines = self.head(watched, watch.len());
        if let (Some(between), Some(now)) = (watched.between(self.view.since_start), watched.now())
        {
            self.time(&mut lines, &between);
            self.io(&mut lines, &between, now);
            self.latency(&mut lines, &between, watched);
            self.trouble(&mut lines, &between, now, watched);
            let below = 3;
            let room = height.saturating_sub(lines.len() + below).max(TASKS_LEAST);
            self.tasks(&mut lines, &between.tasks(), room);
            self.core(&mut lines, watched);
        }
        while lines.len() + 1 < height {
            lines.push(Line::default());
        }
        lines.truncate(height.saturating_sub(1));
        lines.push(self.keys(watch.len()));
        Text::from(lines)
    }

    fn head(&self, watched: &Watched, partitions: usize) -> Vec<Line<'static>> {
        let running = watched.state() == "running";
        let color = if running { Color::Green } else { Color::Red };
        let ran = watched.between(true).map_or(0, |all| all.elapsed_ns());
        let place = format!("{}/{partitions}", self.view.index + 1);
        let name = format!("{}  cpu {}", watched.name, watched.cpu);
        let state = watched.state().to_owned();
        let rest = format!("  start {}  ran {}", watched.incarnation, HumanNanos(ran));
        let used = name.len() + 2 + state.len() + rest.len() + place.len();
        let gap = " ".repeat(self.width.saturating_sub(used).max(1));
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let pid = watched.pid.map_or_else(|| "a thread".to_owned(), |pid| format!("pid {pid}"));
        let who = format!("host {} ({}), {pid}, {}", watched.host, watched.program, watched.device);
        vec![
            Line::from(vec![
                Span::styled(name, bold),
                Span::raw("  "),
                Span::styled(state, self.style(color).add_modifier(Modifier::BOLD)),
                Span::raw(rest + &gap + &place),
            ]),
            Line::styled(cut(&who, self.width), self.dim()),
            Line::default(),
        ]
    }

    /// A bar, and the shares in words.
    fn time(&self, lines: &mut Vec<Line<'static>>, between: &Between<'_>) {
        let share = |name| between.share(name);
        let (useful, stolen) = (share("useful_ns"), share("stolen_ns"));
        let columns = |name| {
            let all = u128::from(between.elapsed_ns().max(1));
            let part = u128::from(between.grown(name)) * self.width as u128;
            usize::try_from((part + all / 2) / all).unwrap_or(self.width)
        };
        let full = columns("useful_ns").min(self.width);
        // A little that was stolen is seen too.
        let least = usize::from(stolen > 0.0);
        let taken = columns("stolen_ns").max(least).min(self.width - full);
        let empty = self.width - full - taken;
        lines.push(Line::from(vec![
            Span::styled("█".repeat(full), self.style(Color::Green)),
            Span::styled("·".repeat(empty), self.dim()),
            Span::styled("▒".repeat(taken), self.style(Color::Red)),
        ]));
        let gaps = between.histogram("stolen_gap_ns");
        let (count, longest) = gaps.map_or((0, 0), |gaps| (gaps.count(), gaps.max()));
        let longest = match count {
            0 => String::new(),
            _ => format!(" in {} gaps, longest {}", Si(count), HumanNanos(longest)),
        };
        lines.push(Line::from(vec![
            Span::styled("█ ", self.style(Color::Green)),
            Span::raw(format!("useful {useful:.1} %   · empty {:.1} %   ", share("empty_ns"))),
            Span::styled("▒ ", self.style(Color::Red)),
            Span::raw(format!("stolen {stolen:.2} %{longest}")),
        ]));
        lines.push(Line::default());
    }

    fn io(&self, lines: &mut Vec<Line<'static>>, between: &Between<'_>, now: &Look) {
        let (failed, retried) = (now.number("io_failed"), now.number("io_retried"));
        let resets = now.number("controller_resets");
        let iops = Si(between.rate("io_completed"));
        let bytes = HumanBytes(between.rate("io_bytes"));
        let (depth, most) = (now.number("queue_depth"), now.number("queue_depth_high_water"));
        lines.push(Line::from(vec![
            Span::raw(format!("I/O      {iops}/s  {bytes}/s  depth {depth} (most {most})  ")),
            Span::styled(format!("{failed} failed"), self.bad(failed)),
            Span::raw(" "),
            Span::styled(format!("{retried} retried"), self.bad(retried)),
            Span::raw(" "),
            Span::styled(format!("{resets} resets"), self.bad(resets)),
        ]));
    }

    fn latency(&self, lines: &mut Vec<Line<'static>>, between: &Between<'_>, watched: &Watched) {
        let title = format!(
            "{:<8}{:>9}{:>10}{:>10}{:>10}{:>10}   {}",
            "latency", "samples", "p50", "p99", "p99.9", "max", "p99, look by look"
        );
        lines.push(Line::styled(title, self.dim()));
        let rows = [
            ("reads", "read_latency_ns"),
            ("writes", "write_latency_ns"),
            ("passes", "poll_to_poll_ns"),
        ];
        let histograms = rows.map(|(words, name)| (words, between.histogram(name)));
        let first = histograms.iter().position(|(_, h)| h.is_some_and(|h| h.count() != 0));
        for (index, (words, histogram)) in histograms.iter().enumerate() {
            let mut line = latency_row(words, histogram.as_ref());
            if Some(index) == first {
                line.push_str("   ");
                let sparks = sparkline(watched.history.iter().copied());
                let spans = vec![Span::raw(line), Span::styled(sparks, self.style(Color::Cyan))];
                lines.push(Line::from(spans));
            } else {
                lines.push(Line::from(line));
            }
        }
        lines.push(Line::default());
    }

    fn trouble(
        &self,
        lines: &mut Vec<Line<'static>>,
        between: &Between<'_>,
        now: &Look,
        watched: &Watched,
    ) {
        let number = |name| now.number(name);
        let dropped = number("ring_dropped");
        lines.push(Line::from(vec![
            Span::raw(format!(
                "ring     {} wait (most {})   ",
                HumanBytes(number("event_ring_depth")),
                HumanBytes(number("event_ring_high_water")),
            )),
            Span::styled(format!("{} dropped", Count(dropped)), self.bad(dropped)),
            Span::raw(format!("   {} of commands", HumanBytes(number("command_ring_depth")))),
        ]));
        let over = between.grown("budget_overruns");
        let (alerts, lost) = (number("alerts"), number("alerts_lost"));
        let restarts = watched.incarnation.saturating_sub(1);
        let mut spans = vec![
            Span::raw("trouble  "),
            Span::styled(
                format!("{} over budget (+{over})", Count(number("budget_overruns"))),
                if over == 0 { Style::new() } else { self.style(Color::Yellow) },
            ),
            Span::styled(format!("  {alerts} alerts"), self.bad(alerts)),
            Span::styled(format!("  {restarts} restarts"), self.bad(restarts)),
        ];
        let fallbacks = watched.fallbacks;
        let words = format!("  {fallbacks} fallbacks");
        spans.push(Span::styled(words, self.bad(fallbacks)));
        if lost != 0 {
            spans.push(Span::styled(format!("  {lost} alerts lost"), self.bad(lost)));
        }
        lines.push(Line::from(spans));
        lines.push(Line::default());
    }

    fn tasks(&self, lines: &mut Vec<Line<'static>>, tasks: &[TaskRow], room: usize) {
        let title = format!(
            "{:<24}{:<11}{:>8}{:>9}{:>9}{:>10}  {}",
            "task", "class", "time", "polls/s", "over", "longest", "state"
        );
        lines.push(Line::styled(title, self.dim()));
        let live: Vec<_> = tasks.iter().filter(|task| task.figures.state != 0).collect();
        let shown = live.len().min(room.saturating_sub(1));
        for task in live.iter().take(shown) {
            let line = format!(
                "{:<24}{:<11}{:>6.1} %{:>9}{:>9}{:>10}  {}",
                cut(&task.name, 23),
                task.figures.class_name(),
                task.share,
                Si(task.polls).to_string(),
                Count(task.figures.overruns).to_string(),
                HumanNanos(task.longest_ns).to_string(),
                task.state_name(),
            );
            let over = task.overruns != 0;
            let style = if over { self.style(Color::Yellow) } else { Style::new() };
            lines.push(Line::styled(line, style));
        }
        let more = live.len() - shown;
        if more > 0 {
            let last = format!("and {more} more tasks");
            // In the place of the last one, if there is no room.
            if lines.len() > 1 && shown > 0 {
                lines.pop();
                lines.push(Line::styled(format!("and {} more tasks", more + 1), self.dim()));
            } else {
                lines.push(Line::styled(last, self.dim()));
            }
        }
        lines.push(Line::default());
    }

    fn core(&self, lines: &mut Vec<Line<'static>>, watched: &Watched) {
        let load = watched.core_load();
        let interrupts = load.interrupts.iter().map(|(name, rate)| format!("{name} {rate:.0}/s"));
        let threads = load.threads.iter().map(|(name, share)| format!("{name} {share:.1} %"));
        let all: Vec<_> = threads.chain(interrupts).collect();
        let said = if all.is_empty() { "nobody else".to_owned() } else { all.join(", ") };
        lines.push(Line::from(cut(&format!("on cpu {}: {said}", watched.cpu), self.width)));
    }

    fn keys(&self, partitions: usize) -> Line<'static> {
        let what = if self.view.since_start { "since its start" } else { "since the last look" };
        let paused = if self.view.paused { "PAUSED  " } else { "" };
        let delay = self.view.delay.as_secs_f64();
        let others = if partitions > 1 { "  <- -> partition" } else { "" };
        let keys = format!("{paused}q quit{others}  c {what}  p pause  +/- every {delay} s");
        Line::styled(cut(&keys, self.width), self.dim())
    }
}

fn latency_row(words: &str, histogram: Option<&HistogramView<'_>>) -> String {
    let count = histogram.map_or(0, HistogramView::count);
    let time = |ppm| match histogram {
        Some(histogram) if count != 0 => HumanNanos(histogram.quantile(ppm)).to_string(),
        _ => "-".to_owned(),
    };
    let max = histogram.filter(|_| count != 0).map(|h| HumanNanos(h.max()).to_string());
    format!(
        "{words:<8}{:>9}{:>10}{:>10}{:>10}{:>10}",
        Si(count).to_string(),
        time(500_000),
        time(990_000),
        time(999_000),
        max.unwrap_or_else(|| "-".to_owned()),
    )
}

/// The last values as blocks, on a logarithmic scale: a latency that doubles is seen wherever it
/// began. Looks without a sample are a space.
fn sparkline(values: impl DoubleEndedIterator<Item = u64>) -> String {
    let mut last: Vec<u64> = values.rev().take(SPARKS).collect();
    last.reverse();
    let logs = || last.iter().filter(|value| **value != 0).map(|value| (*value as f64).ln());
    let (low, high) = logs().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let span = (high - low).max(f64::EPSILON);
    let block = |value: &u64| match value {
        0 => ' ',
        value => {
            let height = ((*value as f64).ln() - low) / span * 7.0;
            // The highest block that it reaches, rounded.
            let reached = (0_u8..8).rev().find(|step| height >= f64::from(*step) - 0.5);
            BLOCKS[usize::from(reached.unwrap_or(0))]
        }
    };
    last.iter().map(block).collect()
}

/// At most so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_last_looks_by_their_logarithm() {
        assert_eq!(sparkline([].into_iter()), "");
        assert_eq!(sparkline([5, 5].into_iter()), "▁▁");
        assert_eq!(sparkline([1000, 0, 10_000, 100_000].into_iter()), "▁ ▅█");
        assert_eq!(sparkline(0..100).chars().count(), SPARKS);
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        assert_eq!(cut("journal", 7), "journal");
        assert_eq!(cut("journals", 7), "journa…");
        assert_eq!(cut("ä".repeat(9).as_str(), 3), "ää…");
    }

    #[test]
    fn without_a_partition_it_waits() {
        let watch = Watch::new(crate::hosts::Which::default());
        let text = text(&watch, &View::default(), WIDTH, 24).expect("a screen");
        assert!(text.starts_with("probe-util top: no partition runs; waiting for one\n"), "{text}");
        assert!(text.ends_with("every 1 s\n"), "{text}");
    }
}
