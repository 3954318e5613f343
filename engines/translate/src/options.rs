//! What a translator can be told, and why there may be none.

use crate::spaces::Views;
use ambos_hostcode::ArenaError;
use thiserror::Error;

/// Why there is no translator.
#[derive(Debug, Error)]
pub enum TranslatorError {
    /// The host refused memory.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// The host's processor or kernel lacks something that generated code needs.
    #[error("the host does not offer {0}, which translated code needs")]
    Host(&'static str),
    /// There can be no map for `perf`.
    #[error("cannot write the map of translated code for perf")]
    PerfMap(#[source] std::io::Error),
    /// A signal stack could not be had.
    #[error("cannot prepare the thread for translated code")]
    Thread(#[source] std::io::Error),
    /// Too many code caches in one process.
    #[error("too many code caches in one process")]
    Areas,
}

/// How a translator works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of generated code that are kept.
    pub code_cache: usize,
    /// How often the interpreter runs a block before it is translated.
    pub threshold: u32,
    /// Whether blocks stay apart: each returns to the dispatcher at its end, and instructions that give
    /// another result each time are left to the interpreter. For [`crate::Translator::run_apart`].
    pub apart: bool,
    /// Which address spaces get views: see [`crate::spaces`].
    pub views: Views,
    /// Whether it is user accesses, and not the supervisor's, that code is to be short for: the kernel of a deprivileged
    /// guest is a user.
    pub user_first: bool,
    /// Whether to keep a map of the translated blocks for Linux's `perf`.
    pub perf_map: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            code_cache: 64 << 20,
            threshold: 12,
            apart: false,
            views: Views::Auto,
            user_first: false,
            perf_map: false,
        }
    }
}
