//! Why there is no comparison.

use crate::report::model::ReadError;
use crate::service::DefinitionError;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no comparison, or no report of it.
#[derive(Debug, Error)]
pub enum CompareError {
    /// There is nothing of that name.
    #[error("there is no workload or class \"{0}\"; `ambos compare --list` shows what there is")]
    UnknownWorkload(String),
    /// A service cannot be used.
    #[error("the service {name} cannot be used")]
    Service {
        /// Its file, or its name.
        name: String,
        /// What to mend.
        #[source]
        source: DefinitionError,
    },
    /// Nothing is left to be compared.
    #[error("nothing is left to be measured: {0}")]
    Nothing(String),
    /// The host refuses something.
    #[error("cannot prepare the comparison")]
    Prepare(#[source] std::io::Error),
    /// A file is no report.
    #[error("cannot use {}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
