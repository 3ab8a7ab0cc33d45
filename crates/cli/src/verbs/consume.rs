//! `annals consume`: runs a consumer group's work as processes in any language.
//!
//! This process is the store's owner. Each worker is a thread here with a member of the group and a process: one for each
//! event ([`single`]), or one that stays and is given many ([`batch`]).
//!
//! # Invariants
//! - An event is acked only after its worker said so, and after what it produced is durable.
//! - No worker outlives this process, and none is started before the workers of the owner before are gone: an event is
//!   never with workers of two owners.
//! - The first signal ends with everything answered and committed; the second at once.
//!
//! Elsewhere: what a worker reads and says ([`protocol`]), its process ([`worker`]), what a group promises
//! (`annals::ConsumerGroup`).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use annals::{
    Appended, ConsumerGroup, ErrorKind, Failure as WhyNot, GroupMember, GroupPolicy, LetterState, Nacked,
    Pending, RecordPlace, Store, Topic,
};

use crate::context::{Context, count, open_store, to_write};
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::verbs::groups::{FilterArgs, PolicyArgs, groups_of, parse_span};

mod batch;
mod protocol;
mod single;
mod worker;

use protocol::Handed;
use worker::Keeper;

/// Run a command for each event of a consumer group, in as many processes as asked for (writes)
///
/// Opens the store to write: this process must be its only owner (exit code 5 names another, and --wait waits for its
/// end). Events of one key are handled one after the other, in their order; different keys side by side. A delivery is at
/// least once: what was not acked when the process died is delivered again.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// The group
    #[arg(long, value_name = "NAME")]
    group: String,
    /// The command, run by `sh -c`
    #[arg(long, value_name = "CMD")]
    exec: String,
    /// So many workers side by side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Keep a worker's process, and give it up to so many events at a time
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Append what workers print to this topic, before the event is acked
    #[arg(long, value_name = "TOPIC")]
    produce: Option<String>,
    /// A worker that has not answered an event for so long is killed [default: the group's lease]
    #[arg(long, value_name = "SPAN", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// Where another process owns the store, wait for its end and take over
    #[arg(long)]
    wait: bool,
    /// End once nothing is before the group, in flight or tried again
    #[arg(long)]
    until_caught_up: bool,
    /// End after so many events were answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Make the group where there is none, with the options below
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

const HELP: &str = r#"Without --batch, CMD is run once for each event. On stdin it gets the event as one line of JSON, as `annals read` prints it, with "place" and "tries" beside, and "redriven" and "edited" where they are true. Its environment has ANNALS_PLACE, ANNALS_PARTITION, ANNALS_POSITION, ANNALS_STREAM, ANNALS_REVISION, ANNALS_TYPE, ANNALS_ID, ANNALS_KEY (where it is text), ANNALS_TRIES, ANNALS_TOPIC, ANNALS_GROUP, and ANNALS_REDRIVEN=1 and ANNALS_EDITED=1 where they hold. Exit status 0 acks the event, 65 parks it, any other or a signal nacks it. The failure's message is the last line that it wrote to stderr, its chain the lines before; its name is that of the last line of the form `NameError: message` or `NameException: message`, and else Exit and the status, Signal and the number, or Timeout. What it prints is printed here once it has acked, whole.

With --batch N, CMD is started once for each worker and stays. On stdin it gets such lines, at most N that it has not answered, none two of one key; stdin ends when it shall end. For each it prints one line, in any order:
  {"place":"0:17","answer":"ack"}
  {"place":"0:18","answer":"nack","error":"TimeoutError: no answer","delay_ms":5000}
  {"place":"0:19","answer":"park","error":{"name":"Unknown","message":"no such order","chain":["..."]}}
  {"place":"0:20","answer":"release"}
  {"place":"0:21","answer":"ack","produce":[{"stream":"bill-7","type":"Billed","data":{}}]}
