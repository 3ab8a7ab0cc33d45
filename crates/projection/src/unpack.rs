//! Reading bincode's standard encoding where it lies: the half of the codec that a fold runs for every event.
//!
//! # Invariants
//! - What bincode 2 reads with a limit of [`BYTES_MAX`] is read as the same value, and what it refuses is refused; a test
//!   compares the two.
//! - Text and bytes are handed on borrowed, so that whoever keeps them copies them once, and nothing else is allocated.
//! - No length is believed before so many bytes are there.
//!
//! The `bincode` crate makes each `String` out of a vector of zeros that it then fills, and counts each byte against a
//! limit, which a slice in memory is already. That took more than half of the time of a fold.
//!
//! Elsewhere: writing, and what else a payload can be (`codec`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// The first byte of a number that is not the number itself says how many bytes it has: 2, 4, 8, 16.
const TWO: u8 = 251;
const FOUR: u8 = 252;
const EIGHT: u8 = 253;
const SIXTEEN: u8 = 254;

/// Longer values are refused, and sequences of more elements, which otherwise could be of elements without bytes and take
/// for ever.
pub(crate) const BYTES_MAX: usize = 256 * 1024 * 1024;

/// What is left of the bytes.
pub(crate) struct Unpack<'de> {
    rest: &'de [u8],
}

/// Why bytes are no such value. Boxed, so that what is read comes back in registers.
#[derive(Debug)]
pub(crate) struct Malformed(Box<Cow<'static, str>>);

type Result<T> = std::result::Result<T, Malformed>;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

impl serde::de::Error for Malformed {
    #[cold]
    fn custom<T: fmt::Display>(what: T) -> Self {
        Malformed(Box::new(what.to_string().into()))
    }
}

#[cold]
fn malformed(what: &'static str) -> Malformed {
    Malformed(Box::new(what.into()))
}

#[cold]
fn ends() -> Malformed {
    malformed("the bytes end within the value")
}

impl<'de> Unpack<'de> {
    pub(crate) fn new(bytes: &'de [u8]) -> Result<Self> {
        if bytes.len() > BYTES_MAX {
            return Err(malformed("the value is too long"));
        }
        Ok(Unpack { rest: bytes })
    }

    /// How many bytes have not been read.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or_else(ends)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk().ok_or_else(ends)?;
        self.rest = rest;
        Ok(*first)
    }

    /// A number that may have as many bytes as `widest` says.
    #[inline]
    fn varint(&mut self, widest: u8) -> Result<u64> {
        let first = self.byte()?;
        if first < TWO {
            return Ok(u64::from(first));
        }
        if first > widest {
            return Err(malformed("a number has more bytes than its type"));
        }
        Ok(match first {
            TWO => u64::from(u16::from_le_bytes(self.array()?)),
            FOUR => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        })
    }

    #[inline]
    fn varint128(&mut self) -> Result<u128> {
        match self.rest.first() {
            Some(&SIXTEEN) => {
                self.byte()?;
                Ok(u128::from_le_bytes(self.array()?))
            }
            _ => self.varint(EIGHT).map(u128::from),
        }
    }

    #[inline]
    fn signed(&mut self, widest: u8) -> Result<i64> {
        let zigzag = self.varint(widest)?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    #[inline]
    fn len(&mut self) -> Result<usize> {
        match self.varint(EIGHT)? {
            len if len <= BYTES_MAX as u64 => Ok(len as usize),
            _ => Err(ends()),
        }
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'de [u8]> {
        let len = self.len()?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(ends)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("text is not UTF-8"))
    }

    fn char(&mut self) -> Result<char> {
        let no_char = || malformed("a character is not UTF-8");
        let len = match self.rest.first().ok_or_else(ends)? {
            0..0x80 => 1,
            0xc2..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0..0xf5 => 4,
            _ => return Err(no_char()),
        };
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(ends)?;
        self.rest = rest;
        std::str::from_utf8(taken).ok().and_then(|s| s.chars().next()).ok_or_else(no_char)
    }

    #[inline]
    fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed("neither yes nor no")),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident |$from:ident| $read:expr;)+) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            let $from = self;
            visitor.$visit($read)
        })+
    };
}

