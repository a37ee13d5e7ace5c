//! A page of a listing, found by walking only where it can be.
//!
//! A page costs the directories on the way to its keys, each read and sorted whole, and a stat
//! for each key that is listed; not the rest of the tree. See [`super::name`] for why a
//! depth-first walk over sorted directories meets the keys in S3's order.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::durable;
use super::name::{self, Component};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Keys that begin so.
    pub prefix: String,
    /// Keys greater than this one; or, where it is a common prefix, than all that begin with it.
    pub after: String,
    /// Keys that have this after the prefix are folded into one common prefix; empty: none are.
    pub delimiter: String,
    /// Keys and common prefixes, together, at most.
    pub limit: usize,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys, in order.
    pub objects: Vec<(String, Metadata)>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// What comes `after` this page, if anything does.
    pub next: Option<String>,
}

/// Lists a page of the bucket in `root`. Blocks.
pub fn list(root: &Path, question: Question) -> io::Result<Page> {
    if !root.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let folded = !question.delimiter.is_empty()
        && question.after.len() > question.prefix.len()
        && question.after.starts_with(&question.prefix)
        && question.after.ends_with(&question.delimiter);
    let mut walk = Walk {
        folded: folded.then(|| question.after.clone()),
        last: String::new(),
        question,
        page: Page::default(),
    };
    if walk.question.limit > 0 {
        let _ended_early: Flow = walk.directory(root, "")?;
    }
    Ok(walk.page)
}

#[derive(PartialEq, Eq)]
enum Flow {
    GoOn,
    PageIsFull,
}

struct Walk {
    question: Question,
    page: Page,
    /// The common prefix that was met last: nothing below it is met again.
    folded: Option<String>,
    /// The key or common prefix that was listed last.
    last: String,
}

impl Walk {
    fn directory(&mut self, dir: &Path, above: &str) -> io::Result<Flow> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            // Deleted beside us.
            Err(error) if durable::is_absent(&error) => return Ok(Flow::GoOn),
            Err(error) => return Err(error),
        };
        let mut found: Vec<(String, bool, PathBuf)> = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(component) = name.to_str().and_then(name::decode) else { continue };
            let (key, is_file) = match component {
                Component::File(text) => (format!("{above}{text}"), true),
                Component::Directory(text) => (format!("{above}{text}/"), false),
                Component::Piece(text) => (format!("{above}{text}"), false),
            };
            if self.may_hold(&key, is_file) {
                found.push((key, is_file, dir.join(name)));
            }
        }
        found.sort_unstable();
        for (key, is_file, path) in found {
            if self.folded.as_ref().is_some_and(|folded| key.starts_with(folded)) {
                continue;
            }
            let flow = match is_file {
                true => self.object(key, &path)?,
                false => self.directory(&path, &key)?,
            };
            if flow == Flow::PageIsFull {
                return Ok(flow);
            }
        }
        Ok(Flow::GoOn)
    }

    /// Whether `key`, or one that begins with it where it is not a file's, can be listed.
    fn may_hold(&self, key: &str, is_file: bool) -> bool {
        let Question { prefix, after, .. } = &self.question;
        match is_file {
            true => key.starts_with(prefix) && key > after.as_str(),
            false => {
                (key.starts_with(prefix) || prefix.starts_with(key))
                    && (key > after.as_str() || after.starts_with(key))
            }
        }
    }

    fn object(&mut self, key: String, path: &Path) -> io::Result<Flow> {
        let common = self.common_prefix(&key);
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(Flow::GoOn),
            Err(error) if durable::is_absent(&error) => return Ok(Flow::GoOn),
            Err(error) => return Err(error),
        };
        let listed = self.page.objects.len() + self.page.common_prefixes.len();
        if listed == self.question.limit {
            self.page.next = Some(std::mem::take(&mut self.last));
            return Ok(Flow::PageIsFull);
        }
        match common {
            Some(common) => {
                self.last.clone_from(&common);
                self.folded = Some(common.clone());
                self.page.common_prefixes.push(common);
            }
            None => {
                self.last.clone_from(&key);
                self.page.objects.push((key, metadata));
            }
        }
        Ok(Flow::GoOn)
    }

    fn common_prefix(&self, key: &str) -> Option<String> {
        let Question { prefix, delimiter, .. } = &self.question;
        if delimiter.is_empty() {
            return None;
        }
        let at = key[prefix.len()..].find(delimiter.as_str())?;
        Some(key[..prefix.len() + at + delimiter.len()].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bucket(keys: &BTreeSet<String>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for key in keys {
            let path = dir.path().join(name::path_of(key));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, key).unwrap();
        }
        dir
    }

    /// All pages, each of at most `limit`.
    fn all(root: &Path, prefix: &str, delimiter: &str, limit: usize) -> (Vec<String>, Vec<String>) {
        let (mut keys, mut common) = (Vec::new(), Vec::new());
        let mut after = String::new();
        loop {
            let question =
                Question { prefix: prefix.into(), after, delimiter: delimiter.into(), limit };
            let page = list(root, question).unwrap();
            assert!(page.objects.len() + page.common_prefixes.len() <= limit);
            keys.extend(page.objects.into_iter().map(|(key, _)| key));
            common.extend(page.common_prefixes);
            match page.next {
                Some(next) => after = next,
                None => return (keys, common),
            }
        }
    }

    fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> (Vec<String>, Vec<String>) {
        let (mut plain, mut common) = (Vec::new(), BTreeSet::new());
        for key in keys.iter().filter(|key| key.starts_with(prefix)) {
            match key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    common.insert(key[..prefix.len() + at + delimiter.len()].to_owned());
                }
                None => plain.push(key.clone()),
            }
        }
        (plain, common.into_iter().collect())
    }

    fn keys() -> impl Strategy<Value = BTreeSet<String>> {
        let part = prop_oneof![
            "[ab./!0]{0,3}",
            "[ab]{0,1}".prop_map(|tail| "x".repeat(192) + &tail),
            Just("x".repeat(191)),
        ];
        let key = prop::collection::vec(part, 1..4)
            .prop_map(|parts| parts.join("/"))
            .prop_filter("S3 has no empty key", |key| !key.is_empty());
        prop::collection::btree_set(key, 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_of_any_size_give_every_key_once_in_order(
            keys in keys(), prefix in "[ab./]{0,2}", delimiter in "(/|b|)", limit in 1_usize..5,
        ) {
            let dir = bucket(&keys);
            prop_assert_eq!(all(dir.path(), &prefix, &delimiter, limit), model(&keys, &prefix, &delimiter));
        }
    }

    #[test]
    fn a_listing_starts_after_any_text() {
        let keys = BTreeSet::from(["a", "a/b", "a/c", "b"].map(String::from));
        let dir = bucket(&keys);
        let question = Question { after: "a/bb".into(), limit: 9, ..Question::default() };
        let page = list(dir.path(), question).unwrap();
        let found: Vec<_> = page.objects.into_iter().map(|(key, _)| key).collect();
        assert_eq!(found, ["a/c", "b"]);
        assert_eq!(page.next, None);
    }
}
