//! The figure: availability, latencies, rate, nodes and groups over time, with a mark for each kill and each operation of groups.

use crate::timeline::{Bucket, Figures, Mark};
use scatter_figure::{COLOURS, Figure, Panel};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const PANEL_WIDTH: f64 = 860.0;
const PANEL_HEIGHT: f64 = 150.0;
/// From one panel's top to the next one's.
const STEP: f64 = 215.0;
const TOP: f64 = 60.0;
const KILL: &str = "#d1495b66";
const ORDER: &str = "#2e8b57";
/// The decimal logarithm of the shortest latency told apart from shorter ones, in milliseconds.
const SHORTEST: f64 = -1.0;
/// The curve has at most so many points, each the worst of its neighbours.
const MOST_POINTS: usize = 600;

/// One of several curves of a panel.
struct Curve {
    label: &'static str,
    colour: &'static str,
    of: fn(&Bucket) -> Option<f64>,
}

const LATENCIES: [Curve; 2] = [
    Curve { label: "99th percentile", colour: COLOURS[1], of: |bucket| log_ms(bucket.p99_us) },
    Curve { label: "median", colour: COLOURS[0], of: |bucket| log_ms(bucket.p50_us) },
];

const COUNTS: [Curve; 2] = [
    Curve { label: "nodes", colour: COLOURS[0], of: |bucket| bucket.nodes.map(|count| count as f64) },
    Curve { label: "groups", colour: COLOURS[2], of: |bucket| bucket.groups.map(|count| count as f64) },
];

/// The figure as SVG.
pub(crate) fn draw(figures: &Figures) -> String {
    // The last stretch is not a whole one.
    let whole = figures.buckets.len().saturating_sub(1).max(1).min(figures.buckets.len());
    let figures = &Figures { buckets: figures.buckets[..whole].to_vec(), ..figures.clone() };
    let mut figure = Figure::new(WIDTH, TOP + 4.0 * STEP);
    availability(&mut figure, figures);
    latencies(&mut figure, figures);
    rate(&mut figure, figures);
    counts(&mut figure, figures);
    figure.finish()
}

fn availability(figure: &mut Figure, figures: &Figures) {
    let least = figures.worst();
    // What is near to all is to be told apart.
    let from = [99.0, 90.0].into_iter().find(|from| *from < least).unwrap_or(0.0);
    let panel = panel(figures, 0, "Operations answered in time (%)", (from, 100.0));
    ticks(figure, &panel, panel.y);
    frame(figure, &panel, figures);
    curve(figure, &panel, figures, Bucket::percent, f64::min, COLOURS[0]);
    // Where the curve is not when all is well.
    panel.legend(figure, 4, KILL, "a node is killed");
    panel.legend(figure, 5, ORDER, "an order to a group is carried out");
}

fn latencies(figure: &mut Figure, figures: &Figures) {
    // A power more, as room for the legend.
    let most = most(figures, LATENCIES[0].of).ceil().max(1.0) + 1.0;
    let panel = panel(figures, 1, "Latency of answers (ms)", (SHORTEST, most));
    let mut power = panel.y.0;
    while power <= panel.y.1 {
        panel.tick_up(figure, power, &format!("{}", 10_f64.powf(power)));
        power += 1.0;
    }
    frame(figure, &panel, figures);
    curves(figure, &panel, figures, &LATENCIES, f64::max);
}

fn rate(figure: &mut Figure, figures: &Figures) {
    let length = figures.bucket.as_secs_f64();
    let of = |bucket: &Bucket| Some(bucket.answered as f64 / length);
    let panel = panel(figures, 2, "Operations answered a second", (0.0, round_up(most(figures, of))));
    ticks(figure, &panel, panel.y);
    frame(figure, &panel, figures);
    curve(figure, &panel, figures, of, f64::min, COLOURS[0]);
}

fn counts(figure: &mut Figure, figures: &Figures) {
    let most = COUNTS.iter().map(|curve| most(figures, curve.of)).fold(0.0, f64::max);
    // Half more, as room for the legend.
    let panel = panel(figures, 3, "Nodes alive, and groups", (0.0, round_up(most * 1.5)));
    ticks(figure, &panel, panel.y);
    frame(figure, &panel, figures);
    curves(figure, &panel, figures, &COUNTS, f64::min);
}

/// The greatest of what `of` makes of the buckets; 0 if there is nothing.
fn most(figures: &Figures, of: impl Fn(&Bucket) -> Option<f64>) -> f64 {
    figures.buckets.iter().filter_map(of).fold(0.0, f64::max)
}

