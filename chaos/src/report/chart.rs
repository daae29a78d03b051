//! Charts as inline SVG: lines over the time of a run, with its faults as bands behind them.

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 120.0;
const LEFT: f64 = 56.0;

/// A line: values at times in seconds.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A fault as a band: its beginning and end in seconds, and what it was.
pub(super) struct Band {
    pub(super) begin: f64,
    pub(super) end: f64,
    pub(super) what: String,
}

/// One chart with a scale from 0 to its largest value.
pub(super) fn chart(title: &str, unit: &str, end: f64, lines: &[Line], bands: &[Band]) -> String {
    let most =
        lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y)).fold(0.0_f64, f64::max).max(1e-9);
    let x = |time: f64| LEFT + (WIDTH - LEFT) * (time / end.max(1.0)).clamp(0.0, 1.0);
    let y = |value: f64| HEIGHT - 14.0 - (HEIGHT - 24.0) * (value / most).clamp(0.0, 1.0);
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    for Band { begin, end, what } in bands {
        let width = (x(*end) - x(*begin)).max(1.5);
        // Writing to a String can't fail.
        let _ = write!(
            svg,
            "<rect class=\"band\" x=\"{:.1}\" y=\"8\" width=\"{width:.1}\" height=\"{}\"><title>{}</title></rect>",
            x(*begin),
            HEIGHT - 22.0,
            super::html::escape(what)
        );
    }
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{0}\" x2=\"{WIDTH}\" y2=\"{0}\"/><text x=\"0\" y=\"16\">{1}</text><text x=\"0\" y=\"{2}\">0</text><text x=\"{LEFT}\" y=\"{HEIGHT}\">0 s</text><text x=\"{WIDTH}\" y=\"{HEIGHT}\" text-anchor=\"end\">{end:.0} s</text>",
        HEIGHT - 14.0,
        number(most, unit),
        HEIGHT - 14.0
    );
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(time, value)| format!("{:.1},{:.1}", x(*time), y(*value))).collect();
        let _ = write!(svg, "<polyline class=\"line{index}\" points=\"{}\"/>", points.join(" "));
    }
    svg.push_str("</svg><div class=\"legend\">");
    for (index, line) in lines.iter().enumerate() {
        let _ = write!(svg, "<span class=\"key{index}\">{}</span> ", line.name);
    }
    svg.push_str("</div></figure>");
    svg
}

fn number(value: f64, unit: &str) -> String {
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {unit}")
}
