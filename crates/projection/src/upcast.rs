//! Upcasting: what an earlier version wrote becomes what today's types read, on read; the stored bytes stay.
//!
//! # Invariants
//! - A step leads from one (type, schema version) to another, and the steps form no circle.
//! - What no step leads from is read as it is, or is unreadable; nothing is guessed.
//!
//! Elsewhere: when it is needed ([`decode`](crate::decode)).

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError, Json};

type Step = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, CodecError> + Send + Sync>;

/// The steps by which earlier shapes become today's.
///
/// A function that returns this is named by `#[event(upcasts = function)]`.
///
/// ```
/// use annals_projection::{Json, Upcasts};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct PlacedV2 { total: f64 }
/// #[derive(Serialize)]
/// struct PlacedV3 { cents: u64 }
///
/// let upcasts = Upcasts::new()
///     // Version 1 had another name, and the total as text.
///     .json("OrderCreated", 1, "OrderPlaced", 2, |mut data| {
///         data["total"] = data["total"].as_str().unwrap_or("0").parse::<f64>()?.into();
///         Ok(data)
///     })
///     .typed::<Json, PlacedV2, PlacedV3>("OrderPlaced", 2, "OrderPlaced", 3, |old| {
///         Ok(PlacedV3 { cents: (old.total * 100.0) as u64 })
///     });
/// let current = upcasts.run("OrderCreated", 1, "application/json", br#"{"total":"12.5"}"#)?.expect("an earlier shape");
/// assert_eq!((current.event_type, current.schema_version), ("OrderPlaced", 3));
/// assert_eq!(&*current.data, br#"{"cents":1250}"#);
/// # Ok::<(), annals_projection::CodecError>(())
/// ```
#[derive(Default)]
pub struct Upcasts {
    steps: Vec<Upcast>,
}

struct Upcast {
    from: (&'static str, u32),
    to: (&'static str, u32),
    reads: &'static str,
    writes: &'static str,
    step: Step,
}

/// What an earlier shape has become.
#[derive(Debug)]
pub struct Upcasted<'a> {
    /// The event type it has now.
    pub event_type: &'static str,
    /// Its schema version.
    pub schema_version: u32,
    /// What the data is written in.
    pub content_type: &'static str,
    /// The data.
    pub data: Cow<'a, [u8]>,
}

impl Upcasts {
    /// No steps.
    #[must_use]
    pub fn new() -> Self {
        Upcasts::default()
    }

    /// A step from one shape in JSON to another.
    ///
    /// # Panics
    /// Where another step leads from there already, or this one closes a circle: that is a mistake in the program.
    #[must_use]
    pub fn json(
        self,
        from: &'static str,
        from_version: u32,
        to: &'static str,
        to_version: u32,
        step: impl Fn(serde_json::Value) -> Result<serde_json::Value, CodecError> + Send + Sync + 'static,
    ) -> Self {
        self.typed::<Json, serde_json::Value, serde_json::Value>(from, from_version, to, to_version, step)
    }

    /// A step from one type to another, both in the codec `C`.
    ///
    /// # Panics
    /// As [`json`](Self::json).
    #[must_use]
    pub fn typed<C: Codec, A: DeserializeOwned, B: Serialize>(
        mut self,
        from: &'static str,
        from_version: u32,
        to: &'static str,
        to_version: u32,
        step: impl Fn(A) -> Result<B, CodecError> + Send + Sync + 'static,
    ) -> Self {
        let (from, to) = ((from, from_version), (to, to_version));
        assert!(self.step_from(from).is_none(), "two upcasts lead from version {} of {}", from.1, from.0);
        let mut at = to;
        while let Some(next) = self.step_from(at) {
            at = next.to;
        }
        assert!(at != from, "the upcasts from version {} of {} form a circle", from.1, from.0);
        let step = move |data: &[u8]| {
            let mut out = Vec::with_capacity(data.len());
            C::encode(&step(C::decode(PhantomData, data)?)?, &mut out)?;
            Ok(out)
        };
        let (reads, writes) = (C::CONTENT_TYPE, C::CONTENT_TYPE);
        self.steps.push(Upcast { from, to, reads, writes, step: Box::new(step) });
        self
    }

    /// Goes all steps from this shape; `None` where none leads from it.
    ///
    /// # Errors
    /// What a step says, and where the data is in another codec than the step reads.
    pub fn run<'a>(
        &self,
        event_type: &str,
        schema_version: u32,
        content_type: &str,
        data: &'a [u8],
    ) -> Result<Option<Upcasted<'a>>, CodecError> {
        let mut at: Option<Upcasted<'a>> = None;
        loop {
            let (from, written, bytes) = match &at {
                Some(at) => ((at.event_type, at.schema_version), at.content_type, &*at.data),
                None => ((event_type, schema_version), content_type, data),
            };
            let Some(upcast) = self.step_from(from) else { return Ok(at) };
            if written != upcast.reads {
                return Err(format!("the upcast reads {}, and this is {written}", upcast.reads).into());
            }
            let data = (upcast.step)(bytes).map_err(|e| {
                format!("the upcast from version {} of {} says: {e}", upcast.from.1, upcast.from.0)
            })?;
            at = Some(Upcasted {
                event_type: upcast.to.0,
                schema_version: upcast.to.1,
                content_type: upcast.writes,
                data: Cow::Owned(data),
            });
        }
    }

    fn step_from(&self, from: (&str, u32)) -> Option<&Upcast> {
        self.steps.iter().find(|s| s.from == from)
    }

    /// The shapes that steps lead from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.steps.iter().map(|s| s.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "form a circle")]
    fn a_circle_is_refused() {
        let same = |data| Ok(data);
        let _ =
            Upcasts::new().json("A", 1, "A", 2, same).json("A", 2, "B", 1, same).json("B", 1, "A", 1, same);
    }

    #[test]
    #[should_panic(expected = "two upcasts lead from version 1 of A")]
    fn two_ways_are_refused() {
        let same = |data| Ok(data);
        let _ = Upcasts::new().json("A", 1, "A", 2, same).json("A", 1, "A", 3, same);
    }

    #[test]
    fn a_step_that_fails_says_from_where() {
        let upcasts = Upcasts::new().json("A", 1, "A", 2, |_| Err("no".into()));
        let e = upcasts.run("A", 1, "application/json", b"{}").expect_err("it fails");
        assert_eq!(e.to_string(), "the upcast from version 1 of A says: no");
        assert!(upcasts.run("A", 2, "application/json", b"{}").expect("no step").is_none());
        let e = upcasts.run("A", 1, "text/plain", b"{}").expect_err("another codec");
        assert_eq!(e.to_string(), "the upcast reads application/json, and this is text/plain");
    }
}
