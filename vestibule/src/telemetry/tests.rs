//! Tests of the layer, the buffer and the writer, without a thread.

use super::{
    buffer::{DropReason, LogBuffer},
    json::{JsonLayer, LONGEST},
    live_secrets,
    text::TextWriter,
    writer::LogWriter,
};
use crate::{config::settings::LogFormat, request_context::RequestContext, secrets::secret_parts::SecretParts};
use serde_json::{Value, json};
use std::{
    any::Any,
    borrow::Cow,
    fmt,
    io::{self, ErrorKind, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tracing_log::log;
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::SubscriberExt};

/// A file in memory that may be full.
#[derive(Clone, Default)]
struct LogFile(Arc<Mutex<FileState>>);

#[derive(Default)]
struct FileState {
    text: Vec<u8>,
    /// The largest number of bytes. `None` if there is always room.
    room: Option<usize>,
}

impl LogFile {
    /// Lets the file grow up to this many bytes.
    fn limit(&self, room: impl Into<Option<usize>>) {
        self.0.lock().unwrap().room = room.into();
    }

    /// Returns the text so far, and empties the file.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().unwrap().text)).unwrap()
    }

    fn take_events(&self) -> Vec<Value> {
        self.take().lines().map(|line| line.parse().unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }
}

impl Write for LogFile {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap();
        let room = file.room.map_or(text.len(), |room| room.saturating_sub(file.text.len()).min(text.len()));
        if room == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        file.text.extend_from_slice(&text[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A log, with its buffer and its file. The thread is the test.
struct TestLog {
    buffer: Arc<LogBuffer>,
    file: LogFile,
    writer: LogWriter<LogFile>,
}

impl TestLog {
    fn new(format: LogFormat) -> Self {
        let (buffer, file) = (Arc::<LogBuffer>::default(), LogFile::default());
        let writer = LogWriter::new(buffer.clone(), format, file.clone());
        Self { buffer, file, writer }
    }

    fn push(&self, line: &str) {
        self.buffer.push(&format!("{line}\n"), false, Cow::Borrowed("a::target"));
    }

    /// Calls `log` with this log installed, writes, and returns the events.
    fn events(&mut self, log: impl FnOnce()) -> Vec<Value> {
        let subscriber = tracing_subscriber::registry().with(JsonLayer::new(self.buffer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        self.writer.write_next();
        self.file.take_events()
    }

    fn dropped(&self) -> [u64; 2] {
        [DropReason::Full, DropReason::Unwritable].map(|reason| self.buffer.counters.dropped(reason).get())
    }
}

fn json_log() -> TestLog {
    TestLog::new(LogFormat::Json)
}

/// Logs a value of each type.
fn log_each_type() {
    let error = io::Error::other("no \"room\"\n");
    let error: &(dyn std::error::Error + 'static) = &error;
    tracing::info!(
        text = "a \"text\"\tof é😀\u{1b}[31m",
        text.debug = ?"a \"text\"",
        text.display = %"a \\ text",
        "number \"i\"" = -7,
        number.u = u64::MAX,
        number.i = i64::MIN,
        number.large = u128::MAX,
        float = 1.0,
        float.small = 1e-9,
        float.large = -1.5e300,
        float.nan = f64::NAN,
        float.infinite = f64::INFINITY,
        is_true = true,
        bytes = &b"\x00\xff"[..],
        nothing = Option::<u64>::None,
        some = Some(3),
        error,
        "a message with {} and \"quotes\"",
        3
    );
    tracing::error!(target: "another \"target\"", "no fields");
    tracing::warn!(only = "fields");
    let span = tracing::info_span!("span", of = "no interest");
    span.in_scope(|| tracing::debug!("in a span"));
    tracing::event!(target: "one::without::fields", tracing::Level::INFO, {});
    tracing::event!(target: "another::without::fields", tracing::Level::INFO, {});
    let mut record = log::Record::builder();
    record.level(log::Level::Warn).target("of::the::crate::log").line(Some(7));
    tracing_log::format_trace(&record.args(format_args!("by the crate `log`")).build()).unwrap();
}

#[test]
fn a_line_is_the_one_of_the_stock_format() {
    let stock = LogFile::default();
    let mut log = json_log();
    let format = tracing_subscriber::fmt::layer().json().with_current_span(false).with_span_list(false);
    let subscriber =
        tracing_subscriber::registry().with(JsonLayer::new(log.buffer.clone())).with(format.with_writer(stock.clone()));
    tracing::subscriber::with_default(subscriber, log_each_type);
    log.writer.write_next();
    let (ours, stock) = (log.file.take(), stock.take());
    assert_eq!(ours.lines().count(), 7);
    assert!(ours.contains("\"target\":\"of::the::crate::log\""), "{ours}");
    for (ours, stock) in ours.lines().zip(stock.lines()) {
        let place = |line: &str, key: &str| line.find(key).unwrap_or_else(|| panic!("no {key} in {line}"));
        for key in ["\"timestamp\":", "\"level\":", "\"fields\":", "\"target\":"] {
            assert!(place(ours, key) > 0 && place(stock, key) > 0);
        }
        let [mut ours, mut stock] = [ours, stock].map(|line| line.parse::<Value>().unwrap());
        let times = [&mut ours, &mut stock].map(|line| line["timestamp"].take());
        assert_eq!(ours, stock);
        let [at, stock_at] = times.map(|time| {
            let text = time.as_str().unwrap().to_owned();
            assert_eq!(text.len(), "2026-02-15T18:47:10.821315Z".len(), "{text}");
            time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339).unwrap()
        });
        assert!((stock_at - at).abs() < time::Duration::seconds(5), "{at} and {stock_at}");
    }
}

#[test]
fn a_line_of_a_request_has_its_ids() {
    let context = RequestContext { trace_id: 0xabc, generation: 7, debug: false, span: None };
    let events = json_log().events(|| {
        context.within(|| tracing::info!("within"));
        tracing::info!("outside");
    });
    assert_eq!(events[0]["trace_id"], "00000000000000000000000000000abc");
    assert_eq!(events[0]["generation"], 7);
    assert!(events[1].get("trace_id").is_none() && events[1].get("generation").is_none());
}

#[test]
fn a_long_line_is_cut_is_marked_and_is_still_json() {
    let long = "é\"".repeat(20_000);
    let events = json_log().events(|| {
        tracing::info!(first = 1, long = %long, after = "gone", number = 2, "a message");
        tracing::info!(debug = ?long, "another one");
        tracing::info!("short");
    });
    for event in &events[..2] {
        assert_eq!(event["cut"], true);
        let length = event.to_string().len();
        assert!((15_000..18_000).contains(&length), "{length}");
    }
    let fields = &events[0]["fields"];
    assert!(fields["long"].as_str().unwrap().ends_with('…'));
    assert_eq!((&fields["first"], &fields["after"], &fields["number"]), (&json!(1), &json!("…"), &json!(2)));
    assert!(events[2].get("cut").is_none(), "{}", events[2]);
}

/// A value that logs while it is formatted.
struct Talkative;

impl fmt::Display for Talkative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tracing::info!("inner");
        f.write_str("a value")
    }
}

#[test]
fn a_value_may_log_while_it_is_formatted() {
    // Our layer alone: tracing itself ignores an event within an event.
    let mut log = json_log();
    let events = log.events(|| tracing::info!(value = %Talkative, "outer"));
    let outer = events.last().unwrap();
    assert_eq!((&outer["fields"]["message"], &outer["fields"]["value"]), (&json!("outer"), &json!("a value")));
}

#[test]
fn a_full_buffer_drops_the_newest_lines_and_the_log_says_how_many() {
    let mut log = json_log();
    for number in 0..20_000 {
        log.push(&json!({ "number": number }).to_string());
    }
    let kept = 16 * 1024;
    assert_eq!(log.dropped(), [20_000 - kept, 0]);
    log.writer.write_next();
    let mut events = log.file.take_events();
    let said = events.pop().unwrap();
    assert_eq!((&said["level"], &said["target"]), (&json!("WARN"), &json!("vestibule::telemetry")));
    assert_eq!((&said["fields"]["log.full"], &said["fields"]["log.unwritable"]), (&json!(20_000 - kept), &json!(0)));
    assert_eq!((events.len() as u64, &events[events.len() - 1]["number"]), (kept, &json!(kept - 1)));
    let events = log.events(|| tracing::info!("flows again"));
    assert_eq!((events.len(), &events[0]["fields"]["message"]), (1, &json!("flows again")));
}

#[test]
fn the_buffer_is_bounded_by_bytes_too() {
    let mut log = json_log();
    for _ in 0..5 {
        log.push(&"x".repeat(1024 * 1024));
    }
    assert_eq!(log.dropped(), [2, 0]);
    log.writer.write_next();
    assert!(log.file.take().len() < 4 * 1024 * 1024);
}

#[test]
fn what_cannot_be_written_is_counted_and_said_when_it_can_be_again() {
    let mut log = json_log();
    log.file.limit(0);
    for line in ["{\"one\":1}", "{\"two\":2}", "{\"three\":3}"] {
        log.push(line);
    }
    log.writer.write_next();
    assert_eq!((log.dropped(), log.file.take()), ([0, 3], String::new()));
    // Nobody waits for lines that nobody will get.
    log.push("{\"four\":4}");
    let start = Instant::now();
    log.buffer.wait_until_written(Duration::from_secs(60));
    assert!(start.elapsed() < Duration::from_secs(10));
    // The disk has room for a line and a half.
    log.push("{\"five\":5}");
    log.file.limit(16);
    log.writer.write_next();
    assert_eq!(log.dropped(), [0, 4]);
    assert_eq!(log.file.0.lock().unwrap().text, b"{\"four\":4}\n{\"fiv");
    log.file.limit(None);
    let text = log.file.take();
    log.push("{\"six\":6}");
    log.writer.write_next();
    let text = text + &log.file.take();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["{\"four\":4}", "{\"fiv", "{\"six\":6}"]);
    let said: Value = lines[3].parse().unwrap();
    assert_eq!((&said["fields"]["log.full"], &said["fields"]["log.unwritable"]), (&json!(0), &json!(4)));
}

#[test]
fn a_flush_waits_for_the_thread_but_not_for_ever() {
    let log = json_log();
    log.buffer.wait_until_written(Duration::from_secs(60));
    log.push("{}");
    log.buffer.wait_until_written(Duration::from_millis(20));
    let TestLog { buffer, file, mut writer } = log;
    let thread = std::thread::spawn(move || writer.write_next());
    buffer.wait_until_written(Duration::from_secs(60));
    assert_eq!(file.take(), "{}\n");
    thread.join().unwrap();
}

/// A credential that is held, with this secret.
fn held_secret(credential: &'static str, secret: impl AsRef<[u8]>) -> (Arc<dyn Any + Send + Sync>, impl Sized) {
    let mut parts = SecretParts::default();
    parts.add(&secret);
    let value: Arc<dyn Any + Send + Sync> = Arc::new(());
    let guard = live_secrets::watch(credential, &value, parts);
    (value, guard)
}

#[test]
fn a_line_with_a_live_secret_is_withheld_in_every_form() {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, URL_SAFE},
    };
    let secret = "sentinel?\"of\\the>log\u{7f}é";
    let mut log = json_log();
    let basic = STANDARD.encode(format!("app:{secret}"));
    let longer = URL_SAFE.encode(format!("{secret}…"));
    let leaks = || {
        tracing::info!(leak = secret, "plain");
        tracing::info!("in the message: {secret}");
        tracing::info!(debug = ?secret, "debug");
        tracing::info!(nested = ?Some(vec![secret]), "debug in debug");
        tracing::info!(header = %basic, "base64");
        tracing::info!(header = %longer, "base64 of URLs");
    };
    let innocent = || tracing::info!("an innocent line");
    assert_eq!(log.events(leaks).iter().filter(|event| event["level"] == "ERROR").count(), 0);

    let (value, guard) = held_secret("database", secret);
    let events = log.events(|| {
        innocent();
        leaks();
        innocent();
    });
    assert_eq!(log.buffer.counters.withheld.get(), 6);
    assert_eq!((&events[0]["fields"]["message"], events.len()), (&json!("an innocent line"), 8));
    for event in &events[1..7] {
        assert_eq!((&event["level"], &event["target"]), (&json!("ERROR"), &json!("vestibule::telemetry")));
        let fields = &event["fields"];
        assert_eq!((&fields["log.target"], &fields["credential"]), (&json!(module_path!()), &json!("database")));
    }
    assert_eq!(events[7]["fields"]["message"], "an innocent line");

    drop(guard);
    assert_eq!(log.events(leaks)[0]["level"], "ERROR", "something still holds it");
    drop(value);
    assert!(log.events(leaks).iter().all(|event| event["level"] == "INFO"), "nobody holds it any more");
}

#[test]
fn a_secret_that_the_log_has_cut_is_withheld_and_a_client_cannot_imitate_the_cut() {
    let (_value, _guard) = held_secret("api_key", "sentinel-of-a-cut-line");
    let mut log = json_log();
    let events = log.events(|| tracing::info!(url.path = "/sentinel-of…/", "a request ended"));
    assert_eq!((&events[0]["level"], log.buffer.counters.withheld.get()), (&json!("INFO"), 0));
    for format in [LogFormat::Json, LogFormat::Pretty] {
        let mut log = TestLog::new(format);
        let layer = match format {
            LogFormat::Json => JsonLayer::new(log.buffer.clone()).boxed(),
            LogFormat::Pretty => tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(TextWriter::new(log.buffer.clone()))
                .boxed(),
        };
        // In each line, another part of the secret has room.
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for before in LONGEST - 200..LONGEST {
                tracing::info!("{}sentinel-of-a-cut-line", ".".repeat(before));
            }
        });
        log.writer.write_next();
        assert_eq!(log.dropped(), [0, 0]);
        assert!(log.buffer.counters.withheld.get() > 0);
        assert!(!log.file.take().contains("sentinel"), "{format:?}");
    }
}

