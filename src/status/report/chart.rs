//! A measure over time, as a line with points or as bars.
//!
//! What must stay true: the axis begins at zero, so that no small change looks large; each point tells its value in words.

use jiff::Timestamp;
use maud::{Markup, html};

/// Size of a drawing, and what is around the plot for labels.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const ABOVE: f64 = 8.0;
const BELOW: f64 = 20.0;
/// Lines across.
const STEPS: u32 = 3;

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// What stands at a moment.
    Line,
    /// What comes with each.
    Bars,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub at: Timestamp,
    pub value: f64,
    /// What it is, in words.
    pub words: String,
}

/// A chart.
pub(super) struct Chart<'a> {
    /// What is measured.
    pub title: &'a str,
    pub form: Form,
    pub points: &'a [Point],
    /// A value that should not be exceeded, and what it is.
    pub limit: Option<(f64, String)>,
    /// Writes a value of the axis.
    pub write: &'a dyn Fn(f64) -> String,
    /// Writes a day of the axis.
    pub day: &'a dyn Fn(Timestamp) -> String,
}

impl Chart<'_> {
    /// Draws it; nothing to see is said.
    pub(super) fn draw(&self) -> Markup {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return html! { figure { figcaption { (self.title) } p.nothing { "Nothing yet" } } };
        };
        let top = self.top();
        html! {
            figure {
                figcaption { (self.title) }
                svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.summary(first, last)) {
                    (self.grid(top))
                    @match self.form {
                        Form::Line => (self.line(top)),
                        Form::Bars => (self.bars(top)),
                    }
                    @if let Some((limit, words)) = &self.limit {
                        line.limit x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(*limit, top)) y2=(y(*limit, top)) { title { (words) } }
                    }
                    text.label x=(LEFT) y=(HEIGHT - 4.0) { ((self.day)(first.at)) }
                    text.label x=(WIDTH - RIGHT) y=(HEIGHT - 4.0) text-anchor="end" { ((self.day)(last.at)) }
                }
            }
        }
    }

    fn top(&self) -> f64 {
        let values = self.points.iter().map(|point| point.value).chain(self.limit.iter().map(|(limit, _)| *limit));
        values.fold(0.0, f64::max).max(f64::MIN_POSITIVE)
    }

    fn summary(&self, first: &Point, last: &Point) -> String {
        let limit = self.limit.as_ref().map_or_else(String::new, |(_, words)| format!("; {words}"));
        format!(
            "{}, {} values from {} ({}) to {} ({}){limit}",
            self.title,
            self.points.len(),
            (self.day)(first.at),
            first.words,
            (self.day)(last.at),
            last.words
        )
    }

    fn grid(&self, top: f64) -> Markup {
        let values = (0..=STEPS).map(|step| top * f64::from(step) / f64::from(STEPS));
        html! {
            @for value in values {
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(value, top)) y2=(y(value, top)) {}
                text.label x=(LEFT - 6.0) y=(y(value, top) + 3.5) text-anchor="end" { ((self.write)(value)) }
            }
        }
    }

    fn line(&self, top: f64) -> Markup {
        let places: Vec<String> =
            self.points.iter().map(|point| format!("{:.1},{:.1}", self.x(point.at), y(point.value, top))).collect();
        html! {
            polyline.line points=(places.join(" ")) {}
            @for point in self.points {
                circle.point cx=(round(self.x(point.at))) cy=(round(y(point.value, top))) r="2" {
                    title { ((self.day)(point.at)) ": " (point.words) }
                }
            }
        }
    }

    fn bars(&self, top: f64) -> Markup {
        let room = (WIDTH - LEFT - RIGHT) / self.points.len() as f64;
        let width = (room * 0.7).clamp(1.0, 10.0);
        html! {
            @for point in self.points {
                rect.bar x=(round((self.x(point.at) - width / 2.0).clamp(LEFT, WIDTH - RIGHT - width))) y=(round(y(point.value, top)))
                    width=(round(width)) height=(round(y(0.0, top) - y(point.value, top))) {
                    title { ((self.day)(point.at)) ": " (point.words) }
                }
            }
        }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let seconds = |time: Timestamp| time.as_second() as f64;
        let (first, last) = match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) => (seconds(first.at), seconds(last.at)),
            _ => return LEFT,
        };
        let share = if last > first { (seconds(at) - first) / (last - first) } else { 0.5 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn y(value: f64, top: f64) -> f64 {
    HEIGHT - BELOW - value / top * (HEIGHT - ABOVE - BELOW)
}

fn round(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[Point], limit: Option<(f64, String)>) -> String {
        let write = |value: f64| format!("{value:.0}");
        let day = |time: Timestamp| time.strftime("%F").to_string();
        Chart { title: "Size", form: Form::Line, points, limit, write: &write, day: &day }.draw().into_string()
    }

    #[test]
    fn any_values_can_be_drawn() {
        let point =
            |at: i64, value: f64| Point { at: Timestamp::from_second(at).unwrap(), value, words: "<b>".to_owned() };
        assert!(chart(&[], None).contains("Nothing yet"));
        for points in [vec![point(0, 0.0)], vec![point(5, 1.0), point(5, 2.0)], vec![point(0, 1e18), point(9, 0.0)]] {
            let drawn = chart(&points, Some((3.0, "at most 3".to_owned())));
            assert!(!drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("<b>"), "{drawn}");
        }
    }
}
