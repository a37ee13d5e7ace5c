//! From a component's bytes to code: compiled once, by a process that ends, and kept.
//!
//! Compiling takes tens of MiB and a tenth of a second or more; a daemon that stays resident for
//! months should have neither. What is kept has the component's hash, the engine's and its own in
//! front: altered, cut short or of another engine, it is compiled anew.
//!
//! ```text
//! 0 "coldfs code 1\n"   14 [u8; 32] component and engine   46 [u8; 32] code   78 the code
//! ```

use std::fs::{DirBuilder, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wasmtime::Engine;

use super::instance::{Fault, engine};
use super::journal::short;
use crate::sys::wasm::Code;

/// Largest component. One that Python was packed into has 18 MB.
pub const COMPONENT_BYTES: u64 = 64 << 20;
/// Largest code that a compiler may hand over.
const CODE_BYTES: u64 = 512 << 20;
/// Compiled components that are kept; the oldest go.
const KEPT: usize = 4;
const MAGIC: &[u8; 14] = b"coldfs code 1\n";
const HEAD_BYTES: usize = 14 + 32 + 32;

/// The verb by which this program compiles for itself.
pub const VERB: &str = "policy-compile";

/// Who compiles.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// This process.
    Here,
    /// A process of this program, which ends and takes its memory along.
    Child(PathBuf),
}

/// Compiles a component of this program's own, for [`VERB`].
pub fn compile(component: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok(compile_for(&engine()?, component)?.bytes().to_vec())
}

fn compile_for(engine: &Engine, component: &[u8]) -> Result<Code, Fault> {
    Code::compile(engine, component).map_err(|error| {
        Fault::Unfit(format!("not a component: {}", short(&format!("{error:#}"), 300)))
    })
}

/// Reads a component's file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > COMPONENT_BYTES {
        return Err(io::Error::other("larger than any policy (64 MiB)"));
    }
    Ok(bytes)
}

/// The code of a component: what is kept in `dir`, or compiled anew and kept.
pub(super) fn code(
    engine: &Engine,
    component: &[u8],
    compiler: &Compiler,
    dir: Option<&Path>,
) -> Result<Code, Fault> {
    let key = key(engine, component);
    let path = dir.map(|dir| dir.join(format!("{}.code", &key.to_hex()[..32])));
    if let Some(path) = &path {
        match kept(path, &key) {
            Ok(Some(code)) => return Ok(code),
            Ok(None) => {}
            Err(error) => tracing::warn!(code = %path.display(), %error, "compiled anew"),
        }
    }
    let code = match compiler {
        Compiler::Here => compile_for(engine, component)?,
        Compiler::Child(program) => by_child(program, component)?,
    };
    if let Some(path) = &path
        && let Err(error) = keep(path, &key, &code)
    {
        tracing::warn!(code = %path.display(), %error, "the compiled policy is not kept");
    }
    Ok(code)
}

/// What code is of: the component, this program's version, the engine and its configuration.
fn key(engine: &Engine, component: &[u8]) -> blake3::Hash {
    #[allow(deprecated, reason = "its hash does not depend on the process")]
    let mut of_engine = std::hash::SipHasher::new();
    engine.precompile_compatibility_hash().hash(&mut of_engine);
    let mut hasher = blake3::Hasher::new();
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    hasher.update(&of_engine.finish().to_le_bytes());
    hasher.update(component);
    hasher.finalize()
}

/// Code that was kept; none: there is none. An error: what is there is not it.
fn kept(path: &Path, key: &blake3::Hash) -> io::Result<Option<Code>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == nix::unistd::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write to it"));
    }
    let mut bytes = Vec::new();
    file.take(CODE_BYTES).read_to_end(&mut bytes)?;
    let altered = || io::Error::other("it was altered, or is of another version");
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(altered)?;
    let hash = blake3::Hash::from_slice(&head[46..]).map_err(|_short| altered())?;
    if head[..14] != MAGIC[..] || head[14..46] != key.as_bytes()[..] {
        return Err(altered());
    }
    Code::kept(body, &hash).ok_or_else(altered).map(Some)
}

fn keep(path: &Path, key: &blake3::Hash, code: &Code) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile::Builder::new().prefix(".code").tempfile_in(dir)?;
    file.write_all(MAGIC)?;
    file.write_all(key.as_bytes())?;
    file.write_all(blake3::hash(code.bytes()).as_bytes())?;
    file.write_all(code.bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "code") {
            all.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    all.sort_unstable();
    for (_, old) in all.iter().rev().skip(KEPT).filter(|(_, old)| old != path) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// Has a process of this program compile.
fn by_child(program: &Path, component: &[u8]) -> Result<Code, Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::Unfit(format!("compile it: {error}"));
    let mut child = Command::new(program)
        .arg(VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut code = Vec::new();
    let read = std::thread::scope(|scope| {
        // It reads all before it writes anything: a refusal closes the pipe, and is told below.
        scope.spawn(move || input.map(|mut input| input.write_all(component)));
        output.map_or(Ok(0), |output| output.take(CODE_BYTES).read_to_end(&mut code))
    });
    let ended = child.wait_with_output().map_err(|error| failed(&error))?;
    read.map_err(|error| failed(&error))?;
    if ended.status.success() {
        return Ok(Code::from_own_process(code));
    }
    let said = short(String::from_utf8_lossy(&ended.stderr).trim(), 300);
    Err(match said.is_empty() {
        true => failed(&ended.status),
        false => Fault::Unfit(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_code_is_loaded_only_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine().unwrap();
        let component = include_bytes!("../../wasm-policy/example.wasm");
        let make = || code(&engine, component, &Compiler::Here, Some(dir.path())).unwrap();
        let made = make().bytes().to_vec();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let good = std::fs::read(&path).unwrap();
        let key = key(&engine, component);
        assert!(kept(&path, &key).unwrap().is_some());
        for at in [3, 20, 50, 200, good.len() - 1] {
            let mut altered = good.clone();
            altered[at] ^= 1;
            std::fs::write(&path, &altered).unwrap();
            assert!(kept(&path, &key).is_err(), "byte {at}");
            assert_eq!(make().bytes(), made, "made anew");
            assert_eq!(std::fs::read(&path).unwrap(), good, "and kept anew");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(kept(&path, &key).is_err());
        assert!(kept(&path, &self::key(&engine, b"another")).is_err(), "stale");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .unwrap();
        std::fs::write(&path, &good).unwrap();
        assert!(kept(&path, &key).is_err(), "others can write to it");
    }

    #[test]
    fn garbage_and_what_is_too_large_are_no_components() {
        assert!(matches!(compile(b"garbage"), Err(Fault::Unfit(_))));
        assert!(matches!(compile(b"\0asm\x0d\0\x01\0"), Ok(_) | Err(Fault::Unfit(_))));
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(COMPONENT_BYTES + 1).unwrap();
        assert!(read(file.path()).is_err());
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(read(Path::new("/")).is_err());
    }
}
