//! Time travel on an application's command line, with the application's own code.
//!
//! # Invariants
//! - Looking reads and never writes; only the verbs of projections write, into their states and which of them serves.
//! - What it prints of a state is what serde writes of it.
//!
//! Elsewhere: the same in code ([`Executor::at`](crate::Executor::at) and its neighbours); `annals replay`, which knows no
//! types and merges what events say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use annals_model::{Error, ErrorKind, EventStore, Result, Timestamp};
use serde::Serialize;
use serde_json::json;

use crate::aggregate::Aggregate;
use crate::event::Event;
use crate::execute::Executor;
use crate::history::{HistoryReport, Why, check_history};
use crate::projection::{Comparison, KeyValue, Progress, Projection, Rebuild};
use crate::travel::{Change, Moment};

/// What `help` prints.
const HELP: &str = "\
Looks at stored aggregates and their past with this program's own code.

  list                       what can be looked at
  replay STREAM              the state that the stream's events add up to
      --as-of MOMENT         as it was then
      --diff MOMENT          what has changed since then
      --who FIELD            which events changed this field, such as /items/0/price
      --step                 what each event changed
      --clock recorded|event which time @TIME means: when it was recorded (the default), or the event's own
  rebuild PROJECTION         build the new version beside the one that serves, until it has caught up
  compare PROJECTION         what differs between the two, as of one place (exit code 1: something does)
  switch PROJECTION          have the new version serve, once it is as far as the old one
  undo PROJECTION            have the old version serve again, once it is as far as the new one
  check                      whether today's types read everything that is stored (exit code 1: they do not)
  -o text|json               text for people (the default), or a JSON value on each line

MOMENT: now, a position N, rev:N, @2026-01-31T12:00:00Z, or @-2h (s, m, h, d, w); what it names is included.
";

type Replay = Box<dyn Fn(&Arc<dyn EventStore>, &str, &Request) -> Result<Answer>>;
type Check = Box<dyn Fn(&dyn EventStore) -> Result<HistoryReport>>;

/// An application's own command for looking into its store.
///
/// ```no_run
/// # use annals_projection::{Aggregate, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection, category = "order")]
/// # enum OrderEvent { Placed }
/// # #[derive(Default, Serialize)]
/// # struct Order;
/// # impl Aggregate for Order {
/// #     type Event = OrderEvent;
/// #     type Command = ();
/// #     type Error = ();
/// #     fn decide(&self, (): ()) -> Result<Vec<OrderEvent>, ()> { Ok(Vec::new()) }
/// #     fn apply(&mut self, _: &OrderEvent) {}
/// # }
/// fn main() -> std::process::ExitCode {
///     let mut args = std::env::args_os().skip(1);
///     if args.next().is_some_and(|first| first == "annals") {
///         // my-app annals replay order-42 --as-of @-2h --diff rev:3
///         let store = annals_store::Store::open_read_only("shop").expect("the store opens");
///         let topic = store.topic("orders").expect("there");
///         return annals_projection::inspect::Inspect::new(topic).aggregate::<Order>().main(args);
///     }
///     // … what the application does otherwise
///     std::process::ExitCode::SUCCESS
/// }
/// ```
pub struct Inspect {
    store: Arc<dyn EventStore>,
    replays: BTreeMap<&'static str, Replay>,
    checks: BTreeMap<&'static str, Check>,
    rebuilds: BTreeMap<String, Begin>,
}

/// Two versions of a projection that run.
trait Versions {
    fn catch_up(&self) -> Result<()>;
    fn progress(&self) -> Result<(Progress, Progress)>;
    fn compare(&mut self) -> Result<Comparison>;
    fn switch(&self) -> Result<()>;
    fn undo(&self) -> Result<()>;
}

type Begin = Box<dyn Fn() -> Result<Box<dyn Versions>>>;

/// A command line waits as long as it takes; Ctrl-C ends it, and what was built so far is kept.
const FOR_EVER: Duration = Duration::MAX;

