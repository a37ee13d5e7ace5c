//! Caches with a bound that take memory as they fill: there is one of each a tenant.

use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

/// A cache of at most so many entries. `LruCache::new` makes room for all of them at once.
pub fn lru<K: Hash + Eq, V>(most: NonZeroUsize) -> LruCache<K, V> {
    let mut cache = LruCache::unbounded();
    cache.resize(most);
    cache
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = lru(NonZeroUsize::new(2).unwrap());
        cache.put(1, "one");
        cache.put(2, "two");
        cache.get(&1);
        cache.put(3, "three");
        assert_eq!((cache.len(), cache.get(&2)), (2, None));
    }
}
