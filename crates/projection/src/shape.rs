//! The shape of a value: a hash of its types' and fields' names and kinds, as serde sees them, without what they hold.
//!
//! # Invariants
//! - The same value of the same types has the same shape, in every process.
//! - The order of the elements of sequences and maps does not matter.
//! - A field renamed, moved, added, removed or of another kind makes another shape of every value that has it.
//!
//! A format without names, as bincode is, reads the bytes of one struct as those of another where their kinds agree. A
//! snapshot carries the shape of what was written, so that it is never misread.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

/// The shape of a value.
///
/// # Errors
/// Where the value refuses to be serialized.
pub(crate) fn shape_of(value: &(impl Serialize + ?Sized)) -> Result<u64, ShapeError> {
    value.serialize(Shape)
}

/// A value refused to be serialized.
#[derive(Debug)]
pub(crate) struct ShapeError(String);

impl Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShapeError {}

impl ser::Error for ShapeError {
    fn custom<T: Display>(text: T) -> Self {
        ShapeError(text.to_string())
    }
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

fn kind(name: &str) -> Result<u64, ShapeError> {
    Ok(hash(&[name.as_bytes()]))
}

struct Shape;

/// The shape of something with parts, so far.
struct Parts {
    of: u64,
    ordered: bool,
    count: u64,
}

impl Parts {
    fn new(what: &str, name: &str, variant: &str) -> Self {
        Parts { of: hash(&[what.as_bytes(), name.as_bytes(), variant.as_bytes()]), ordered: true, count: 0 }
    }

    fn unordered(what: &str) -> Self {
        Parts { ordered: false, ..Parts::new(what, "", "") }
    }

    fn part(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), ShapeError> {
        let place = if self.ordered { self.count } else { 0 };
        self.count += 1;
        let part = hash(&[name.as_bytes(), &place.to_le_bytes(), &shape_of(value)?.to_le_bytes()]);
        self.of = self.of.wrapping_add(part);
        Ok(())
    }
}

macro_rules! kinds {
    ($($method:ident($($of:ty)?) $name:literal;)+) => {
        $(fn $method(self $(, _: $of)?) -> Result<u64, ShapeError> {
            kind($name)
        })+
    };
}

impl Serializer for Shape {
    type Ok = u64;
    type Error = ShapeError;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    kinds! {
        serialize_bool(bool) "bool";
        serialize_i8(i8) "i8";
        serialize_i16(i16) "i16";
        serialize_i32(i32) "i32";
        serialize_i64(i64) "i64";
        serialize_i128(i128) "i128";
        serialize_u8(u8) "u8";
        serialize_u16(u16) "u16";
        serialize_u32(u32) "u32";
        serialize_u64(u64) "u64";
        serialize_u128(u128) "u128";
        serialize_f32(f32) "f32";
        serialize_f64(f64) "f64";
        serialize_char(char) "char";
        serialize_str(&str) "str";
        serialize_bytes(&[u8]) "bytes";
        serialize_none() "none";
        serialize_unit() "unit";
    }

    fn is_human_readable(&self) -> bool {
        // As bincode says, so that types which write themselves in two ways write the one that is stored.
        false
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, ShapeError> {
        Ok(hash(&[b"some", &shape_of(value)?.to_le_bytes()]))
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<u64, ShapeError> {
        Ok(hash(&[b"unit", name.as_bytes()]))
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<u64, ShapeError> {
        Ok(hash(&[b"variant", name.as_bytes(), &index.to_le_bytes(), variant.as_bytes()]))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<u64, ShapeError> {
        Ok(hash(&[b"newtype", name.as_bytes(), &shape_of(value)?.to_le_bytes()]))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, ShapeError> {
        let of = [name.as_bytes(), &index.to_le_bytes(), variant.as_bytes()].concat();
        Ok(hash(&[b"newtype variant", &of, &shape_of(value)?.to_le_bytes()]))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, ShapeError> {
        Ok(Parts::unordered("seq"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, ShapeError> {
        Ok(Parts::new("tuple", "", ""))
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Parts, ShapeError> {
        Ok(Parts::new("tuple struct", name, ""))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, ShapeError> {
        Ok(Parts::new("tuple variant", name, &format!("{index} {variant}")))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, ShapeError> {
        Ok(Parts::unordered("map"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts, ShapeError> {
        Ok(Parts::new("struct", name, ""))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts, ShapeError> {
        Ok(Parts::new("struct variant", name, &format!("{index} {variant}")))
    }
}

macro_rules! parts {
    ($($of:ident::$method:ident;)+) => {
        $(impl ser::$of for Parts {
            type Ok = u64;
            type Error = ShapeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
                self.part("", value)
            }

            fn end(self) -> Result<u64, ShapeError> {
                Ok(self.of)
            }
        })+
    };
}

parts! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}

impl ser::SerializeMap for Parts {
    type Ok = u64;
    type Error = ShapeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ShapeError> {
        self.part("key", key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ShapeError> {
        self.part("value", value)
    }

    fn end(self) -> Result<u64, ShapeError> {
        Ok(self.of)
    }
}

macro_rules! named_parts {
    ($($of:ident)+) => {
        $(impl ser::$of for Parts {
            type Ok = u64;
            type Error = ShapeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), ShapeError> {
                self.part(name, value)
            }

            fn end(self) -> Result<u64, ShapeError> {
                Ok(self.of)
            }
        })+
    };
}

named_parts! { SerializeStruct SerializeStructVariant }

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    #[serde(rename = "State")]
    struct One {
        a: u64,
        b: u64,
    }

    #[derive(Serialize)]
    #[serde(rename = "State")]
    struct Moved {
        b: u64,
        a: u64,
    }

    #[derive(Serialize)]
    #[serde(rename = "State")]
    struct Wider {
        a: u64,
        b: u64,
        c: Option<u8>,
    }

    #[derive(Serialize)]
    #[serde(rename = "State")]
    struct OtherKind {
        a: u64,
        b: i64,
    }

    #[test]
    fn values_of_one_type_have_one_shape_and_those_of_a_changed_one_another() {
        let shape = |value: &dyn Fn() -> Result<u64, ShapeError>| value().expect("serialized");
        let one = shape(&|| shape_of(&One { a: 1, b: 2 }));
        assert_eq!(one, shape(&|| shape_of(&One { a: 3, b: 9 })));
        for other in [
            shape(&|| shape_of(&Moved { b: 1, a: 2 })),
            shape(&|| shape_of(&Wider { a: 1, b: 2, c: None })),
            shape(&|| shape_of(&OtherKind { a: 1, b: 2 })),
            shape(&|| shape_of(&(1_u64, 2_u64))),
        ] {
            assert_ne!(one, other);
        }
        let in_a_map = |names: [&str; 3]| {
            let map: HashMap<String, One> =
                names.iter().map(|name| ((*name).to_owned(), One { a: 1, b: 2 })).collect();
            shape(&|| shape_of(&map))
        };
        assert_eq!(in_a_map(["x", "y", "z"]), in_a_map(["z", "q", "x"]));
        // It is the same tomorrow: it is stored.
        assert_eq!(one, 0x1509aa3da594aad3);
    }
}
