//! The database's password, if it is in a file: whoever changes it writes the file, and connections from then on use it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};

use super::Database;
use crate::reload::Reload;

/// The file can't be used; the password of before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It can't be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Perhaps it is being written.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A file, and what was read from it last; clones share it.
#[derive(Debug, Clone)]
pub(super) struct PasswordFile {
    path: Arc<Path>,
    used: Arc<Mutex<SecretString>>,
}

impl PasswordFile {
    pub(super) fn open(path: &Path) -> Result<Self, PasswordError> {
        Ok(Self { path: path.into(), used: Arc::new(Mutex::new(read(path)?)) })
    }

    pub(super) fn password(&self) -> SecretString {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The content without the final line break.
pub(super) fn read(path: &Path) -> Result<SecretString, PasswordError> {
    let content =
        fs::read_to_string(path).map_err(|source| PasswordError::File { path: path.to_owned(), source })?;
    match content.trim_end_matches(['\r', '\n']) {
        "" => Err(PasswordError::Empty { path: path.to_owned() }),
        password => Ok(password.into()),
    }
}

impl Database {
    /// Whether its password is in a file.
    #[must_use]
    pub fn has_password_file(&self) -> bool {
        self.password_file.is_some()
    }

    /// Has connections from now on use the password that is in the file. Those that are open stay: the server asks once.
    pub fn follow_password(&self) -> Result<Reload, PasswordError> {
        let Some(file) = &self.password_file else { return Ok(Reload::Unchanged) };
        let password = read(&file.path)?;
        if password.expose_secret() == file.password().expose_secret() {
            return Ok(Reload::Unchanged);
        }
        self.change_options(|options| options.password(password.expose_secret()));
        *file.used.lock().unwrap_or_else(PoisonError::into_inner) = password;
        Ok(Reload::Swapped)
    }
}
