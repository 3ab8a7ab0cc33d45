//! The state that JSON merge patches (RFC 7396) add up to, and what changed between two states.
//!
//! # Invariants
//! - Everything but objects is kept as the text that it was written as (without blank space between tokens), so that no
//!   number loses a digit, and a state takes about as much memory as its text.
//! - Members are in the order of their names, so that equal states print alike.
//! - Objects deeper than [`DEPTH_MAX`] are taken as a whole, not merged, so that no depth exhausts the stack.
//!
//! Elsewhere: which events go into which state (`state`, `group`).

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::event_json::write_text;
use crate::json::each_member;

/// Objects within objects beyond this depth are values like any other.
const DEPTH_MAX: usize = 64;

/// Objects of more members are kept in a tree, which takes more memory but no time.
const FEW: usize = 32;

/// A JSON value that patches can be merged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// An object.
    Object(Members),
    /// Anything else, as its text.
    Other(Box<str>),
}

/// The members of an object, by name.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    /// Sorted by name.
    Few(Vec<(Box<str>, Tree)>),
    Many(BTreeMap<Box<str>, Tree>),
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

impl Tree {
    /// An object without members.
    pub(crate) fn empty() -> Tree {
        Tree::Object(Members::Few(Vec::new()))
    }

    /// Merges a patch into a state that may not be there yet.
    ///
    /// Fails, and changes nothing, where `patch` is no JSON.
    pub(crate) fn merge(state: &mut Option<Tree>, patch: &[u8]) -> Result<(), serde_json::Error> {
        let patch: &RawValue = serde_json::from_slice(patch)?;
        merge_value(state, patch.get(), 0);
        Ok(())
    }

    /// Sets a member of an object; makes an object of anything else.
    pub(crate) fn set(&mut self, name: &str, value: Tree) {
        if let Tree::Other(_) = self {
            *self = Tree::empty();
        }
        if let Tree::Object(members) = self {
            *members.entry(name) = value;
        }
    }

    /// A tree of JSON that is known to be well-formed.
    pub(crate) fn of_json(json: &str) -> Tree {
        let mut state = None;
        take_value(&mut state, json, 0);
        state.unwrap_or_else(|| Tree::Other("null".into()))
    }

    /// Writes the value as JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Tree::Other(text) => out.extend_from_slice(text.as_bytes()),
            Tree::Object(members) => {
                out.push(b'{');
                for (i, (name, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// The value as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// The value at a path of names and dots; a name may hold dots, the longest one wins.
    pub(crate) fn at(&self, path: &str) -> Option<&Tree> {
        let Tree::Object(members) = self else { return None };
        if let Some(value) = members.get(path) {
            return Some(value);
        }
        path.rmatch_indices('.').find_map(|(dot, _)| members.get(&path[..dot])?.at(&path[dot + 1..]))
    }
}

impl Members {
    fn len(&self) -> usize {
        match self {
            Members::Few(members) => members.len(),
            Members::Many(members) => members.len(),
        }
    }

    /// The members by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Tree)> {
        let (few, many) = match self {
            Members::Few(members) => (Some(members.iter().map(|(n, t)| (&**n, t))), None),
            Members::Many(members) => (None, Some(members.iter().map(|(n, t)| (&**n, t)))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// The member of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        match self {
            Members::Few(members) => {
                members.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|i| &members[i].1)
            }
            Members::Many(members) => members.get(name),
        }
    }

    /// The member of this name, made empty if it is not there.
    fn entry(&mut self, name: &str) -> &mut Tree {
        if let Members::Few(members) = self
            && members.len() >= FEW
        {
            *self = Members::Many(std::mem::take(members).into_iter().collect());
        }
        match self {
            Members::Few(members) => {
                let at = match members.binary_search_by(|(n, _)| (**n).cmp(name)) {
                    Ok(at) => at,
                    Err(at) => {
                        members.insert(at, (name.into(), Tree::empty()));
                        at
                    }
                };
                &mut members[at].1
            }
            Members::Many(members) => members.entry(name.into()).or_insert_with(Tree::empty),
        }
    }

    /// Takes the member of this name away.
    fn remove(&mut self, name: &str) -> Option<Tree> {
        match self {
            Members::Few(members) => {
                let at = members.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
                Some(members.remove(at).1)
            }
            Members::Many(members) => members.remove(name),
        }
    }
}

/// RFC 7396: an object's members are merged, null ones taken away; anything else takes the place of what is there.
fn merge_value(state: &mut Option<Tree>, patch: &str, depth: usize) {
    if !patch.starts_with('{') || depth >= DEPTH_MAX {
        *state = Some(Tree::Other(compact(patch).into()));
        return;
    }
    if !matches!(state, Some(Tree::Object(_))) {
        *state = Some(Tree::empty());
    }
    let Some(Tree::Object(members)) = state else { return };
    // The text was parsed as a whole before, so that it cannot fail in the middle.
    let _ = each_member(patch, &mut |name, value| {
        let value = value.get();
        if value == "null" {
            members.remove(name);
            return;
        }
        if value.starts_with('{') && depth + 1 < DEPTH_MAX {
            let mut inner = members.remove(name);
            merge_value(&mut inner, value, depth + 1);
            if let Some(inner) = inner {
                *members.entry(name) = inner;
            }
        } else {
            *members.entry(name) = Tree::Other(compact(value).into());
        }
    });
}

/// Like [`merge_value`], but null members are kept: the value itself, not a patch.
fn take_value(state: &mut Option<Tree>, json: &str, depth: usize) {
    let json = json.trim();
    if !json.starts_with('{') || depth >= DEPTH_MAX {
        *state = Some(Tree::Other(compact(json).into()));
        return;
    }
    let mut object = Tree::empty();
    let _ = each_member(json, &mut |name, value| {
        let mut inner = None;
        take_value(&mut inner, value.get(), depth + 1);
        if let Some(inner) = inner {
            object.set(name, inner);
        }
    });
    *state = Some(object);
}

/// The JSON without blank space between tokens.
fn compact(json: &str) -> String {
    if !json.bytes().any(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            out.push(c);
        } else if !matches!(c, ' ' | '\t' | '\n' | '\r') {
            in_string = c == '"';
            out.push(c);
        }
    }
    out
}

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Names with dots between them; empty for the state as a whole.
    pub(crate) path: String,
    /// The value before, `None` where there was none.
    pub(crate) old: Option<Vec<u8>>,
    /// The value after, `None` where there is none.
    pub(crate) new: Option<Vec<u8>>,
}

