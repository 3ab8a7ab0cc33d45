//! `annals demo`: a shop's day as events. It appends them, tells one order's story, and asks what was true at noon.
//!
//! This is also an example of the library: all below uses the crate `annals` as an application would. Where the store
//! lies and what is said at the end is in `stage`.

use std::collections::HashMap;
use std::time::Instant;

use annals::{
    At, Batch, EventId, EventView, Events, ExpectedRevision, NewEvent, Read, Store, Ticket, Topic,
    TopicOptions, meta,
};

use crate::context::{Context, count};
use crate::failure::{Exit, Result};
use crate::output::Output;

mod stage;

pub(crate) use stage::Args;
use stage::{NOON, Step, clock, print, rate, the_day_of};

/// Prints a line.
macro_rules! tell {
    ($out:ident, $($text:tt)*) => { print(&mut $out, format_args!($($text)*))? };
}

#[expect(clippy::disallowed_methods, reason = "measures how long a person waits")]
pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let stage = stage::set(ctx, &args)?;
    let mut out = Output::stdout()?;
    let store = Store::open(&stage.dir)?;
    let topic = store.create_topic("orders", TopicOptions::default())?;
    tell!(out, "A shop's day, in the store {}.", stage.dir.display());

    // Append what happens. An append is checked and placed at once; its ticket is the promise that it will be durable.
    let day = the_day_of(args.orders);
    let started = Instant::now();
    let mut last = HashMap::new();
    let tickets: Vec<Ticket> = day.iter().map(|step| append(&topic, &mut last, step)).collect();
    for ticket in tickets {
        ticket.wait()?;
    }
    let took = started.elapsed().as_secs_f64();
    let (events, orders) = (day.len() as u64, count(args.orders, "order"));
    tell!(out, "\nAppended {} of {orders} in {took:.2} s: {}.", count(events, "event"), rate(events, took));
    tell!(
        out,
        "Each was checked against its stream's revision and is durable ({}).",
        topic.options().durability
    );

    // Tell one order's story: a stream, read from its start. This one had to wait for stock.
    let missing = day.iter().find(|step| step.event_type == "OutOfStock");
    let stream = missing.map_or("order-1", |step| &step.stream);
    tell!(out, "\nWhat happened to {stream}?");
    let mut story = topic.read(&Read::stream(stream))?;
    while let Some(event) = story.next_view()? {
        let (time, what, id) = (clock(event.time()), event.event_type, event.id.to_string());
        let data = String::from_utf8_lossy(event.data.unwrap_or_default());
        let cause =
            event.metadata.causation_id().map(|id| format!(" because of {id:.8}")).unwrap_or_default();
        tell!(out, "  {time}  {what:16}{data:32}{id:.8}{cause}");
    }

    // Replay all orders: up to noon to see what was true at noon, up to the end to see what is true now.
    let at_noon = replay(&topic, &Read::all().to(At::Event(NOON)))?;
    let started = Instant::now();
    let now = replay(&topic, &Read::all())?;
    let took = started.elapsed().as_secs_f64();
    tell!(out, "\nReplayed them into a read model in {:.1} ms: {}.", took * 1e3, rate(now.events, took));
    tell!(out, "  {:22}{:>8}{:>9}", "orders", clock(NOON), "now");
    for state in STATES {
        tell!(out, "  {state:22}{:>8}{:>9}", at_noon.orders(state), now.orders(state));
    }
    tell!(out, "  {:22}{:>8}{:>9}", "payments received", at_noon.received, now.received);

    store.close()?;
    tell!(out, "{}", stage.what_next(stream));
    Ok(Exit::Ok)
}

/// Appends a step to its order's stream. It expects that nothing came in between, and names the event before as its cause.
fn append<'a>(topic: &Topic, last: &mut HashMap<&'a str, (u64, EventId)>, step: &'a Step) -> Ticket {
    let before = last.get(&*step.stream).copied();
    let revision = before.map_or(0, |(revision, _)| revision + 1);
    let id = EventId::from_name(&format!("{}/{revision}", step.stream));
    last.insert(&step.stream, (revision, id));

    let event = NewEvent::new(step.event_type)
        .id(id)
        .event_time(step.at)
        .data(step.data.as_bytes())
        .correlation_id(&step.stream);
    match before {
        None => topic.append(&Batch::to(&step.stream).expect(ExpectedRevision::NoStream).event(event)),
        Some((revision, id)) => {
            let event = event.metadata(meta::CAUSATION_ID, id.to_string().into_bytes());
            topic.append(&Batch::to(&step.stream).expect(ExpectedRevision::Exact(revision)).event(event))
        }
    }
}

const STATES: [&str; 4] = ["waiting for payment", "to be packed", "waiting for stock", "fulfilled"];

/// What the shop wants to know, made from events and from nothing else.
#[derive(Default)]
struct ReadModel {
    events: u64,
    state_of: HashMap<String, &'static str>,
    received: u64,
}

impl ReadModel {
    fn apply(&mut self, event: &EventView<'_>) {
        self.events += 1;
        let state = match event.event_type {
            "OrderPlaced" => STATES[0],
            "PaymentReceived" => {
                let data: serde_json::Value =
                    serde_json::from_slice(event.data.unwrap_or_default()).unwrap_or_default();
                self.received += data["amount"].as_u64().unwrap_or(0);
                STATES[1]
            }
            "OutOfStock" => STATES[2],
            "Restocked" => STATES[1],
            "OrderFulfilled" => STATES[3],
            _ => return,
        };
        self.state_of.insert(event.stream.to_owned(), state);
    }

    fn orders(&self, state: &str) -> usize {
        self.state_of.values().filter(|s| **s == state).count()
    }
}

fn replay(topic: &Topic, read: &Read) -> Result<ReadModel> {
    let mut model = ReadModel::default();
    let mut events = topic.read(read)?;
    while let Some(event) = events.next_view()? {
        model.apply(&event);
    }
    Ok(model)
}
