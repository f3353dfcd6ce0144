//! Hash maps that are quick, and in whose order nothing may be relied on.
//!
//! In the product each process has an order of its own. In the simulator the order comes from the story's seed, like everything
//! else: a story that is told again is the same, step by step, and other stories try other orders.

#[cfg(not(any(test, feature = "sim")))]
pub(crate) use foldhash::fast::RandomState as Order;

/// A map.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Order>;
/// A set.
pub(crate) type HashSet<T> = std::collections::HashSet<T, Order>;

#[cfg(any(test, feature = "sim"))]
pub(crate) use seeded::Order;
#[cfg(feature = "sim")]
pub(crate) use seeded::seed;

#[cfg(any(test, feature = "sim"))]
mod seeded {
    use std::cell::Cell;
    use std::hash::BuildHasher;

    use foldhash::fast::{FixedState, FoldHasher};

    thread_local! {
        static SEED: Cell<u64> = const { Cell::new(0) };
    }

    /// Gives all maps that this thread makes from now on the order of a seed.
    #[cfg_attr(
        not(feature = "sim"),
        expect(dead_code, reason = "for the simulator alone")
    )]
    pub(crate) fn seed(seed: u64) {
        SEED.set(seed);
    }

    /// The order of this thread's present seed.
    #[derive(Clone, Debug)]
    pub(crate) struct Order(FixedState);

    impl Default for Order {
        fn default() -> Self {
            Self(FixedState::with_seed(SEED.get()))
        }
    }

    impl BuildHasher for Order {
        type Hasher = FoldHasher<'static>;

        fn build_hasher(&self) -> Self::Hasher {
            self.0.build_hasher()
        }
    }
}
