//! `append --stdin`: many lines in flight, one answer for each, in order.
//!
//! One thread reads lines and appends them; this one waits for the tickets in order and prints. So the store's group
//! commit has many appends to put under one sync, however few the caller sends at a time.
//!
//! # Invariants
//! - An answer is printed once its event is durable, and is sent before anything is waited for: nothing that is ready
//!   waits for more input or for a later event.
//! - After an error of the disk or the store nothing more is acknowledged. A full disk is no such error: it refuses lines
//!   for as long as there is no room, and takes the next ones once there is.
//! - What is in flight is bounded: by [`WINDOW`] lines here and by the store's staging buffer.
//!
//! Elsewhere: cutting lines (`lines`), reading one (`event_json`), what is printed (`answer`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use annals::{
    Appended, Batch, Durability, Error, ErrorKind, ExpectedRevision, NewEvent, Ticket, Topic, limits,
};

use super::answer::{Answer, Refusal, answer_columns};
use super::lines::{Line, LineLimits, Lines};
use super::{Args, Input};
use crate::context::Context;
use crate::event_json::{EventLine, is_json_line, parse_event};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Format, Rows};

/// Most lines in flight.
const WINDOW: usize = 4096;

/// A JSON line can be longer than its event, since escapes take up to six bytes for one.
const LINE_LIMITS: LineLimits = LineLimits {
    line_bytes_max: 6 * limits::EVENT_BYTES_MAX_DEFAULT + 64 * 1024,
    together_bytes_max: 4 * limits::BATCH_BYTES_MAX,
};

/// What the reading thread hands over.
enum Handed {
    /// Lines appended together, waiting for their answer.
    Appended { ticket: Ticket, lines: Streams },
    /// A line that was not appended.
    Refused { refusal: Refusal, line: u64 },
    /// The input could not be read on.
    Failed(io::Error),
    /// The end of the input, or of the reading thread.
    End,
    /// Ctrl-C.
    Interrupted,
}

/// The lines of a batch: line number and stream of each.
enum Streams {
    One(u64, Box<str>),
    Many(Vec<(u64, Box<str>)>),
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let store = ctx.open_to_write()?;
    let topic = ctx.topic(&store)?;
    let stdin = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| Failure::file("read", Path::new("stdin"), &e))?;
    if io::stdin().is_terminal() {
        ctx.note("reading events from the terminal, one a line; Ctrl-D ends");
    }
    let mut rows = rows(ctx, &topic)?;

    let batch = args.batch.get();
    let (send, receive) = sync_channel((WINDOW / batch).max(2));
    let stop = Arc::new(AtomicBool::new(false));
    ctx.interrupt.graceful({
        let (send, stop) = (send.clone(), Arc::clone(&stop));
        move || {
            stop.store(true, Ordering::Relaxed);
            // A full channel wakes the printer anyway, and it looks.
            let _ = send.try_send(Handed::Interrupted);
        }
    });
    let reader = Reader {
        lines: Lines::new(File::from(stdin), LINE_LIMITS),
        seen: 0,
        topic: topic.clone(),
        stop: Arc::clone(&stop),
        batch,
        defaults: Defaults {
            stream: args.stream,
            event_type: args.event_type,
            content_type: args.content_type,
            input: args.input,
            durability: args.durability.map(Durability::from),
        },
        send: Sender(send),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "reads stdin; the store's own threads are started by the store"
    )]
    let reading = std::thread::spawn(move || reader.run());

    let mut printer =
        Printer { partitioned: topic.partitions() > 1, answered: 0, refused: 0, worst: Exit::Ok, full: None };
    let ended = printer.run(ctx, &receive, &mut rows);
    stop.store(true, Ordering::Relaxed);
    let flushed = rows.finish();
    if let Ok(Exit::Ok) = ended
        && let Err(panic) = reading.join()
    {
        std::panic::resume_unwind(panic);
    }
    printer.tell(ctx);
    // Closed in any case, so that the next opening has nothing to recover; the first error is the one to tell.
    let closed = store.close();
    let gone = |e: &Failure| e.is_closed_pipe();
    if ended.as_ref().is_err_and(gone) || flushed.as_ref().is_err_and(gone) {
        // Not quiet as for a reader: some of what was asked for may not have been done.
        return Err(Failure::new(Exit::Unreachable, "nobody reads the answers any more")
            .why("the output was closed before the input ended")
            .next("events without an answer may or may not be there: repeat them with the same ids"));
    }
    let exit = ended?;
    flushed?;
    match (exit, printer.full) {
        // Of the two what comes first is told; closing a store on a full disk may well fail too.
        (Exit::Ok, Some((failure, _))) => return Err(failure),
        _ => closed?,
    }
    Ok(match exit {
        Exit::Ok => printer.worst,
        other => other,
    })
}

