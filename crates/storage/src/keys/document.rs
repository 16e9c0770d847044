//! A document that a service keeps here: the topology, its own state.
//!
//! ```text
//! table meta
//! key    0x05 | name, UTF-8
//! value  the document
//! ```

use super::meta_tag;

pub(crate) fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(meta_tag::DOCUMENT);
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(key("ab"), [5, b'a', b'b']);
    }

    proptest! {
        #[test]
        fn names_have_keys_of_their_own(first: String, second: String) {
            prop_assert_eq!(first == second, key(&first) == key(&second));
        }
    }
}
