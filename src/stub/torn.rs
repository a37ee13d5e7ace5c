//! A head that a power cut left between a stub and the original.

use super::{MARK, SECTOR_BYTES, STUB_BYTES};

/// Whether every sector of the body's head is the stub's or the original's (row T of the table:
/// a head that is wholly one of them is torn too). Heads shorter than a stub are not.
pub fn torn(original_head: &[u8], stub: &[u8; STUB_BYTES], body_head: &[u8]) -> bool {
    let (Some(original), Some(body)) =
        (original_head.first_chunk::<STUB_BYTES>(), body_head.first_chunk::<STUB_BYTES>())
    else {
        return false;
    };
    let sectors = |bytes: &'_ [u8; STUB_BYTES], n: usize| {
        <[u8; SECTOR_BYTES]>::try_from(&bytes[n..n + SECTOR_BYTES]).ok()
    };
    (0..STUB_BYTES).step_by(SECTOR_BYTES).all(|n| {
        let sector = sectors(body, n);
        sector == sectors(stub, n) || sector == sectors(original, n)
    })
}

/// Whether a sector of a file's head may be a stub's, by its mark alone. False: no write of a
/// stub reached this head, and nothing needs to be fetched to know it.
pub fn holds_stub_sector(body_head: &[u8]) -> bool {
    let head = body_head.get(..STUB_BYTES).unwrap_or(body_head);
    head.chunks_exact(SECTOR_BYTES).any(|sector| sector.ends_with(MARK))
}