/// JSON Lines unless something else was asked for, on a terminal too: the answers are a protocol.
fn rows(ctx: &Context, topic: &Topic) -> Result<Rows> {
    ctx.rows_in(ctx.format.unwrap_or(Format::Jsonl), &answer_columns(topic.partitions() > 1))
}

/// Prints answers in the order of the lines.
struct Printer {
    partitioned: bool,
    answered: u64,
    refused: u64,
    worst: Exit,
    /// The disk was full, and whether it still is.
    full: Option<(Failure, bool)>,
}

impl Printer {
    /// Ends with `Ok` at the end of the input, with another exit after Ctrl-C, and with an error that is final.
    fn run(&mut self, ctx: &Context, receive: &Receiver<Handed>, rows: &mut Rows) -> Result<Exit> {
        loop {
            let handed = match receive.try_recv() {
                Ok(handed) => handed,
                Err(TryRecvError::Disconnected) => return Ok(Exit::Ok),
                Err(TryRecvError::Empty) => {
                    if let Some(exit) = ctx.interrupt.exit() {
                        return Ok(exit);
                    }
                    rows.flush()?;
                    receive.recv().unwrap_or(Handed::End)
                }
            };
            match handed {
                Handed::Appended { ticket, lines } => {
                    if !ticket.is_done() {
                        rows.flush()?;
                    }
                    self.answer(ctx, ticket, &lines, rows)?;
                }
                Handed::Refused { refusal, line } => self.refuse(&refusal, line, rows)?,
                Handed::Failed(e) => return Err(Failure::file("read", Path::new("stdin"), &e)),
                Handed::End => return Ok(ctx.interrupt.exit().unwrap_or(Exit::Ok)),
                // What is in flight is answered before the end.
                Handed::Interrupted => {}
            }
        }
    }

    fn answer(&mut self, ctx: &Context, ticket: Ticket, lines: &Streams, rows: &mut Rows) -> Result<()> {
        match (ticket.wait(), lines) {
            (Ok(appended), Streams::One(_, stream)) => {
                self.has_room(ctx, &appended);
                self.answered += 1;
                rows.row(&Answer::of(&appended, 0, stream, self.partitioned))
            }
            (Ok(appended), Streams::Many(lines)) => {
                self.has_room(ctx, &appended);
                self.answered += lines.len() as u64;
                let mut answers = lines.iter().enumerate();
                answers.try_for_each(|(i, (_, stream))| {
                    rows.row(&Answer::of(&appended, i, stream, self.partitioned))
                })
            }
            (Err(e), lines) => {
                let refusal = Refusal::Store(e.clone());
                match lines {
                    Streams::One(line, _) => self.refuse(&refusal, *line, rows)?,
                    Streams::Many(lines) => {
                        lines.iter().try_for_each(|(line, _)| self.refuse(&refusal, *line, rows))?;
                    }
                }
                if refusal.is_full() {
                    self.is_full(ctx, e);
                } else if refusal.is_final() {
                    let io = matches!(e.kind(), ErrorKind::Io);
                    let next = "see to the cause, then give in again what has no answer: with ids, nothing is added twice";
                    let failure = Failure::from(e);
                    return Err(if io { failure.next(next) } else { failure });
                }
                Ok(())
            }
        }
    }

