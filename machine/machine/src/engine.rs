//! Which engine runs a vCPU.

use ambos_hostcode::ArenaError;
use ambos_interpret::Cpu;
use ambos_memory::GuestRam;
use ambos_translate::{Options, Translator, TranslatorError};
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

impl EngineKind {
    /// Makes an engine of this kind, in its reset state.
    pub(crate) fn make(
        self,
        ram: &Arc<GuestRam>,
        attention: &Arc<Attention>,
    ) -> Result<Box<dyn Engine>, EngineError> {
        let translate =
            || Translator::new(Arc::clone(ram), Arc::clone(attention), Options::default());
        let interpret = || Cpu::new(Arc::clone(ram), Arc::clone(attention));
        Ok(match self {
            Self::Interpret => Box::new(interpret()?),
            Self::Translate => Box::new(translate()?),
            Self::Verify => Box::new(Verifier::new(Arc::clone(ram), Arc::clone(attention))?),
            Self::Auto => match translate() {
                Ok(translator) => Box::new(translator),
                Err(error) => {
                    tracing::info!(%error, "the interpreter runs the guest");
                    Box::new(interpret()?)
                }
            },
        })
    }
}
