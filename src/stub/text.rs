//! The lines of a stub, written and read.

use super::{MAGIC, Stub, VERSION};
use crate::file_id::{EntryRef, Extent, TenantUuid};
use crate::seal::{KeyId, MAC_BYTES};
use crate::segment::content::ContentHash;

const NOTE: &str = "mount with coldfs to read";
/// Unit of extents that need no more: 4 KiB.
const UNIT_BYTES: u64 = 4096;

/// All lines up to and including the word `mac ` : what the MAC is over.
pub(super) fn render(stub: &Stub, key: KeyId) -> String {
    let mut text = String::from_utf8_lossy(MAGIC).into_owned();
    let lines = [
        ("note", NOTE.to_owned()),
        ("store", escape(&stub.store)),
        ("tenant", format!("{} {}", escape(&stub.tenant_name), stub.tenant)),
        ("segment", stub.at.segment.to_string()),
        ("entry", stub.at.entry.to_string()),
        ("size", stub.size_bytes.to_string()),
        ("content", stub.content.to_string()),
        ("offset", stub.data_offset.to_string()),
        ("chunk", stub.chunk_bytes.to_string()),
        ("extents", render_extents(&stub.extents)),
        ("key", key.to_string()),
    ];
    text.push_str(&format!("{VERSION}\nexit 1\n"));
    for (word, value) in lines {
        text.push_str(&format!("{word} {value}\n"));
    }
    text.push_str("mac ");
    text
}

/// The number behind the magic, up to the line's end.
pub(super) fn version(rest: &[u8]) -> Option<u32> {
    let end = rest.iter().take(11).position(|byte| *byte == b'\n')?;
    let digits = std::str::from_utf8(&rest[..end]).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

type Lines<'a> = (Stub, KeyId, [u8; MAC_BYTES], &'a str);

/// Reads the lines; the last of the result is what follows them. The caller compares the whole
/// with what [`render`] makes of it, so laxness here accepts nothing.
pub(super) fn read(text: &str) -> Result<Lines<'_>, &'static str> {
    let mut rest = text;
    let mut line = |word: &'static str| {
        let (head, tail) = rest.split_once('\n').ok_or(word)?;
        rest = tail;
        head.strip_prefix(word).and_then(|value| value.strip_prefix(' ')).ok_or(word)
    };
    line("#!/bin/false")?;
    line("exit")?;
    line("note")?;
    let store = unescape(line("store")?).ok_or("store")?;
    let (tenant_name, tenant) = line("tenant")?.split_once(' ').ok_or("tenant")?;
    let tenant_name = unescape(tenant_name).ok_or("tenant")?;
    let tenant = TenantUuid(unhex(tenant).ok_or("tenant")?);
    let segment = line("segment")?.parse().ok().ok_or("segment")?;
    let entry = line("entry")?.parse().ok().ok_or("entry")?;
    let size_bytes = line("size")?.parse().ok().ok_or("size")?;
    let content = ContentHash(unhex(line("content")?).ok_or("content")?);
    let data_offset = line("offset")?.parse().ok().ok_or("offset")?;
    let chunk_bytes = line("chunk")?.parse().ok().ok_or("chunk")?;
    let extents = read_extents(line("extents")?).ok_or("extents")?;
    let key = KeyId(unhex(line("key")?).ok_or("key")?);
    let mac = unhex(line("mac")?).ok_or("mac")?;
    let at = EntryRef { segment, entry };
    let stub = Stub {
        store,
        tenant_name,
        tenant,
        at,
        size_bytes,
        content,
        data_offset,
        chunk_bytes,
        extents,
    };
    Ok((stub, key, mac, rest))
}

/// `gap+length` of each extent, the gap from the end of the one before.
fn render_extents(extents: &[Extent]) -> String {
    if extents.is_empty() {
        return "-".to_owned();
    }
    let mut text = String::new();
    let mut end = 0u64;
    for extent in extents {
        if !text.is_empty() {
            text.push(' ');
        }
        // Extents out of order wrap here, and the caller refuses them.
        push_number(&mut text, extent.offset.wrapping_sub(end));
        text.push('+');
        push_number(&mut text, extent.length);
        end = extent.offset.wrapping_add(extent.length);
    }
    text
}

fn read_extents(text: &str) -> Option<Vec<Extent>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let mut end = 0u64;
    let mut extents = Vec::new();
    for pair in text.split(' ') {
        let (gap, length) = pair.split_once('+')?;
        let offset = end.checked_add(read_number(gap)?)?;
        let length = read_number(length)?;
        end = offset.checked_add(length)?;
        extents.push(Extent { offset, length });
    }
    Some(extents)
}

fn push_number(text: &mut String, bytes: u64) {
    let number = if bytes.is_multiple_of(UNIT_BYTES) {
        bytes / UNIT_BYTES
    } else {
        text.push('=');
        bytes
    };
    let start = text.len();
    let mut number = number;
    loop {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        text.insert(start, char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            break;
        }
    }
}

fn read_number(text: &str) -> Option<u64> {
    match text.strip_prefix('=') {
        Some(bytes) => u64::from_str_radix(bytes, 36).ok(),
        None => u64::from_str_radix(text, 36).ok()?.checked_mul(UNIT_BYTES),
    }
}

/// Percent-escapes all but printable ASCII, and `%` and the space.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
