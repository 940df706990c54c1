//! The log as text for people: the stock format, which writes into our buffer.

use super::{
    buffer::LogBuffer,
    json::{CUT, LONGEST},
};
use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// A writer whose lines go into the buffer of the log.
pub(super) struct TextWriter {
    buffer: Arc<LogBuffer>,
}

/// The writer of one event. The stock format writes each event at once.
pub(super) struct TextEvent<'a> {
    buffer: &'a LogBuffer,
    target: String,
}

impl TextWriter {
    pub(super) fn new(buffer: Arc<LogBuffer>) -> Self {
        Self { buffer }
    }
}

impl<'a> MakeWriter<'a> for TextWriter {
    type Writer = TextEvent<'a>;

    fn make_writer(&'a self) -> TextEvent<'a> {
        TextEvent { buffer: &self.buffer, target: String::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> TextEvent<'a> {
        TextEvent { buffer: &self.buffer, target: metadata.target().to_owned() }
    }
}

impl Write for TextEvent<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut text = Cow::Borrowed(&*text);
        let is_cut = text.len() > LONGEST;
        if is_cut {
            text = Cow::Owned(format!("{}{CUT} (cut)\n", &text[..text.floor_char_boundary(LONGEST)]));
        }
        self.buffer.push(&text, is_cut, Cow::Owned(self.target.clone()));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
