//! Sections of the configuration: each setting with its type, its bounds and what it does.

use super::{BaseUrl, units};
use bytesize::ByteSize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

/// A section of the configuration. `#[derive(ConfigSection)]` implements it for a struct of settings.
///
/// `config --explain` prints each setting with the first sentence of its comment. A number, a size or a duration has
/// bounds, and a value outside of them is a mistake of the configuration (exit code 78). They are written as in the
/// configuration:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
/// use vestibule::{ConfigSection, config::{BaseUrl, ConfigSection as _, units}};
///
/// #[derive(Serialize, Deserialize, ConfigSection)]
/// #[serde(default)]
/// struct Settings {
///     /// The URL that is told of new messages. Without it, nobody is told.
///     webhook_url: Option<BaseUrl>,
///     /// The timeout of one delivery.
///     #[serde(with = "units::duration")]
///     #[setting(min = "100ms", max = "1m")]
///     webhook_timeout: Duration,
///     /// The time between two cleanups. `"0s"` turns them off.
///     #[serde(with = "units::duration")]
///     #[setting(min = "1m", max = "7d", zero)]
///     cleanup_every: Duration,
///     /// The largest number of characters in a message.
///     #[setting(min = 1, max = 100_000)]
///     max_length: usize,
/// }
/// # impl Default for Settings {
/// #     fn default() -> Self {
/// #         let (timeout, every) = (Duration::from_secs(5), Duration::ZERO);
/// #         Self { webhook_url: None, webhook_timeout: timeout, cleanup_every: every, max_length: 4096 }
/// #     }
/// # }
///
/// let settings = Settings::default().settings();
/// assert_eq!(settings[1].bounds().as_deref(), Some("100ms to 1m"));
/// assert!(settings.iter().all(|setting| setting.is_within_bounds()));
/// ```
///
/// A number without bounds does not compile:
///
/// ```compile_fail
/// #[derive(vestibule::ConfigSection)]
/// struct Settings {
///     /// The largest number of characters in a message.
///     max_length: usize,
/// }
/// ```
///
/// `#[setting(section)]` makes a field a section of its own: its type is a `ConfigSection`, or a list or a map of them. A
/// type of your own is a setting if it is an [`UnboundedSetting`].
///
/// Bounds and `restart` belong to the fields of a section, so beside `section` they do not compile:
///
/// ```compile_fail
/// #[derive(vestibule::ConfigSection)]
/// struct Settings {
///     #[setting(section, restart)]
///     limits: (),
/// }
/// ```
///
/// A key is the name of its field. `rename` and `flatten` of serde do not compile, nor does `rename_all`:
///
/// ```compile_fail
/// #[derive(serde::Deserialize, vestibule::ConfigSection)]
/// struct Settings {
///     /// The language of greetings.
///     #[serde(rename = "lang")]
///     language: String,
/// }
/// ```
///
/// ```compile_fail
/// #[derive(serde::Deserialize, vestibule::ConfigSection)]
/// struct Settings {
///     #[serde(flatten)]
///     #[setting(section)]
///     limits: (),
/// }
/// ```
///
/// ```compile_fail
/// #[derive(serde::Deserialize, vestibule::ConfigSection)]
/// #[serde(rename_all = "kebab-case")]
/// struct Settings {
///     /// The language of greetings.
///     preferred_language: String,
/// }
/// ```
pub trait ConfigSection {
    /// Returns the settings of the section with their present values, in the order of the fields.
    fn settings(&self) -> Vec<Setting>;
}

/// A service without settings.
impl ConfigSection for () {
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
}

/// A list of sections. The key of one is its number, from 0.
impl<T: ConfigSection> ConfigSection for Vec<T> {
    fn settings(&self) -> Vec<Setting> {
        let sections = self.iter().enumerate();
        sections.flat_map(|(index, section)| Setting::of_section(&index.to_string(), section)).collect()
    }
}

