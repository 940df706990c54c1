//! The log as JSON: one object per line.

use super::{buffer::LogBuffer, escape::escape_json};
use crate::request_context::RequestContext;
use std::{
    borrow::Cow,
    cell::Cell,
    fmt::{self, Write},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use time::OffsetDateTime;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{Layer, layer::Context};

/// The length of a line, in bytes, after which values are cut. What follows a cut value is short: names of fields, numbers
/// and the target.
pub(super) const LONGEST: usize = 16 * 1024;

thread_local! {
    /// The memory for the next line of this thread. It is taken out while a line is written: a value that logs while it is
    /// formatted gets other memory.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Memory that each line uses again.
#[derive(Default)]
struct Scratch {
    line: String,
    clock: LogClock,
}

/// A layer that writes each event as one line of JSON. Spans are not written.
pub(crate) struct JsonLayer {
    buffer: Arc<LogBuffer>,
}

impl JsonLayer {
    pub(crate) fn new(buffer: Arc<LogBuffer>) -> Self {
        Self { buffer }
    }
}

impl<S: Subscriber> Layer<S> for JsonLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // An event of the crate `log` has its own target in a field.
        let of_log = event.normalized_metadata();
        let metadata = of_log.as_ref().unwrap_or_else(|| event.metadata());
        // The thread may be ending: then it has no memory of its own any more.
        let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let mut line = JsonLine::begin(&mut scratch.line, &mut scratch.clock, *metadata.level());
        event.record(&mut line);
        line.end(metadata.target(), RequestContext::current());
        self.buffer.push(&scratch.line, Cow::Borrowed(event.metadata().target()));
        let _ = SCRATCH.try_with(|place| place.set(scratch));
    }
}

/// The wall clock, as text. It formats the date once a second.
#[derive(Default)]
pub(super) struct LogClock {
    second: u64,
    /// The date and the time of that second. Empty before the first use.
    text: String,
}

impl LogClock {
    /// Appends the time, in the form `2026-02-15T18:47:10.821315Z`.
    pub(super) fn write(&mut self, out: &mut String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != now.as_secs() || self.text.is_empty() {
            self.second = now.as_secs();
            let date =
                i64::try_from(self.second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            let date = date.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let (year, month, day) = date.to_calendar_date();
            let (hour, minute, second) = date.to_hms();
            self.text.clear();
            let month = u8::from(month);
            let _ = write!(self.text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.");
        }
        out.push_str(&self.text);
        let _ = write!(out, "{:06}Z", now.subsec_micros());
    }
}

/// A line that is being written. Values go into it without a copy in between.
pub(super) struct JsonLine<'a> {
    text: &'a mut String,
    has_fields: bool,
    is_cut: bool,
}

impl<'a> JsonLine<'a> {
    pub(super) fn begin(text: &'a mut String, clock: &mut LogClock, level: Level) -> Self {
        text.clear();
        text.push_str("{\"timestamp\":\"");
        clock.write(text);
        text.push_str("\",\"level\":\"");
        text.push_str(level.as_str());
        text.push_str("\",\"fields\":{");
        Self { text, has_fields: false, is_cut: false }
    }

    /// Adds a text.
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text.push('"');
        let _ = EscapedValue::of(self).write_str(value);
        self.text.push('"');
    }

    /// Adds a number or a truth value, which JSON takes as it is displayed.
    pub(super) fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// Ends the line.
    pub(super) fn end(self, target: &str, context: Option<RequestContext>) {
        self.text.push_str("},\"target\":\"");
        escape_json(target, self.text, LONGEST + 1024);
        self.text.push('"');
        if let Some(RequestContext { trace_id, generation, .. }) = context {
            let _ = write!(self.text, ",\"trace_id\":\"{trace_id:032x}\",\"generation\":{generation}");
        }
        if self.is_cut {
            self.text.push_str(",\"cut\":true");
        }
        self.text.push_str("}\n");
    }

    fn name(&mut self, name: &str) {
        self.text.push_str(if self.has_fields { ",\"" } else { "\"" });
        self.has_fields = true;
        escape_json(name, self.text, usize::MAX);
        self.text.push_str("\":");
    }
}

impl Visit for JsonLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            // `Debug` keeps the point of `1.0`, and is JSON for every finite number.
            self.plain(field.name(), format_args!("{value:?}"));
        } else {
            self.plain(field.name(), "null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field.name());
        self.text.push('"');
        let _ = write!(EscapedValue::of(self), "{value:?}");
        self.text.push('"');
    }
}

/// The place of a value within a line. It escapes what is written, and ends the value where the line is full.
struct EscapedValue<'a, 'line> {
    line: &'a mut JsonLine<'line>,
    has_ended: bool,
}

impl<'a, 'line> EscapedValue<'a, 'line> {
    fn of(line: &'a mut JsonLine<'line>) -> Self {
        Self { line, has_ended: false }
    }
}

impl Write for EscapedValue<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A value may go on writing after an error.
        if !self.has_ended && escape_json(text, self.line.text, LONGEST) {
            return Ok(());
        }
        if !self.has_ended {
            self.line.text.push('…');
            self.line.is_cut = true;
            self.has_ended = true;
        }
        Err(fmt::Error)
    }
}
