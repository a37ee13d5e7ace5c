//! How a key becomes a path, and back.
//!
//! A key is cut at `/`; each segment is a component. All but the last are directories, the last
//! is the object's file, which alone ends in `.obj`: so `a` (`a.obj`) and `a/b` (`a/b.obj`)
//! coexist. In a component
//!
//! - `%`, control characters and a leading `.` are written `%XX` (upper-case hexadecimal);
//! - an empty segment (`a//b`, `a/`) is a lone `%`;
//! - a directory that would end in `.obj` ends in `%2Eobj`;
//! - a segment longer than a filesystem's 255 bytes is broken: as soon as a piece has
//!   [`PIECE_BYTES`], it becomes a directory that ends in `%+`, and the rest, maybe nothing, goes
//!   below it. Where a piece ends depends on what stands before its end only, so everything that
//!   begins with a piece is below it.
//!
//! Decoding undoes encoding (a foreign name does not survive the round trip and is skipped), so
//! no two keys share a path. In each directory, sorting files by `segment`, directories by
//! `segment/` and pieces by themselves gives S3's order of keys when walked depth first.

use std::path::PathBuf;

/// Length at which a piece of a long segment ends, bytes as escaped. One more character
/// (4 bytes) and the longest suffix (4 bytes) stay below the 255 bytes of `NAME_MAX`.
const PIECE_BYTES: usize = 192;
const FILE_SUFFIX: &str = ".obj";
const PIECE_SUFFIX: &str = "%+";
const EMPTY: &str = "%";

/// A component of a store's tree, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// An object's file: the key's last segment, or what is left of it below a piece.
    File(String),
    /// A directory: a segment that `/` follows.
    Directory(String),
    /// The beginning of a long segment.
    Piece(String),
}

/// The path of `key`'s object below its bucket's directory.
pub fn path_of(key: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let mut segments = key.split('/').peekable();
    while let Some(segment) = segments.next() {
        let mut rest = String::new();
        let mut rest_escaped_bytes = 0;
        for character in segment.chars() {
            rest_escaped_bytes += escaped_bytes(character, rest.is_empty());
            rest.push(character);
            if rest_escaped_bytes >= PIECE_BYTES {
                path.push(encode(&Component::Piece(std::mem::take(&mut rest))));
                rest_escaped_bytes = 0;
            }
        }
        path.push(encode(&match segments.peek() {
            Some(_) => Component::Directory(rest),
            None => Component::File(rest),
        }));
    }
    path
}

/// What the component `name` stands for; none for a name that is not of this scheme.
pub fn decode(name: &str) -> Option<Component> {
    let component = if let Some(name) = name.strip_suffix(FILE_SUFFIX) {
        Component::File(unescape(name)?)
    } else if let Some(name) = name.strip_suffix(PIECE_SUFFIX) {
        Component::Piece(unescape(name)?)
    } else {
        Component::Directory(unescape(name)?)
    };
    (encode(&component) == name && has_its_length(&component)).then_some(component)
}

fn encode(component: &Component) -> String {
    match component {
        Component::File(text) => escape(text) + FILE_SUFFIX,
        Component::Piece(text) => escape(text) + PIECE_SUFFIX,
        Component::Directory(text) => {
            let name = escape(text);
            match name.strip_suffix(FILE_SUFFIX) {
                Some(stem) => format!("{stem}%2Eobj"),
                None => name,
            }
        }
    }
}

fn has_its_length(component: &Component) -> bool {
    let long = |text: &str| {
        let mut bytes = 0;
        text.char_indices().any(|(at, character)| {
            bytes += escaped_bytes(character, at == 0);
            bytes >= PIECE_BYTES
        })
    };
    match component {
        Component::File(text) | Component::Directory(text) => !long(text),
        Component::Piece(text) => long(text),
    }
}

fn must_escape(character: char, first: bool) -> bool {
    character == '%' || character.is_ascii_control() || (first && character == '.')
}