/// Sections with names.
impl<T: ConfigSection> ConfigSection for BTreeMap<String, T> {
    fn settings(&self) -> Vec<Setting> {
        self.iter().flat_map(|(name, section)| Setting::of_section(name, section)).collect()
    }
}

/// One setting of a section.
#[derive(Clone, Debug)]
pub struct Setting {
    key: String,
    sentence: &'static str,
    type_name: String,
    bounds: Option<Bounds>,
    is_within_bounds: bool,
    needs_restart: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: &'static str,
    max: &'static str,
    or_zero: bool,
}

impl Setting {
    /// Describes a setting without bounds.
    pub fn unbounded<T: UnboundedSetting>(key: &str, sentence: &'static str, _: &T) -> Self {
        Self {
            key: key.into(),
            sentence,
            type_name: T::type_name(),
            bounds: None,
            is_within_bounds: true,
            needs_restart: false,
        }
    }

    /// Describes a setting with bounds, and compares its value with them.
    ///
    /// # Panics
    /// If a bound is not written as a value of the setting is.
    pub fn bounded<T: BoundedSetting>(
        key: &str,
        sentence: &'static str,
        value: &T,
        min: &'static str,
        max: &'static str,
    ) -> Self {
        Self {
            key: key.into(),
            sentence,
            type_name: T::type_name(),
            bounds: Some(Bounds { min, max, or_zero: false }),
            is_within_bounds: value.is_within(&T::bound(min), &T::bound(max)),
            needs_restart: false,
        }
    }

    /// Allows zero too.
    #[must_use]
    pub fn or_zero<T: BoundedSetting>(mut self, value: &T) -> Self {
        self.is_within_bounds |= value.is_within(&T::bound("0"), &T::bound("0"));
        self.bounds = self.bounds.map(|bounds| Bounds { or_zero: true, ..bounds });
        self
    }

    /// Says that a change needs a restart.
    #[must_use]
    pub fn needs_restart(mut self) -> Self {
        self.needs_restart = true;
        self
    }

    /// Returns the settings of a section below `key`.
    pub fn of_section(key: &str, section: &impl ConfigSection) -> Vec<Self> {
        let mut settings = section.settings();
        for setting in &mut settings {
            setting.key = format!("{key}.{}", setting.key);
        }
        settings
    }

    /// Returns the key, with those of its sections before it: `server.drain`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the sentence that says what the setting does.
    pub fn sentence(&self) -> &str {
        self.sentence
    }

    /// Returns the type of a value.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Returns the bounds as text: `1s to 1h`, or `1s to 1h, or 0`.
    pub fn bounds(&self) -> Option<String> {
        let Bounds { min, max, or_zero } = self.bounds?;
        let zero = if or_zero { ", or 0" } else { "" };
        Some(format!("{min} to {max}{zero}"))
    }

    /// Returns `true` if the present value is within the bounds, or if there are none.
    pub fn is_within_bounds(&self) -> bool {
        self.is_within_bounds
    }

    /// Returns `true` if a reload does not take a change up.
    pub fn is_for_restart(&self) -> bool {
        self.needs_restart
    }

    /// Returns what a value must be: `a duration from 1s to 1h`.
    pub(crate) fn expected(&self) -> Option<String> {
        Some(format!("a {} from {}", self.type_name, self.bounds()?))
    }
}

/// The type of a setting without bounds: anything but a number, a size or a duration.
#[diagnostic::on_unimplemented(
    message = "a setting of type `{Self}` needs bounds, or a description of its type",
    note = "a number, a size or a duration needs #[setting(min = …, max = …)]; a section needs #[setting(section)]",
    note = "for a type of your own, implement `vestibule::config::UnboundedSetting`"
)]
pub trait UnboundedSetting {
    /// Returns the type in words: `text`, `URL`, or the values that are allowed.
    fn type_name() -> String;
}

