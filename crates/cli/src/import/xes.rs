//! XES event logs (IEEE 1849): each event a row, its attributes and those of its trace the fields.
//!
//! An event's attributes are fields by their keys (`concept:name`, `time:timestamp`), those of its trace stand before
//! them with `case:` in front (`case:concept:name`). Integers, floats and booleans are JSON of their type; strings,
//! dates and ids are texts. A list is a JSON array, a container a JSON object. An attribute within another one is a
//! field `KEY/INNER-KEY` behind it. Extensions, classifiers, globals and the log's own attributes describe the log and
//! become no fields.
//!
//! # Invariants
//! - One event and the attributes of one trace are in memory, never more; both are bounded by [`ROW_BYTES_MAX`], and so
//!   is every piece of markup, so that a hostile file is refused instead of filling the memory.
//! - Only the five predefined entities and character references are expanded; a document type declaration is ignored.
//! - An event with a bad attribute is a bad row. XML that is not well-formed ends the import: what follows cannot be
//!   told from what should have been there. Rows before it have been given out.
//!
//! Elsewhere: `source` (bytes and lines), `row` (fields).

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

use super::row::{Row, is_json_number};
use super::source::{ROW_BYTES_MAX, TextReader};
use super::{Next, Rows};
use crate::event_json::write_text;

/// Elements within elements beyond this depth are refused; real logs need a handful.
const DEPTH_MAX: usize = 64;

/// Reads rows from an XES log.
pub(crate) struct Xes {
    reader: quick_xml::Reader<CheckedText>,
    buffer: Vec<u8>,
    place: Place,
    /// The attributes of the trace under way.
    case: Row,
    /// Why no event of the trace under way is a good row.
    case_bad: Option<String>,
    events: u64,
    /// Key and value of the attribute read last.
    key: String,
    value: String,
    /// What is wrong with the event or the trace under way.
    bad: Option<String>,
    /// How much had been read where the event under way began.
    begin: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeLog,
    Log,
    Trace,
    AfterLog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Log,
    Trace,
    Event,
    Attribute(Kind),
    /// Around the elements of a list, in older versions of the standard.
    Values,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    Float,
    Boolean,
    List,
    Container,
}

impl Tag {
    fn of(name: &str) -> Tag {
        match name {
            "event" => Tag::Event,
            "string" | "date" | "id" => Tag::Attribute(Kind::Text),
            "int" => Tag::Attribute(Kind::Int),
            "float" => Tag::Attribute(Kind::Float),
            "boolean" => Tag::Attribute(Kind::Boolean),
            "list" => Tag::Attribute(Kind::List),
            "container" => Tag::Attribute(Kind::Container),
            "trace" => Tag::Trace,
            "log" => Tag::Log,
            "values" => Tag::Values,
            _ => Tag::Other,
        }
    }
}

/// A piece of markup.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Open { tag: Tag, empty: bool },
    Close(Tag),
    End,
}

/// The fields that an attribute comes to: itself, and those within it.
type Members = Vec<(String, String)>;

impl Xes {
    pub(crate) fn new(text: TextReader) -> Self {
        let mut reader = quick_xml::Reader::from_reader(CheckedText::new(text));
        reader.config_mut().trim_text(true);
        Xes {
            reader,
            buffer: Vec::new(),
            place: Place::BeforeLog,
            case: Row::default(),
            case_bad: None,
            events: 0,
            key: String::new(),
            value: String::new(),
            bad: None,
            begin: 0,
        }
    }

    fn line(&self) -> u64 {
        self.reader.get_ref().text.line()
    }

