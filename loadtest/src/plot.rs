//! The plot: latency and throughput against concurrency as one SVG, both axes logarithmic, written
//! directly. Colours follow the reader's light or dark setting.

use std::fmt::Write as _;

/// A line: its points are pairs of concurrency and value, both above 0.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Class of the colour: 0 to 2 are ours, 3 and 4 references.
    pub colour: usize,
    /// The points, by concurrency.
    pub points: Vec<(f64, f64)>,
}

/// One half of the plot.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Heading, with the unit.
    pub title: String,
    /// Lines; without any points the panel stays empty.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 360.0;
/// Room for titles and labels: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (58.0, 34.0, 12.0, 104.0);

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:14px}\
.grid{stroke:#8884;stroke-width:1}.line{fill:none;stroke-width:2}.reference{stroke-dasharray:5 4}\
.c0{stroke:#0b7285}.c1{stroke:#1c7ed6}.c2{stroke:#7048e8}.c3{stroke:#e8590c}.c4{stroke:#868e96}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.c0{stroke:#3bc9db}.c1{stroke:#74c0fc}\
.c2{stroke:#b197fc}.c3{stroke:#ffa94d}.c4{stroke:#adb5bd}}";

/// Both panels side by side.
#[must_use]
pub fn svg(title: &str, panels: &[Panel]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\">\
         \n<title>{}</title>\n<style>{STYLE}</style>\n",
        escape(title)
    );
    for (index, panel) in panels.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
        let left = WIDTH * index as f64;
        let _ = writeln!(out, "<g transform=\"translate({left} 0)\">");
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// A logarithmic axis from `low` to `high`, drawn from `start` to `end`.
struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.start + share * (self.end - self.start)
    }
}

fn draw(out: &mut String, panel: &Panel) {
    let (left, top, right, bottom) = MARGIN;
    label(out, "title", left, 20.0, "start", &panel.title);
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let Some((values, counts)) = extent(points().map(|p| p.1)).zip(extent(points().map(|p| p.0)))
    else {
        return;
    };
    // Whole decades upwards; concurrency ends exactly where the points end.
    let (low, high) = (10_f64.powf(values.0.log10().floor()), 10_f64.powf(values.1.log10().ceil()));
    let high = if high > low { high } else { low * 10.0 };
    let y = Axis { low, high, start: HEIGHT - bottom, end: top };
    let last = if counts.1 > counts.0 { counts.1 } else { counts.0 * 2.0 };
    let x = Axis { low: counts.0, high: last, start: left, end: WIDTH - right };

    let mut tick = y.low;
    while tick <= y.high * 1.001 {
        let at = y.at(tick);
        line(out, "grid", (left, at), (WIDTH - right, at));
        label(out, "", left - 6.0, at + 4.0, "end", &format!("{}", rounded(tick)));
        tick *= 10.0;
    }
    let mut tick = x.low;
    while tick <= x.high * 1.001 {
        let at = x.at(tick);
        line(out, "grid", (at, top), (at, HEIGHT - bottom));
        label(out, "", at, HEIGHT - bottom + 16.0, "middle", &format!("{}", rounded(tick)));
        tick *= 2.0;
    }
    label(out, "", (left + WIDTH) / 2.0, HEIGHT - bottom + 32.0, "middle", "requests at a time");
    for (index, series) in panel.series.iter().enumerate() {
        draw_series(out, series, index, &x, &y);
    }
}

fn draw_series(out: &mut String, series: &Series, index: usize, x: &Axis, y: &Axis) {
    let dashes = if series.colour > 2 { " reference" } else { "" };
    let class = format!("line c{}{dashes}", series.colour);
    let mut path = String::new();
    for (count, value) in &series.points {
        let _ = write!(path, "{:.1},{:.1} ", x.at(*count), y.at(*value));
    }
    let _ = writeln!(out, "<polyline class=\"{class}\" points=\"{}\"/>", path.trim_end());
    #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
    let (column, row) = ((index % 2) as f64, (index / 2) as f64);
    let (left, top) = (MARGIN.0 + 200.0 * column, HEIGHT - MARGIN.3 + 54.0 + 18.0 * row);
    line(out, &class, (left, top - 4.0), (left + 22.0, top - 4.0));
    label(out, "", left + 28.0, top, "start", &series.name);
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| *value > 0.0).fold(None, |extent, value| {
        let (low, high) = extent.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// Ticks below 1 are powers of ten that a float holds only nearly.
fn rounded(tick: f64) -> f64 {
    (tick * 1e6).round() / 1e6
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn label(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(points: Vec<(f64, f64)>) -> String {
        let series = vec![
            Series { name: "p50 <ours> & theirs".into(), colour: 0, points: points.clone() },
            Series { name: "docker exec".into(), colour: 3, points },
        ];
        let panel = Panel { title: "Latency, ms".into(), series };
        svg("A & B", &[panel.clone(), panel])
    }

    /// Every tag is closed in order, and no text holds a bare `&`.
    fn assert_well_formed(xml: &str) {
        let mut open: Vec<&str> = Vec::new();
        for piece in xml.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("every tag ends");
            assert!(!text.contains('>'), "{text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
            for after in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;"].iter().any(|name| after.starts_with(name)));
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn plot_is_well_formed_and_finite_whatever_the_points() {
        for points in [
            vec![(1.0, 0.4), (2.0, 0.5), (64.0, 250.0)],
            vec![(1.0, 10.0)],
            vec![(4.0, 1.0), (4.0, 1.0)],
            Vec::new(),
        ] {
            let svg = example(points);
            assert_well_formed(&svg);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_higher_value_is_drawn_higher_and_inside() {
        let axis = Axis { low: 1.0, high: 100.0, start: 200.0, end: 0.0 };
        assert!((axis.at(10.0) - 100.0).abs() < 1e-9);
        assert!(axis.at(100.0) < axis.at(1.0));
    }

    #[test]
    fn names_are_escaped() {
        assert!(example(vec![(1.0, 1.0)]).contains("p50 &lt;ours&gt; &amp; theirs"));
    }
}