    fn refuse(&mut self, refusal: &Refusal, line: u64, rows: &mut Rows) -> Result<()> {
        self.answered += 1;
        self.refused += 1;
        // A wrong line weighs more than a conflict: the input has to be corrected, not decided anew.
        self.worst = match (self.worst, refusal.exit()) {
            (Exit::Usage, _) | (_, Exit::Usage) => Exit::Usage,
            (_, exit) => exit,
        };
        rows.row(&Answer::Refused { refusal, line })
    }

    /// Notes that lines are refused for want of room; said at once, since it may be a long time to the end.
    fn is_full(&mut self, ctx: &Context, e: Error) {
        if !matches!(self.full, Some((_, true))) {
            ctx.note(format_args!("note: lines are refused until there is room: {e}"));
            self.full = Some((Failure::from(e), true));
        }
    }

    /// Notes that an append went through.
    fn has_room(&mut self, ctx: &Context, appended: &Appended) {
        // A repeat takes no room.
        if let Some((_, full @ true)) = &mut self.full
            && !appended.repeated
        {
            ctx.note("note: there is room again: lines are appended");
            *full = false;
        }
    }

    fn tell(&self, ctx: &Context) {
        if self.refused > 0 {
            let n = self.refused;
            ctx.note(format_args!("{n} of {} lines were not appended; their answers say why", self.answered));
        }
    }
}

/// Tells the printer of the end, however the reading thread ends.
struct Sender(SyncSender<Handed>);

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.send(Handed::End);
    }
}

/// Reads lines and appends them.
struct Reader {
    lines: Lines<File>,
    seen: u64,
    topic: Topic,
    stop: Arc<AtomicBool>,
    batch: usize,
    defaults: Defaults,
    send: Sender,
}

/// What holds for lines that do not say it.
struct Defaults {
    stream: Option<String>,
    event_type: Option<String>,
    content_type: Option<String>,
    input: Input,
    durability: Option<Durability>,
}

impl Reader {
    fn run(mut self) {
        let is_blank: fn(&[u8]) -> bool = match self.defaults.input {
            Input::Jsonl => |line| line.trim_ascii().is_empty(),
            Input::Tsv => <[u8]>::is_empty,
        };
        let mut lines = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(e) = self.lines.next(self.batch, is_blank, &mut self.seen, &mut lines) {
                let _ = self.send.0.send(Handed::Failed(e));
                return;
            }
            if lines.is_empty() || self.append(&lines).is_none() {
                return;
            }
        }
    }

    /// Appends lines together. `None`: nobody listens any more.
    fn append(&self, lines: &[(u64, Line)]) -> Option<()> {
        if let [(number, line)] = lines {
            return self.hand(match self.parse(*number, line) {
                Ok((stream, expected, event)) => {
                    let lines = Streams::One(*number, stream.as_ref().into());
                    let mut batch = Batch::to(stream).expect(expected).event(event);
                    batch.durability = self.defaults.durability;
                    Handed::Appended { ticket: self.topic.append(&batch), lines }
                }
                Err(why) => Handed::Refused { refusal: Refusal::Malformed(why), line: *number },
            });
        }
        let mut gathered = Gathered::new(self.defaults.durability);
        let mut streams = Vec::with_capacity(lines.len());
        let mut wrong: Vec<(u64, String)> = Vec::new();
        for (number, line) in lines {
            let added = self.parse(*number, line).and_then(|(stream, expected, event)| {
                streams.push((*number, Box::from(stream.as_ref())));
                gathered.add(stream, expected, event)
            });
            if let Err(why) = added {
                wrong.push((*number, why));
            }
        }
        let Some((first_wrong, _)) = wrong.first() else {
            let ticket = self.topic.append(&gathered.batch);
            return self.hand(Handed::Appended { ticket, lines: Streams::Many(streams) });
        };
        let of_batch = format!(
            "line {first_wrong} of the same batch is wrong, and a batch is appended whole or not at all"
        );
        let mut wrong = wrong.into_iter().peekable();
        for (number, _) in lines {
            let refusal = match wrong.next_if(|(line, _)| line == number) {
                Some((_, why)) => Refusal::Malformed(why),
                None => Refusal::Batch(of_batch.clone()),
            };
            self.hand(Handed::Refused { refusal, line: *number })?;
        }
        Some(())
    }

    fn parse<'a>(&'a self, number: u64, line: &Line) -> Result<Parsed<'a>, String> {
        match line {
            Line::At(range) => self.defaults.parse(&self.lines.bytes()[range.clone()], number == 1),
            Line::TooLong => Err("the line, or its batch, is longer than it can ever be appended".to_owned()),
        }
    }

    fn hand(&self, handed: Handed) -> Option<()> {
        self.send.0.send(handed).ok()
    }
}

