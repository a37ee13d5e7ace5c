//! Little-endian fields out of bytes that nobody vouches for.
//!
//! Every read names its field and is checked against what is left, so that a decoder built on
//! it neither panics nor allocates more than it was given.

/// The bytes end inside this field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cut short in {field}")]
pub struct Cut {
    /// The field's name in docs/format.md.
    pub field: &'static str,
}

/// A cursor over bytes being decoded.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Begins at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<(), Cut> {
        if self.rest.is_empty() { Ok(()) } else { Err(Cut { field: "end" }) }
    }

    /// The next `length_bytes` bytes.
    pub fn take(&mut self, field: &'static str, length_bytes: usize) -> Result<&'a [u8], Cut> {
        let (head, rest) = self.rest.split_at_checked(length_bytes).ok_or(Cut { field })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Cut> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Cut { field })?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Cut> {
        self.array(field).map(u8::from_le_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Cut> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Cut> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// The next four bytes, signed.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, Cut> {
        self.array(field).map(i32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Cut> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// The next eight bytes, signed.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, Cut> {
        self.array(field).map(i64::from_le_bytes)
    }

    /// A count of items of at least `least_bytes` each, refused where what is left cannot
    /// hold them: a hostile count reserves nothing.
    pub fn count(&mut self, field: &'static str, least_bytes: usize) -> Result<usize, Cut> {
        let count = usize::try_from(self.u32(field)?).ok().ok_or(Cut { field })?;
        match count.checked_mul(least_bytes) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(Cut { field }),
        }
    }
}

/// A length or number that the caller has bounded below 2^32; saturates rather than wraps, so
/// that a broken bound is refused by the decoder and never misread.
pub(crate) fn u32_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// As [`u32_of`], for 16 bits.
pub(crate) fn u16_of(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// As [`u32_of`], for 8 bits.
pub(crate) fn u8_of(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// A length in memory, as a length on disk: never loses bits on a machine of up to 64.
pub(crate) fn u64_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The first `N` bytes of a hash.
pub(crate) fn truncated<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut short = [0; N];
    for (to, from) in short.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    short
}
