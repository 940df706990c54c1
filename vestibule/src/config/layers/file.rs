//! The files of the configuration, and the lines of their keys.

use super::Sources;
use crate::{
    cause::RootCause,
    exit::{Exit, Fault},
    regular_file,
};
use figment::{
    providers::{Format, Toml},
    value::Dict,
};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};
use toml_edit::{ImDocument, TableLike};

/// The reason for which a file could not be taken up. Both pass by themselves if somebody is replacing the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unread {
    /// It is not TOML: it may be half written.
    NotToml,
    /// It is not there, or cannot be read.
    Unreadable,
}

/// The texts of all files of a configuration, read at one time.
pub(crate) struct ConfigFiles {
    pub(super) texts: Vec<(PathBuf, io::Result<String>)>,
    /// The faults of files whose names or folder are wrong.
    pub(super) faults: Vec<Fault>,
}

impl ConfigFiles {
    /// Reads the files.
    pub(crate) fn read(sources: &Sources) -> Self {
        let mut faults = Vec::new();
        let read = |path: PathBuf| (path.clone(), regular_file::read(&path));
        let texts = super::paths(sources, &mut faults).into_iter().map(read).collect();
        Self { texts, faults }
    }

    /// Returns `true` if all files could be read, now and before, and nobody has changed one.
    pub(crate) fn same_as(&self, before: &Self) -> bool {
        let is_same =
            |((_, now), (_, before)): (&(_, io::Result<String>), &(_, io::Result<String>))| match (now, before) {
                (Ok(now), Ok(before)) => now == before,
                _ => false,
            };
        let count = self.texts.len();
        self.faults.is_empty() && count == before.texts.len() && self.texts.iter().zip(&before.texts).all(is_same)
    }
}

/// A file of the configuration. It is kept with its text, so that a mistake can be reported with its line.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    document: ImDocument<String>,
}

impl ConfigFile {
    /// Parses a file. Returns it with its settings.
    pub(super) fn parse(path: &Path, text: &io::Result<String>) -> Result<(Self, Dict), (Unread, Fault)> {
        let subject = path.display().to_string();
        let text = match text {
            Ok(text) => text,
            Err(error) => return Err((Unread::Unreadable, unreadable(subject, error))),
        };
        let not_toml = |span| (Unread::NotToml, not_toml(&subject, text, span));
        let document = ImDocument::parse(text.clone()).map_err(|error| not_toml(error.span()))?;
        let dict = Toml::from_str(text).map_err(|error| not_toml(error.span()))?;
        Ok((Self { path: path.to_owned(), document }, dict))
    }

    /// Returns the path of the file, with the line of a key if it is known.
    pub(super) fn place(&self, path: &[String]) -> String {
        match self.line(path) {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// Returns the line of a key, or of its nearest parent that has one.
    fn line(&self, path: &[String]) -> Option<usize> {
        let mut table: &dyn TableLike = self.document.as_table();
        let mut nearest = None;
        for key in path {
            let Some((key, item)) = table.get_key_value(key) else {
                break;
            };
            nearest = key.span().or_else(|| item.span()).or(nearest);
            match item.as_table_like() {
                Some(child) => table = child,
                None => break,
            }
        }
        Some(line_of(self.document.raw(), nearest?.start))
    }
}

fn unreadable(subject: String, error: &io::Error) -> Fault {
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::NotFound => {
            ("there is no such file".to_owned(), "create it, or correct APP_PROFILE or APP_CONFIG_DIR")
        }
        io::ErrorKind::InvalidData => ("the file is not UTF-8".into(), "save it as UTF-8"),
        io::ErrorKind::InvalidInput => (RootCause::of(error).to_string(), "put a regular file there, or a link to one"),
        _ => (format!("the file cannot be read: {}", RootCause::of(error)), "make it readable"),
    };
    Fault::new(Exit::Config, subject, problem, remedy)
}

/// Returns the fault of a text that is not TOML, with its line if the parser gives a span.
fn not_toml(subject: &str, text: &str, span: Option<Range<usize>>) -> Fault {
    let place = match span {
        Some(span) => format!("{subject}:{}", line_of(text, span.start)),
        None => subject.to_owned(),
    };
    Fault::new(
        Exit::Config,
        place,
        "this is not TOML",
        "correct the line: `key = value`, text in double quotes, each key and each [section] once",
    )
}

/// Returns the number of the line at an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}
