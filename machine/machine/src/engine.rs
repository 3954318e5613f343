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
    /// Bytes of translated code that all vCPUs together keep.
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

/// What each vCPU may keep in any case, unless it is told to keep less: a kernel alone has some 8 MiB of translated code.
const LEAST_CODE: usize = 16 << 20;

impl EngineConfig {
    /// That of each of so many vCPUs.
    pub(crate) fn shared_by(self, cpus: u32) -> Self {
        let share = self.code_cache / cpus.max(1) as usize;
        Self { code_cache: share.max(self.code_cache.min(LEAST_CODE)), ..self }
    }

    /// Makes an engine, in its reset state, for a guest that will be deprivileged or not.
    pub(crate) fn make(
        self,
        ram: &Arc<GuestRam>,
        attention: &Arc<Attention>,
        deprivileged: bool,
    ) -> Result<Box<dyn Engine>, EngineError> {
        let Self { kind, code_cache, views, perf_map } = self;
        let user_first = deprivileged;
        let options = Options { code_cache, views, user_first, perf_map, ..Options::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_cache_is_divided() {
        let share = |size: usize, cpus| {
            let config = EngineConfig { code_cache: size << 20, ..EngineConfig::default() };
            config.shared_by(cpus).code_cache >> 20
        };
        assert_eq!([1, 2, 4, 8].map(|cpus| share(64, cpus)), [64, 32, 16, 16]);
        assert_eq!([1, 2].map(|cpus| share(4, cpus)), [4, 4]);
    }
}