`release` gives an event back untried. A worker that dies, or prints another line, is started again after a pause that grows; what it had not answered is nacked (WorkerDied, BadAnswer). An event that had failed before is given to it alone. The time of --timeout is that of the event that it was given first; the others go back untried.

With --produce TOPIC, what a worker prints (or names as `produce`) are events as `annals append --stdin` reads them: they are appended together, with ids made of the event's place, and are durable before the event is acked; an event that is delivered again finds them, and adds nothing. A line without a stream means the stream of the event. All go to one partition, and must be the same each time.

Workers end with this process: their stdin closes, and then they are killed. The store's lock is not theirs.

Examples:
  annals consume --group billing --exec ./bill.sh --workers 4
  annals consume --group copy --create --exec 'jq -c ".stream = \"copy-\" + .stream"' --produce copies --until-caught-up
  annals consume --group mails --batch 100 --exec 'python3 mails.py' --wait"#;

/// How long Ctrl-C, or the end of the work, can go unnoticed while nothing comes.
const IDLE: Duration = Duration::from_millis(50);
/// How often a waiting process looks whether the store is free.
const LOCK_POLL: Duration = Duration::from_millis(20);

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    if !args.create && (args.filter.is_given() || args.policy.is_given()) {
        return Err(Failure::usage("options of a new group are given, but not --create")
            .next("give --create too, or change the group with `annals groups alter`"));
    }
    worker::check_command(&args.exec)?;
    let store = open(ctx, args.wait)?;
    let topic = ctx.topic(&store)?;
    let group = group(ctx, &topic, &args)?;
    let info = group.info()?;
    if info.paused {
        return Err(Failure::new(Exit::Stopped, format!("the group `{}` is paused", args.group))
            .next(format!("run `annals groups resume {}` first", args.group)));
    }
    let guard = worker::Guard::wait(ctx, LOCK_POLL)?;
    let produce = args.produce.as_ref().map(|name| ctx.topic_named(&store, Some(name))).transpose()?;
    let lease = info.options.policy.lease;
    let crew = Crew {
        ctx,
        partitioned: topic.partitions() > 1,
        topic: &topic,
        group_name: &args.group,
        produce,
        command: &args.exec,
        timeout: args.timeout.unwrap_or(lease),
        renew_every: lease / 3,
        stop: Arc::default(),
        permits: args.limit.map(|n| AtomicI64::new(i64::try_from(n).unwrap_or(i64::MAX))),
        limit: args.limit,
        tally: Tally::default(),
        output: Mutex::new(Output::stdout()?),
    };
    let prints = crew.produce.is_none() && args.batch.is_none();
    let ended = crew.work(&args, &*group, &guard, prints);
    crew.tell();
    drop(crew);
    drop(group);
    drop(topic);
    // Closed in any case, so that the next owner has nothing to recover; the first error is the one to tell.
    let closed = store.close();
    ended?;
    closed?;
    Ok(ctx.interrupt.exit().unwrap_or(Exit::Ok))
}

/// Opens the store to write, when its owner has ended where that is waited for.
fn open(ctx: &Context, wait: bool) -> Result<Store> {
    let mut said = false;
    loop {
        match open_store(ctx.store_dir(), to_write()) {
            Err(e) if wait && matches!(e.kind(), ErrorKind::Locked { .. }) => {
                if let ErrorKind::Locked { holder } = e.kind()
                    && !std::mem::replace(&mut said, true)
                {
                    ctx.note(format_args!("waiting for the end of {holder}, which owns the store"));
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a lock of another process can only be looked at"
                )]
                std::thread::sleep(LOCK_POLL);
            }
            Err(e) => return Err(ctx.open_failure(ctx.store_dir(), e)),
            Ok(store) => {
                ctx.tell_recovery(&store);
                if said {
                    ctx.note("this process owns the store now");
                }
                return Ok(store);
            }
        }
    }
}

