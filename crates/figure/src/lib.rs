//! Figures as SVG, drawn by hand: panels with axes, curves and marks. The same values give the same bytes.
//! A figure and what is to be said about it go into a document between markers ([`document`]).

pub mod document;

use std::fmt::Write;

/// Colours that are told apart in print and by most eyes.
pub const COLOURS: [&str; 4] = ["#1b6ca8", "#d1495b", "#2e8b57", "#8a6d3b"];

/// A figure in the making.
#[derive(Clone, Debug)]
pub struct Figure {
    out: String,
}

impl Figure {
    /// An empty one of so many pixels.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Self {
        let out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        Self { out }
    }

    /// The finished document.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    // Writing to a string cannot fail.

    /// A line through points, in pixels.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.out,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#,
            points.join(" ")
        );
    }

    /// A word at a place, in pixels; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, label: &str) {
        let label = label.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.out,
            r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{label}</text>"##
        );
    }
}

/// One set of axes: where it lies in the figure, and which values it shows.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// Pixels from the figure's left edge to the axis.
    pub left: f64,
    /// Pixels from the figure's upper edge.
    pub top: f64,
    /// Pixels between the ends of the lower axis.
    pub width: f64,
    /// Pixels between the ends of the left axis.
    pub height: f64,
    /// What is shown.
    pub title: &'a str,
    /// What the lower axis counts.
    pub across: &'a str,
    /// The values at the ends of the lower axis.
    pub x: (f64, f64),
    /// The values at the ends of the left axis.
    pub y: (f64, f64),
}

impl Panel<'_> {
    /// Where values lie, in pixels.
    #[must_use]
    pub fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |value: f64, (from, to): (f64, f64)| (value - from) / (to - from);
        (self.left + part(x, self.x) * self.width, self.top + (1.0 - part(y, self.y)) * self.height)
    }

    /// Draws the axes and what they are called.
    pub fn frame(&self, figure: &mut Figure) {
        let bottom = self.top + self.height;
        figure.text((self.left, self.top - 18.0), "start", 14, self.title);
        figure.text((self.left + self.width / 2.0, bottom + 40.0), "middle", 12, self.across);
        let right = self.left + self.width;
        figure.line(&[(self.left, self.top), (self.left, bottom), (right, bottom)], "#444", 1.0);
    }

    /// A tick of the lower axis.
    pub fn tick_across(&self, figure: &mut Figure, x: f64, label: &str) {
        let (at, bottom) = self.place(x, self.y.0);
        figure.line(&[(at, bottom), (at, bottom + 5.0)], "#444", 1.0);
        figure.text((at, bottom + 20.0), "middle", 11, label);
    }

    /// A tick of the left axis, with a line across the panel.
    pub fn tick_up(&self, figure: &mut Figure, y: f64, label: &str) {
        let (left, at) = self.place(self.x.0, y);
        figure.line(&[(left, at), (left + self.width, at)], "#ddd", 1.0);
        figure.text((left - 6.0, at + 4.0), "end", 11, label);
    }

    /// A line through values.
    pub fn curve(&self, figure: &mut Figure, points: &[(f64, f64)], colour: &str) {
        let placed: Vec<_> = points.iter().map(|(x, y)| self.place(*x, *y)).collect();
        figure.line(&placed, colour, 2.0);
    }

    /// An upright line at `x` over a part of the height: 0 is the lower axis, 1 the upper edge.
    pub fn mark(&self, figure: &mut Figure, x: f64, (from, to): (f64, f64), colour: &str) {
        let (at, _) = self.place(x, self.y.0);
        let up = |part: f64| self.top + (1.0 - part) * self.height;
        figure.line(&[(at, up(from)), (at, up(to))], colour, 1.0);
    }

    /// What a colour means, in a row of its own, counted from the top.
    pub fn legend(&self, figure: &mut Figure, row: usize, colour: &str, label: &str) {
        let (x, y) = (self.left + 14.0, self.top + 14.0 + 18.0 * row as f64);
        figure.line(&[(x, y), (x + 22.0, y)], colour, 2.0);
        figure.text((x + 28.0, y + 4.0), "start", 11, label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANEL: Panel<'_> = Panel {
        left: 10.0,
        top: 20.0,
        width: 100.0,
        height: 50.0,
        title: "t",
        across: "a",
        x: (0.0, 10.0),
        y: (100.0, 200.0),
    };

    #[test]
    fn values_lie_where_the_axes_say() {
        assert_eq!(PANEL.place(0.0, 100.0), (10.0, 70.0));
        assert_eq!(PANEL.place(10.0, 200.0), (110.0, 20.0));
        assert_eq!(PANEL.place(5.0, 150.0), (60.0, 45.0));
    }

    #[test]
    fn a_figure_is_a_whole_document() {
        let mut figure = Figure::new(120.0, 80.0);
        PANEL.frame(&mut figure);
        PANEL.curve(&mut figure, &[(0.0, 100.0), (10.0, 200.0)], COLOURS[0]);
        PANEL.mark(&mut figure, 5.0, (0.0, 0.5), COLOURS[1]);
        figure.text((1.0, 1.0), "start", 9, "p < 1 & more");
        let text = figure.finish();
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains(r#"points="10.0,70.0 110.0,20.0""#), "{text}");
        assert!(text.contains(r#"points="60.0,70.0 60.0,45.0""#), "{text}");
        assert!(text.contains("p &lt; 1 &amp; more"), "{text}");
    }
}