#[test]
fn a_short_part_is_not_looked_for_and_a_key_is_found_by_each_of_its_lines() {
    let mut parts = SecretParts::default();
    parts.add("7 bytes");
    assert_eq!(parts.forms().count(), 0);
    parts.add("8 bytes!");
    assert_eq!(parts.forms().count(), 6, "as it is, in two forms of URLs, and in base64 from three places");
    let mut of_key = SecretParts::default();
    let key: Vec<u8> = (0..100).map(|place| b'a' + place % 26).collect();
    of_key.add_pem(&key, |_| true);
    assert_eq!(of_key.forms().map(<[u8]>::len).collect::<Vec<_>>(), [64, 64], "the last 4 bytes are too short");
    let mut of_second_line = SecretParts::default();
    of_second_line.add_pem(&key, |place| (41..56).contains(&place));
    assert_eq!(of_second_line.forms().collect::<Vec<_>>(), [of_key.forms().nth(1).unwrap()], "the first has 7 bytes");
    assert!(!format!("{parts:?}").contains("bytes"));
}

#[test]
fn the_text_format_drops_withholds_and_cuts_as_json_does() {
    let mut log = TestLog::new(LogFormat::Pretty);
    let (_value, _guard) = held_secret("webhook", "sentinel-of-the-text");
    let subscriber = tracing_subscriber::registry().with(
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(TextWriter::new(log.buffer.clone())).boxed(),
    );
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!("first");
        tracing::info!(key = "sentinel-of-the-text", "second");
        tracing::info!(long = "x".repeat(20_000), "third");
    });
    log.writer.write_next();
    let text = log.file.take();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].ends_with("first"), "{text}");
    let target = format!(
        " ERROR vestibule::telemetry: a line of the log contained a secret; it is withheld log.target=\"{}\" credential=\"webhook\"",
        module_path!()
    );
    assert!(lines[1].ends_with(&target), "{text}");
    assert!(lines[2].len() < 17_000 && lines[2].ends_with("… (cut)"), "{text}");
}
