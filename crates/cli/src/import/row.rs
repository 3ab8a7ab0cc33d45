//! One [`Row`] of a source file: named fields in file order, and the texts that a template can take from them.
//!
//! # Invariants
//! - A row is one buffer that is used again for the next row, so a file of any size costs the memory of its largest row.
//! - A field's value is either a *text* of the source (a CSV cell, an XES string) or *JSON* (what a JSON Lines object
//!   holds, typed XES values, list-valued cells); JSON is kept as it was written, so no number loses a digit.
//!
//! Elsewhere: where rows come from (`jsonl`, `csv`, `xes`), what is made of them (`template`, `mapping`).

use std::borrow::Cow;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::event_json::write_text;
use crate::json::member_of;

/// Name of the field of a rejects file that names the file in which the row stood first.
pub(crate) const REJECT_SOURCE: &str = "annals:source";
/// Name of the field of a rejects file that holds the row's number in that file.
pub(crate) const REJECT_ROW: &str = "annals:row";
/// Name of the field of a rejects file that says why the row was rejected.
pub(crate) const REJECT_REASON: &str = "annals:reason";

/// One row: named fields in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// What the row is known by, in messages and in derived ids: the line that it begins in, for XES the number of the
    /// event in the file.
    pub(crate) number: u64,
    /// The line that it begins in (XES: ends in), from 1.
    pub(crate) line: u64,
    /// The name of the file that it stood in before it was rejected from there, where a rejects file says so.
    pub(crate) source: Option<String>,
    text: String,
    fields: Vec<Field>,
}

#[derive(Clone, Debug)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
    json: bool,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A text of the source.
    Text(&'a str),
    /// JSON as it was written.
    Json(&'a str),
}

/// The texts that a value gives to a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Texts<'a> {
    /// It is absent, blank, null or an empty list.
    None,
    /// Exactly one, also when it is a list of one.
    One(Cow<'a, str>),
    /// A list of several.
    Many(Vec<String>),
}

impl Row {
    /// Empties the row for the next one.
    pub(crate) fn clear(&mut self, number: u64, line: u64) {
        self.number = number;
        self.line = line;
        self.source = None;
        self.clear_fields();
    }

    /// Forgets the fields only.
    pub(crate) fn clear_fields(&mut self) {
        self.text.clear();
        self.fields.clear();
    }

    /// Adds the fields of another row behind those that are there.
    pub(crate) fn extend(&mut self, other: &Row) {
        let by = self.text.len();
        let moved = |r: &Range<usize>| r.start + by..r.end + by;
        self.text.push_str(&other.text);
        self.fields.extend(other.fields.iter().map(|f| Field {
            name: moved(&f.name),
            value: moved(&f.value),
            json: f.json,
        }));
    }

    /// Adds a text.
    pub(crate) fn push_text(&mut self, name: &str, value: &str) {
        self.push(name, value, false);
    }

    /// Adds JSON, which must be well-formed.
    pub(crate) fn push_json(&mut self, name: &str, json: &str) {
        self.push(name, json, true);
    }

    fn push(&mut self, name: &str, value: &str, json: bool) {
        let name = self.add(name);
        let value = self.add(value);
        self.fields.push(Field { name, value, json });
    }

    fn add(&mut self, text: &str) -> Range<usize> {
        let from = self.text.len();
        self.text.push_str(text);
        from..self.text.len()
    }

    /// How many bytes the names and values have.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The fields in file order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.fields.iter().map(|f| (&self.text[f.name.clone()], self.value(f)))
    }

    fn value(&self, field: &Field) -> Value<'_> {
        let text = &self.text[field.value.clone()];
        if field.json { Value::Json(text) } else { Value::Text(text) }
    }

    /// The value of the field of exactly this name.
    pub(crate) fn get(&self, name: &str) -> Option<Value<'_>> {
        self.fields.iter().find(|f| &self.text[f.name.clone()] == name).map(|f| self.value(f))
    }

    /// The value that `path` names: the field of exactly this name, or else a member within a field that is a JSON
    /// object, by dots (`customer.address.city`). Names may themselves hold dots; the longest field name wins.
    pub(crate) fn resolve(&self, path: &str) -> Option<Value<'_>> {
        if let Some(value) = self.get(path) {
            return Some(value);
        }
        path.rmatch_indices('.').find_map(|(dot, _)| match self.get(&path[..dot])? {
            Value::Json(json) => member_of(json, &path[dot + 1..]).map(Value::Json),
            Value::Text(_) => None,
        })
    }

    /// Writes all fields but those in `omit` as one JSON object, blank texts left out; `number` says of which fields a
    /// text that spells a JSON number becomes one.
    pub(crate) fn write_json(&self, omit: &[String], number: &[String], out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (name, value) in self.fields() {
            if omit.iter().any(|o| o == name) || value.is_blank() {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            write_text(name, out);
            out.push(b':');
            match value {
                Value::Json(json) => out.extend_from_slice(json.as_bytes()),
                Value::Text(text) if number.iter().any(|n| n == name) && is_json_number(text.trim()) => {
                    out.extend_from_slice(text.trim().as_bytes());
                }
                Value::Text(text) => write_text(text, out),
            }
        }
        out.push(b'}');
    }
}

