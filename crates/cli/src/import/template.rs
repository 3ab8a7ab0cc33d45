//! [`Template`]s such as `order-{order_id}`: text with the fields of a row in it.
//!
//! # Invariants
//! - A template that names a field that a row does not have, or has only blank, *comes out empty*: never `order-`.
//! - A placeholder that is a list of several never silently gives one of them: a name asks for an index, and a tag
//!   template gives one tag for each.
//!
//! Elsewhere: what a field is (`row`).

use std::fmt;

use super::row::{Row, Texts};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field {
        /// The whole of what stands between the braces; a field of exactly this name wins.
        name: String,
        /// `name[index]` taken apart.
        indexed: Option<(String, i64)>,
    },
}

/// What a template came to for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The text was written.
    Filled,
    /// This field is absent or blank.
    Empty {
        /// Its name as the template has it.
        field: String,
    },
}

impl Template {
    /// Reads a template. `{{` and `}}` stand for the braces themselves.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(i) = rest.find(['{', '}']) {
            literal.push_str(&rest[..i]);
            let brace = &rest[i..=i];
            rest = &rest[i + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(format!(
                    "the template `{text}` has a `}}` without a `{{`; write `}}}}` for the brace itself"
                ));
            }
            let Some(end) = rest.find('}') else {
                return Err(format!(
                    "the template `{text}` has a `{{` without a `}}`; write `{{{{` for the brace itself"
                ));
            };
            let name = &rest[..end];
            if name.is_empty() {
                return Err(format!("the template `{text}` has `{{}}`, which names no field"));
            }
            if name.contains('{') {
                return Err(format!("the template `{text}` has a `{{` within a field's name"));
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Field { name: name.to_owned(), indexed: split_index(name) });
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if parts.is_empty() {
            return Err("a template may not be empty".to_owned());
        }
        Ok(Template { parts })
    }

    /// Reads the name of a field, or a template where there are braces in it.
    pub(crate) fn parse_field(text: &str) -> Result<Template, String> {
        if text.contains(['{', '}']) {
            return Template::parse(text);
        }
        match text {
            "" => Err("the name of a field may not be empty".to_owned()),
            name => Ok(Template {
                parts: vec![Part::Field { name: name.to_owned(), indexed: split_index(name) }],
            }),
        }
    }

    /// The one text that the template comes to, written behind what `out` holds; `out` is unchanged where it came out
    /// empty or failed.
    ///
    /// Fails where a placeholder is a list of several.
    pub(crate) fn one(&self, row: &Row, out: &mut String) -> Result<Outcome, String> {
        let from = out.len();
        for part in &self.parts {
            let (name, texts) = match part {
                Part::Literal(text) => {
                    out.push_str(text);
                    continue;
                }
                Part::Field { name, indexed } => (name, texts_of(row, name, indexed.as_ref())),
            };
            match texts {
                Texts::One(text) => out.push_str(&text),
                Texts::None => {
                    out.truncate(from);
                    return Ok(Outcome::Empty { field: name.clone() });
                }
                Texts::Many(texts) => {
                    out.truncate(from);
                    return Err(format!(
                        "the field `{name}` is a list of {} where the template `{self}` needs one text; \
                         take one with `{{{name}[0]}}` (`[-1]` is the last)",
                        texts.len()
                    ));
                }
            }
        }
        Ok(Outcome::Filled)
    }

    /// Every text that the template comes to: none where it comes out empty, one for each element where a placeholder
    /// is a list.
    ///
    /// Fails where two placeholders are lists of several, since it does not say which goes with which.
    pub(crate) fn each(&self, row: &Row, emit: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut resolved: Vec<Texts<'_>> = Vec::with_capacity(self.parts.len());
        let mut list: Option<(usize, &str)> = None;
        for part in &self.parts {
            let texts = match part {
                Part::Literal(text) => Texts::One(text.as_str().into()),
                Part::Field { name, indexed } => texts_of(row, name, indexed.as_ref()),
            };
            match &texts {
                Texts::None => return Ok(()),
                Texts::One(_) => {}
                Texts::Many(many) => {
                    let Part::Field { name, .. } = part else { continue };
                    if let Some((_, other)) = list {
                        return Err(format!(
                            "the fields `{other}` and `{name}` are both lists of several; the template `{self}` can \
                             spread one"
                        ));
                    }
                    list = Some((many.len(), name));
                }
            }
            resolved.push(texts);
        }
        let mut text = String::new();
        for k in 0..list.map_or(1, |(len, _)| len) {
            text.clear();
            for part in &resolved {
                match part {
                    Texts::None => {}
                    Texts::One(one) => text.push_str(one),
                    Texts::Many(many) => text.push_str(&many[k]),
                }
            }
            emit(&text);
        }
        Ok(())
    }

    /// The first field named that is not among `known`, for a source that says beforehand which it has.
    pub(crate) fn unknown<'t>(&'t self, known: &[String]) -> Option<&'t str> {
        let has = |name: &str| known.iter().any(|k| k == name);
        self.parts.iter().find_map(|part| match part {
            Part::Field { name, indexed } if !has(name) && !indexed.as_ref().is_some_and(|(n, _)| has(n)) => {
                Some(name.as_str())
            }
            _ => None,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Field { name, .. } => write!(f, "{{{name}}}"),
        })
    }
}

