//! The probe's object, built by `scripts/build-guests` and committed beside its source.

use sha2::{Digest, Sha256};

/// The object.
pub const OBJECT: &[u8] = include_bytes!("../../bpf/coldfs-probe.o");
/// What it was built from and with, a line each: `name value`.
pub const CHECKSUMS: &str = include_str!("../../bpf/coldfs-probe.txt");

/// What a line of [`CHECKSUMS`] says.
pub(super) fn said<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// SHA-256 as `sha256sum` prints it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether these bytes are the object that was built from the committed source.
pub(super) fn check(object: &[u8]) -> Result<(), String> {
    let is = sha256(object);
    match said(CHECKSUMS, "object") {
        Some(wanted) if wanted == is => Ok(()),
        wanted => Err(format!(
            "the probe's object was altered: its SHA-256 is {is}, not {}",
            wanted.unwrap_or("recorded")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_object_is_of_the_committed_source() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
        let mut files: Vec<_> = std::fs::read_dir(dir.join("src"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .chain([dir.join("Cargo.toml"), dir.join("Cargo.lock")])
            .map(|path| path.strip_prefix(&dir).unwrap().to_owned())
            .collect();
        files.sort();
        // As `sha256sum FILES | sha256sum` does.
        let list: String = files
            .iter()
            .map(|file| {
                format!("{}  {}\n", sha256(&std::fs::read(dir.join(file)).unwrap()), file.display())
            })
            .collect();
        let is = sha256(list.as_bytes());
        assert_eq!(
            said(CHECKSUMS, "source"),
            Some(is.as_str()),
            "bpf/ changed since its object was built: run scripts/build-guests"
        );
    }

    #[test]
    fn an_altered_object_is_refused() {
        assert_eq!(check(OBJECT), Ok(()));
        let mut altered = OBJECT.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        assert!(check(&altered).unwrap_err().contains("was altered"));
        assert!(check(&OBJECT[..100]).is_err());
    }
}