impl<'de> Deserializer<'de> for &mut Unpack<'de> {
    type Error = Malformed;

    // The widest form that is let through is as wide as the type, so that `as` cuts nothing off.
    numbers! {
        deserialize_bool visit_bool |from| from.flag()?;
        deserialize_u8 visit_u8 |from| from.byte()?;
        deserialize_u16 visit_u16 |from| from.varint(TWO)? as u16;
        deserialize_u32 visit_u32 |from| from.varint(FOUR)? as u32;
        deserialize_u64 visit_u64 |from| from.varint(EIGHT)?;
        deserialize_u128 visit_u128 |from| from.varint128()?;
        deserialize_i8 visit_i8 |from| from.byte()? as i8;
        deserialize_i16 visit_i16 |from| from.signed(TWO)? as i16;
        deserialize_i32 visit_i32 |from| from.signed(FOUR)? as i32;
        deserialize_i64 visit_i64 |from| from.signed(EIGHT)?;
        deserialize_i128 visit_i128 |from| {
            let zigzag = from.varint128()?;
            (zigzag >> 1) as i128 ^ -((zigzag & 1) as i128)
        };
        deserialize_f32 visit_f32 |from| f32::from_le_bytes(from.array()?);
        deserialize_f64 visit_f64 |from| f64::from_le_bytes(from.array()?);
        deserialize_char visit_char |from| from.char()?;
        deserialize_str visit_borrowed_str |from| from.text()?;
        deserialize_string visit_borrowed_str |from| from.text()?;
        deserialize_bytes visit_borrowed_bytes |from| from.bytes()?;
        deserialize_byte_buf visit_borrowed_bytes |from| from.bytes()?;
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.flag()? { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let left = self.len()?;
        visitor.visit_seq(Elements { from: self, left })
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(Elements { from: self, left })
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        left: usize,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(Elements { from: self, left })
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let left = self.len()?;
        visitor.visit_map(Elements { from: self, left })
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(Elements { from: self, left: fields.len() })
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(malformed("bincode does not say what a value is: only a type that knows can read it"))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(malformed("bincode has no names of fields"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(malformed("bincode does not say how long a value is: nothing can be passed over"))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// What is left of a sequence, a tuple, a struct or a map.
struct Elements<'u, 'de> {
    from: &'u mut Unpack<'de>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Malformed;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.from).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        // Who makes room by this makes it for what can be there: an element takes a byte, or no room.
        Some(self.left.min(self.from.left()))
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = Malformed;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.from)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        SeqAccess::size_hint(self)
    }
}

impl<'de> EnumAccess<'de> for &mut Unpack<'de> {
    type Error = Malformed;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let variant = self.varint(FOUR)? as u32;
        let value = seed.deserialize(IntoDeserializer::<Malformed>::into_deserializer(variant))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Unpack<'de> {
    type Error = Malformed;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::marker::PhantomData;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;

    /// One of each thing that serde knows.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Everything {
        small: (bool, u8, i8),
        unsigned: (u16, u32, u64, u128, usize),
        signed: (i16, i32, i64, i128, isize),
        floats: (f32, f64),
        text: (char, String, Option<String>),
        many: Vec<Kind>,
        named: BTreeMap<u32, Vec<u16>>,
        nothing: (),
        blob: Blob,
    }

    #[derive(Clone, Debug, Serialize, Deserialize)]
    enum Kind {
        Unit,
        Newtype(Option<i64>),
        Tuple(u8, String),
        Struct { a: u32, b: Vec<bool> },
    }

    #[derive(Clone, Debug)]
    struct Blob(Vec<u8>);

    impl Serialize for Blob {
        fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
            to.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Blob {
        fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
            struct Bytes;
            impl Visitor<'_> for Bytes {
                type Value = Blob;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_bytes<E>(self, bytes: &[u8]) -> std::result::Result<Blob, E> {
                    Ok(Blob(bytes.to_vec()))
                }
            }
            from.deserialize_byte_buf(Bytes)
        }
    }

    fn everything() -> impl Strategy<Value = Everything> {
        // Numbers of all lengths, and both sides of where a length begins.
        fn number() -> impl Strategy<Value = u128> {
            (any::<u128>(), 0..128u32, 0..3u128).prop_map(|(n, by, plus)| {
                if plus == 0 { n >> by } else { (1u128 << by).wrapping_add(248 + plus) }
            })
        }
        let kind = prop_oneof![
            Just(Kind::Unit),
            prop::option::of(number().prop_map(|n| n as i64)).prop_map(Kind::Newtype),
            (any::<u8>(), ".{0,9}").prop_map(|(n, s)| Kind::Tuple(n, s)),
            (number(), prop::collection::vec(any::<bool>(), 0..4))
                .prop_map(|(n, b)| Kind::Struct { a: n as u32, b }),
        ];
        let (u, i) = (prop::array::uniform5(number()), prop::array::uniform5(number()));
        let texts = (any::<char>(), ".{0,30}", prop::option::of(".{0,300}"));
        let named =
            prop::collection::btree_map(any::<u32>(), prop::collection::vec(any::<u16>(), 0..3), 0..3);
        let blob = prop::collection::vec(any::<u8>(), 0..9).prop_map(Blob);
        let parts = (any::<(bool, u8, i8, f32, f64)>(), u, i, texts, prop::collection::vec(kind, 0..4));
        (parts, named, blob).prop_map(|((small, u, i, text, many), named, blob)| Everything {
            small: (small.0, small.1, small.2),
            unsigned: (u[0] as u16, u[1] as u32, u[2] as u64, u[3], u[4] as usize),
            signed: (i[0] as i16, i[1] as i32, i[2] as i64, i[3] as i128, i[4] as isize),
            floats: (small.3, small.4),
            text,
            many,
            named,
            nothing: (),
            blob,
        })
    }

    /// The value as text (a NaN is not itself), where all bytes are one.
    fn unpacked(bytes: &[u8]) -> Option<String> {
        let mut unpack = Unpack::new(bytes).expect("short");
        let value = PhantomData::<Everything>.deserialize(&mut unpack).ok()?;
        (unpack.left() == 0).then(|| format!("{value:?}"))
    }

    fn by_bincode(bytes: &[u8]) -> Option<String> {
        let config = bincode::config::standard().with_limit::<BYTES_MAX>();
        let (value, read): (Everything, usize) = bincode::serde::decode_from_slice(bytes, config).ok()?;
        (read == bytes.len()).then(|| format!("{value:?}"))
    }

    proptest! {
        #[test]
        fn what_bincode_reads_is_read_the_same_and_what_it_refuses_is_refused(
            value in everything(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = bincode::serde::encode_to_vec(&value, bincode::config::standard()).expect("written");
            prop_assert_eq!(unpacked(&bytes), Some(format!("{value:?}")));
            for (at, byte) in changes {
                let mut changed = bytes.clone();
                changed[at.index(bytes.len())] = byte;
                prop_assert_eq!(unpacked(&changed), by_bincode(&changed));
            }
            prop_assert_eq!(unpacked(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn hostile_bytes_are_read_as_bincode_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(unpacked(&bytes), by_bincode(&bytes));
        }
    }

    #[test]
    fn a_number_too_long_for_its_type_is_refused_and_one_written_too_long_is_read_as_bincode_does() {
        fn both<'de, T: Deserialize<'de> + PartialEq + fmt::Debug>(bytes: &'de [u8]) -> Option<T> {
            let value = T::deserialize(&mut Unpack::new(bytes).expect("short")).ok();
            let oracle =
                bincode::serde::seed_decode_from_slice(PhantomData::<T>, bytes, bincode::config::standard());
            assert_eq!(value, oracle.ok().map(|(value, _)| value));
            value
        }
        let widths = [vec![TWO, 5, 0], vec![FOUR, 5, 0, 0, 0], [[EIGHT, 5].as_slice(), &[0; 7]].concat()];
        assert_eq!(widths.each_ref().map(|w| both::<u16>(w)), [Some(5), None, None]);
        assert_eq!(widths.each_ref().map(|w| both::<u32>(w)), [Some(5), Some(5), None]);
        assert_eq!(widths.each_ref().map(|w| both::<u64>(w)), [Some(5), Some(5), Some(5)]);
        assert_eq!(widths.each_ref().map(|w| both::<i16>(w)), [Some(-3), None, None]);
        assert_eq!(both::<u64>(&[[SIXTEEN].as_slice(), &[0; 16]].concat()), None);
        assert_eq!(both::<u128>(&[[SIXTEEN, 5].as_slice(), &[0; 15]].concat()), Some(5));
        assert_eq!(both::<u128>(&[255; 20]), None);
        assert_eq!(both::<&str>(&[2, 0xc3, 0x84]), Some("Ä"));
    }

    #[test]
    fn elements_without_bytes_do_not_take_for_ever() {
        let many = [EIGHT, 0, 0, 0, 0, 0, 0, 0, 1];
        assert!(Vec::<()>::deserialize(&mut Unpack::new(&many).expect("short")).is_err());
        let three = Vec::<()>::deserialize(&mut Unpack::new(&[3]).expect("short"));
        assert_eq!(three.expect("read").len(), 3);
    }
}