/// What changed from one state to another, path by path. An object that came or went is told member by member.
pub(crate) fn diff(old: Option<&Tree>, new: Option<&Tree>) -> Vec<Change> {
    let mut out = Vec::new();
    compare(&mut String::new(), old, new, &mut out);
    out
}

fn compare(path: &mut String, old: Option<&Tree>, new: Option<&Tree>, out: &mut Vec<Change>) {
    if old == new {
        return;
    }
    fn members(tree: Option<&Tree>) -> Option<&Members> {
        match tree {
            Some(Tree::Object(members)) if members.len() > 0 => Some(members),
            _ => None,
        }
    }
    // An object on one side and nothing on the other is told member by member; an object that takes the place of
    // something else is one change.
    let pair = match (members(old), members(new)) {
        (Some(old), Some(new)) => Some((Some(old), Some(new))),
        (Some(members), None) if new.is_none() => Some((Some(members), None)),
        (None, Some(members)) if old.is_none() => Some((None, Some(members))),
        _ => None,
    };
    let Some((before, after)) = pair else {
        if !same_value(old, new) {
            let json = |tree: Option<&Tree>| tree.map(Tree::to_json);
            out.push(Change { path: path.clone(), old: json(old), new: json(new) });
        }
        return;
    };
    let mut names: Vec<&str> =
        before.into_iter().chain(after).flat_map(|m| m.iter().map(|(n, _)| n)).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let len = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        compare(path, before.and_then(|m| m.get(name)), after.and_then(|m| m.get(name)), out);
        path.truncate(len);
    }
}