impl<'a> Value<'a> {
    /// Whether it is a text of nothing but white space, as some sources write an empty cell.
    pub(crate) fn is_blank(self) -> bool {
        match self {
            Value::Text(text) => text.trim().is_empty(),
            Value::Json(_) => false,
        }
    }

    /// The texts that it gives: a text without the white space around it, a JSON string decoded, a number or boolean
    /// as it is written, one of these for each element of a list (null ones left out), an object as its JSON.
    pub(crate) fn texts(self) -> Texts<'a> {
        match self {
            Value::Text(text) => match text.trim() {
                "" => Texts::None,
                text => Texts::One(Cow::Borrowed(text)),
            },
            Value::Json(json) => match json.trim_start().as_bytes().first() {
                Some(b'[') => {
                    let elements: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
                    let mut texts: Vec<String> =
                        elements.iter().filter_map(|e| scalar_text(e.get())).map(Cow::into_owned).collect();
                    match texts.len() {
                        0 => Texts::None,
                        1 => Texts::One(Cow::Owned(texts.remove(0))),
                        _ => Texts::Many(texts),
                    }
                }
                _ => scalar_text(json).map_or(Texts::None, Texts::One),
            },
        }
    }

    /// The one text that a number of the element picks out of a list, from the end where it is negative.
    pub(crate) fn element(self, index: i64) -> Option<String> {
        let texts = match self.texts() {
            Texts::None => return None,
            Texts::One(text) => vec![text.into_owned()],
            Texts::Many(texts) => texts,
        };
        let index = if index < 0 { index + texts.len() as i64 } else { index };
        usize::try_from(index).ok().and_then(|i| texts.into_iter().nth(i))
    }
}

fn scalar_text(json: &str) -> Option<Cow<'_, str>> {
    let json = json.trim();
    match json.as_bytes().first() {
        None => None,
        Some(b'n') => None,
        Some(b'"') => {
            // Without an escape the text stands there as it is.
            let inner = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
            let text = match inner.contains('\\') {
                false => Cow::Borrowed(inner),
                true => Cow::Owned(serde_json::from_str::<String>(json).ok()?),
            };
            let trimmed = text.trim();
            match (trimmed.is_empty(), trimmed.len() == text.len()) {
                (true, _) => None,
                (false, true) => Some(text),
                (false, false) => Some(Cow::Owned(trimmed.to_owned())),
            }
        }
        Some(_) => Some(Cow::Borrowed(json)),
    }
}

/// Whether `text` is a number by JSON's grammar: no leading zeros, no plus sign, no bare point, no infinity.
pub(crate) fn is_json_number(text: &str) -> bool {
    let digits = |s: &str| -> usize { s.bytes().take_while(u8::is_ascii_digit).count() };
    let s = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(s);
    if whole == 0 || (whole > 1 && s.starts_with('0')) {
        return false;
    }
    let mut s = &s[whole..];
    if let Some(rest) = s.strip_prefix('.') {
        let n = digits(rest);
        if n == 0 {
            return false;
        }
        s = &rest[n..];
    }
    if let Some(rest) = s.strip_prefix(['e', 'E']) {
        let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let n = digits(rest);
        if n == 0 {
            return false;
        }
        s = &rest[n..];
    }
    s.is_empty()
}

/// The JSON array that a list-valued cell means: a JSON array of scalars, or a Python list of strings and numbers
/// (`['880001','880004']`). `None` where the cell is no such list and stays a text.
pub(crate) fn list_cell(cell: &str) -> Option<String> {
    let cell = cell.trim();
    let inner = cell.strip_prefix('[')?.strip_suffix(']')?;
    if is_list_of_scalars(cell) {
        return Some(cell.to_owned());
    }
    let mut out = Vec::with_capacity(cell.len());
    out.push(b'[');
    let mut rest = inner.trim();
    while !rest.is_empty() {
        rest = match rest.as_bytes()[0] {
            quote @ (b'\'' | b'"') => python_string(rest, quote, &mut out)?,
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                let word = rest[..end].trim();
                match word {
                    "None" | "nan" => out.extend_from_slice(b"null"),
                    "True" => out.extend_from_slice(b"true"),
                    "False" => out.extend_from_slice(b"false"),
                    _ if is_json_number(word) => out.extend_from_slice(word.as_bytes()),
                    _ => return None,
                }
                &rest[end..]
            }
        }
        .trim_start();
        match rest.strip_prefix(',') {
            Some(more) => {
                rest = more.trim_start();
                if !rest.is_empty() {
                    out.push(b',');
                }
            }
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    out.push(b']');
    String::from_utf8(out).ok()
}

/// Reads one quoted string and writes it as JSON; the rest behind it.
fn python_string<'a>(text: &'a str, quote: u8, out: &mut Vec<u8>) -> Option<&'a str> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                c @ ('\\' | '\'' | '"') => value.push(c),
                // Rarer escapes are not guessed at: the cell stays a text.
                _ => return None,
            },
            c if c as u32 == u32::from(quote) => {
                write_text(&value, out);
                return Some(&text[i + 1..]);
            }
            c => value.push(c),
        }
    }
    None
}

