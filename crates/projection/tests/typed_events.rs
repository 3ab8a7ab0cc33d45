//! Events as they are written and read: every kind of variant in every codec, what serde's attributes say, and what
//! cannot be read.

mod common;

use annals_model::{Batch, ErrorKind, NewEvent, Read, RecordedEvent};
use annals_projection::{Bincode, Codec, Decoded, Event, Json, Recorded, Typed, Upcasts, decode, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use common::topic;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    a: u8,
    b: Option<String>,
}

macro_rules! everything {
    ($name:ident, $codec:ty) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
        #[event(crate = annals_projection, category = "all", codec = $codec)]
        enum $name {
            Nothing,
            One(u64),
            Wrapped(Inner),
            Listed(Vec<Inner>),
            Pair(String, i32),
            Fields {
                #[event(tag)]
                id: u32,
                text: String,
                #[event(tag = "also")]
                also: Option<u8>,
                #[event(tag)]
                many: Vec<String>,
            },
            Empty {},
        }

        impl $name {
            fn all() -> Vec<Self> {
                let inner = || Inner { a: 7, b: Some("ü".to_owned()) };
                vec![
                    $name::Nothing,
                    $name::One(u64::MAX),
                    $name::Wrapped(inner()),
                    $name::Listed(vec![inner(), Inner { a: 0, b: None }]),
                    $name::Pair(String::new(), -1),
                    $name::Fields { id: 1, text: "t".to_owned(), also: None, many: vec![] },
                    $name::Fields {
                        id: 2,
                        text: "x".repeat(300),
                        also: Some(9),
                        many: vec!["p".to_owned(), "q".to_owned(), "p".to_owned()],
                    },
                    $name::Empty {},
                ]
            }
        }
    };
}

everything!(InJson, Json);
everything!(InBincode, Bincode);

fn stored(event: &NewEvent<'_>) -> RecordedEvent {
    let (_store, topic, _) = topic();
    topic.append(&Batch::to("all-1").event(event.clone())).wait().expect("appended");
    topic.read(&Read::all()).expect("read").next().expect("it is there").expect("whole")
}

fn comes_back<E: Event + PartialEq + std::fmt::Debug>(all: Vec<E>) {
    for event in all {
        let new = encode(&event).expect("written");
        assert_eq!(new.content_type, E::Codec::CONTENT_TYPE);
        assert!(new.data.is_some(), "absent data is the end of a key");
        assert_eq!(decode::<E>(&stored(&new).view()).expect("read"), Decoded::Known(event));
    }
}

#[test]
fn every_kind_of_variant_comes_back_in_every_codec() {
    comes_back(InJson::all());
    comes_back(InBincode::all());
    let tags: Vec<Vec<String>> = InJson::all()
        .iter()
        .map(|e| encode(e).expect("written").tags.iter().map(|t| t.clone().into_owned()).collect())
        .collect();
    assert_eq!(tags[5], ["id:1"]);
    // A tag given twice is one.
    assert_eq!(tags[6], ["id:2", "also:9", "many:p", "many:q"]);
    assert!(tags[0].is_empty() && tags[7].is_empty());
}

