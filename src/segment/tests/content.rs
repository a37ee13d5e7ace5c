//! The content hash is of the bytes, not of their layout.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::segment::content::LEAF_BYTES;
use crate::segment::{ContentHash, ContentHasher};

fn hash_of(bytes: &[u8]) -> ContentHash {
    let mut hasher = ContentHasher::new();
    hasher.push(bytes);
    hasher.finish(bytes.len() as u64)
}

#[test]
fn a_hole_hashes_as_the_zeros_that_it_reads_as() {
    for length in [0, 1, 4096, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 3 * LEAF_BYTES + 7] {
        let zeros = hash_of(&vec![0; length]);
        let mut hole = ContentHasher::new();
        hole.push_zeros(length as u64);
        assert_eq!(hole.finish(length as u64), zeros, "{length}");
        assert_eq!(ContentHasher::new().finish(length as u64), zeros, "{length}");
    }
}

#[test]
fn the_size_is_part_of_the_content() {
    assert_ne!(hash_of(&[0; 4096]), hash_of(&[0; 4097]));
    assert_ne!(hash_of(b"ab"), hash_of(b"ab\0"));
}

#[test]
fn a_terabyte_of_hole_takes_a_moment() {
    let start = Instant::now();
    let mut hasher = ContentHasher::new();
    hasher.push(b"head");
    drop(hasher.finish(1 << 40).to_string());
    let took = start.elapsed();
    println!("1 TiB sparse: {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_cutting_into_data_and_holes_gives_the_same_hash(
        runs in proptest::collection::vec((any::<bool>(), 0usize..800_000, 1usize..4000), 0..8),
    ) {
        let mut bytes = Vec::new();
        let mut hasher = ContentHasher::new();
        for (data, length, step) in runs {
            if data {
                let run = vec![1; length / 4];
                bytes.extend_from_slice(&run);
                run.chunks(step).for_each(|part| hasher.push(part));
            } else {
                bytes.resize(bytes.len() + length, 0);
                hasher.push_zeros(length as u64);
            }
        }
        prop_assert_eq!(hasher.offset(), bytes.len() as u64);
        prop_assert_eq!(hasher.finish(bytes.len() as u64), hash_of(&bytes));
    }
}
