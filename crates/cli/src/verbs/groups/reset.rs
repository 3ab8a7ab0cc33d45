//! `annals groups reset`: moving groups to another place, with the plan first.
//!
//! # Invariants
//! - Every plan is made before the first group is moved: a wrong name or place in a file changes nothing.
//!
//! Elsewhere: what a position means (`options`), what `describe` prints (`verbs::groups`).

use std::path::{Path, PathBuf};

use annals::{At, PartitionPlace, Place, ResetPlan, ResetTo, Store};
use serde::Deserialize;

use super::find::{Found, find, find_one};
use super::options::place_of;
use crate::context::{Context, count};
use crate::failure::{Exit, Failure, Result};
use crate::files::read_file_or_stdin;
use crate::output::{Cell, Columns};
use crate::positions::PositionArg;

/// Arguments of `groups reset`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("whereto").required(true).args(["to", "shift", "from_file"])))]
pub(crate) struct ResetArgs {
    /// The groups; with --from-file, those of the file that are meant, all if none is given
    #[arg(value_name = "NAME", required_unless_present = "from_file")]
    names: Vec<String>,
    /// To start, end, N, P:N (partitions that are not named stay), -N or @TIME
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    to: Option<PositionArg>,
    /// So many positions on, or back if negative, in each partition. By 0 a group takes its old place over into another
    /// history, after a restore or repair
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift: Option<i64>,
    /// To the places in a file (- for stdin) that `groups describe -o json` printed, of one group or several
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Do it
    #[arg(long)]
    execute: bool,
}

pub(super) fn run(ctx: &Context, args: ResetArgs) -> Result<Exit> {
    let kept = args.from_file.as_ref().map(|path| Kept::read(path)).transpose()?;
    let store = if args.execute { ctx.open_to_write()? } else { ctx.open_to_read()? };
    let moves = match kept {
        Some(kept) => of_file(ctx, &store, &args.names, kept)?,
        None => find(ctx, &store, &args.names)?
            .into_iter()
            .map(|found| {
                let to = match (&args.to, args.shift) {
                    (Some(to), _) => {
                        ResetTo::At(place_of(&found.topic, to, Some(&found.group.info()?.committed))?)
                    }
                    (None, shift) => ResetTo::Shift(shift.unwrap_or_default()),
                };
                Ok((found, to))
            })
            .collect::<Result<Vec<_>>>()?,
    };
    let mut plans = Vec::new();
    for (found, to) in &moves {
        plans.push(found.group.plan_reset(to)?);
    }
    let mut rows = ctx.rows(&Columns::simple(FIELDS))?;
    for ((found, to), plan) in moves.iter().zip(&mut plans) {
        if args.execute {
            *plan = found.group.reset(to)?;
        }
        rows.row(&[
            ("topic", Cell::Text(found.topic.name())),
            ("group", Cell::Text(found.name())),
            ("from", Cell::Owned(plan.from.to_string())),
            ("to", Cell::Owned(plan.to.to_string())),
            ("again", Cell::Number(plan.again)),
            ("skipped", Cell::Number(plan.skipped)),
            ("dead_letters", Cell::Number(plan.dead_letters)),
            ("held", Cell::Number(plan.held)),
            ("done", Cell::Flag(args.execute)),
        ])?;
    }
    rows.finish()?;
    drop(moves);
    store.close()?;
    if plans.iter().all(changes_nothing) {
        ctx.note("nothing is to be moved: it is there already");
        return Ok(Exit::Ok);
    }
    if args.execute {
        ctx.note(format_args!("moved: {}", said(&plans)));
        return Ok(Exit::Ok);
    }
    ctx.note(format_args!("{}; nothing was changed. Run it again with --execute to do this", said(&plans)));
    Ok(Exit::Found)
}

const FIELDS: &[&str] = &["topic", "group", "from", "to", "again", "skipped", "dead_letters", "held", "done"];

fn changes_nothing(plan: &ResetPlan) -> bool {
    plan.from == plan.to && plan.again == 0 && plan.dead_letters == 0 && plan.held == 0
}

fn said(plans: &[ResetPlan]) -> String {
    let sum = |of: fn(&ResetPlan) -> u64| plans.iter().map(of).sum::<u64>();
    let mut parts = vec![format!("{} delivered again", count(sum(|p| p.again), "position"))];
    if sum(|p| p.skipped) > 0 {
        parts.push(format!("{} passed over unhandled", count(sum(|p| p.skipped), "position")));
    }
    if sum(|p| p.dead_letters) > 0 {
        parts.push(format!("{} forgotten", count(sum(|p| p.dead_letters), "dead letter")));
    }
    if sum(|p| p.held) > 0 {
        parts.push(format!("{} no longer held", count(sum(|p| p.held), "event")));
    }
    parts.join(", ")
}

