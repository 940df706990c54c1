//! The chart of the last hour: request rate, errors and p99, with a mark for each reload. It is SVG, without scripts.

use super::{Escaped, rounded};
use crate::{
    request_history::PeriodSummary,
    status::{PastReload, reload_record::ReloadOutcome},
};
use std::{
    fmt::{self, Display, Formatter, Write},
    time::Duration,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The width, in units of the drawing. A phone shows it with about as many pixels.
const WIDTH: f64 = 480.0;

/// The height of one panel: its title and its drawing.
const PANEL: f64 = 78.0;

/// The height of a panel's title.
const TITLE: f64 = 20.0;

/// The tops of the panels.
const TOPS: [f64; 3] = [0.0, PANEL, 2.0 * PANEL];

/// The chart of these periods, the current one last.
pub(super) struct RequestChart<'a> {
    pub(super) periods: &'a [PeriodSummary],
    pub(super) reloads: &'a [PastReload],
}

/// A value of each period, from 0 to the highest.
struct Panel<'a> {
    class: &'static str,
    title: &'static str,
    highest: f64,
    periods: &'a [PeriodSummary],
    value: fn(&PeriodSummary) -> f64,
}

impl Display for RequestChart<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let height = 3.0 * PANEL + TITLE;
        let requests: u64 = self.periods.iter().map(|period| period.requests).sum();
        let errors: u64 = self.periods.iter().map(|period| period.errors).sum();
        write!(
            f,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"in the last hour, requests: {requests}, errors: \
             {errors}\">"
        )?;
        let panels = [
            self.panel("rate", "requests per second", |period| per_second(period.requests, period)),
            self.panel("errors", "errors per second (5xx)", |period| per_second(period.errors, period)),
            self.panel("p99", "p99 in ms", |period| period.p99.map_or(0.0, |p99| p99.as_secs_f64() * 1000.0)),
        ];
        for (panel, top) in panels.iter().zip(TOPS) {
            panel.draw(f, top)?;
        }
        for reload in self.reloads {
            mark(f, reload)?;
        }
        // The titles last, so that they can be read.
        for (Panel { title, highest, .. }, top) in panels.iter().zip(TOPS) {
            let y = top + TITLE - 6.0;
            write!(f, "<text x=\"0\" y=\"{y:.1}\">{title}, at most {}</text>", rounded(*highest))?;
        }
        let baseline = height - 5.0;
        for (minutes, anchor) in [(60, "start"), (45, "middle"), (30, "middle"), (15, "middle"), (0, "end")] {
            let x = x_of(Duration::from_secs(minutes * 60));
            let text = if minutes == 0 { "now".to_owned() } else { format!("−{minutes} min") };
            write!(f, "<text x=\"{x:.1}\" y=\"{baseline}\" text-anchor=\"{anchor}\">{text}</text>")?;
        }
        f.write_str("</svg>")
    }
}

impl<'a> RequestChart<'a> {
    fn panel(&self, class: &'static str, title: &'static str, value: fn(&PeriodSummary) -> f64) -> Panel<'a> {
        let highest = self.periods.iter().map(value).fold(0.0, f64::max);
        Panel { class, title, highest, periods: self.periods, value }
    }
}

impl Panel<'_> {
    fn draw(&self, f: &mut Formatter<'_>, top: f64) -> fmt::Result {
        let (class, bottom) = (self.class, top + PANEL);
        let mut bars = String::new();
        let width = WIDTH / self.periods.len().max(1) as f64;
        for (i, period) in self.periods.iter().enumerate() {
            let value = (self.value)(period);
            if value > 0.0 {
                // A small value must be seen too.
                let bar = (value / self.highest * (PANEL - TITLE)).max(1.0);
                let left = i as f64 * width;
                write!(bars, "M{left:.1} {bottom:.1}v-{bar:.1}h{width:.1}v{bar:.1}z")?;
            }
        }
        write!(f, "<path class=\"{class}\" d=\"{bars}\"/><path class=\"axis\" d=\"M0 {bottom:.1}H{WIDTH}\"/>")
    }
}