/// The group, which is made where that was asked for.
fn group(ctx: &Context, topic: &Topic, args: &Args) -> Result<Box<dyn ConsumerGroup>> {
    let groups = groups_of(topic);
    if !args.create || groups.groups()?.contains(&args.group) {
        let group = groups.group(&args.group).map_err(|e| {
            let not_there = matches!(e.kind(), ErrorKind::NotFound);
            let failure = Failure::from(e);
            if not_there {
                failure.next("make it with `annals groups create`, or give --create")
            } else {
                failure
            }
        })?;
        if args.create {
            check_same(ctx, topic, args, &*group)?;
        }
        return Ok(group);
    }
    let options = args.filter.options(topic, args.policy.over(GroupPolicy::default()))?;
    Ok(groups.create_group(&args.group, &options)?)
}

/// A group that is there already must consume what was asked for.
fn check_same(ctx: &Context, topic: &Topic, args: &Args, group: &dyn ConsumerGroup) -> Result<()> {
    let there = group.info()?.options;
    let asked = args.filter.options(topic, args.policy.over(there.policy.clone()))?;
    if (&asked.selection, &asked.query, &asked.key) != (&there.selection, &there.query, &there.key) {
        return Err(Failure::usage(format!(
            "the group `{}` is there, and consumes something else",
            args.group
        ))
        .why("what a group consumes is fixed when it is made")
        .next("see `annals groups describe`; name another group, or leave the options out with --create"));
    }
    if asked.policy != there.policy {
        ctx.note(
            "note: the group is there with another policy, which stays; change it with `annals groups alter`",
        );
    }
    Ok(())
}

/// What the threads of a run share.
struct Crew<'c> {
    ctx: &'c Context,
    topic: &'c Topic,
    partitioned: bool,
    group_name: &'c str,
    produce: Option<Topic>,
    command: &'c str,
    timeout: Duration,
    renew_every: Duration,
    /// No new events.
    stop: Arc<AtomicBool>,
    /// How many events may still be taken, where there is a limit.
    permits: Option<AtomicI64>,
    limit: Option<u64>,
    tally: Tally,
    output: Mutex<Output>,
}

#[derive(Default)]
struct Tally {
    acked: AtomicU64,
    nacked: AtomicU64,
    parked: AtomicU64,
    /// Answers that came too late.
    late: AtomicU64,
}

/// What became of an event.
enum Outcome {
    /// Handled; what it produced is on its way.
    Ack(Option<Pending<Appended>>),
    /// To be tried again.
    Nack(WhyNot, Option<Duration>),
    /// To be set aside.
    Park(WhyNot),
    /// Not tried.
    Release,
}

enum Said {
    Ended(Result<()>),
    Signal,
}

