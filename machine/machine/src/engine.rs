//! Which engine runs a vCPU.

use ambos_hostcode::ArenaError;
use ambos_interpret::Cpu;
use ambos_memory::GuestRam;
use ambos_translate::{Options, Translator, TranslatorError, Views};
use ambos_vcpu::{Attention, Engine};
use ambos_verify::Verifier;
use std::sync::Arc;
use thiserror::Error;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// The translator where the host has what it needs, otherwise the interpreter.
    #[default]
    Auto,
    /// The interpreter.
    Interpret,
    /// The binary translator.
    Translate,
    /// The binary translator with the interpreter beside it.
    Verify,
}

/// What executes guest code, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// The engine.
    pub kind: EngineKind,
    /// Bytes of translated code that each vCPU keeps.
    pub code_cache: usize,
    /// Which address spaces get views.
    pub views: Views,
    /// Whether to keep a map of translated code for Linux's `perf`.
    pub perf_map: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let Options { code_cache, views, perf_map, .. } = Options::default();
        Self { kind: EngineKind::default(), code_cache, views, perf_map }
    }
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The interpreter gets no executable memory.
    #[error(transparent)]
    Interpreter(#[from] ArenaError),
    /// The translator cannot work here.
    #[error("the translator cannot run; try --engine interpret")]
    Translator(#[from] TranslatorError),
}

impl EngineConfig {
    /// Makes an engine, in its reset state.
    pub(crate) fn make(
        self,
        ram: &Arc<GuestRam>,
        attention: &Arc<Attention>,
    ) -> Result<Box<dyn Engine>, EngineError> {
        let Self { kind, code_cache, views, perf_map } = self;
        let options = Options { code_cache, views, perf_map, ..Options::default() };
        let translate = || Translator::new(Arc::clone(ram), Arc::clone(attention), options);
        let interpret = || Cpu::new(Arc::clone(ram), Arc::clone(attention));
        Ok(match kind {
            EngineKind::Interpret => Box::new(interpret()?),
            EngineKind::Translate => Box::new(translate()?),
            EngineKind::Verify => Box::new(Verifier::new(Arc::clone(ram), Arc::clone(attention))?),
            EngineKind::Auto => match translate() {
                Ok(translator) => Box::new(translator),
                Err(error) => {
                    tracing::info!(%error, "the interpreter runs the guest");
                    Box::new(interpret()?)
                }
            },
        })
    }
}
