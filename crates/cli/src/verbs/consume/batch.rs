//! A process that stays, and is given many events.
//!
//! # Invariants
//! - It has at most so many unanswered events as were asked for, and one that had failed before is alone with it: so an
//!   event that kills its worker takes others' tries along once, at its first try.
//! - What it had not answered when it died is nacked, and a new one is started after a pause that grows.
//! - Its oldest event is the one whose time runs: a worker that handles one after the other has the whole time for each.
//!
//! Elsewhere: lines and answers (`protocol`), how it is run (`worker`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use annals::{Failure as WhyNot, GroupMember};

use super::protocol::{Answer, AnswerKind, Handed, acked};
use super::worker::{Keeper, State, Worker, described, now};
use super::{Crew, IDLE, Outcome};
use crate::failure::Result;

/// How long a new event can go unnoticed while others are with the worker.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const RESTART_FIRST: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_secs(1);

/// Handles events until there shall be no more.
pub(super) fn run(
    crew: &Crew<'_>,
    member: &mut dyn GroupMember,
    keeper: &mut Keeper,
    most: usize,
) -> Result<()> {
    let mut desk = Desk {
        crew,
        member,
        keeper,
        worker: None,
        unanswered: VecDeque::new(),
        waiting: None,
        front_since: now(),
        renewed: now(),
        restart: RESTART_FIRST,
        uncommitted: false,
    };
    let outcome = desk.run(most);
    if outcome.is_err() {
        // Not the events' fault: they are not counted as tried.
        let left: Vec<_> = desk.unanswered.drain(..).chain(desk.waiting.take()).collect();
        for handed in left {
            let _ = crew.answer(desk.member, handed.place, Outcome::Release);
        }
    }
    outcome
}

/// One worker, and what is on its desk.
struct Desk<'r, 'c> {
    crew: &'r Crew<'c>,
    member: &'r mut dyn GroupMember,
    keeper: &'r mut Keeper,
    worker: Option<Worker>,
    /// With the worker, oldest first.
    unanswered: VecDeque<Handed>,
    /// To be given to the worker when it has nothing else.
    waiting: Option<Handed>,
    /// Since when the oldest is the oldest.
    front_since: Instant,
    renewed: Instant,
    restart: Duration,
    uncommitted: bool,
}

impl Desk<'_, '_> {
    fn run(&mut self, most: usize) -> Result<()> {
        loop {
            self.take(most)?;
            if self.unanswered.is_empty() {
                if self.crew.stopping() && self.waiting.is_none() {
                    return self.send_home();
                }
                // It may have died for itself.
                self.look(Duration::ZERO)?;
                continue;
            }
            let full = self.unanswered.len() >= most || self.waiting.is_some() || self.crew.stopping();
            self.look(if full { IDLE } else { LOOK_EVERY })?;
            if self.renewed.elapsed() >= self.crew.renew_every {
                self.renewed = now();
                self.crew.renew(self.member)?;
            }
        }
    }

    /// Takes events and gives them to the worker, as many as it may have.
    fn take(&mut self, most: usize) -> Result<()> {
        loop {
            if self.unanswered.is_empty()
                && let Some(handed) = self.waiting.take()
            {
                self.give(handed)?;
            }
            let alone = self.unanswered.front().is_some_and(|handed| handed.tries > 1);
            if self.unanswered.len() >= most || self.waiting.is_some() || alone || self.crew.stopping() {
                return Ok(());
            }
            let nothing = self.unanswered.is_empty();
            let wait = if nothing { IDLE } else { Duration::ZERO };
            let Some(handed) = self.crew.take(self.member, wait, false)? else {
                if nothing && std::mem::take(&mut self.uncommitted) {
                    self.member.commit()?;
                }
                return Ok(());
            };
            if handed.tries > 1 && !nothing {
                self.waiting = Some(handed);
            } else {
                self.give(handed)?;
            }
        }
    }

    fn give(&mut self, handed: Handed) -> Result<()> {
        let worker = match &mut self.worker {
            Some(worker) => worker,
            none => {
                let env = [
                    ("ANNALS_TOPIC", self.crew.topic.name().to_owned()),
                    ("ANNALS_GROUP", self.crew.group_name.to_owned()),
                ];
                none.insert(Worker::start(self.keeper, self.crew.ctx, self.crew.command, &env)?)
            }
        };
        worker.give(&handed.line);
        if self.unanswered.is_empty() {
            self.front_since = now();
        }
        self.unanswered.push_back(handed);
        Ok(())
    }