impl Crew<'_> {
    /// Starts the workers and waits for their end.
    fn work(
        &self,
        args: &Args,
        group: &dyn ConsumerGroup,
        guard: &worker::Guard,
        prints: bool,
    ) -> Result<()> {
        let (send, receive) = channel();
        self.ctx.interrupt.graceful({
            let (send, stop) = (send.clone(), Arc::clone(&self.stop));
            move || {
                stop.store(true, Ordering::SeqCst);
                let _ = send.send(Said::Signal);
            }
        });
        // Joined before the first works, so that what cannot be consumed is told once.
        let mut members = Vec::new();
        for _ in 0..args.workers {
            members.push((group.join()?, Keeper::start(guard)?));
        }
        std::thread::scope(|scope| {
            let alive = members.len();
            for (number, (member, keeper)) in members.into_iter().enumerate() {
                let ended = Ending { send: send.clone(), outcome: None };
                let batch = args.batch;
                std::thread::Builder::new()
                    .name(format!("annals-worker-{number}"))
                    .spawn_scoped(scope, move || self.worker(member, keeper, batch, ended))
                    .map_err(|e| Failure::new(Exit::Unreachable, "cannot start a thread").why(e.to_string()))
                    .inspect_err(|_| self.stop.store(true, Ordering::SeqCst))?;
            }
            self.wait(group, args, prints, &receive, alive)
        })
    }

    /// One worker, to its end.
    fn worker(
        &self,
        mut member: Box<dyn GroupMember>,
        mut keeper: Keeper,
        batch: Option<NonZeroUsize>,
        mut ended: Ending,
    ) {
        let outcome = match batch {
            None => single::run(self, &mut *member, &mut keeper),
            Some(most) => batch::run(self, &mut *member, &mut keeper, most.get()),
        };
        // What was answered is durable, also where something else went wrong.
        let committed = member.commit().map_err(Failure::from);
        ended.outcome = Some(outcome.and(committed));
    }

    fn wait(
        &self,
        group: &dyn ConsumerGroup,
        args: &Args,
        prints: bool,
        receive: &Receiver<Said>,
        mut alive: usize,
    ) -> Result<()> {
        let mut worst = Ok(());
        let mut said = false;
        while alive > 0 {
            match receive.recv_timeout(IDLE) {
                Ok(Said::Ended(outcome)) => {
                    alive -= 1;
                    if outcome.is_err() {
                        self.stop.store(true, Ordering::SeqCst);
                        worst = worst.and(outcome);
                    }
                }
                Ok(Said::Signal) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if self.stopping() => {
                    if self.ctx.interrupt.exit().is_some() && !std::mem::replace(&mut said, true) {
                        self.ctx.note("ending when the workers are through; again ends at once");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let look = || -> Result<bool> {
                        if prints {
                            Output::check_reader()?;
                        }
                        Ok(args.until_caught_up && caught_up(group)?)
                    };
                    match look() {
                        Ok(false) => {}
                        Ok(true) => self.stop.store(true, Ordering::SeqCst),
                        Err(failure) => {
                            self.stop.store(true, Ordering::SeqCst);
                            worst = worst.and(Err(failure));
                        }
                    }
                }
            }
        }
        worst
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The next event for a member, unless there shall be no more.
    fn take(&self, member: &mut dyn GroupMember, wait: Duration, env: bool) -> Result<Option<Handed>> {
        if self.stopping() {
            return Ok(None);
        }
        if let Some(permits) = &self.permits
            && permits.fetch_sub(1, Ordering::SeqCst) <= 0
        {
            permits.fetch_add(1, Ordering::SeqCst);
            if !wait.is_zero() {
                // Another worker has the last ones, and may give them back.
                std::thread::park_timeout(wait.min(Duration::from_millis(5)));
            }
            return Ok(None);
        }
        let taken = member.next(wait).map(|d| d.map(|delivery| Handed::of(&delivery, self, env)));
        if !matches!(taken, Ok(Some(_))) {
            self.give_permit_back();
        }
        Ok(taken?)
    }

    fn give_permit_back(&self) {
        if let Some(permits) = &self.permits {
            permits.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Tells the group what became of an event.
    fn answer(&self, member: &mut dyn GroupMember, place: RecordPlace, outcome: Outcome) -> Result<()> {
        let tally = &self.tally;
        let one = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let answered = match outcome {
            Outcome::Ack(None) => member.ack(place).map(|()| one(&tally.acked)),
            Outcome::Ack(Some(produced)) => match produced.wait() {
                Ok(_) => member.ack(place).map(|()| one(&tally.acked)),
                Err(e) => match refusal(&e) {
                    Some(name) => {
                        let why = WhyNot::new(name, e.to_string());
                        return self.answer(member, place, Outcome::Nack(why, None));
                    }
                    None => {
                        // Not the event's fault: it is not counted as tried.
                        let _ = member.release(place);
                        return Err(e.into());
                    }
                },
            },
            Outcome::Nack(why, delay) => member.nack(place, &why, delay).map(|nacked| match nacked {
                Nacked::Retried(_) => one(&tally.nacked),
                Nacked::Parked => {
                    one(&tally.parked);
                    self.tell_parked(place, &why);
                }
            }),
            Outcome::Park(why) => member.park(place, &why).map(|()| {
                one(&tally.parked);
                self.tell_parked(place, &why);
            }),
            Outcome::Release => {
                self.give_permit_back();
                member.release(place)
            }
        };
        match answered {
            Err(e) if matches!(e.kind(), ErrorKind::LeaseExpired) => {
                one(&tally.late);
                self.ctx.note(format_args!("note: {e}; it is delivered again"));
            }
            other => other?,
        }
        if let Some(limit) = self.limit
            && self.answered() >= limit
        {
            self.stop.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn tell_parked(&self, place: RecordPlace, why: &WhyNot) {
        let message = crate::output::printable(&why.message);
        let (name, of) = (crate::output::printable(&why.name), self.group_name);
        self.ctx.note(format_args!(
            "note: the event at {place} is a dead letter of `{of}` now: {name}: {message}"
        ));
    }

    fn answered(&self) -> u64 {
        let Tally { acked, nacked, parked, late } = &self.tally;
        [acked, nacked, parked, late].iter().map(|n| n.load(Ordering::SeqCst)).sum()
    }

    fn tell(&self) {
        let n = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let mut said = format!("{} acked", count(n(&self.tally.acked), "event"));
        for (what, counter) in [
            ("to be tried again", &self.tally.nacked),
            ("parked", &self.tally.parked),
            ("answered too late", &self.tally.late),
        ] {
            if n(counter) > 0 {
                said = format!("{said}, {} {what}", n(counter));
            }
        }
        self.ctx.note(said);
    }

    /// Prints what a worker printed for an event.
    fn print(&self, text: &[u8]) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.buffer().extend_from_slice(text);
        if text.last() != Some(&b'\n') {
            output.buffer().push(b'\n');
        }
        output.flush()
    }

    /// Begins the lease of what a member has anew.
    fn renew(&self, member: &mut dyn GroupMember) -> Result<()> {
        match member.renew() {
            // What was taken is told when it is answered.
            Err(e) if matches!(e.kind(), ErrorKind::LeaseExpired) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits, unless it shall end.
    fn pause(&self, span: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let mut left = span;
        while !left.is_zero() && !self.stopping() {
            let step = left.min(STEP);
            std::thread::park_timeout(step);
            left = left.saturating_sub(step);
        }
    }
}

/// Tells of a worker's end, however it ends.
struct Ending {
    send: Sender<Said>,
    outcome: Option<Result<()>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let failed = || Err(Failure::new(Exit::Unreachable, "a thread of a worker ended unexpectedly"));
        let _ = self.send.send(Said::Ended(self.outcome.take().unwrap_or_else(failed)));
    }
}

/// Whether nothing is left to do for a group.
fn caught_up(group: &dyn ConsumerGroup) -> Result<bool> {
    let info = group.info()?;
    if info.in_flight > 0 || info.retrying > 0 || group.lag()?.events > 0 {
        return Ok(false);
    }
    // What goes on behind a dead letter that was resolved, and what was sent back, is still to come.
    let redriving = || -> Result<bool> {
        Ok(group.dead_letters()?.iter().any(|letter| letter.state == LetterState::Redriving))
    };
    let going_on = || -> Result<bool> { Ok(group.held()?.iter().any(|key| key.behind.is_none())) };
    let more = info.dead_letters > 0 && redriving()? || info.held > 0 && going_on()?;
    Ok(!more)
}

/// The name of a failure that is the event's own: its outputs were refused. `None`: the store itself fails.
fn refusal(e: &annals::Error) -> Option<&'static str> {
    match e.kind() {
        ErrorKind::Conflict { .. } => Some("Conflict"),
        ErrorKind::ConditionFailed { .. } => Some("ConditionFailed"),
        ErrorKind::IdReused { .. } => Some("IdReused"),
        ErrorKind::Invalid => Some("BadOutput"),
        _ => None,
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_span(text) {
        Ok(span) if span.is_zero() => Err("a timeout of no time kills every worker".to_owned()),
        other => other,
    }
}
