//! The figure: hops over the size of the ring, and groups below their target size over time. Drawn by hand: lines, text.

use crate::report::Findings;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const PANEL_WIDTH: f64 = 370.0;
const PANEL_HEIGHT: f64 = 250.0;
const TOP: f64 = 50.0;
const COLOURS: [&str; 4] = ["#1b6ca8", "#d1495b", "#2e8b57", "#8a6d3b"];

/// One set of axes.
struct Panel<'a> {
    left: f64,
    title: &'a str,
    across: &'a str,
    /// Where the axes begin and end, in the values to be drawn.
    x: (f64, f64),
    y: (f64, f64),
}

impl Panel<'_> {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |value: f64, (from, to): (f64, f64)| (value - from) / (to - from);
        (self.left + part(x, self.x) * PANEL_WIDTH, TOP + (1.0 - part(y, self.y)) * PANEL_HEIGHT)
    }

    fn frame(&self, out: &mut String) {
        let bottom = TOP + PANEL_HEIGHT;
        text(out, (self.left, TOP - 18.0), "start", 14, self.title);
        text(out, (self.left + PANEL_WIDTH / 2.0, bottom + 40.0), "middle", 12, self.across);
        let right = self.left + PANEL_WIDTH;
        line(out, &[(self.left, TOP), (self.left, bottom), (right, bottom)], "#444", 1.0);
    }

    fn tick_across(&self, out: &mut String, x: f64, label: &str) {
        let (at, bottom) = self.place(x, self.y.0);
        line(out, &[(at, bottom), (at, bottom + 5.0)], "#444", 1.0);
        text(out, (at, bottom + 20.0), "middle", 11, label);
    }

    fn tick_up(&self, out: &mut String, y: f64, label: &str) {
        let (left, at) = self.place(self.x.0, y);
        line(out, &[(left, at), (left + PANEL_WIDTH, at)], "#ddd", 1.0);
        text(out, (left - 6.0, at + 4.0), "end", 11, label);
    }

    fn curve(&self, out: &mut String, points: &[(f64, f64)], colour: &str) {
        let placed: Vec<_> = points.iter().map(|(x, y)| self.place(*x, *y)).collect();
        line(out, &placed, colour, 2.0);
    }

    fn legend(&self, out: &mut String, row: usize, colour: &str, label: &str) {
        let (x, y) = (self.left + 14.0, TOP + 14.0 + 18.0 * row as f64);
        line(out, &[(x, y), (x + 22.0, y)], colour, 2.0);
        text(out, (x + 28.0, y + 4.0), "start", 11, label);
    }
}

// Writing to a string cannot fail.
fn line(out: &mut String, points: &[(f64, f64)], colour: &str, width: f64) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#,
        points.join(" ")
    );
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, label: &str) {
    let _ = writeln!(
        out,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{label}</text>"##
    );
}

/// The figure as SVG.
pub(crate) fn draw(findings: &Findings) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    hops(&mut out, findings);
    repair(&mut out, findings);
    out.push_str("</svg>\n");
    out
}

fn hops(out: &mut String, findings: &Findings) {
    let rings = &findings.lookups.rings;
    let log = |groups: usize| (groups as f64).log10();
    let (first, last) = (rings.first().map_or(1, |ring| ring.groups), rings.last().map_or(10, |ring| ring.groups));
    let most = rings.iter().map(|ring| ring.stranger.most.max(ring.stale.most)).max().unwrap_or(1) as f64;
    let panel = Panel {
        left: 60.0,
        title: "Cold look-ups: hops",
        across: "groups on the ring",
        x: (log(first), log(last).max(log(first) + 1.0)),
        y: (0.0, (most / 5.0).ceil() * 5.0 + 5.0),
    };
    let mut up = 0.0;
    while up <= panel.y.1 {
        panel.tick_up(out, up, &format!("{up}"));
        up += 5.0;
    }
    panel.frame(out);
    for ring in rings {
        panel.tick_across(out, log(ring.groups), &crate::report::grouped(ring.groups));
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
        panel.curve(out, &points, colour);
        panel.legend(out, row, colour, label);
    }
}

fn repair(out: &mut String, findings: &Findings) {
    let repair = &findings.repair;
    let end = repair.all_seconds.unwrap_or(repair.curve.last().map_or(1.0, |(at, _)| *at));
    let until = (end * 1.1 / 60.0).ceil() * 60.0;
    let panel = Panel {
        left: 510.0,
        title: "A tenth of the nodes vanishes: groups not yet whole",
        across: "seconds after",
        x: (0.0, until),
        y: (0.0, 100.0),
    };
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        panel.tick_up(out, percent, &format!("{percent} %"));
    }
    panel.frame(out);
    for part in 0..=4 {
        let at = until * f64::from(part) / 4.0;
        panel.tick_across(out, at, &format!("{at:.0}"));
    }
    let percent = |left: usize| left as f64 * 100.0 / repair.short.max(1) as f64;
    let points: Vec<_> =
        repair.curve.iter().filter(|(at, _)| *at <= until).map(|(at, left)| (*at, percent(*left))).collect();
    panel.curve(out, &points, COLOURS[0]);
}