/// Whether two values that are written differently mean the same, as `1.0` and `1.00` or `"a"` and `"\u0061"` do.
fn same_value(old: Option<&Tree>, new: Option<&Tree>) -> bool {
    let parse = |tree: &Tree| serde_json::from_slice::<serde_json::Value>(&tree.to_json()).ok();
    match (old, new) {
        (Some(Tree::Other(old_text)), Some(Tree::Other(new_text))) => {
            // Numbers of very many digits mean the same only if they are written the same: parsing would round them.
            let number = |text: &str| text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            if number(old_text) && number(new_text) && (old_text.len() > 15 || new_text.len() > 15) {
                return false;
            }
            let (old, new) = (old.and_then(parse), new.and_then(parse));
            old.is_some() && old == new
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn folded(patches: &[&str]) -> Option<Tree> {
        let mut state = None;
        for patch in patches {
            Tree::merge(&mut state, patch.as_bytes()).expect(patch);
        }
        state
    }

    fn text(state: &Option<Tree>) -> String {
        state.as_ref().map_or("nothing".into(), |t| String::from_utf8(t.to_json()).expect("UTF-8"))
    }

    #[test]
    fn patches_merge_as_in_the_appendix_of_rfc_7396() {
        for (original, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"a":1}"#, r#"{"a":{"b":null}}"#, r#"{"a":{}}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(text(&folded(&[original, patch])), result, "{original} with {patch}");
        }
    }

    #[test]
    fn values_keep_their_digits_and_lose_blank_space_between_tokens() {
        let state = folded(&[r#"{"n" : 12345678901234567890.100 , "l":[ 1, "a b\" c" ,{"x" : null}]}"#]);
        assert_eq!(text(&state), r#"{"l":[1,"a b\" c",{"x":null}],"n":12345678901234567890.100}"#);
    }

    #[test]
    fn what_is_no_json_changes_nothing() {
        let mut state = folded(&[r#"{"a":1}"#]);
        for bad in ["", "{", "{\"a\":2}x", "\u{0}"] {
            assert!(Tree::merge(&mut state, bad.as_bytes()).is_err());
        }
        assert!(Tree::merge(&mut state, b"\xff").is_err());
        assert_eq!(text(&state), r#"{"a":1}"#);
        let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        Tree::merge(&mut state, deep.as_bytes()).expect("deep JSON is JSON");
    }

    #[test]
    fn a_path_finds_what_is_inside() {
        let state = folded(&[r#"{"a":{"b":{"c":1},"b.c":2},"a.b":3}"#]).expect("a state");
        assert_eq!(state.at("a.b").map(Tree::to_json), Some(b"3".to_vec()));
        assert_eq!(state.at("a.b.c").map(Tree::to_json), Some(b"2".to_vec()));
        assert_eq!(state.at("a.x"), None);
    }

    #[test]
    fn a_diff_names_each_path_that_came_went_or_changed() {
        let changes = |old: &str, new: &str| -> Vec<String> {
            let tree = |text: &str| (!text.is_empty()).then(|| Tree::of_json(text));
            let show =
                |json: Option<Vec<u8>>| json.map_or("-".into(), |j| String::from_utf8(j).expect("UTF-8"));
            diff(tree(old).as_ref(), tree(new).as_ref())
                .into_iter()
                .map(|c| format!("{} {} {}", c.path, show(c.old), show(c.new)))
                .collect()
        };
        for (old, new, expected) in [
            (
                r#"{"a":1,"b":{"c":1,"d":2}}"#,
                r#"{"a":1,"b":{"c":3,"e":4}}"#,
                vec!["b.c 1 3", "b.d 2 -", "b.e - 4"],
            ),
            ("", r#"{"a":{"b":1},"c":[1]}"#, vec!["a.b - 1", "c - [1]"]),
            (r#"{"a":{"b":1}}"#, "", vec!["a.b 1 -"]),
            (r#"{"a":{"b":1}}"#, r#"{"a":2}"#, vec![r#"a {"b":1} 2"#]),
            (r#"{"a":[1,2]}"#, r#"{"a":[1,3]}"#, vec!["a [1,2] [1,3]"]),
            ("1", "2", vec![" 1 2"]),
            ("", "{}", vec![" - {}"]),
            ("{}", r#"{"a":1}"#, vec![" {} {\"a\":1}"]),
            (r#"{"a":1.0,"b":"\u0061"}"#, r#"{"a":1.00,"b":"a"}"#, vec![]),
            (
                r#"{"a":12345678901234567890}"#,
                r#"{"a":12345678901234567891}"#,
                vec!["a 12345678901234567890 12345678901234567891"],
            ),
            ("", "", vec![]),
        ] {
            assert_eq!(changes(old, new), expected, "{old} to {new}");
        }
    }

    /// The algorithm of RFC 7396, section 2, word for word.
    fn oracle(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = match target {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let inner = target.get(name).cloned().unwrap_or(Value::Null);
                target.insert(name.clone(), oracle(inner, value));
            }
        }
        Value::Object(target)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0..9i64).prop_map(|n| json!(n)),
            "[a\" \\\\é]{0,3}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 60, 40, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[a-f.]{1,2}", inner, 0..40)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_agrees_with_the_words_of_the_rfc(patches in prop::collection::vec(any_json(), 1..6)) {
            let mut state = None;
            let mut expected = Value::Null;
            for patch in &patches {
                Tree::merge(&mut state, patch.to_string().as_bytes()).expect("JSON");
                expected = oracle(expected, patch);
            }
            let state = state.expect("at least one patch");
            let printed: Value = serde_json::from_slice(&state.to_json()).expect("JSON");
            prop_assert_eq!(printed, expected.clone());
            prop_assert_eq!(Tree::of_json(&expected.to_string()).to_json(), state.to_json());
        }

        #[test]
        fn a_diff_is_empty_exactly_where_the_states_are_equal(old in any_json(), new in any_json()) {
            let tree = |v: &Value| Tree::of_json(&v.to_string());
            prop_assert_eq!(diff(Some(&tree(&old)), Some(&tree(&new))).is_empty(), old == new);
            prop_assert!(diff(Some(&tree(&old)), Some(&tree(&old))).is_empty());
        }
    }
}
