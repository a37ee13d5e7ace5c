//! Compiled components: loading one is running what it says, so only code that is known to come
//! from this program's own compiler is loaded.

use wasmtime::component::Component;
use wasmtime::{Engine, Result};

/// Code that this program's compiler made.
#[derive(Debug)]
#[must_use = "only such code may be loaded"]
pub struct Code(Vec<u8>);

impl Code {
    /// Compiles a component here.
    pub fn compile(engine: &Engine, component: &[u8]) -> Result<Self> {
        engine.precompile_component(component).map(Self)
    }

    /// Code that another process of this very program made by [`Code::compile`], and handed over by
    /// a pipe.
    pub fn from_own_process(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Code whose hash, taken over these very bytes, was kept with it when it was compiled; none: it
    /// is not that code any more.
    pub fn kept(bytes: &[u8], hash: &blake3::Hash) -> Option<Self> {
        (blake3::hash(bytes) == *hash).then(|| Self(bytes.to_vec()))
    }

    /// The bytes, to be kept.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Loads it into the engine that it was compiled for; another engine refuses it.
    pub fn load(&self, engine: &Engine) -> Result<Component> {
        // SAFETY: `self` is what `precompile_component` gave: each constructor says so, and the
        // engine checks version and configuration.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}