type Parsed<'a> = (Cow<'a, str>, ExpectedRevision, NewEvent<'a>);

impl Defaults {
    fn parse<'a>(&'a self, line: &'a [u8], first: bool) -> Result<Parsed<'a>, String> {
        // Some programs begin a file with a byte order mark.
        let line = if first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        match self.input {
            Input::Jsonl => {
                let EventLine { stream, expected, mut event } = parse_event(line)?;
                let stream = stream
                    .or_else(|| self.stream.as_deref().map(Cow::Borrowed))
                    .ok_or("the line has no `stream`, and the command names none")?;
                if event.event_type.is_empty() {
                    let named =
                        self.event_type.as_deref().ok_or("the line has no `type`, and there is no --type")?;
                    event.event_type = Cow::Borrowed(named);
                }
                Ok((stream, expected, event))
            }
            Input::Tsv => {
                let tab = memchr::memchr(b'\t', line).ok_or("the line has no tab; write STREAM<TAB>DATA")?;
                let stream =
                    std::str::from_utf8(&line[..tab]).map_err(|_| "the stream's name is not UTF-8")?;
                let data = &line[tab + 1..];
                let content_type = match &self.content_type {
                    Some(content_type) => content_type,
                    None if is_json_line(data) => "application/json",
                    None if std::str::from_utf8(data).is_ok() => "text/plain",
                    None => "application/octet-stream",
                };
                let event_type = self.event_type.as_deref().unwrap_or("event");
                let event = NewEvent::new(event_type).content_type(content_type).data(data);
                Ok((Cow::Borrowed(stream), ExpectedRevision::Any, event))
            }
        }
    }
}

/// Gathers the lines of a batch.
pub(crate) struct Gathered<'a> {
    pub(crate) batch: Batch<'a>,
    /// Where each stream stands in the batch, and how many events it has there.
    streams: HashMap<Cow<'a, str>, (usize, u64)>,
}

impl<'a> Gathered<'a> {
    pub(crate) fn new(durability: Option<Durability>) -> Self {
        let mut batch = Batch::default();
        batch.durability = durability;
        Gathered { batch, streams: HashMap::new() }
    }