#[test]
fn what_an_earlier_codec_wrote_is_read_by_its_content_type() {
    // The enum has gone over to bincode; JSON is in the store.
    for (old, new) in InJson::all().into_iter().zip(InBincode::all()) {
        let read = decode::<InBincode>(&stored(&encode(&old).expect("written")).view());
        assert_eq!(read.expect("read"), Decoded::Known(new));
    }
    for (old, new) in InBincode::all().into_iter().zip(InJson::all()) {
        let read = decode::<InJson>(&stored(&encode(&old).expect("written")).view());
        assert_eq!(read.expect("read"), Decoded::Known(new));
    }
    let other = NewEvent::new("One").content_type("application/cbor").data(vec![1]);
    let e = decode::<InJson>(&stored(&other).view()).expect_err("nobody reads CBOR here");
    assert!(
        matches!(e.kind(), ErrorKind::Unreadable { .. }) && e.to_string().contains("application/cbor"),
        "{e}"
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[serde(rename_all = "kebab-case")]
#[event(crate = annals_projection, category = "attributes")]
enum Attributes {
    #[serde(rename = "another name for serde")]
    Renamed {
        #[serde(rename = "n")]
        number: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        later: Option<u8>,
        #[serde(flatten)]
        more: std::collections::BTreeMap<String, serde_json::Value>,
    },
    #[serde(rename_all = "UPPERCASE")]
    Loud { word: String },
}

#[test]
fn serdes_attributes_hold_and_its_names_of_variants_do_not_matter() {
    let more = [("extra".to_owned(), serde_json::json!([1]))].into();
    let event = Attributes::Renamed { number: 3, later: None, more };
    let new = encode(&event).expect("written");
    assert_eq!(new.event_type, "Renamed");
    assert_eq!(new.data.as_deref(), Some(br#"{"n":3,"extra":[1]}"#.as_slice()));
    assert_eq!(decode(&stored(&new).view()).expect("read"), Decoded::Known(event));
    let loud = encode(&Attributes::Loud { word: "w".to_owned() }).expect("written");
    assert_eq!(loud.data.as_deref(), Some(br#"{"WORD":"w"}"#.as_slice()));
}

#[test]
fn unknown_types_are_unknown_to_readers_and_known_ones_that_cannot_be_read_are_errors() {
    let (_store, topic, _) = topic();
    let append = |event: NewEvent<'_>| {
        topic.append(&Batch::to("all-1").event(event)).wait().expect("appended");
    };
    append(NewEvent::new("Strange").data(b"?".as_slice()));
    append(encode(&InJson::One(5)).expect("written"));
    let mut events = topic.read_typed::<InJson>(&Read::all()).expect("read");
    let strange = events.next().expect("read").expect("there");
    assert_eq!((strange.known(), strange.event_type, strange.position), (None, "Strange", 0));
    let one = events.next().expect("read").expect("there");
    assert_eq!((one.known(), one.view().position), (Some(&InJson::One(5)), 1));
    assert!(events.next().expect("read").is_none());

    for (event, why) in [
        (NewEvent::new("One").data(b"\"five\"".as_slice()), "invalid type"),
        (NewEvent::new("One").data(b"5 6".as_slice()), "trailing characters"),
        (NewEvent::new("One"), "EOF"),
        (NewEvent::new("One").schema_version(2).data(b"5".as_slice()), "a later program wrote it"),
        (NewEvent::new("Fields").data(b"{}".as_slice()), "missing field"),
        (encode(&InBincode::One(1)).expect("written").data(vec![255]), ""),
    ] {
        let stored = stored(&event);
        let e = Recorded::<InJson>::new(stored.view()).expect_err("it cannot be read");
        assert!(e.to_string().contains(why), "{e}");
        let ErrorKind::Unreadable { event_type, .. } = e.kind() else { panic!("{e:?}") };
        assert_eq!(*event_type, event.event_type);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "shape", codec = Bincode, upcasts = to_today)]
enum Shape {
    #[event(version = 3)]
    Round { radius: u64 },
}

#[derive(Serialize, Deserialize)]
struct RoundV1(u32);

#[derive(Serialize, Deserialize)]
struct RoundV2 {
    diameter: u64,
}

#[derive(Serialize, Deserialize)]
struct RoundV3 {
    radius: u64,
}

fn to_today() -> Upcasts {
    Upcasts::new()
        .typed::<Bincode, RoundV1, RoundV2>("Circle", 1, "Round", 2, |v1| {
            Ok(RoundV2 { diameter: v1.0.into() })
        })
        .typed::<Bincode, RoundV2, RoundV3>("Round", 2, "Round", 3, |v2| {
            if v2.diameter % 2 == 1 {
                return Err("half a unit".into());
            }
            Ok(RoundV3 { radius: v2.diameter / 2 })
        })
}

fn bincode(value: &(impl Serialize + DeserializeOwned)) -> Vec<u8> {
    let mut bytes = Vec::new();
    Bincode::encode(value, &mut bytes).expect("written");
    bytes
}

#[test]
fn earlier_shapes_in_bincode_are_upcast_step_by_step_and_a_step_that_fails_is_told() {
    let of = |event_type: &'static str, version, data| {
        let event = NewEvent::new(event_type).schema_version(version).content_type(Bincode::CONTENT_TYPE);
        decode::<Shape>(&stored(&event.data(data)).view())
    };
    let round = |radius| Some(Decoded::Known(Shape::Round { radius }));
    assert_eq!(of("Circle", 1, bincode(&RoundV1(10))).ok(), round(5));
    assert_eq!(of("Round", 2, bincode(&RoundV2 { diameter: 8 })).ok(), round(4));
    assert_eq!(of("Round", 3, bincode(&RoundV3 { radius: 3 })).ok(), round(3));
    assert_eq!(of("Circle", 2, bincode(&RoundV1(10))).ok(), Some(Decoded::Unknown), "no step leads from it");
    let e = of("Circle", 1, bincode(&RoundV1(3))).expect_err("a step fails");
    assert!(e.to_string().contains("the upcast from version 2 of Round says: half a unit"), "{e}");
    let e = of("Round", 1, bincode(&RoundV1(3))).expect_err("no step leads from it");
    assert!(e.to_string().contains("no upcast leads from it to version 3"), "{e}");
    // A query of today's types finds what was written under old names.
    let (_store, topic, _) = topic();
    let old = NewEvent::new("Circle").content_type(Bincode::CONTENT_TYPE).data(bincode(&RoundV1(10)));
    topic.append(&Batch::to("shape-1").event(old)).wait().expect("appended");
    let mut events = topic.read_typed::<Shape>(&Read::query(Shape::query())).expect("read");
    assert_eq!(events.next().expect("read").expect("found").known(), Some(&Shape::Round { radius: 5 }));
}
