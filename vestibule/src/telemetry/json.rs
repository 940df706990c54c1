//! The log as JSON: one object per line.

use super::{
    buffer::LogBuffer,
    escape::{escape_json, is_plain},
};
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
    field::{Field, FieldSet, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{Layer, layer::Context};
use uuid::{Uuid, fmt::Simple};

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
    /// The first field of the last line whose names of fields need no escape.
    plain: Option<Field>,
}

impl Scratch {
    /// Returns `true` if no name of these fields needs an escape. It looks at them once while lines come from the same place
    /// in the code, as most do: they are access lines. Fields of two places are never equal.
    fn has_plain_names(&mut self, fields: &FieldSet) -> bool {
        let first = fields.iter().next();
        if self.plain != first {
            if !fields.iter().all(|field| is_plain(field.name())) {
                return false;
            }
            self.plain = first;
        }
        true
    }
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
        let has_plain_names = scratch.has_plain_names(event.metadata().fields());
        let mut line = JsonLine::begin(&mut scratch.line, &mut scratch.clock, *metadata.level());
        line.has_plain_names = has_plain_names;
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
        // The six digits that follow the first one.
        let micros = 1_000_000 + now.subsec_micros();
        out.push_str(&itoa::Buffer::new().format(micros)[1..]);
        out.push('Z');
    }
}

/// A line that is being written. Values go into it without a copy in between.
pub(super) struct JsonLine<'a> {
    text: &'a mut String,
    /// `true` if no name of a field needs an escape.
    has_plain_names: bool,
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
        Self { text, has_plain_names: false, is_cut: false }
    }

    /// Adds a text.
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text.push('"');
        let _ = EscapedValue::of(self).write_str(value);
        self.text.push_str("\",");
    }

    /// Adds a value that is JSON as it is.
    pub(super) fn json(&mut self, name: &str, value: &str) {
        self.name(name);
        self.text.push_str(value);
        self.text.push(',');
    }

    /// Ends the line.
    pub(super) fn end(self, target: &str, context: Option<RequestContext>) {
        // The comma after the last field.
        if self.text.ends_with(',') {
            self.text.pop();
        }
        self.text.push_str("},\"target\":\"");
        escape_json(target, self.text, LONGEST + 1024);
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

    fn name(&mut self, name: &str) {
        self.text.push('"');
        if self.has_plain_names {
            self.text.push_str(name);
        } else {
            escape_json(name, self.text, usize::MAX);
        }
        self.text.push_str("\":");
    }
}

impl Visit for JsonLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.json(field.name(), itoa::Buffer::new().format(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.json(field.name(), itoa::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.json(field.name(), if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.json(field.name(), zmij::Buffer::new().format_finite(value));
        } else {
            self.json(field.name(), "null");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field.name());
        self.text.push('"');
        let _ = write!(EscapedValue::of(self), "{value:?}");
        self.text.push_str("\",");
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