    fn fatal(&self, what: impl std::fmt::Display) -> io::Error {
        let message = format!("line {}: {what}", self.line());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// The next opening or closing tag. Key and value of an attribute are left in `key` and `value`.
    fn piece(&mut self) -> io::Result<Piece> {
        loop {
            self.buffer.clear();
            self.reader.get_mut().left = ROW_BYTES_MAX;
            let event = self.reader.read_event_into(&mut self.buffer);
            let (start, empty) = match event {
                Ok(Event::Start(start)) => (start, false),
                Ok(Event::Empty(start)) => (start, true),
                Ok(Event::End(end)) => return Ok(Piece::Close(Tag::of(end.local_name().as_ref()))),
                Ok(Event::Eof) => return Ok(Piece::End),
                Ok(Event::Decl(decl)) => {
                    if let Some(Ok(encoding)) = decl.encoding()
                        && !["utf-8", "us-ascii", "ascii"].contains(&encoding.to_lowercase().as_str())
                    {
                        let what = format!(
                            "the file says that it is written in {encoding}; convert it to UTF-8 first, for instance \
                             with `iconv -f {encoding} -t UTF-8`, and correct its first line"
                        );
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    continue;
                }
                Ok(_) => continue,
                Err(quick_xml::Error::Io(e)) => return Err(io::Error::new(e.kind(), e.to_string())),
                Err(e) => {
                    let what = format!("the XML is not well-formed: {e}");
                    return Err(self.fatal(what));
                }
            };
            let tag = Tag::of(start.local_name().as_ref());
            if let Tag::Attribute(_) = tag {
                self.key.clear();
                self.value.clear();
                if let Err(reason) = read_key_and_value(&start, &mut self.key, &mut self.value) {
                    self.bad.get_or_insert(reason);
                }
            }
            let checked = self.reader.get_mut();
            if std::mem::take(&mut checked.replaced) {
                self.bad.get_or_insert_with(|| format!("the attribute `{}` is not UTF-8", self.key));
            }
            return Ok(Piece::Open { tag, empty });
        }
    }

    /// Passes over what stands within an element that was opened.
    fn skip(&mut self) -> io::Result<()> {
        let mut depth = 1;
        while depth > 0 {
            match self.piece()? {
                Piece::Open { empty: false, .. } if depth >= DEPTH_MAX => return Err(self.too_deep()),
                Piece::Open { empty, .. } => depth += usize::from(!empty),
                Piece::Close(_) => depth -= 1,
                Piece::End => return Err(self.cut_off()),
            }
        }
        Ok(())
    }

    fn too_deep(&self) -> io::Error {
        self.fatal(format!("elements stand within each other more than {DEPTH_MAX} deep"))
    }

    fn cut_off(&self) -> io::Error {
        self.fatal("the file ends in the middle of the log: it was cut off, fetch it again")
    }

    /// Whether the event or attribute under way is longer than a row may be.
    fn is_too_long(&self) -> bool {
        self.reader.get_ref().consumed - self.begin > ROW_BYTES_MAX as u64
    }

    /// Adds the attribute read last, with everything within it, to `row`.
    fn attribute(&mut self, kind: Kind, empty: bool, prefix: &str, row: &mut Row) -> io::Result<()> {
        if empty && !matches!(kind, Kind::List | Kind::Container) {
            let name = if prefix.is_empty() {
                Cow::Borrowed(self.key.as_str())
            } else {
                Cow::Owned(format!("{prefix}{}", self.key))
            };
            match json_of(kind, &self.value) {
                None => row.push_text(&name, &self.value),
                Some(json) => row.push_json(&name, &json),
            }
            return Ok(());
        }
        for (name, json) in self.members(kind, empty, 1)? {
            row.push_json(&format!("{prefix}{name}"), &json);
        }
        Ok(())
    }

    /// Reads what stands within the attribute read last, and gives it and them.
    fn members(&mut self, kind: Kind, empty: bool, depth: usize) -> io::Result<Members> {
        let name = std::mem::take(&mut self.key);
        let value = std::mem::take(&mut self.value);
        let mut inner: Vec<Members> = Vec::new();
        let mut values = 0;
        // An empty element has no closing tag to look for.
        let mut open = !empty;
        while open {
            match self.piece()? {
                Piece::Open { empty: false, .. } if depth + values >= DEPTH_MAX => {
                    return Err(self.too_deep());
                }
                Piece::Open { tag: Tag::Attribute(kind), empty } => {
                    let members = self.members(kind, empty, depth + values + 1)?;
                    if !self.is_too_long() {
                        inner.push(members);
                    }
                }
                Piece::Open { tag: Tag::Values, empty } => values += usize::from(!empty),
                Piece::Open { empty: false, .. } => self.skip()?,
                Piece::Open { empty: true, .. } => {}
                Piece::Close(Tag::Values) if values > 0 => values -= 1,
                Piece::Close(_) => open = false,
                Piece::End => return Err(self.cut_off()),
            }
        }
        Ok(match kind {
            Kind::List => vec![(name, json_list(&inner))],
            Kind::Container => vec![(name, json_object(inner.iter().flatten()))],
            _ => {
                let json = json_of(kind, &value).map_or_else(|| json_string(&value), Cow::into_owned);
                let within = inner.into_iter().flatten().map(|(n, json)| (format!("{name}/{n}"), json));
                std::iter::once((name.clone(), json)).chain(within).collect()
            }
        })
    }

    fn trace_attribute(&mut self, kind: Kind, empty: bool) -> io::Result<()> {
        self.begin = self.reader.get_ref().consumed;
        let mut case = std::mem::take(&mut self.case);
        let result = self.attribute(kind, empty, "case:", &mut case);
        if self.is_too_long() || case.bytes() > ROW_BYTES_MAX {
            case.clear_fields();
            self.bad =
                Some(format!("the attributes of its trace are longer than {} MiB", ROW_BYTES_MAX >> 20));
        }
        self.case = case;
        if let Some(reason) = self.bad.take() {
            self.case_bad.get_or_insert(reason);
        }
        result
    }

    fn event(&mut self, empty: bool, row: &mut Row) -> io::Result<Next> {
        self.events += 1;
        row.clear(self.events, self.line());
        self.bad = self.case_bad.clone();
        row.extend(&self.case);
        self.begin = self.reader.get_ref().consumed;
        let mut open = !empty;
        while open {
            match self.piece()? {
                Piece::Open { tag: Tag::Attribute(kind), empty } => {
                    self.attribute(kind, empty, "", row)?;
                    if self.is_too_long() {
                        row.clear_fields();
                    }
                }
                Piece::Open { empty: false, .. } => self.skip()?,
                Piece::Open { empty: true, .. } => {}
                Piece::Close(_) => open = false,
                Piece::End => return Err(self.cut_off()),
            }
        }
        row.line = self.line();
        if self.is_too_long() {
            self.bad = Some(format!("the event is longer than {} MiB", ROW_BYTES_MAX >> 20));
        }
        Ok(match self.bad.take() {
            None => Next::Row,
            Some(reason) => Next::Bad(reason),
        })
    }
}

impl Rows for Xes {
    /// The fields as a line of JSON: an event cannot stand alone as XML.
    fn original(&self, row: &Row, out: &mut Vec<u8>) {
        row.write_json(&[], &[], out);
        out.push(b'\n');
    }

    fn next_row(&mut self, row: &mut Row) -> io::Result<Next> {
        loop {
            let piece = self.piece()?;
            match (self.place, piece) {
                (Place::BeforeLog, Piece::Open { tag: Tag::Log, empty }) => {
                    self.place = if empty { Place::AfterLog } else { Place::Log };
                }
                (Place::BeforeLog, _) => {
                    return Err(self.fatal("this is no XES log: it does not begin with `<log>`"));
                }
                (Place::AfterLog, Piece::End) => return Ok(Next::End),
                (Place::AfterLog, _) => return Err(self.fatal("something stands behind the end of the log")),
                (_, Piece::End) => return Err(self.cut_off()),
                (Place::Log, Piece::Open { tag: Tag::Trace, empty }) => {
                    self.case.clear_fields();
                    self.case_bad = None;
                    self.place = if empty { Place::Log } else { Place::Trace };
                }
                (_, Piece::Open { tag: Tag::Event, empty }) => return self.event(empty, row),
                (Place::Trace, Piece::Open { tag: Tag::Attribute(kind), empty }) => {
                    self.trace_attribute(kind, empty)?;
                }
                (_, Piece::Open { empty, .. }) => {
                    if !empty {
                        self.skip()?;
                    }
                    self.bad = None;
                }
                (Place::Trace, Piece::Close(_)) => {
                    self.case.clear_fields();
                    self.case_bad = None;
                    self.place = Place::Log;
                }
                (Place::Log, Piece::Close(_)) => self.place = Place::AfterLog,
            }
        }
    }
}

/// Key and value of an attribute. What cannot be read is named.
fn read_key_and_value(start: &BytesStart<'_>, key: &mut String, value: &mut String) -> Result<(), String> {
    let (mut has_key, mut has_value) = (false, false);
    let mut attributes = start.attributes();
    // Looking for repeated names costs the square of their number.
    attributes.with_checks(false);
    for attribute in attributes {
        let attribute = attribute.map_err(|e| format!("an attribute cannot be read: {e}"))?;
        let (out, has) = match attribute.key.as_ref() {
            "key" => (&mut *key, &mut has_key),
            "value" => (&mut *value, &mut has_value),
            _ => continue,
        };
        if !*has {
            let text = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|e| format!("`{}` cannot be read: {e}", attribute.key.as_ref()))?;
            out.push_str(&text);
            *has = true;
        }
    }
    if !has_key || key.is_empty() {
        return Err("an attribute has no key".to_owned());
    }
    Ok(())
}

/// The JSON of a typed value; `None` for what is or stays a text, as a float that is no number to JSON.
fn json_of(kind: Kind, value: &str) -> Option<Cow<'_, str>> {
    let value = value.trim();
    match kind {
        Kind::Int | Kind::Float if is_json_number(value) => Some(Cow::Borrowed(value)),
        Kind::Int => value.parse::<i64>().ok().map(|n| Cow::Owned(n.to_string())),
        Kind::Float => {
            let number = value.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map(|n| Cow::Owned(n.to_string()))
        }
        Kind::Boolean => match value {
            "true" | "1" => Some(Cow::Borrowed("true")),
            "false" | "0" => Some(Cow::Borrowed("false")),
            _ => None,
        },
        Kind::Text | Kind::List | Kind::Container => None,
    }
}