/// The type of a setting with bounds: a number, a size or a duration.
#[diagnostic::on_unimplemented(message = "a setting of type `{Self}` has no bounds")]
pub trait BoundedSetting: Sized {
    /// Returns the type in words: `number`, `duration`.
    fn type_name() -> String;

    /// Reads a bound as the configuration writes it.
    fn parse(text: &str) -> Option<Self>;

    /// Returns `true` if the value is neither below `min` nor above `max`.
    fn is_within(&self, min: &Self, max: &Self) -> bool;

    /// Returns a bound.
    ///
    /// # Panics
    /// If it cannot be read.
    #[doc(hidden)]
    fn bound(text: &'static str) -> Self {
        Self::parse(text).unwrap_or_else(|| panic!("the bound {text} of a setting cannot be read"))
    }
}

/// Describes types of settings without bounds.
macro_rules! unbounded {
    ($($type:ty: $name:literal,)*) => {$(
        impl UnboundedSetting for $type {
            fn type_name() -> String {
                $name.into()
            }
        }
    )*};
}

pub(super) use unbounded;

unbounded! {
    bool: "`true` or `false`",
    char: "character",
    String: "text",
    PathBuf: "path",
    SocketAddr: "address and port",
    BaseUrl: "URL",
    uuid::Uuid: "UUID",
}

macro_rules! bounded {
    ($($type:ty: $name:literal, $parse:expr;)*) => {$(
        impl BoundedSetting for $type {
            fn type_name() -> String {
                $name.into()
            }

            fn parse(text: &str) -> Option<Self> {
                $parse(text)
            }

            fn is_within(&self, min: &Self, max: &Self) -> bool {
                min <= self && self <= max
            }
        }
    )*};
}

bounded! {
    u8: "number", number;
    u16: "number", number;
    u32: "number", number;
    u64: "number", number;
    usize: "number", number;
    i8: "number", number;
    i16: "number", number;
    i32: "number", number;
    i64: "number", number;
    isize: "number", number;
    f32: "number", number;
    f64: "number", number;
    NonZeroU16: "number", number;
    NonZeroU32: "number", number;
    NonZeroU64: "number", number;
    NonZeroUsize: "number", number;
    Duration: "duration", duration;
    ByteSize: "size", number;
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.replace('_', "").parse().ok()
}

fn duration(text: &str) -> Option<Duration> {
    if text == "0" { Some(Duration::ZERO) } else { units::duration::parse(text) }
}

impl<T: UnboundedSetting> UnboundedSetting for Option<T> {
    fn type_name() -> String {
        T::type_name()
    }
}

impl<T: UnboundedSetting> UnboundedSetting for Vec<T> {
    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }
}

impl<T: UnboundedSetting> UnboundedSetting for BTreeSet<T> {
    fn type_name() -> String {
        Vec::<T>::type_name()
    }
}

impl<T: UnboundedSetting> UnboundedSetting for BTreeMap<String, T> {
    fn type_name() -> String {
        format!("{} by name", T::type_name())
    }
}

/// A setting that is off has no value to compare.
impl<T: BoundedSetting> BoundedSetting for Option<T> {
    fn type_name() -> String {
        T::type_name()
    }

    fn parse(text: &str) -> Option<Self> {
        T::parse(text).map(Some)
    }

    fn is_within(&self, min: &Self, max: &Self) -> bool {
        match (self, min, max) {
            (Some(value), Some(min), Some(max)) => value.is_within(min, max),
            _ => true,
        }
    }
}

/// Each item of the list is compared.
impl<T: BoundedSetting> BoundedSetting for Vec<T> {
    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }

    fn parse(text: &str) -> Option<Self> {
        Some(vec![T::parse(text)?])
    }

    fn is_within(&self, min: &Self, max: &Self) -> bool {
        self.iter().all(|item| item.is_within(&min[0], &max[0]))
    }
}
