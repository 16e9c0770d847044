//! How a service is configured: flag over environment over file over default.
//!
//! A service declares its flags once, as options that clap reads from the
//! command line and from `INTERLOCK_…`; the file has the same keys in
//! snake_case. What was given is laid over the file, and the whole is read into
//! the service's configuration, which knows the defaults and refuses keys that
//! it does not know.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a configuration cannot be used. A retry helps after it has been mended.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, missing, or has a value that it cannot have.
    #[error("the configuration: {0}")]
    Content(String),
}

/// Reads `file`, lays `given` (flags and environment; keys that are absent stay
/// as they are) over it, and reads the whole as `C`.
pub fn load<C: DeserializeOwned>(
    file: Option<&Path>,
    given: &impl Serialize,
) -> Result<C, ConfigurationError> {
    let content = |error: &dyn std::fmt::Display| {
        ConfigurationError::Content(error.to_string().trim().to_owned())
    };
    let mut table = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
            text.parse::<toml::Table>().map_err(|source| ConfigurationError::Syntax {
                path: path.to_owned(),
                source: Box::new(source),
            })?
        }
        None => toml::Table::new(),
    };
    table.extend(toml::Table::try_from(given).map_err(|error| content(&error))?);
    table.try_into().map_err(|error: toml::de::Error| content(&error))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        #[serde(default = "seven")]
        count: u32,
    }

    #[derive(Default, Serialize)]
    struct Given {
        name: Option<String>,
        count: Option<u32>,
    }

    fn seven() -> u32 {
        7
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        file
    }

    #[test]
    fn what_is_given_outweighs_the_file_and_the_file_the_default() {
        let file = file("name = \"from-file\"\n");
        let given = Given { name: Some("given".into()), count: None };
        let config: Config = load(Some(file.path()), &given).expect("valid");
        assert_eq!(config, Config { name: "given".into(), count: 7 });
        let config: Config = load(Some(file.path()), &Given::default()).expect("valid");
        assert_eq!(config.name, "from-file");
    }

    #[test]
    fn an_unknown_key_is_named() {
        let file = file("name = \"a\"\nnmae = 1\n");
        let error =
            load::<Config>(Some(file.path()), &Given::default()).expect_err("a typing error");
        assert!(error.to_string().contains("nmae"), "{error}");
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = load::<Config>(None, &Given::default()).expect_err("no name");
        assert!(error.to_string().contains("name"), "{error}");
    }
}