fn json_string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_text(text, &mut out);
    String::from_utf8(out).expect("only text was written")
}

fn json_object<'m>(members: impl Iterator<Item = &'m (String, String)>) -> String {
    let fields: Vec<String> = members.map(|(name, json)| format!("{}:{json}", json_string(name))).collect();
    format!("{{{}}}", fields.join(","))
}

/// The elements as an array: of their values alone where their keys are all the same, which says nothing then.
fn json_list(elements: &[Members]) -> String {
    let key = elements.first().and_then(|e| e.first()).map(|(name, _)| name);
    let plain = elements.iter().all(|e| e.len() == 1 && e.first().map(|(name, _)| name) == key);
    let items: Vec<String> = elements
        .iter()
        .map(
            |e| if plain { e.iter().map(|(_, json)| json.as_str()).collect() } else { json_object(e.iter()) },
        )
        .collect();
    format!("[{}]", items.join(","))
}

/// Text that is surely UTF-8, since XML must be: what is not is replaced by U+FFFD and noted, so that one bad byte
/// costs one row and not the rest of the file. It also bounds how much of one piece of markup may be read.
struct CheckedText {
    text: TextReader,
    /// So many bytes at the front of the text's buffer are known to be UTF-8.
    valid: usize,
    /// Bytes to give out before those of the text: a replacement, or a character that two buffers had parts of.
    extra: [u8; 4],
    extra_at: usize,
    extra_len: usize,
    /// Whether something was replaced.
    replaced: bool,
    /// How many bytes may still be read before the markup under way is too long.
    left: usize,
    /// Bytes given out.
    consumed: u64,
}

