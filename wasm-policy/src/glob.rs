//! Path patterns, compiled once and matched in time linear in the path, whatever the pattern.
//!
//! `*` and `?` stay within a name, `**` crosses directories, `[a-z]` and `[!a-z]` are one
//! character, `{a,b}` is either, `\` takes the next character as it is. A pattern without a slash
//! is matched against the file's name in any directory; one with a slash against the whole path
//! from the tenant's root. `**/` also matches no directory at all.

use alloc::vec;
use alloc::vec::Vec;

/// Tokens of one alternative: its states fit a machine word of 128 bits.
const TOKENS: usize = 127;
/// Alternatives that braces come to.
const ALTERNATIVES: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// One character but the slash: a byte, and the bytes of UTF-8 that continue it.
    Any,
    /// A character within these ranges, or outside them.
    Class(Vec<(u8, u8)>, bool),
    /// Any number of characters but the slash.
    Star,
    /// Anything.
    Stars,
    /// Nothing, or anything that ends in a slash.
    Directories,
}

impl Token {
    /// Where this byte leads, as bits: 1 stays before this token, 2 goes behind it.
    fn step(&self, byte: u8) -> u128 {
        let begins_character = byte != b'/' && !continues(byte);
        match self {
            Token::Byte(want) => u128::from(*want == byte) << 1,
            Token::Any => u128::from(begins_character) << 1,
            Token::Class(ranges, outside) => {
                let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte));
                u128::from(begins_character && within != *outside) << 1
            }
            Token::Star => u128::from(byte != b'/'),
            Token::Stars | Token::Directories => 1,
        }
    }
}

/// One alternative of a pattern.
#[derive(Clone, Debug)]
struct Line {
    tokens: Vec<Token>,
    /// The bytes that it ends in: most paths are told apart by these alone.
    tail: Vec<u8>,
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    lines: Vec<Line>,
    names_only: bool,
}

/// Why a pattern is none, and at which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobError {
    /// Byte of the pattern.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

fn error<T>(at: usize, why: &'static str) -> Result<T, GlobError> {
    Err(GlobError { at, why })
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return error(0, "an empty pattern matches nothing");
        }
        if pattern.starts_with('/') {
            return error(0, "paths begin at the tenant's root, without a slash");
        }
        let mut lines = Vec::new();
        for alternative in braces(pattern)? {
            let tokens = tokens(&alternative)?;
            if tokens.len() > TOKENS {
                return error(0, "the pattern is too long (127 characters)");
            }
            let tail = tokens.iter().rev().map_while(|token| match token {
                Token::Byte(byte) => Some(*byte),
                _ => None,
            });
            let mut tail: Vec<u8> = tail.collect();
            tail.reverse();
            lines.push(Line { tokens, tail });
        }
        Ok(Self { lines, names_only: !pattern.contains('/') })
    }

    /// Whether this path, relative to the tenant's root, fits.
    pub fn matches(&self, path: &str) -> bool {
        let name = if self.names_only { path.rsplit('/').next().unwrap_or(path) } else { path };
        self.lines.iter().any(|line| line.matches(name.as_bytes()))
    }
}

/// Bytes of a pattern, each with its place in what was written.
type Bytes = Vec<(usize, u8)>;

/// The alternatives that `{a,b}` come to; braces in braces are refused.
fn braces(pattern: &str) -> Result<Vec<Bytes>, GlobError> {
    let mut done: Vec<Bytes> = vec![Vec::new()];
    // Where a brace is open: what each alternative in it has so far.
    let mut open: Option<(usize, Vec<Bytes>)> = None;
    let mut escaped = false;
    for (at, byte) in pattern.bytes().enumerate() {
        match (byte, &mut open) {
            (b'{', None) if !escaped => open = Some((at, vec![Vec::new()])),
            (b'{', Some(_)) if !escaped => return error(at, "braces in braces"),
            (b'}', None) if !escaped => return error(at, "'}' without '{'"),
            (b',', Some((_, inner))) if !escaped => inner.push(Vec::new()),
            (b'}', Some((_, inner))) if !escaped => {
                if done.len() * inner.len() > ALTERNATIVES {
                    return error(at, "more than 64 alternatives");
                }
                let joined = done.iter().flat_map(|head| {
                    inner.iter().map(move |tail| head.iter().chain(tail).copied().collect())
                });
                done = joined.collect();
                open = None;
            }
            (_, Some((_, inner))) => {
                inner.last_mut().into_iter().for_each(|line| line.push((at, byte)))
            }
            (_, None) => done.iter_mut().for_each(|line| line.push((at, byte))),
        }
        escaped = byte == b'\\' && !escaped;
    }
    match open {
        Some((at, _)) => error(at, "'{' without '}'"),
        None => Ok(done),
    }
}

fn tokens(pattern: &[(usize, u8)]) -> Result<Vec<Token>, GlobError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let byte = |at: usize| pattern.get(at).map(|(_, byte)| *byte);
    while let Some(&(place, first)) = pattern.get(at) {
        at += 1;
        match first {
            b'\\' => {
                let Some(next) = byte(at) else { return error(place, "nothing after '\\'") };
                tokens.push(Token::Byte(next));
                at += 1;
            }
            b'?' => tokens.push(Token::Any),
            b'*' if byte(at) == Some(b'*') => {
                at += 1;
                let begins = at == 2 || byte(at.wrapping_sub(3)) == Some(b'/');
                if begins && byte(at) == Some(b'/') {
                    at += 1;
                    tokens.push(Token::Directories);
                } else {
                    tokens.push(Token::Stars);
                }
            }
            b'*' => tokens.push(Token::Star),
            b'[' => {
                let (class, end) = class(pattern, place, at)?;
                tokens.push(class);
                at = end;
            }
            _ => tokens.push(Token::Byte(first)),
        }
    }
    Ok(tokens)
}