impl<Old, New> Versions for Rebuild<Old, New>
where
    Old: Projection<State = KeyValue>,
    New: Projection<State = KeyValue>,
{
    fn catch_up(&self) -> Result<()> {
        Rebuild::catch_up(self, FOR_EVER)
    }

    fn progress(&self) -> Result<(Progress, Progress)> {
        Rebuild::progress(self)
    }

    fn compare(&mut self) -> Result<Comparison> {
        Rebuild::compare(self, FOR_EVER)
    }

    fn switch(&self) -> Result<()> {
        Rebuild::switch(self, FOR_EVER)
    }

    fn undo(&self) -> Result<()> {
        Rebuild::undo(self, FOR_EVER)
    }
}

/// What of a stream is asked for.
struct Request {
    as_of: Moment,
    since: Option<Moment>,
    who: Option<String>,
    step: bool,
}

enum Answer {
    State(serde_json::Value),
    Changes(Vec<Change>),
    /// Position, revision, type and what it changed.
    Events(Vec<crate::travel::FieldChange>),
}

impl Inspect {
    /// Looks into this topic.
    #[must_use]
    pub fn new(store: impl EventStore + 'static) -> Self {
        Inspect {
            store: Arc::new(store),
            replays: BTreeMap::new(),
            checks: BTreeMap::new(),
            rebuilds: BTreeMap::new(),
        }
    }

    /// Can replay streams of the category of `A`, and check their history.
    #[must_use]
    pub fn aggregate<A: Aggregate + Serialize + 'static>(mut self) -> Self {
        let replay = |store: &Arc<dyn EventStore>, id: &str, request: &Request| {
            let executor = Executor::<A, _>::new(Arc::clone(store));
            if let Some(field) = &request.who {
                return executor.who_changed(id, field).map(Answer::Events);
            }
            if request.step {
                return executor.who_changed(id, "").map(Answer::Events);
            }
            if let Some(since) = request.since {
                return executor.changed(id, since, request.as_of).map(Answer::Changes);
            }
            let loaded = executor.at(id, request.as_of)?;
            if loaded.revision.is_none() {
                return Err(Error::not_found("the stream has no event by then"));
            }
            serde_json::to_value(&loaded.state)
                .map(Answer::State)
                .map_err(|e| Error::with_source(ErrorKind::Invalid, "a state cannot be written as JSON", e))
        };
        self.replays.insert(A::Event::CATEGORY, Box::new(replay));
        self.history::<A::Event>()
    }

    /// Can check the history of these events.
    #[must_use]
    pub fn history<E: Event>(mut self) -> Self {
        self.checks.insert(E::CATEGORY, Box::new(|store: &dyn EventStore| check_history::<E>(store)));
        self
    }

    /// Can rebuild, compare and switch a projection. `begin` makes the [`Rebuild`] of its two versions, and is called when
    /// one of the verbs is; it needs the store as its owner.
    #[must_use]
    pub fn rebuild<Old, New>(
        mut self,
        name: &str,
        begin: impl Fn() -> Result<Rebuild<Old, New>> + 'static,
    ) -> Self
    where
        Old: Projection<State = KeyValue>,
        New: Projection<State = KeyValue>,
    {
        let begin = move || begin().map(|rebuild| Box::new(rebuild) as Box<dyn Versions>);
        self.rebuilds.insert(name.to_owned(), Box::new(begin));
        self
    }

    /// Does what the arguments say, those behind the program's and the command's own names, and prints it. The exit code:
    /// 0 done, 1 a check found something, 2 wrong arguments, 3 there is no such thing, 7 anything else.
    #[must_use]
    pub fn main(&self, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        let mut out = Vec::new();
        let (code, failure) = match self.run(args, &mut out) {
            Ok(true) => (0, None),
            Ok(false) => (1, None),
            Err(e) => match e.kind() {
                ErrorKind::Invalid => (2, Some(e)),
                ErrorKind::NotFound => (3, Some(e)),
                _ => (7, Some(e)),
            },
        };
        // Whoever closed the pipe has seen enough.
        let _ = std::io::stdout().lock().write_all(&out);
        if let Some(e) = failure {
            let _ = writeln!(std::io::stderr().lock(), "error: {e}");
        }
        ExitCode::from(code)
    }

    /// The same, printing to `out`; whether everything was found to be in order.
    ///
    /// # Errors
    /// `Invalid` where the arguments are wrong, `NotFound` where there is no such stream or aggregate, and those of reading.
    pub fn run(&self, args: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<bool> {
        let (verb, stream, request, json) = parse(args)?;
        let mut print = |text: String| -> Result<()> {
            writeln!(out, "{text}").map_err(|e| Error::io("cannot print", e))
        };
        match verb.as_str() {
            "help" => print(HELP.trim_end().to_owned())?,
            "list" => {
                for category in self.checks.keys() {
                    let can = if self.replays.contains_key(category) { "replay, check" } else { "check" };
                    let line = json!({ "category": category, "can": can });
                    print(if json { line.to_string() } else { format!("{category}-…  {can}") })?;
                }
                for name in self.rebuilds.keys() {
                    let can = "rebuild, compare, switch, undo";
                    let line = json!({ "projection": name, "can": can });
                    print(if json { line.to_string() } else { format!("{name}  {can}") })?;
                }
            }
            "rebuild" | "compare" | "switch" | "undo" => {
                let name = stream.ok_or_else(|| Error::invalid(format!("{verb} which projection?")))?;
                let begin = self.rebuilds.get(&name).ok_or_else(|| {
                    let known: Vec<_> = self.rebuilds.keys().map(String::as_str).collect();
                    Error::not_found(format!(
                        "no projection `{name}` to rebuild; there are: {}",
                        known.join(", ")
                    ))
                })?;
                return change(&mut *begin()?, &verb, json, &mut print);
            }
            "check" => {
                let mut clean = true;
                for (category, check) in &self.checks {
                    let report = check(&*self.store)?;
                    clean &= report.is_clean();
                    if !json {
                        print(format!("{category}: {report}"))?;
                        continue;
                    }
                    for found in &report.unreadable {
                        let why = match &found.why {
                            Why::Broken(why) => why.as_str(),
                            Why::Unknown => "the type is not known",
                        };
                        let line = json!({
                            "category": category, "type": found.event_type, "schema_version": found.schema_version,
                            "events": found.events, "position": found.first.position, "stream": found.stream,
                            "why": why,
                        });
                        print(line.to_string())?;
                    }
                }
                return Ok(clean);
            }
            "replay" => {
                let stream =
                    stream.ok_or_else(|| Error::invalid("replay which stream? `replay order-42`"))?;
                let (category, id) = stream.split_once('-').ok_or_else(|| {
                    Error::invalid(format!("`{stream}` is no CATEGORY-ID, such as order-42"))
                })?;
                let replay = self.replays.get(category).ok_or_else(|| {
                    let known: Vec<_> = self.replays.keys().copied().collect();
                    let known = known.join(", ");
                    Error::not_found(format!("no aggregate of the category `{category}`; there are {known}"))
                })?;
                let answer = replay(&self.store, id, &request)
                    .map_err(|e| e.context_before(format!("stream `{stream}`")))?;
                answer.print(json, &mut print)?;
            }
            other => return Err(Error::invalid(format!("there is no verb `{other}`; `help` lists them"))),
        }
        Ok(true)
    }
}