    /// Adds an event. What it expects of its stream is meant as of its own line, behind the lines before it; the batch
    /// wants to know what is expected before all of them.
    pub(crate) fn add(
        &mut self,
        stream: Cow<'a, str>,
        expected: ExpectedRevision,
        event: NewEvent<'a>,
    ) -> Result<(), String> {
        let Some((known, events)) = self.streams.get_mut(&stream) else {
            let number = self.batch.streams.len();
            self.streams.insert(stream.clone(), (number, 1));
            self.batch.streams.push((stream, expected));
            self.batch.events.push((number, event));
            return Ok(());
        };
        let first = &mut self.batch.streams[*known].1;
        let contradiction =
            || format!("what it expects of `{stream}` contradicts a line before it in the same batch");
        let meant = match expected {
            ExpectedRevision::Any | ExpectedRevision::Exists => None,
            ExpectedRevision::NoStream => return Err(contradiction()),
            ExpectedRevision::Exact(revision) if revision < *events - 1 => return Err(contradiction()),
            ExpectedRevision::Exact(revision) if revision == *events - 1 => Some(ExpectedRevision::NoStream),
            ExpectedRevision::Exact(revision) => Some(ExpectedRevision::Exact(revision - *events)),
        };
        match (meant, *first) {
            (None, _) => {}
            (Some(meant), ExpectedRevision::Any) => *first = meant,
            (Some(meant @ ExpectedRevision::Exact(_)), ExpectedRevision::Exists) => *first = meant,
            (Some(meant), said) if meant == said => {}
            _ => return Err(contradiction()),
        }
        *events += 1;
        self.batch.events.push((*known, event));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExpectedRevision::{Any, Exact, Exists, NoStream};

    /// What the batch expects of the only stream, after lines that expect this.
    fn expected(lines: &[ExpectedRevision]) -> Result<ExpectedRevision, String> {
        let mut gathered = Gathered::new(None);
        for line in lines {
            gathered.add("s".into(), *line, NewEvent::new("T"))?;
        }
        let batch = gathered.batch;
        assert_eq!(batch.streams.len(), 1);
        assert_eq!(batch.len(), lines.len());
        Ok(batch.streams[0].1)
    }

    #[test]
    fn what_a_line_of_a_batch_expects_is_meant_behind_the_lines_before_it() {
        assert_eq!(expected(&[Any, Any]), Ok(Any));
        assert_eq!(expected(&[NoStream, Exact(0), Exact(1)]), Ok(NoStream));
        assert_eq!(expected(&[Exact(4), Exact(5), Any, Exact(7)]), Ok(Exact(4)));
        assert_eq!(expected(&[Any, Exact(5)]), Ok(Exact(4)));
        assert_eq!(expected(&[Any, Exact(0)]), Ok(NoStream));
        assert_eq!(expected(&[Any, Exists]), Ok(Any));
        assert_eq!(expected(&[Exists, Exact(3)]), Ok(Exact(2)));
        for contradictory in [
            &[Any, NoStream][..],
            &[NoStream, NoStream],
            &[Exact(4), Exact(4)],
            &[Exists, Exact(0)],
            &[Any, Any, Exact(0)],
        ] {
            assert!(expected(contradictory).is_err(), "{contradictory:?}");
        }
    }

    #[test]
    fn a_tab_separates_the_stream_from_data_that_is_kept_as_it_is() {
        let defaults = Defaults {
            stream: None,
            event_type: None,
            content_type: None,
            input: Input::Tsv,
            durability: None,
        };
        let line = |bytes: &'static [u8]| {
            defaults
                .parse(bytes, false)
                .map(|(s, _, e)| (s.into_owned(), e.content_type.into_owned(), e.data.map(Cow::into_owned)))
        };
        let json = || "application/json".to_owned();
        assert_eq!(
            line(b"s\t{\"a\":\"x\\ty\"}"),
            Ok(("s".into(), json(), Some(b"{\"a\":\"x\\ty\"}".to_vec())))
        );
        assert_eq!(line(b"s\ta\tb\\n\r"), Ok(("s".into(), "text/plain".into(), Some(b"a\tb\\n\r".to_vec()))));
        assert_eq!(line(b"s\t"), Ok(("s".into(), "text/plain".into(), Some(Vec::new()))));
        assert_eq!(line(b"s\t\xff").expect("bytes are data").1, "application/octet-stream");
        assert!(line(b"no tab").is_err());
        assert!(line(b"\xff\t{}").is_err());
    }
}