/// What stands in `[...]`, and where it ends.
fn class(
    pattern: &[(usize, u8)],
    place: usize,
    mut at: usize,
) -> Result<(Token, usize), GlobError> {
    let byte = |at: usize| pattern.get(at).map(|(_, byte)| *byte);
    let outside = byte(at) == Some(b'!');
    at += usize::from(outside);
    let mut ranges = Vec::new();
    while let Some(low) = byte(at) {
        if low == b']' && !ranges.is_empty() {
            return Ok((Token::Class(ranges, outside), at + 1));
        }
        if !low.is_ascii() {
            return error(place, "only ASCII characters in '[...]'");
        }
        let ranged = byte(at + 1) == Some(b'-') && byte(at + 2).is_some_and(|high| high != b']');
        let high = if ranged { byte(at + 2).unwrap_or(low) } else { low };
        if high < low {
            return error(place, "a range that ends before it begins");
        }
        ranges.push((low, high));
        at += if ranged { 3 } else { 1 };
    }
    error(place, "'[' without ']'")
}

/// A byte of UTF-8 that continues a character.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

impl Line {
    /// All places in the pattern at once, one bit each: bit n, the tokens before n have matched.
    fn matches(&self, path: &[u8]) -> bool {
        if !path.ends_with(&self.tail) {
            return false;
        }
        let mut states = self.skip(1, true);
        for &byte in path {
            let mut next = if continues(byte) { self.after_character(states) } else { 0 };
            let mut left = states;
            while left != 0 {
                let place = left.trailing_zeros();
                left &= left - 1;
                if let Some(token) = self.tokens.get(place as usize) {
                    next |= token.step(byte) << place;
                }
            }
            states = self.skip(next, byte == b'/');
            if states == 0 {
                return false;
            }
        }
        (states >> self.tokens.len()) & 1 == 1
    }

    /// The places whose token before took one character: they hold while it continues.
    fn after_character(&self, states: u128) -> u128 {
        let mut held = 0;
        for (place, token) in self.tokens.iter().enumerate() {
            if matches!(token, Token::Any | Token::Class(..)) {
                held |= states & (2 << place);
            }
        }
        held
    }

    /// Adds the places behind tokens that may match nothing: `**/` where a name begins.
    fn skip(&self, mut states: u128, name_begins: bool) -> u128 {
        for (place, token) in self.tokens.iter().enumerate() {
            let empty = match token {
                Token::Star | Token::Stars => true,
                Token::Directories => name_begins,
                Token::Byte(_) | Token::Any | Token::Class(..) => false,
            };
            if empty && (states >> place) & 1 == 1 {
                states |= 2 << place;
            }
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Glob::new(pattern).unwrap().matches(path)
    }

    #[test]
    fn patterns_mean_what_people_expect() {
        let yes = [
            ("*.db", "a.db"),
            ("*.db", "deep/below/a.db"),
            ("**/*.db", "a.db"),
            ("**/*.db", "deep/below/a.db"),
            ("a/*.db", "a/x.db"),
            ("a/**", "a/b/c"),
            ("a/**/z", "a/z"),
            ("a/**/z", "a/b/c/z"),
            ("**/node_modules/**", "x/node_modules/y/z"),
            ("?.txt", "\u{e9}.txt"),
            ("[!x].txt", "\u{20ac}.txt"),
            ("[a-cx]?", "b7"),
            ("*.{jpg,png}", "p/a.png"),
            ("{a,b}/{c,d}", "b/c"),
            ("\\*.txt", "*.txt"),
            ("a**b/c", "a/x/b/c"),
            ("[]x]", "]"),
        ];
        for (pattern, path) in yes {
            assert!(fits(pattern, path), "{pattern} should fit {path}");
        }
        let no = [
            ("*.db", "a.db-wal"),
            ("a/*.db", "a/b/x.db"),
            ("a/*.db", "x/a/b.db"),
            ("**/b", "ab"),
            ("a/**/z", "a/bz"),
            ("a/**/z", "az"),
            ("?.txt", "\u{e9}\u{e9}.txt"),
            ("?", "/"),
            ("[a-c]", "d"),
            ("\\*.txt", "a.txt"),
            ("a/**", "b/a/c"),
        ];
        for (pattern, path) in no {
            assert!(!fits(pattern, path), "{pattern} should not fit {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_with_its_place() {
        let wrong = [("", 0), ("/a", 0), ("a[bc", 1), ("a{b", 1), ("ab}", 2), ("{a{b", 2)];
        for (pattern, at) in wrong {
            assert_eq!(Glob::new(pattern).unwrap_err().at, at, "{pattern}");
        }
        assert!(Glob::new(&"x".repeat(128)).is_err());
        assert!(Glob::new("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}").is_err(), "128 alternatives");
        assert_eq!(Glob::new("a\\").unwrap_err().at, 1);
        assert_eq!(Glob::new("[z-a]").unwrap_err().at, 0);
    }

    #[test]
    fn no_pattern_makes_a_long_path_slow() {
        let pattern = "*a".repeat(60);
        let path = "a".repeat(4_000) + "b";
        assert!(!fits(&(pattern.clone() + "?c"), &path));
        assert!(fits(&(pattern + "?"), &path));
    }
}