/// Does one of the verbs on two versions of a projection; whether they are alike.
fn change(
    versions: &mut dyn Versions,
    verb: &str,
    json: bool,
    print: &mut dyn FnMut(String) -> Result<()>,
) -> Result<bool> {
    match verb {
        "rebuild" => versions.catch_up()?,
        "switch" => versions.switch()?,
        "undo" => versions.undo()?,
        _ => {
            let comparison = versions.compare()?;
            if !json {
                print(comparison.to_string())?;
                return Ok(comparison.differing.is_empty());
            }
            for differing in &comparison.differing {
                let line = serde_json::to_string(differing)
                    .map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot be written as JSON", e))?;
                print(line)?;
            }
            return Ok(comparison.differing.is_empty());
        }
    }
    let (old, new) = versions.progress()?;
    let of = |progress: &Progress| json!({ "place": progress.place.to_string(), "events": progress.events });
    let line = json!({ "done": verb, "old": of(&old), "new": of(&new) });
    print(if json {
        line.to_string()
    } else {
        format!("{verb}: done; the old version is at {}, the new one at {}", old.place, new.place)
    })?;
    Ok(true)
}

impl Answer {
    fn print(&self, json: bool, print: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
        let line = |value: &dyn Fn() -> serde_json::Result<String>| {
            value().map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot be written as JSON", e))
        };
        match self {
            Answer::State(state) if json => print(state.to_string()),
            Answer::State(state) => print(line(&|| serde_json::to_string_pretty(state))?),
            Answer::Changes(changes) => changes.iter().try_for_each(|change| {
                print(if json { line(&|| serde_json::to_string(change))? } else { change.to_string() })
            }),
            Answer::Events(events) => events.iter().try_for_each(|event| {
                print(if json { line(&|| serde_json::to_string(event))? } else { event.to_string() })
            }),
        }
    }
}

