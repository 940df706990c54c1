//! The log as JSON: one object per line.

use super::{buffer::LogBuffer, escape::escape_json};
use crate::request_context::RequestContext;
use std::{
    borrow::Cow,
    cell::RefCell,
    fmt::{self, Write},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use time::OffsetDateTime;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{Layer, layer::Context};
use uuid::{Uuid, fmt::Simple};

/// The end of a value that was too long.
pub(super) const CUT: &str = "…";

/// The length of a line, in bytes, after which values are cut. What follows a cut value is short: names of fields, numbers
/// and the target.
pub(super) const LONGEST: usize = 16 * 1024;

/// The length of a target, in bytes, after which it is cut.
const LONGEST_TARGET: usize = 1024;

thread_local! {
    /// The memory for the next line of this thread.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that each line uses again.
#[derive(Default)]
struct Scratch {
    line: String,
    clock: LogClock,
    place: PlaceTexts,
}

/// The texts that each line from one place in the code has. Most lines come from the same place as the one before: they are
/// access lines.
#[derive(Default)]
struct PlaceTexts {
    /// The first field. Fields of two places are never equal. `None` if the place has none.
    first: Option<Field>,
    /// The names of the fields: escaped, in quotes, with the colon.
    names: Vec<String>,
    /// The target, escaped.
    target: String,
}

impl PlaceTexts {
    fn set(&mut self, metadata: &Metadata<'_>) {
        let first = metadata.fields().iter().next();
        if self.first != first || first.is_none() {
            self.names = metadata.fields().iter().map(|field| name_text(field.name())).collect();
            self.target = target_text(metadata.target());
            self.first = first;
        }
    }
}

fn target_text(target: &str) -> String {
    let mut text = String::new();
    escape_json(target, &mut text, LONGEST_TARGET);
    text
}

fn name_text(name: &str) -> String {
    let mut text = "\"".to_owned();
    escape_json(name, &mut text, usize::MAX);
    text.push_str("\":");
    text
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

impl JsonLayer {
    fn write(&self, event: &Event<'_>, Scratch { line, clock, place }: &mut Scratch) {
        place.set(event.metadata());
        // An event of the crate `log` has its own target in a field.
        let of_log = event.normalized_metadata();
        let (level, target) = match &of_log {
            Some(metadata) => (metadata.level(), Cow::Owned(target_text(metadata.target()))),
            None => (event.metadata().level(), Cow::Borrowed(&*place.target)),
        };
        let mut fields = EventFields { line: JsonLine::begin(line, clock, *level), names: &place.names };
        event.record(&mut fields);
        let is_cut = fields.line.is_cut;
        fields.line.end(&target, RequestContext::current());
        self.buffer.push(line, is_cut, Cow::Borrowed(event.metadata().target()));
    }
}

impl<S: Subscriber> Layer<S> for JsonLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let was_written = SCRATCH.try_with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => {
                self.write(event, &mut scratch);
                true
            }
            Err(_) => false,
        });
        // The memory is in use if a value logs while it is formatted, and gone if the thread is ending.
        if !was_written.unwrap_or(false) {
            self.write(event, &mut Scratch::default());
        }
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
        // The six digits that follow the first one.
        let micros = 1_000_000 + now.subsec_micros();
        out.push_str(&itoa::Buffer::new().format(micros)[1..]);
        out.push('Z');
    }
}

/// A line that is being written. Values go into it without a copy in between.
pub(super) struct JsonLine<'a> {
    text: &'a mut String,
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
        Self { text, is_cut: false }
    }

    /// Adds a field with a text.
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.text.push_str(&name_text(name));
        self.add_string(value);
    }

    /// Adds a field with a value that is JSON as it is.
    pub(super) fn json(&mut self, name: &str, value: &str) {
        self.text.push_str(&name_text(name));
        self.add_json(value);
    }

    fn add_string(&mut self, value: &str) {
        self.text.push('"');
        if !escape_json(value, self.text, LONGEST) {
            self.cut_value();
        }
        self.text.push_str("\",");
    }

    fn cut_value(&mut self) {
        self.text.push_str(CUT);
        self.is_cut = true;
    }

    fn add_json(&mut self, value: &str) {
        self.text.push_str(value);
        self.text.push(',');
    }

    /// Ends the line. `target` is as it stands in JSON.
    pub(super) fn end(self, target: &str, context: Option<RequestContext>) {
        // The comma after the last field.
        if self.text.ends_with(',') {
            self.text.pop();
        }
        self.text.push_str("},\"target\":\"");
        self.text.push_str(target);
        self.text.push('"');
        if let Some(RequestContext { trace_id, generation, .. }) = context {
            self.text.push_str(",\"trace_id\":\"");
            self.text.push_str(Uuid::from_u128(trace_id).simple().encode_lower(&mut [0; Simple::LENGTH]));
            self.text.push_str("\",\"generation\":");
            self.text.push_str(itoa::Buffer::new().format(generation));
        }
        if self.is_cut {
            self.text.push_str(",\"cut\":true");
        }
        self.text.push_str("}\n");
    }
}

/// The fields of an event, on their way into a line.
struct EventFields<'a> {
    line: JsonLine<'a>,
    /// The names, by the index of the field.
    names: &'a [String],
}

impl EventFields<'_> {
    fn json(&mut self, field: &Field, value: &str) {
        self.line.text.push_str(&self.names[field.index()]);
        self.line.add_json(value);
    }
}

impl Visit for EventFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.line.text.push_str(&self.names[field.index()]);
        self.line.add_string(value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.json(field, itoa::Buffer::new().format(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.json(field, itoa::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.json(field, if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.json(field, zmij::Buffer::new().format_finite(value));
        } else {
            self.json(field, "null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.line.text.push_str(&self.names[field.index()]);
        self.line.text.push('"');
        let _ = write!(EscapedValue::of(&mut self.line), "{value:?}");
        self.line.text.push_str("\",");
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
            self.line.cut_value();
            self.has_ended = true;
        }
        Err(fmt::Error)
    }
}