    /// Waits at most so long for what the worker says, and does what it says.
    fn look(&mut self, wait: Duration) -> Result<()> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        let left = self.crew.timeout.saturating_sub(self.front_since.elapsed());
        let state = worker.pump(wait.min(left))?;
        let lines = worker.lines();
        if let Err(wrong) = self.answers(&lines)? {
            return self.died(&WhyNot::new("BadAnswer", wrong));
        }
        let Some(worker) = &mut self.worker else { return Ok(()) };
        match state {
            State::Ended(status) => {
                let (_, how) = described(status);
                let why = WhyNot { chain: worker.last_lines(), ..WhyNot::new("WorkerDied", how) };
                self.died(&why)
            }
            State::TooMuch => self.died(&WhyNot::new("BadAnswer", "a line that does not end")),
            State::Runs if !worker.reads() => {
                let why = WhyNot::new("WorkerDied", "it does not read its stdin any more");
                self.died(&why)
            }
            State::Runs if left.is_zero() && !self.unanswered.is_empty() && lines.is_empty() => {
                self.timed_out()
            }
            State::Runs => Ok(()),
        }
    }

    /// Does what answers say; the first that is none is told, and none behind it is done.
    fn answers(&mut self, lines: &[Vec<u8>]) -> Result<Result<(), String>> {
        // What they produce is appended side by side, under few syncs, and each is acked behind its own.
        let mut outcomes = Vec::new();
        let mut wrong = Ok(());
        for line in lines {
            let shown = || String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            let answer = match Answer::parse(line, self.crew.partitioned) {
                Ok(answer) => answer,
                Err(why) => {
                    wrong = Err(format!("it printed `{}`, which is no answer: {why}", shown()));
                    break;
                }
            };
            let Some(at) = self.unanswered.iter().position(|handed| handed.place == answer.place) else {
                wrong = Err(format!("it printed `{}`, but does not have this event", shown()));
                break;
            };
            if let Some(handed) = self.unanswered.remove(at) {
                if at == 0 {
                    self.front_since = now();
                }
                let outcome = match answer.kind {
                    AnswerKind::Ack => {
                        acked(self.crew, &handed, answer.produce.iter().map(|event| event.get().as_bytes()))
                    }
                    AnswerKind::Nack(why, delay) => Outcome::Nack(why, delay),
                    AnswerKind::Park(why) => Outcome::Park(why),
                    AnswerKind::Release => Outcome::Release,
                };
                outcomes.push((handed.place, outcome));
            }
        }
        if !outcomes.is_empty() {
            self.restart = RESTART_FIRST;
            self.uncommitted = true;
        }
        let mut outcomes = outcomes.into_iter();
        for (place, outcome) in outcomes.by_ref() {
            if let Err(failure) = self.crew.answer(self.member, place, outcome) {
                outcomes.for_each(|(place, _)| drop(self.crew.answer(self.member, place, Outcome::Release)));
                return Err(failure);
            }
        }
        Ok(wrong)
    }

    /// Nacks what the worker had, and has another one started.
    fn died(&mut self, why: &WhyNot) -> Result<()> {
        self.worker = None;
        // Also what it had started itself.
        self.keeper.end_workers()?;
        let had: Vec<_> = self.unanswered.drain(..).collect();
        self.crew.ctx.note(format_args!(
            "note: a worker of `{}` had to be given up with {}: {}",
            self.crew.group_name,
            crate::context::count(had.len() as u64, "unanswered event"),
            crate::output::printable(&why.message)
        ));
        for handed in had {
            self.uncommitted = true;
            self.crew.answer(self.member, handed.place, Outcome::Nack(why.clone(), None))?;
        }
        self.pause()
    }

    fn timed_out(&mut self) -> Result<()> {
        let message = format!("it was not answered after {:?}, and its worker was killed", self.crew.timeout);
        let mut why = WhyNot::new("Timeout", message);
        why.chain = self.worker.as_mut().map(Worker::last_lines).unwrap_or_default();
        self.worker = None;
        self.keeper.end_workers()?;
        self.uncommitted = true;
        if let Some(oldest) = self.unanswered.pop_front() {
            self.crew.answer(self.member, oldest.place, Outcome::Nack(why, None))?;
        }
        // The others were behind it.
        for handed in std::mem::take(&mut self.unanswered) {
            self.crew.answer(self.member, handed.place, Outcome::Release)?;
        }
        self.pause()
    }

    fn pause(&mut self) -> Result<()> {
        self.crew.pause(self.restart);
        self.restart = (self.restart * 2).min(RESTART_MAX);
        Ok(())
    }

    /// Lets the worker end: its stdin closes.
    fn send_home(&mut self) -> Result<()> {
        let Some(mut worker) = self.worker.take() else { return Ok(()) };
        worker.close();
        let began = now();
        while began.elapsed() < self.crew.timeout {
            match worker.pump(IDLE)? {
                State::Runs => drop(worker.lines()),
                State::Ended(_) | State::TooMuch => return Ok(()),
            }
        }
        self.keeper.end_workers()
    }
}