/// Verb, stream, what of it, and whether as JSON.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(String, Option<String>, Request, bool)> {
    use lexopt::prelude::{Long, Short, Value, ValueExt};
    let wrong = |e: lexopt::Error| Error::invalid(e.to_string());
    let (mut verb, mut stream, mut json, mut event_clock) = (None, None, false, false);
    let (mut as_of, mut since, mut who, mut step) = (None, None, None, false);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(wrong)? {
        // The option's name is borrowed from where its value is read.
        let option = match arg {
            Short(short) => format!("-{short}"),
            Long(long) => format!("--{long}"),
            Value(value) => {
                let value = value.string().map_err(wrong)?;
                match (&verb, &stream) {
                    (None, _) => verb = Some(value),
                    (_, None) => stream = Some(value),
                    _ => return Err(Error::invalid(format!("`{value}` is one argument too many"))),
                }
                continue;
            }
        };
        let mut text = || parser.value().and_then(ValueExt::string).map_err(wrong);
        match option.as_str() {
            "-h" | "--help" => verb = Some("help".to_owned()),
            "--as-of" => as_of = Some(text()?),
            "--diff" => since = Some(text()?),
            "--who" => who = Some(text()?),
            "--step" => step = true,
            "--clock" => event_clock = one_of(&text()?, "recorded", "event")?,
            "-o" | "--output" => json = one_of(&text()?, "text", "json")?,
            other => return Err(Error::invalid(format!("there is no option `{other}`; `help` lists them"))),
        }
    }
    let moment = |text: Option<String>| text.map(|text| moment(&text, event_clock)).transpose();
    let request = Request { as_of: moment(as_of)?.unwrap_or(Moment::Now), since: moment(since)?, who, step };
    Ok((verb.unwrap_or_else(|| "help".to_owned()), stream, request, json))
}

/// Whether it is the second of two words.
fn one_of(text: &str, first: &str, second: &str) -> Result<bool> {
    match text {
        _ if text == first => Ok(false),
        _ if text == second => Ok(true),
        _ => Err(Error::invalid(format!("`{text}` is neither `{first}` nor `{second}`"))),
    }
}

fn moment(text: &str, event_clock: bool) -> Result<Moment> {
    let bad =
        || Error::invalid(format!("`{text}` is no moment: now, N, rev:N, @2026-01-31T12:00:00Z or @-2h"));
    if text == "now" {
        return Ok(Moment::Now);
    }
    if let Some(revision) = text.strip_prefix("rev:") {
        return revision.parse().map(Moment::Revision).map_err(|_| bad());
    }
    let Some(time) = text.strip_prefix('@') else {
        return text.parse().map(Moment::Position).map_err(|_| bad());
    };
    let time = match time.strip_prefix('-') {
        Some(ago) => {
            let span: jiff::Span = ago.parse().map_err(|_| bad())?;
            let ago = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
            let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
            let micros = i64::try_from(ago.as_micros()).ok().filter(|micros| *micros >= 0).ok_or_else(bad)?;
            now.saturating_add_micros(-micros)
        }
        None => time.parse().map_err(|_| bad())?,
    };
    Ok(if event_clock { Moment::Happened(time) } else { Moment::Recorded(time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let of = |text| moment(text, false).ok();
        assert_eq!(of("now"), Some(Moment::Now));
        assert_eq!(of("12"), Some(Moment::Position(12)));
        assert_eq!(of("rev:3"), Some(Moment::Revision(3)));
        let time = "2026-01-31T12:00:00Z".parse().expect("a time");
        assert_eq!(of("@2026-01-31T12:00:00Z"), Some(Moment::Recorded(time)));
        assert_eq!(moment("@2026-01-31T12:00:00Z", true).ok(), Some(Moment::Happened(time)));
        assert!(matches!(of("@-2h"), Some(Moment::Recorded(_))));
        for wrong in ["", "rev:", "rev:x", "@", "@-", "@-2", "@-2y", "-3", "yesterday", "@-é"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