/// Draws the mark of a reload, if it was in the last hour.
fn mark(f: &mut Formatter<'_>, reload: &PastReload) -> fmt::Result {
    // By the clock of the periods, which stands still while the machine is suspended: a mark belongs to its requests.
    let age = reload.started.elapsed();
    if age > HOUR {
        return Ok(());
    }
    let class = match reload.outcome {
        ReloadOutcome::Published => "published",
        ReloadOutcome::Unchanged => "unchanged",
        ReloadOutcome::Kept => "kept",
    };
    let (x, bottom) = (x_of(age), 3.0 * PANEL);
    write!(
        f,
        "<g class=\"reload {class}\"><title>{}</title><path d=\"M{x:.1} {TITLE}V{bottom:.1}\"/></g>",
        Escaped(format_args!("{}: reload ({}), {}", reload.started.at(), reload.trigger, reload.outcome)),
    )
}

fn x_of(age: Duration) -> f64 {
    WIDTH * (1.0 - age.as_secs_f64() / HOUR.as_secs_f64())
}

fn per_second(count: u64, period: &PeriodSummary) -> f64 {
    // The rate of a period that has just begun would jump.
    count as f64 / period.length.as_secs_f64().max(5.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{moment::Moment, status::reload_record::Trigger};
    use tokio::time::advance;

    const LENGTH: Duration = Duration::from_secs(15);

    fn chart(periods: &[PeriodSummary], reloads: &[PastReload]) -> String {
        RequestChart { periods, reloads }.to_string()
    }

    fn period(requests: u64, errors: u64, p99: u64) -> PeriodSummary {
        PeriodSummary { length: LENGTH, requests, errors, p99: Some(Duration::from_millis(p99)) }
    }

    /// Returns the number of bars of a panel.
    fn bars(svg: &str, class: &str) -> usize {
        let (_, path) = svg.split_once(&format!("<path class=\"{class}\" d=\"")).expect("the panel");
        let (path, _) = path.split_once('"').expect("its end");
        path.matches('M').count()
    }

    #[test]
    fn an_hour_without_a_request_is_drawn_without_bars() {
        for periods in [vec![], vec![PeriodSummary { length: LENGTH, ..PeriodSummary::default() }; 240]] {
            let svg = chart(&periods, &[]);
            assert!(svg.contains("requests per second, at most 0<") && !svg.contains("NaN"), "{svg}");
            assert_eq!(["rate", "errors", "p99"].map(|class| bars(&svg, class)), [0, 0, 0]);
        }
    }

    #[test]
    fn one_request_is_one_bar() {
        let mut periods = vec![PeriodSummary { length: LENGTH, ..PeriodSummary::default() }; 240];
        periods[120] = period(1, 0, 12);
        let svg = chart(&periods, &[]);
        assert_eq!(["rate", "errors", "p99"].map(|class| bars(&svg, class)), [1, 0, 1]);
        assert!(svg.contains("M240.0 78.0v-58.0h2.0v58.0z"), "in the middle, and as high as its panel: {svg}");
        assert!(svg.contains("at most 0.067<") && svg.contains("p99 in ms, at most 12<"), "{svg}");
    }

    #[test]
    fn a_full_hour_has_a_bar_per_period_and_fits_its_panels() {
        let periods: Vec<_> = (0..240).map(|i| period(1000 + i, i % 7, 5 + i)).collect();
        let svg = chart(&periods, &[]);
        assert_eq!(["rate", "p99"].map(|class| bars(&svg, class)), [240, 240]);
        let is_too_high = |bar: &str| bar.parse::<f64>().unwrap() > PANEL - TITLE;
        assert!(!svg.split("v-").skip(1).any(|bar| is_too_high(bar.split('h').next().unwrap())), "{svg}");
        assert!(svg.len() < 40_000, "{} bytes", svg.len());
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_of_the_last_hour_are_marked_by_outcome() {
        let reload = |outcome| PastReload {
            started: Moment::now(),
            trigger: Trigger::Signal,
            outcome,
            duration_ms: 20,
            exit_code: 0,
            generation: 2,
        };
        let old = reload(ReloadOutcome::Kept);
        advance(Duration::from_secs(1801)).await;
        let middle = reload(ReloadOutcome::Published);
        advance(Duration::from_secs(1800)).await;
        let now = reload(ReloadOutcome::Unchanged);
        let svg = chart(&[], &[old, middle, now]);
        assert!(!svg.contains("reload kept"), "it is older than an hour: {svg}");
        assert!(svg.contains("<g class=\"reload published\">") && svg.contains("M240.0 20V234.0"), "{svg}");
        assert!(svg.contains("<g class=\"reload unchanged\">") && svg.contains("M480.0 20V234.0"), "{svg}");
    }
}