fn is_list_of_scalars(json: &str) -> bool {
    struct Scalars;
    impl<'de> DeserializeSeed<'de> for Scalars {
        type Value = bool;
        fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<bool, D::Error> {
            d.deserialize_seq(self)
        }
    }
    impl<'de> Visitor<'de> for Scalars {
        type Value = bool;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
            let mut all = true;
            while let Some(element) = seq.next_element::<&RawValue>()? {
                all &= !element.get().starts_with(['[', '{']);
            }
            Ok(all)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    Scalars.deserialize(&mut reader).unwrap_or(false) && reader.end().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_valued_cell_is_read_and_everything_else_stays_a_text() {
        for (cell, list) in [
            ("['880001','880004']", Some(r#"["880001","880004"]"#)),
            ("['a', \"b's\", 'c\\'d']", Some(r#"["a","b's","c'd"]"#)),
            (r#"["a", 1, null]"#, Some(r#"["a", 1, null]"#)),
            ("[1, 2.5, None, True,]", Some("[1,2.5,null,true]")),
            ("[]", Some("[]")),
            (" ['x'] ", Some(r#"["x"]"#)),
            ("['a','b,c']", Some(r#"["a","b,c"]"#)),
            ("[draft] call back", None),
            ("[draft]", None),
            ("['a' 'b']", None),
            ("['a", None),
            ("['a]", None),
            ("['\\x41']", None),
            ("[[1],[2]]", None),
            ("]", None),
            ("[", None),
            ("", None),
        ] {
            assert_eq!(list_cell(cell).as_deref(), list, "{cell}");
        }
    }

    #[test]
    fn a_value_gives_the_texts_that_a_reader_would_see() {
        let one = |s: &str| Texts::One(Cow::Owned(s.to_owned()));
        for (value, texts) in [
            (Value::Text(" 17 "), one("17")),
            (Value::Text(" "), Texts::None),
            (Value::Json("null"), Texts::None),
            (Value::Json("\"\""), Texts::None),
            (Value::Json(r#""a\nb""#), one("a\nb")),
            (Value::Json("1.50"), one("1.50")),
            (Value::Json("true"), one("true")),
            (Value::Json("[]"), Texts::None),
            (Value::Json(r#"[null,"a"]"#), one("a")),
            (Value::Json(r#"[ 1, "b" ]"#), Texts::Many(vec!["1".into(), "b".into()])),
            (Value::Json(r#"{"a":1}"#), one(r#"{"a":1}"#)),
        ] {
            assert_eq!(value.texts(), texts, "{value:?}");
        }
        assert_eq!(Value::Json("[1,2,3]").element(-1).as_deref(), Some("3"));
        assert_eq!(Value::Json("[1,2,3]").element(3), None);
        assert_eq!(Value::Json("[1,2,3]").element(-4), None);
        assert_eq!(Value::Text("a").element(0).as_deref(), Some("a"));
    }

    #[test]
    fn a_path_finds_the_field_with_the_longest_name() {
        let mut row = Row::default();
        row.push_text("a.b", "exact");
        row.push_json("a", r#"{"b":"shadowed","c":{"d":1,"d.e":2},"c.d":3}"#);
        assert_eq!(row.resolve("a.b"), Some(Value::Text("exact")));
        assert_eq!(row.resolve("a.c.d"), Some(Value::Json("3")));
        assert_eq!(row.resolve("a.c.d.e"), Some(Value::Json("2")));
        assert_eq!(row.resolve("a.c"), Some(Value::Json(r#"{"d":1,"d.e":2}"#)));
        assert_eq!(row.resolve("a.x"), None);
        assert_eq!(row.resolve("x"), None);
    }

    #[test]
    fn the_data_is_the_fields_in_file_order_without_blank_ones() {
        let mut row = Row::default();
        row.push_text("b", "1.0");
        row.push_text("a", " ");
        row.push_text("c\"\u{1}", "x\ny");
        row.push_json("l", "[1]");
        row.push_text("n", " 007");
        let mut out = Vec::new();
        row.write_json(&[], &["b".into(), "n".into()], &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"b\":1.0,\"c\\\"\\u0001\":\"x\\ny\",\"l\":[1],\"n\":\" 007\"}"
        );
        out.clear();
        row.write_json(&["l".into(), "b".into(), "c\"\u{1}".into()], &[], &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "{\"n\":\" 007\"}");
    }

    proptest! {
        #[test]
        fn a_json_number_is_what_the_grammar_says(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            let by_serde = serde_json::from_str::<&RawValue>(&text).is_ok();
            prop_assert_eq!(is_json_number(&text), by_serde, "{}", text);
        }

        #[test]
        fn any_cell_is_a_list_of_json_or_a_text(cell in "[\\['\",a0\\\\ \\]]{0,12}") {
            if let Some(list) = list_cell(&cell) {
                prop_assert!(serde_json::from_str::<Vec<serde_json::Value>>(&list).is_ok(), "{} gave {}", cell, list);
            }
        }
    }
}
