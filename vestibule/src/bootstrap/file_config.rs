//! The configuration of a process, as its files have it.

use crate::{
    application::Application,
    config::{
        Config, ConfigError,
        layers::{Sources, file::ConfigFiles},
    },
    secrets::set::SecretSet,
};
use std::sync::Arc;

/// A configuration, and the files that it was read from.
pub(crate) struct FileConfig<A: Application> {
    pub(crate) config: Arc<Config<A::Settings>>,
    files: ConfigFiles,
}

impl<A: Application> FileConfig<A> {
    /// Reads the configuration, and lets the service check its own settings.
    ///
    /// # Errors
    /// Every mistake.
    pub(crate) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        Self::of(ConfigFiles::read(sources), sources)
    }

    fn of(files: ConfigFiles, sources: &Sources) -> Result<Self, ConfigError> {
        let specs = A::Secrets::specs();
        let config = Config::of_files(&files, sources, A::PACKAGE.name, &specs, A::check)?;
        Ok(Self { config: Arc::new(config), files })
    }

    /// Reads the files again. While nobody has changed one, the configuration is the same `Arc` as before: the variables of a
    /// process do not change.
    ///
    /// # Errors
    /// Every mistake. Then this one stays as it is.
    pub(crate) fn read_again(&mut self, sources: &Sources) -> Result<Arc<Config<A::Settings>>, ConfigError> {
        let files = ConfigFiles::read(sources);
        if !files.same_as(&self.files) {
            *self = Self::of(files, sources)?;
        }
        Ok(self.config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::idle_service::IdleService;
    use std::fs;

    #[test]
    fn a_configuration_is_judged_again_only_if_a_file_has_changed() {
        let folder = std::env::temp_dir().join(format!("config-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let sources = Sources::new(folder.clone(), [("APP_PROFILE".into(), "test".into())]);
        let write = |file: &str, text: &str| fs::write(folder.join(file), text).unwrap();
        write("default.toml", "[secrets]\nprefix = \"one\"\n");
        write("test.toml", "");
        let mut read = FileConfig::<IdleService>::read(&sources).unwrap();
        let first = read.config.clone();
        assert!(Arc::ptr_eq(&read.read_again(&sources).unwrap(), &first));

        write("test.toml", "[secrets]\nprefix = \"two\"\n");
        let second = read.read_again(&sources).unwrap();
        assert_eq!((first.secrets.prefix.as_str(), second.secrets.prefix.as_str()), ("one", "two"));

        for broken in ["[secrets", "[secrets]\nprefix = 7\n"] {
            write("test.toml", broken);
            assert!(read.read_again(&sources).is_err(), "{broken}");
        }
        fs::remove_file(folder.join("test.toml")).unwrap();
        assert!(read.read_again(&sources).is_err(), "the file is not there");

        write("test.toml", "[secrets]\nprefix = \"two\"\n");
        assert!(Arc::ptr_eq(&read.read_again(&sources).unwrap(), &second));
        fs::remove_dir_all(folder).unwrap();
    }
}