/// The decimal logarithm of a latency in milliseconds; what is below a tenth of one is shown as that. None for no latency.
fn log_ms(us: u64) -> Option<f64> {
    (us > 0).then(|| (us as f64 / 1e3).log10().max(SHORTEST))
}

fn panel<'a>(figures: &Figures, row: usize, title: &'a str, y: (f64, f64)) -> Panel<'a> {
    let until = figures.seconds(figures.buckets.len().max(1));
    let (left, top, across) = (LEFT, TOP + STEP * row as f64, if row == 3 { "seconds" } else { "" });
    Panel { left, top, width: PANEL_WIDTH, height: PANEL_HEIGHT, title, across, x: (0.0, until), y }
}

/// Axes, times and marks.
fn frame(figure: &mut Figure, panel: &Panel<'_>, figures: &Figures) {
    for (at, mark) in figures.marks.iter().filter(|(at, _)| *at <= panel.x.1) {
        match mark {
            Mark::Kill => panel.mark(figure, *at, (0.0, 1.0), KILL),
            Mark::Order => panel.mark(figure, *at, (0.0, 0.06), ORDER),
            Mark::Start => {}
        }
    }
    panel.frame(figure);
    let step = round_up(panel.x.1 / 2.0) / 4.0;
    let mut at = 0.0;
    while at <= panel.x.1 {
        panel.tick_across(figure, at, &format!("{at}"));
        at += step;
    }
}

fn ticks(figure: &mut Figure, panel: &Panel<'_>, (from, to): (f64, f64)) {
    for part in 0..=4 {
        let at = from + (to - from) * f64::from(part) / 4.0;
        panel.tick_up(figure, at, &format!("{at}"));
    }
}

/// Curves, and what they are.
fn curves(figure: &mut Figure, panel: &Panel<'_>, figures: &Figures, all: &[Curve], worse: fn(f64, f64) -> f64) {
    for (row, Curve { label, colour, of }) in all.iter().enumerate() {
        curve(figure, panel, figures, of, worse, colour);
        panel.legend(figure, row, colour, label);
    }
}

/// A curve through what `of` makes of the buckets; `worse` chooses between neighbours that share a point.
fn curve(
    figure: &mut Figure,
    panel: &Panel<'_>,
    figures: &Figures,
    of: impl Fn(&Bucket) -> Option<f64>,
    worse: fn(f64, f64) -> f64,
    colour: &str,
) {
    let together = figures.buckets.len().div_ceil(MOST_POINTS).max(1);
    let points: Vec<(f64, f64)> = figures
        .buckets
        .chunks(together)
        .enumerate()
        .filter_map(|(index, chunk)| {
            let middle = figures.seconds(index * together) + figures.seconds(chunk.len()) / 2.0;
            Some((middle, chunk.iter().filter_map(&of).reduce(worse)?))
        })
        .collect();
    panel.curve(figure, &points, colour);
}

/// A round number from which quarters are round too.
fn round_up(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1.0).log10().floor());
    let fits = [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|up| *up >= most);
    fits.unwrap_or(10.0 * power).max(4.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Heard, Kind, Timeline};
    use std::time::{Duration, Instant};

    #[test]
    fn a_figure_has_every_panel_and_mark() {
        let timeline = Timeline::new(Duration::from_secs(1));
        timeline.heard(Kind::Read, Instant::now(), Heard::Answer);
        timeline.sample(8, Some(4));
        timeline.mark(Mark::Kill);
        timeline.mark(Mark::Order);
        let figure = draw(&timeline.finish());
        for title in ["Operations answered in time", "Latency of answers", "answered a second", "Nodes alive"] {
            assert!(figure.contains(title), "{title}");
        }
        // One in each panel, and the legend's.
        assert_eq!(figure.matches(KILL).count(), 5);
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    }

    #[test]
    fn nothing_at_all_is_drawn_too() {
        let figure = draw(&Timeline::new(Duration::from_secs(1)).finish());
        assert!(figure.ends_with("</svg>\n") && !figure.contains("NaN"), "{figure}");
    }

    #[test]
    fn a_long_run_has_no_more_points_than_fit() {
        let buckets = vec![Bucket { asked: 1, answered: 1, ..Bucket::default() }; 5_000];
        let figures = Figures { buckets, ..Timeline::new(Duration::from_secs(1)).finish() };
        let figure = draw(&figures);
        let longest = figure.lines().map(|line| line.matches(',').count()).max();
        assert!(longest.is_some_and(|points| points <= MOST_POINTS), "{longest:?}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, up) in [(0.5, 4.0), (7.0, 8.0), (9.0, 10.0), (1_234.0, 2_000.0), (400.0, 400.0)] {
            assert_eq!(round_up(most), up, "{most}");
        }
    }
}
