//! Payloads as bytes: JSON, and bincode for those who ask for it.
//!
//! # Invariants
//! - What wrote a payload is recorded with it, as the content type, so that an event type may change its codec.
//! - No length in the bytes is believed before it is checked.
//!
//! Elsewhere: which part of an event is its payload (`variant`).

use serde::Serialize;
use serde::de::DeserializeSeed;

use crate::unpack::Unpack;

/// What a codec says against some bytes or a value.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Writes payloads, and reads what it wrote.
///
/// [`Json`] is the default; an event enum names another by `#[event(codec = Bincode)]`. A codec of one's own is a type
/// that implements this:
///
/// ```
/// use annals_projection::{Codec, CodecError};
/// use serde::{Serialize, de::DeserializeSeed};
///
/// /// JSON that people can read.
/// struct Pretty;
///
/// impl Codec for Pretty {
///     const CONTENT_TYPE: &'static str = "application/json; pretty";
///
///     fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         Ok(serde_json::to_writer_pretty(out, value)?)
///     }
///
///     fn decode<'de, S: DeserializeSeed<'de>>(seed: S, bytes: &'de [u8]) -> Result<S::Value, CodecError> {
///         Ok(seed.deserialize(&mut serde_json::Deserializer::from_slice(bytes))?)
///     }
/// }
///
/// let mut out = Vec::new();
/// Pretty::encode(&[1, 2], &mut out)?;
/// assert_eq!(out, b"[\n  1,\n  2\n]");
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec: 'static {
    /// The content type that is recorded with what it wrote.
    const CONTENT_TYPE: &'static str;

    /// Appends a value's bytes.
    ///
    /// # Errors
    /// Where the format cannot say the value.
    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value from all of the bytes.
    ///
    /// # Errors
    /// Where the bytes are not such a value, or more than it.
    fn decode<'de, S: DeserializeSeed<'de>>(seed: S, bytes: &'de [u8]) -> Result<S::Value, CodecError>;
}

/// JSON: the default, since people, other languages and later versions can read it.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(out, value)?)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(seed: S, bytes: &'de [u8]) -> Result<S::Value, CodecError> {
        // In text, names and strings need no check of their own. What is no text may still be read: unknown fields, which
        // hold anything, are passed over.
        match std::str::from_utf8(bytes) {
            Ok(text) => from_json(seed, serde_json::Deserializer::from_str(text)),
            Err(_) => from_json(seed, serde_json::Deserializer::from_slice(bytes)),
        }
    }
}

fn from_json<'de, S: DeserializeSeed<'de>, R: serde_json::de::Read<'de>>(
    seed: S,
    mut deserializer: serde_json::Deserializer<R>,
) -> Result<S::Value, CodecError> {
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Bincode 2 in its standard configuration: small and fast, but it has no names, so that a field added, removed or moved
/// needs a new schema version and an upcast. It serves what can be made again (snapshots, states of projections) and
/// payloads that are known to stay.
#[derive(Clone, Copy, Debug)]
pub struct Bincode;

impl Codec for Bincode {
    const CONTENT_TYPE: &'static str = "application/x-bincode";

    fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        bincode::serde::encode_into_std_write(value, out, bincode::config::standard())?;
        Ok(())
    }

    #[inline]
    fn decode<'de, S: DeserializeSeed<'de>>(seed: S, bytes: &'de [u8]) -> Result<S::Value, CodecError> {
        let mut unpack = Unpack::new(bytes)?;
        let value = seed.deserialize(&mut unpack)?;
        match unpack.left() {
            0 => Ok(value),
            left => Err(format!("{left} bytes behind the value").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use super::*;

    type Sample = (u64, String, Vec<i32>, Option<bool>);

    fn sample() -> Sample {
        (300, "Ä".to_owned(), vec![-1, 70_000], Some(true))
    }

    #[test]
    fn bincode_has_these_bytes_and_a_maintained_implementation_reads_them() {
        let mut bytes = Vec::new();
        Bincode::encode(&sample(), &mut bytes).expect("written");
        // 300 as 251 and two bytes; two bytes of text; two zigzag numbers, the second as 252 and four bytes; Some(true).
        assert_eq!(bytes, [251, 44, 1, 2, 0xc3, 0x84, 2, 1, 252, 0xe0, 0x22, 0x02, 0, 1, 1]);
        let config = wincode::config::Configuration::default().with_varint_encoding();
        let read: Sample = wincode::config::deserialize(&bytes, config).expect("the same format");
        assert_eq!(read, sample());
    }

    #[test]
    fn what_is_written_is_read_and_a_byte_too_many_or_too_few_is_not() {
        fn check<C: Codec>() {
            let mut bytes = Vec::new();
            C::encode(&sample(), &mut bytes).expect("written");
            assert_eq!(C::decode(PhantomData::<Sample>, &bytes).expect("read"), sample());
            assert!(C::decode(PhantomData::<Sample>, &bytes[..bytes.len() - 1]).is_err());
            bytes.push(b'1');
            assert!(C::decode(PhantomData::<Sample>, &bytes).is_err());
        }
        check::<Json>();
        check::<Bincode>();
    }

    #[test]
    fn a_length_that_is_not_there_is_refused_and_not_allocated() {
        let claims = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(Bincode::decode(PhantomData::<Vec<u8>>, &claims).is_err());
        assert!(Bincode::decode(PhantomData::<String>, &claims).is_err());
        assert!(Bincode::decode(PhantomData::<Vec<String>>, &claims).is_err());
    }

    #[test]
    fn json_that_is_no_text_is_refused_where_it_is_read_and_only_there() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Read {
            known: String,
        }
        let decode = |bytes: &'static [u8]| Json::decode(PhantomData::<Read>, bytes);
        let read =
            decode(b"{\"unknown\":\"\xff\",\"known\":\"\xc3\x84\"}").expect("the unknown is passed over");
        assert_eq!(read, Read { known: "Ä".to_owned() });
        assert!(decode(b"{\"known\":\"\xff\"}").is_err());
        assert!(decode(b"{\"known\":\"\"}\xff").is_err());
    }
}
