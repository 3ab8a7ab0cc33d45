//! Keys whose bytes are in the order of what they are made of.
//!
//! # Invariants
//! - Two keys made of the same kinds of parts compare as their parts do, one after the other.
//! - A key made of the first parts of another is a beginning of its bytes, and of no key whose first parts differ.

use std::ops::Range;

/// A key made of parts, in their order.
///
/// ```
/// use annals_projection::projection::Key;
/// let key = |customer: &str, order: u64| Key::new().text(customer).u64(order).into_bytes();
/// assert!(key("a", 300) < key("ab", 2) && key("ab", 2) < key("ab", 300));
/// let all_of_a = Key::new().text("a").range();
/// assert!(all_of_a.contains(&key("a", u64::MAX)) && !all_of_a.contains(&key("ab", 0)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of no parts yet.
    #[must_use]
    pub fn new() -> Self {
        Key::default()
    }

    /// Adds a text, in the order of its bytes.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes. A zero is followed by 255, and two zeros end it, so that what is shorter comes first.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0.push(byte);
            if byte == 0 {
                self.0.push(255);
            }
        }
        self.0.extend([0, 0]);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Adds a number that may be negative.
    #[must_use]
    pub fn i64(self, number: i64) -> Self {
        self.u64(number.cast_unsigned() ^ (1 << 63))
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// All keys that begin with these parts.
    #[must_use]
    pub fn range(self) -> Range<Vec<u8>> {
        let mut end = self.0.clone();
        while let Some(last) = end.pop() {
            if last < 255 {
                end.push(last + 1);
                return self.0..end;
            }
        }
        // Nothing, or nothing but 255: no key that is allowed is longer than this.
        self.0..vec![255; annals_model::limits::KEY_BYTES_MAX + 1]
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Key> for Vec<u8> {
    fn from(key: Key) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_their_parts(
            a: (Vec<u8>, u64, i64), b: (Vec<u8>, u64, i64), same: bool
        ) {
            let b = if same { (a.0.clone(), b.1, b.2) } else { b };
            let key = |k: &(Vec<u8>, u64, i64)| Key::new().bytes(&k.0).u64(k.1).i64(k.2);
            prop_assert_eq!(a.cmp(&b), key(&a).cmp(&key(&b)));
            let of_a = Key::new().bytes(&a.0).range();
            prop_assert_eq!(of_a.contains(&key(&b).into_bytes()), a.0 == b.0);
        }
    }
}