impl CheckedText {
    fn new(text: TextReader) -> Self {
        CheckedText {
            text,
            valid: 0,
            extra: [0; 4],
            extra_at: 0,
            extra_len: 0,
            replaced: false,
            left: ROW_BYTES_MAX,
            consumed: 0,
        }
    }

    /// Takes the bytes at the front, which are no UTF-8 within their buffer, into `extra`.
    fn take_extra(&mut self) -> io::Result<()> {
        const REPLACEMENT: [u8; 3] = [0xef, 0xbf, 0xbd];
        let mut character = [0u8; 4];
        let mut len = 0;
        while let Some(&byte) = self.text.fill_buf()?.first() {
            character[len] = byte;
            match std::str::from_utf8(&character[..=len]) {
                Ok(_) => {
                    self.text.consume(1);
                    self.extra = character;
                    (self.extra_at, self.extra_len) = (0, len + 1);
                    return Ok(());
                }
                // Not yet whole.
                Err(e) if e.error_len().is_none() && len < 3 => {
                    self.text.consume(1);
                    len += 1;
                }
                Err(_) => {
                    // A byte that cannot go on is left for the next look, unless it is the first.
                    self.text.consume(usize::from(len == 0));
                    break;
                }
            }
        }
        self.replaced = true;
        self.extra[..3].copy_from_slice(&REPLACEMENT);
        (self.extra_at, self.extra_len) = (0, 3);
        Ok(())
    }
}

