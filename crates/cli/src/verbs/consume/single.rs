//! A process for each event.
//!
//! # Invariants
//! - What a process printed is printed, or produced, before its event is acked, and is dropped where it did not ack.
//!
//! Elsewhere: what a process is told (`protocol`), how it is run (`worker`).

use std::process::ExitStatus;

use annals::{Failure as WhyNot, GroupMember};

use super::protocol::{Handed, acked};
use super::worker::{Keeper, State, Worker, described, failure, now};
use super::{Crew, IDLE, Outcome};
use crate::failure::Result;

/// Exit status of a worker that parks its event (EX_DATAERR of sysexits.h).
const PARK: i32 = 65;

/// Handles events until there shall be no more.
pub(super) fn run(crew: &Crew<'_>, member: &mut dyn GroupMember, keeper: &mut Keeper) -> Result<()> {
    let mut uncommitted = false;
    while !crew.stopping() {
        let Some(handed) = crew.take(member, IDLE, true)? else {
            if std::mem::take(&mut uncommitted) {
                member.commit()?;
            }
            continue;
        };
        uncommitted = true;
        let outcome = match handle(crew, member, keeper, &handed) {
            Ok(outcome) => outcome,
            Err(failure) => {
                // Not the event's fault: it is not counted as tried.
                let _ = crew.answer(member, handed.place, Outcome::Release);
                return Err(failure);
            }
        };
        crew.answer(member, handed.place, outcome)?;
    }
    Ok(())
}

fn handle(
    crew: &Crew<'_>,
    member: &mut dyn GroupMember,
    keeper: &mut Keeper,
    handed: &Handed,
) -> Result<Outcome> {
    let mut worker = Worker::start(keeper, crew.ctx, crew.command, &handed.env)?;
    worker.give(&handed.line);
    worker.close();
    let began = now();
    let mut renewed = began;
    loop {
        let left = crew.timeout.saturating_sub(began.elapsed());
        match worker.pump(left)? {
            State::Ended(status) => {
                if status.code().is_none() {
                    // Killed, and what it had started itself may still run.
                    keeper.end_workers()?;
                }
                return ended(crew, handed, &mut worker, status);
            }
            State::TooMuch => {
                keeper.end_workers()?;
                return Ok(Outcome::Nack(
                    WhyNot::new("BadOutput", "it printed more than can be appended"),
                    None,
                ));
            }
            State::Runs if left.is_zero() => {
                keeper.end_workers()?;
                let message = format!("it had not ended after {:?}, and was killed", crew.timeout);
                let mut why = WhyNot::new("Timeout", message);
                why.chain = worker.last_lines();
                return Ok(Outcome::Nack(why, None));
            }
            State::Runs => {}
        }
        if renewed.elapsed() >= crew.renew_every {
            renewed = now();
            crew.renew(member)?;
        }
    }
}

fn ended(crew: &Crew<'_>, handed: &Handed, worker: &mut Worker, status: ExitStatus) -> Result<Outcome> {
    if status.success() {
        let printed = worker.printed();
        if crew.produce.is_none() {
            crew.print(&printed)?;
            return Ok(Outcome::Ack(None));
        }
        let lines = printed.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
        return Ok(acked(crew, handed, lines));
    }
    let (name, message) = described(status);
    let why = failure(&name, &message, &worker.last_lines());
    Ok(if status.code() == Some(PARK) { Outcome::Park(why) } else { Outcome::Nack(why, None) })
}