fn split_index(name: &str) -> Option<(String, i64)> {
    let (base, index) = name.strip_suffix(']')?.rsplit_once('[')?;
    if base.is_empty() {
        return None;
    }
    Some((base.to_owned(), index.parse().ok()?))
}

fn texts_of<'r>(row: &'r Row, name: &str, indexed: Option<&(String, i64)>) -> Texts<'r> {
    if let Some(value) = row.resolve(name) {
        return value.texts();
    }
    let element = indexed.and_then(|(base, index)| row.resolve(base)?.element(*index));
    element.map_or(Texts::None, |text| Texts::One(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> Row {
        let mut row = Row::default();
        row.push_text("order_id", "17");
        row.push_text("blank", " ");
        row.push_text("time:stamp of.day", "noon");
        row.push_json("one", r#"["990001"]"#);
        row.push_json("items", r#"["a","b","c"]"#);
        row.push_json("pair", "[1,2]");
        row.push_json("none", "[]");
        row.push_json("deep", r#"{"er":{"x":[7]}}"#);
        row.push_text("odd[0]", "exact");
        row
    }

    #[test]
    fn a_template_comes_to_one_text_or_comes_out_empty() {
        for (template, expected) in [
            ("order-{order_id}", Ok(Some("order-17"))),
            ("{order_id}{order_id}", Ok(Some("1717"))),
            ("plain", Ok(Some("plain"))),
            ("{{{order_id}}}", Ok(Some("{17}"))),
            ("{time:stamp of.day}", Ok(Some("noon"))),
            ("o-{one}", Ok(Some("o-990001"))),
            ("o-{items[1]}", Ok(Some("o-b"))),
            ("o-{items[-1]}", Ok(Some("o-c"))),
            ("o-{items[3]}", Ok(None)),
            ("o-{odd[0]}", Ok(Some("o-exact"))),
            ("o-{deep.er.x}", Ok(Some("o-7"))),
            ("o-{deep.er.x[0]}", Ok(Some("o-7"))),
            ("o-{order_id}-{blank}", Ok(None)),
            ("o-{none}", Ok(None)),
            ("o-{missing}", Ok(None)),
            ("o-{items}", Err("list of 3")),
        ] {
            let mut out = String::from("before ");
            let outcome = Template::parse(template).expect(template).one(&row(), &mut out);
            match expected {
                Ok(Some(text)) => {
                    assert_eq!(outcome, Ok(Outcome::Filled), "{template}");
                    assert_eq!(out, format!("before {text}"));
                }
                Ok(None) => {
                    assert!(matches!(outcome, Ok(Outcome::Empty { .. })), "{template} gave {outcome:?}");
                    assert_eq!(out, "before ");
                }
                Err(part) => {
                    let error = outcome.expect_err(template);
                    assert!(error.contains(part), "{error}");
                    assert_eq!(out, "before ");
                }
            }
        }
    }

    #[test]
    fn a_template_over_a_list_gives_one_text_for_each_element() {
        for (template, expected) in [
            ("item:{items}", Ok(vec!["item:a", "item:b", "item:c"])),
            ("{order_id}/{items}", Ok(vec!["17/a", "17/b", "17/c"])),
            ("{items}{items}", Err("both lists")),
            ("{items}{pair}", Err("both lists")),
            ("{items}{one}", Ok(vec!["a990001", "b990001", "c990001"])),
            ("x{none}", Ok(vec![])),
            ("x{blank}{items}", Ok(vec![])),
            ("always", Ok(vec!["always"])),
        ] {
            let mut out = Vec::new();
            let result =
                Template::parse(template).expect(template).each(&row(), &mut |t| out.push(t.to_owned()));
            match expected {
                Ok(texts) => {
                    assert_eq!(result, Ok(()), "{template}");
                    assert_eq!(out, texts, "{template}");
                }
                Err(part) => {
                    let error = result.expect_err(template);
                    assert!(error.contains(part), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_malformed_template_is_refused_with_the_reason() {
        for (template, part) in [
            ("", "empty"),
            ("a{b", "without a `}`"),
            ("a}b", "without a `{`"),
            ("a{}b", "names no field"),
            ("{a{b}", "within a field's name"),
        ] {
            let error = Template::parse(template).expect_err(template);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_field_that_the_header_does_not_have_is_found_before_the_first_row() {
        let known = ["a".to_owned(), "b[0]".to_owned()];
        let unknown = |t: &str| Template::parse(t).expect(t).unknown(&known).map(str::to_owned);
        assert_eq!(unknown("x{a}{a[0]}{b[0]}"), None);
        assert_eq!(unknown("x{a}{typo}").as_deref(), Some("typo"));
        assert_eq!(Template::parse_field("a b"), Template::parse("{a b}"));
        assert_eq!(Template::parse_field("{a} {b}"), Template::parse("{a} {b}"));
        assert!(Template::parse_field("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_prints_as_it_parsed(text in "[a{}\\[\\]0:. ]{0,12}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
            }
        }

        #[test]
        fn any_literal_survives_when_its_braces_are_doubled(text in ".{1,20}") {
            let template = Template::parse(&text.replace('{', "{{").replace('}', "}}")).expect("braces are doubled");
            let mut out = String::new();
            prop_assert_eq!(template.one(&Row::default(), &mut out), Ok(Outcome::Filled));
            prop_assert_eq!(out, text);
        }
    }
}