fn of_file(ctx: &Context, store: &Store, names: &[String], kept: Vec<Kept>) -> Result<Vec<(Found, ResetTo)>> {
    if let Some(name) = names.iter().find(|name| !kept.iter().any(|k| k.group == **name)) {
        let there: Vec<_> = kept.iter().map(|k| format!("`{}`", k.group)).collect();
        return Err(Failure::not_found(format!("the file has no place of a group `{name}`"))
            .why(format!("it has {}", there.join(", "))));
    }
    let mut moves = Vec::new();
    for kept in kept {
        let named = names.is_empty() || names.contains(&kept.group);
        if !named || ctx.topic.as_ref().is_some_and(|topic| *topic != kept.topic) {
            continue;
        }
        let found = find_one(&ctx.with_topic(&kept.topic), store, Some(&kept.group))?;
        let place = kept.place(found.topic.partitions())?;
        moves.push((found, ResetTo::At(At::Place(place))));
    }
    if moves.is_empty() {
        return Err(Failure::not_found("the file has no place of a group that was asked for"));
    }
    Ok(moves)
}

/// The place of a group, as `groups describe` prints it beside other things.
#[derive(Debug, Deserialize, PartialEq)]
struct Kept {
    topic: String,
    group: String,
    place: Vec<KeptPlace>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct KeptPlace {
    partition: u32,
    incarnation: u32,
    position: u64,
}

impl Kept {
    fn read(path: &Path) -> Result<Vec<Kept>> {
        let bytes = read_file_or_stdin(path)?;
        Kept::parse(&bytes).map_err(|why| {
            Failure::usage(format!("`{}` holds no places of groups", path.display()))
                .why(why)
                .next("write one with `annals groups describe -o json`")
        })
    }

    /// One object, an array of them, or one a line.
    fn parse(bytes: &[u8]) -> Result<Vec<Kept>, String> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            Many(Vec<Kept>),
            One(Kept),
        }
        let mut all: Vec<Kept> = Vec::new();
        for value in serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>() {
            match serde_json::from_value(value.map_err(|e| e.to_string())?) {
                Ok(OneOrMany::Many(kept)) => all.extend(kept),
                Ok(OneOrMany::One(kept)) => all.push(kept),
                Err(_) => {
                    return Err("an object has no `topic`, `group` and `place` of partitions".to_owned());
                }
            }
        }
        let mut seen = Vec::new();
        for kept in &all {
            if seen.contains(&(&kept.topic, &kept.group)) {
                return Err(format!("the group `{}` of topic `{}` is in it twice", kept.group, kept.topic));
            }
            seen.push((&kept.topic, &kept.group));
        }
        if all.is_empty() { Err("it is empty".to_owned()) } else { Ok(all) }
    }

    fn place(&self, partitions: u32) -> Result<Place> {
        let of = |partition| {
            let mut of = self.place.iter().filter(|p| p.partition == partition);
            match (of.next(), of.next()) {
                (Some(p), None) => Some(PartitionPlace { incarnation: p.incarnation, position: p.position }),
                _ => None,
            }
        };
        let place: Option<Vec<_>> = (0..partitions).map(of).collect();
        match place.filter(|place| place.len() == self.place.len()) {
            Some(place) => Ok(Place(place)),
            None => {
                Err(Failure::usage(format!("the place of the group `{}` does not fit its topic", self.group))
                    .why(format!("the topic `{}` has {}", self.topic, count(partitions.into(), "partition")))
                    .next("give each partition one place"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        r#"{"topic":"t","group":"g","place":[{"partition":0,"incarnation":2,"position":7}],"lag_events":3}"#;

    #[test]
    fn places_are_read_from_an_object_an_array_and_lines() {
        let other = ONE.replace("\"g\"", "\"h\"");
        for (text, groups) in
            [(ONE.to_owned(), 1), (format!("[{ONE},\n {other}]\n"), 2), (format!("{ONE}\n{other}\n"), 2)]
        {
            let kept = Kept::parse(text.as_bytes()).expect("places");
            assert_eq!(kept.len(), groups);
            let place = Place(vec![PartitionPlace { incarnation: 2, position: 7 }]);
            assert_eq!(kept[0].place(1).expect("it fits"), place);
            assert!(kept[0].place(2).is_err(), "a partition is missing");
        }
        for bad in ["", "[]", "{}", "{\"topic\":\"t\"}", "nonsense", &format!("{ONE}{ONE}"), "[1]"] {
            assert!(Kept::parse(bad.as_bytes()).is_err(), "{bad} was taken");
        }
    }
}