fn escaped_bytes(character: char, first: bool) -> usize {
    if must_escape(character, first) { 3 } else { character.len_utf8() }
}

fn escape(text: &str) -> String {
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    let mut name = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        if must_escape(character, at == 0) {
            name.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            name.push(character);
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    if name == EMPTY {
        return Some(String::new());
    }
    let mut parts = name.split('%');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        text.push(char::from(code));
        text.push_str(part.get(2..)?);
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing;
    use crate::store::disk::listing;

    #[test]
    fn decoding_a_name_or_a_token_never_panics() {
        let good = [
            encode(&Component::File("%a.obj".into())),
            encode(&Component::Directory(".hidden.obj".into())),
            encode(&Component::Piece("x".repeat(PIECE_BYTES))),
        ];
        fuzzing::run(|dice| {
            for good in &good {
                let Ok(name) = String::from_utf8(dice.mangled(good.as_bytes())) else { continue };
                if let Some(component) = decode(&name) {
                    assert_eq!(encode(&component), name, "one way to write a name");
                }
                if let Ok(key) = listing::decode_token(&name) {
                    let token = aws_smithy_types::base64::encode(&key);
                    assert_eq!(listing::decode_token(&token).unwrap(), key);
                }
            }
        });
    }

    /// The key whose path this is.
    fn key_of(path: &std::path::Path) -> Option<String> {
        let mut key = String::new();
        for component in path.components() {
            match decode(component.as_os_str().to_str()?)? {
                Component::File(text) | Component::Piece(text) => key.push_str(&text),
                Component::Directory(text) => key.push_str(&(text + "/")),
            }
        }
        Some(key)
    }

    #[test]
    fn ordinary_keys_stay_readable() {
        assert_eq!(path_of("mail/seg/4F/01JC").to_str(), Some("mail/seg/4F/01JC.obj"));
    }

    #[test]
    fn awkward_keys_have_safe_paths_of_their_own() {
        let long = "x".repeat(1024);
        let keys = [
            "a",
            "a/b",
            "a/",
            "a//b",
            "/",
            "//",
            ".",
            "..",
            "../..",
            "./a",
            ".obj",
            "a.obj",
            "a.obj/b",
            "a%2Eobj/b",
            "%",
            "%+",
            "a%+/b",
            "\u{1}\n",
            "\u{7f}",
            "\u{e9}/\u{1f600}",
            &long,
            &long[..192],
            &long[..193],
        ];
        let paths: BTreeSet<PathBuf> = keys.iter().map(|key| path_of(key)).collect();
        assert_eq!(paths.len(), keys.len());
        for key in keys {
            let path = path_of(key);
            assert_eq!(key_of(&path).as_deref(), Some(key), "{path:?}");
            assert!(path.components().all(|part| match part {
                std::path::Component::Normal(name) => name.len() <= 255,
                _ => false,
            }));
        }
    }

    #[test]
    fn the_deepest_keys_fit_into_a_path() {
        for key in ["/".repeat(1024), "\u{1}/".repeat(512), "\u{1}".repeat(1024)] {
            assert!(path_of(&key).as_os_str().len() < 3_300);
        }
    }

    #[test]
    fn foreign_names_are_not_keys() {
        for name in ["", "%2e", "%41", "a%", "%zz", "lost%+", ".hidden", "a%2Eobj%2Eob"] {
            assert!(decode(name).is_none_or(|c| encode(&c) == name), "{name}");
        }
        assert_eq!(decode("%2e"), None);
        assert_eq!(decode(".hidden"), None);
        assert_eq!(decode("lost%+"), None);
    }

    proptest! {
        #[test]
        fn any_key_comes_back(key in "[a./%+\u{1}\u{e9}obj]{1,300}|\\PC{1,200}") {
            prop_assert_eq!(key_of(&path_of(&key)), Some(key));
        }
    }
}
