//! Where the running kernel keeps fields of its structures: nine numbers out of its own
//! description (BTF, `Documentation/bpf/btf.rst`), read where they stand, without a table of its
//! hundred thousand types.

use std::collections::HashMap;

/// The kernel's description of itself.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Anonymous structures within each other: deeper than any.
const DEEPEST: u32 = 4;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A description, its types found by number.
pub struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Where each type begins, from number 1.
    types: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// Reads a description; none: it is none, or cut short.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| word(bytes, at);
        if half(0)? != MAGIC {
            return None;
        }
        let header = word(4)?;
        let begin = header.checked_add(word(8)?)?;
        let end = begin.checked_add(word(12)?)?.min(bytes.len());
        let strings = header.checked_add(word(16)?)?;
        let mut types = Vec::new();
        let mut at = begin;
        while at < end {
            types.push(at);
            let info = word(at + 4)?;
            let (kind, count) = (kind_of(info), info & 0xffff);
            at += 12
                + match kind {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => count * 12,
                    ENUM | FUNC_PROTO => count * 8,
                    _ => 0,
                };
        }
        Some(Self { bytes, strings, types })
    }

    /// Where fields are, in bytes, by structure and field.
    pub fn offsets<'f>(&self, fields: &[(&'f str, &'f str)]) -> HashMap<(&'f str, &'f str), u64> {
        let mut found = HashMap::new();
        for at in &self.types {
            let Some(info) = word(self.bytes, at + 4) else { continue };
            if kind_of(info) != STRUCT {
                continue;
            }
            let Some(name) = self.string(*at) else { continue };
            for (structure, field) in fields.iter().filter(|(wanted, _)| wanted.as_bytes() == name)
            {
                if let Some(bits) = self.field(*at, field.as_bytes(), DEEPEST)
                    && bits % 8 == 0
                {
                    found.insert((*structure, *field), bits as u64 / 8);
                }
            }
        }
        found
    }

    /// Where a field is, in bits, also within anonymous members.
    fn field(&self, structure: usize, wanted: &[u8], deepest: u32) -> Option<usize> {
        let info = word(self.bytes, structure + 4)?;
        let has_bit_sizes = info >> 31 == 1;
        for member in 0..info & 0xffff {
            let at = structure + 12 + member * 12;
            let bits = word(self.bytes, at + 8)?;
            let bits = if has_bit_sizes { bits & 0x00ff_ffff } else { bits };
            let name = self.string(at)?;
            if name == wanted {
                return Some(bits);
            }
            if name.is_empty()
                && deepest > 0
                && let Some(inner) = self.structure(word(self.bytes, at + 4)?)
                && let Some(within) = self.field(inner, wanted, deepest - 1)
            {
                return Some(bits + within);
            }
        }
        None
    }

    /// The structure or union that a type is, whatever it is called or qualified by.
    fn structure(&self, mut number: usize) -> Option<usize> {
        for _ in 0..DEEPEST {
            let at = *self.types.get(number.checked_sub(1)?)?;
            match kind_of(word(self.bytes, at + 4)?) {
                STRUCT | UNION => return Some(at),
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => {
                    number = word(self.bytes, at + 8)?;
                }
                _ => return None,
            }
        }
        None
    }

    /// The name whose offset stands at `at`.
    fn string(&self, at: usize) -> Option<&'a [u8]> {
        let begin = self.strings.checked_add(word(self.bytes, at)?)?;
        self.bytes.get(begin..)?.split(|byte| *byte == 0).next()
    }
}

fn kind_of(info: usize) -> u32 {
    u32::try_from(info >> 24 & 0x1f).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    /// `struct outer { int skipped; struct { int inner; }; }`, the inner one qualified.
    fn small() -> Vec<u8> {
        let strings = b"\0int\0outer\0skipped\0inner\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, INT << 24, 4, 32]);
        types.extend([0, STRUCT << 24 | 1, 4, 19, 1, 0]);
        types.extend([0, CONST << 24, 2]);
        types.extend([5, STRUCT << 24 | 2, 8, 11, 1, 0, 0, 3, 32]);
        let length = u32::try_from(types.len() * 4).unwrap();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, u32::try_from(strings.len()).unwrap()] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        types.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn fields_are_found_within_anonymous_members() {
        let bytes = small();
        let wanted = [("outer", "skipped"), ("outer", "inner"), ("outer", "none")];
        let found = Btf::parse(&bytes).unwrap().offsets(&wanted);
        assert_eq!(found.get(&wanted[0]), Some(&0));
        assert_eq!(found.get(&wanted[1]), Some(&4));
        assert_eq!(found.get(&wanted[2]), None);
    }

    #[test]
    fn a_description_never_panics() {
        let good = small();
        fuzzing::run(|dice| {
            let bytes = dice.mangled(&good);
            if let Some(btf) = Btf::parse(&bytes) {
                btf.offsets(&[("outer", "inner")]);
            }
        });
    }
}