impl Read for CheckedText {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for CheckedText {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            let what = format!(
                "line {}: a tag or text is longer than {} MiB",
                self.text.line(),
                ROW_BYTES_MAX >> 20
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.extra_at == self.extra_len && self.valid == 0 {
            let available = self.text.fill_buf()?;
            let empty = available.is_empty();
            self.valid = match std::str::from_utf8(available) {
                Ok(text) => text.len(),
                Err(e) => e.valid_up_to(),
            };
            if self.valid == 0 && !empty {
                self.take_extra()?;
            }
        }
        if self.extra_at < self.extra_len {
            return Ok(&self.extra[self.extra_at..self.extra_len]);
        }
        Ok(&self.text.fill_buf()?[..self.valid])
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n as u64;
        self.left = self.left.saturating_sub(n);
        if self.extra_at < self.extra_len {
            self.extra_at += n;
        } else {
            self.valid -= n;
            self.text.consume(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::text_of;
    use super::*;
    use proptest::prelude::*;

    /// Number and data of each row, or the reason why it is bad.
    type Found = Vec<(u64, Result<String, String>)>;

    /// The rows, and the error that ended them, where there was one.
    fn read_all(text: TextReader) -> (Found, Option<String>) {
        let mut rows = Xes::new(text);
        let mut row = Row::default();
        let mut out = Vec::new();
        loop {
            match rows.next_row(&mut row) {
                Ok(Next::End) => return (out, None),
                Ok(Next::Bad(reason)) => out.push((row.number, Err(reason))),
                Ok(Next::Row) => {
                    let mut data = Vec::new();
                    row.write_json(&[], &[], &mut data);
                    out.push((row.number, Ok(String::from_utf8(data).expect("UTF-8"))));
                }
                Err(e) => return (out, Some(e.to_string())),
            }
        }
    }

    fn read(text: &str) -> (Found, Option<String>) {
        read_all(text_of(text))
    }

    const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment --><!DOCTYPE log [<!ENTITY a "boom"><!ENTITY b "&a;&a;">]>
<log xes.version="1849-2016" xmlns="http://www.xes-standard.org/">
<extension name="Concept" prefix="concept" uri="http://www.xes-standard.org/concept.xesext"/>
<global scope="event"><string key="concept:name" value="UNKNOWN"/></global>
<classifier name="x" keys="concept:name"/>
<string key="concept:name" value="the log"><string key="inner" value="1"/></string>
"#;

    #[test]
    fn each_event_is_a_row_with_its_trace_in_front_and_types_kept() {
        let (rows, error) = read(&format!(
            r#"{HEAD}<trace><string key="concept:name" value="case 1"/><int key="cost" value="7"/>
<event><string key="concept:name" value="a &amp; b&#10;c"/><date key="time:timestamp" value="2018-01-02T12:53:00+00:00"/>
<int key="n" value="+05"/><float key="f" value="1.50"/><float key="nan" value="NaN"/><boolean key="b" value="true"/>
<id key="i" value="0197a1f0-0000-7000-8000-000000000001"/><string key="empty" value=""/></event>
<event/></trace><trace/><event><string key="alone" value="1"/></event></log>
"#
        ));
        assert_eq!(error, None);
        assert_eq!(
            rows,
            [
                (
                    1,
                    Ok(concat!(
                        r#"{"case:concept:name":"case 1","case:cost":7,"concept:name":"a & b\nc","#,
                        r#""time:timestamp":"2018-01-02T12:53:00+00:00","n":5,"f":1.50,"nan":"NaN","b":true,"#,
                        r#""i":"0197a1f0-0000-7000-8000-000000000001"}"#
                    )
                    .to_owned())
                ),
                (2, Ok(r#"{"case:concept:name":"case 1","case:cost":7}"#.to_owned())),
                (3, Ok(r#"{"alone":"1"}"#.to_owned())),
            ]
        );
    }

    #[test]
    fn attributes_within_attributes_are_kept() {
        let (rows, error) = read(
            r#"<log><trace><event>
<string key="org:resource" value="Bob"><int key="age" value="3"><string key="unit" value="y"/></int></string>
<list key="same"><string key="x" value="1"/><int key="x" value="2"/></list>
<list key="old"><values><string key="x" value="1"/><string key="y" value="2"/></values></list>
<list key="none"/>
<container key="c"><string key="a" value="1"/><list key="l"><boolean key="k" value="false"/></list><foo><bar/></foo></container>
</event></trace></log>"#,
        );
        assert_eq!(error, None);
        assert_eq!(
            rows,
            [(
                1,
                Ok(concat!(
                    r#"{"org:resource":"Bob","org:resource/age":3,"org:resource/age/unit":"y","same":["1",2],"#,
                    r#""old":[{"x":"1"},{"y":"2"}],"none":[],"c":{"a":"1","l":[false]}}"#
                )
                .to_owned())
            )]
        );
    }

    #[test]
    fn a_bad_attribute_is_a_bad_row_and_the_next_event_is_read() {
        let bytes = [
            b"<log><trace><event><string key=\"a\" value=\"x\xffy\"/></event>".as_slice(),
            b"<event><string key=\"a\" value=\"&b;\"/></event><event><string value=\"1\"/></event>",
            b"<event><string key=\"a\" value=1/></event><event><string key=\"a\" value=\"\xc3\xa9\"/></event></trace>",
            b"<trace><string key=\"concept:name\" value=\"&nope;\"/><event/></trace><trace><event/></trace></log>",
        ]
        .concat();
        let (rows, error) = read_all(text_of(bytes));
        assert_eq!(error, None);
        let reason = |i: usize| rows[i].1.as_ref().err().map(String::as_str).unwrap_or("good");
        assert!(reason(0).contains("`a` is not UTF-8"), "{}", reason(0));
        assert!(reason(1).contains("b"), "{}", reason(1));
        assert!(reason(2).contains("no key"), "{}", reason(2));
        assert!(reason(3).contains("cannot be read"), "{}", reason(3));
        assert_eq!(rows[4], (5, Ok("{\"a\":\"é\"}".to_owned())));
        assert!(reason(5).contains("nope"), "{}", reason(5));
        assert_eq!(reason(6), "good");
    }

    #[test]
    fn xml_that_is_not_well_formed_ends_the_import_behind_the_rows_before_it() {
        for (rest, part) in [
            ("", "cut off"),
            ("<event>", "cut off"),
            ("<event><string key='a'", "not well-formed"),
            ("</log>", "not well-formed"),
            ("</trace></log><log/>", "behind the end"),
            (&"<event><container key='c'>".repeat(100), "deep"),
            (&"<x>".repeat(100), "deep"),
        ] {
            let (rows, error) = read(&format!("<log><trace><event/>\n{rest}"));
            assert_eq!(rows, [(1, Ok("{}".to_owned()))]);
            let error = error.expect(rest);
            assert!(error.contains(part) && error.contains("line 2"), "{error}");
        }
        for (text, part) in [
            ("", "does not begin with `<log>`"),
            ("<html><log/></html>", "does not begin with `<log>`"),
            ("hello", "does not begin with `<log>`"),
            ("<?xml version='1.0' encoding='ISO-8859-1'?><log/>", "iconv -f ISO-8859-1"),
        ] {
            let (_, error) = read(text);
            assert!(error.as_ref().is_some_and(|e| e.contains(part)), "{text}: {error:?}");
        }
        assert_eq!(read("<log/>\n"), (vec![], None));
    }

    #[test]
    fn a_value_beyond_the_limit_ends_the_import_and_never_fills_the_memory() {
        let head = io::Cursor::new(b"<log><trace><event/><event><string key=\"a\" value=\"".to_vec());
        let endless = head.chain(io::repeat(b'x').take(4 * ROW_BYTES_MAX as u64));
        let mut rows = Xes::new(TextReader::new(endless).expect("readable"));
        let mut row = Row::default();
        assert_eq!(rows.next_row(&mut row).expect("a row"), Next::Row);
        let error = rows.next_row(&mut row).expect_err("refused").to_string();
        assert!(error.contains("longer than 32 MiB"), "{error}");
        assert!(rows.buffer.capacity() <= 4 * ROW_BYTES_MAX);
    }

    #[test]
    fn an_event_of_too_many_attributes_is_a_bad_row() {
        let attribute = format!("<string key=\"k\" value=\"{}\"/>", "x".repeat(1 << 20));
        let (rows, error) = read(&format!("<log><event>{}</event><event/></log>", attribute.repeat(40)));
        assert_eq!(error, None);
        assert!(rows[0].1.as_ref().is_err_and(|r| r.contains("longer than 32 MiB")));
        assert_eq!(rows[1], (2, Ok("{}".to_owned())));
    }

    /// Gives its bytes in pieces of one length, so that characters are cut in two.
    struct Pieces(Vec<u8>, usize, usize);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.2.min(buf.len()).min(self.0.len() - self.1);
            buf[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
            self.1 += n;
            Ok(n)
        }
    }

    proptest! {
        #[test]
        fn checked_text_is_the_text_with_bad_bytes_replaced(
            bytes in prop::collection::vec(prop::sample::select(b"a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x80\xff\n".to_vec()), 0..60),
            piece in 1usize..7,
        ) {
            prop_assume!(!bytes.starts_with(&[0x1f]) && !bytes.starts_with(&[0xff]) && !bytes.starts_with(&[0xef]));
            let mut checked = CheckedText::new(TextReader::new(Pieces(bytes.clone(), 0, piece)).expect("readable"));
            let mut out = Vec::new();
            checked.read_to_end(&mut out).expect("in memory");
            prop_assert_eq!(String::from_utf8(out).expect("UTF-8"), String::from_utf8_lossy(&bytes));
            prop_assert_eq!(checked.replaced, std::str::from_utf8(&bytes).is_err());
        }

        #[test]
        fn no_text_panics(pieces in prop::collection::vec(prop::sample::select(vec![
            "<log>", "</log>", "<trace>", "</trace>", "<event>", "</event>", "<string key='a' value='1'/>",
            "<list key='l'>", "</list>", "<values>", "</values>", "<x", ">", "&amp;", "&x;", "<!--", "-->", "<![CDATA[", "]]>", "<?", "?>", "'",
        ]), 0..30)) {
            read(&pieces.concat());
        }
    }
}
