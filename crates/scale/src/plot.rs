//! The figure: hops over the size of the ring, and groups below their target size over time.

use crate::report::Findings;
use scatter_figure::{COLOURS, Figure, Panel};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;

/// Axes at the figure's left or right half, for the values given.
fn panel<'a>(left: f64, title: &'a str, across: &'a str, x: (f64, f64), y: (f64, f64)) -> Panel<'a> {
    Panel { left, top: 50.0, width: 370.0, height: 250.0, title, across, x, y }
}

/// The figure as SVG.
pub(crate) fn draw(findings: &Findings) -> String {
    let mut figure = Figure::new(WIDTH, HEIGHT);
    hops(&mut figure, findings);
    repair(&mut figure, findings);
    figure.finish()
}

fn hops(figure: &mut Figure, findings: &Findings) {
    let rings = &findings.lookups.rings;
    let log = |groups: usize| (groups as f64).log10();
    let (first, last) = (rings.first().map_or(1, |ring| ring.groups), rings.last().map_or(10, |ring| ring.groups));
    let most = rings.iter().map(|ring| ring.stranger.most.max(ring.stale.most)).max().unwrap_or(1) as f64;
    let across = (log(first), log(last).max(log(first) + 1.0));
    let panel =
        panel(60.0, "Cold look-ups: hops", "groups on the ring", across, (0.0, (most / 5.0).ceil() * 5.0 + 5.0));
    let mut up = 0.0;
    while up <= panel.y.1 {
        panel.tick_up(figure, up, &format!("{up}"));
        up += 5.0;
    }
    panel.frame(figure);
    for ring in rings {
        panel.tick_across(figure, log(ring.groups), &crate::report::grouped(ring.groups));
    }
    type Of = fn(&crate::lookups::Ring) -> f64;
    let curves: [(&str, Of); 4] = [
        ("who knows one group, 99th percentile", |ring| ring.stranger.p99 as f64),
        ("who knows one group, mean", |ring| ring.stranger.mean),
        ("a node, mean", |ring| ring.node.mean),
        ("a node, a tenth of the groups just split, mean", |ring| ring.stale.mean),
    ];
    for (row, ((label, of), colour)) in curves.into_iter().zip(COLOURS).enumerate() {
        let points: Vec<_> = rings.iter().map(|ring| (log(ring.groups), of(ring))).collect();
        panel.curve(figure, &points, colour);
        panel.legend(figure, row, colour, label);
    }
}

fn repair(figure: &mut Figure, findings: &Findings) {
    let repair = &findings.repair;
    let end = repair.all_seconds.unwrap_or(repair.curve.last().map_or(1.0, |(at, _)| *at));
    let until = (end * 1.1 / 60.0).ceil() * 60.0;
    let title = "A tenth of the nodes vanishes: groups not yet whole";
    let panel = panel(510.0, title, "seconds after", (0.0, until), (0.0, 100.0));
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        panel.tick_up(figure, percent, &format!("{percent} %"));
    }
    panel.frame(figure);
    for part in 0..=4 {
        let at = until * f64::from(part) / 4.0;
        panel.tick_across(figure, at, &format!("{at:.0}"));
    }
    let percent = |left: usize| left as f64 * 100.0 / repair.short.max(1) as f64;
    let points: Vec<_> =
        repair.curve.iter().filter(|(at, _)| *at <= until).map(|(at, left)| (*at, percent(*left))).collect();
    panel.curve(figure, &points, COLOURS[0]);
}
