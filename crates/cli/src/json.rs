//! Looks into JSON text without building a tree of it.
//!
//! # Invariants
//! - Values come out as they were written, so that no number loses a digit.
//! - No depth of nesting exhausts the stack.
//!
//! Elsewhere: an event as JSON (`event_json`), states that JSON adds up to (`replay::tree`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The member of a JSON object that a path of names and dots leads to; a name may hold dots.
pub(crate) fn member_of<'a>(json: &'a str, path: &str) -> Option<&'a str> {
    if json.trim_start().as_bytes().first() != Some(&b'{') {
        return None;
    }
    let mut found: Option<(usize, &'a str)> = None;
    let mut walk = |name: &str, value: &'a RawValue| {
        let rest = match path.strip_prefix(name) {
            Some("") => Some(None),
            Some(rest) => rest.strip_prefix('.').map(Some),
            None => None,
        };
        let value = match rest {
            Some(None) => Some(value.get()),
            Some(Some(rest)) => member_of(value.get(), rest),
            None => None,
        };
        if let Some(value) = value
            && found.is_none_or(|(len, _)| name.len() > len)
        {
            found = Some((name.len(), value));
        }
    };
    each_member(json, &mut walk).ok()?;
    found.map(|(_, value)| value)
}

/// Calls `f` with each member of a JSON object, in order. The text is checked to its end.
pub(crate) fn each_member<'a>(
    json: &'a str,
    f: &mut dyn FnMut(&str, &'a RawValue),
) -> Result<(), serde_json::Error> {
    struct Members<'f, 'a>(&'f mut dyn FnMut(&str, &'a RawValue));
    impl<'a> Visitor<'a> for Members<'_, 'a> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<Name<'a>>()? {
                (self.0)(&name.0, map.next_value()?);
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    reader.deserialize_map(Members(f))?;
    reader.end()
}

/// A member's name, borrowed where it has no escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        d.deserialize_str(NameVisitor)
    }
}
