//! Consumer groups: two of them share a topic of orders; one has two members, makes invoices of what it consumes, and gives
//! up on an order that nobody can bill until it is mended.
//!
//!     cargo run -p annals --example consumers

use std::time::Duration;

use annals::prelude::*;
use annals::{
    ConsumerGroup, Delivery, Failure, GroupMember, GroupOptions, GroupPolicy, Nacked, produce, produced_id,
};
use serde_json::{Value, json};

type Anything = Box<dyn std::error::Error + Send + Sync>;

const ORDERS: u64 = 20;

#[derive(Debug)]
struct Unbillable(String);

impl std::fmt::Display for Unbillable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Unbillable {}

/// What is billed of an order. Order 7 came without a price.
fn invoice(delivery: &Delivery<'_>) -> Result<Value, Unbillable> {
    let order: Value = serde_json::from_slice(delivery.event.data.unwrap_or_default())
        .map_err(|e| Unbillable(format!("no JSON: {e}")))?;
    match order.get("cents").and_then(Value::as_u64) {
        Some(cents) => Ok(json!({ "of": delivery.event.stream, "cents": cents })),
        None => Err(Unbillable(format!("{} has no price", delivery.event.stream))),
    }
}

/// Consumes until there is nothing more: an invoice for each event, and then its ack.
fn bill(orders: &Topic, invoices: &Topic, group: &dyn ConsumerGroup) -> Result<(u64, u64), Anything> {
    let mut member = group.join()?;
    let (mut billed, mut failed) = (0, 0);
    while let Some(delivery) = member.next(Duration::from_millis(50))? {
        let place = delivery.place();
        match invoice(&delivery) {
            Ok(invoice) => {
                let data = invoice.to_string().into_bytes();
                let output = Batch::to("invoices").event(NewEvent::new("InvoiceWritten").data(data));
                // Its id follows from the order's place: delivered again, it is there already.
                produce(orders, group.name(), place, invoices, output).wait()?;
                member.ack(place)?;
                billed += 1;
            }
            Err(e) => {
                failed += 1;
                if member.nack(place, &Failure::of(&e), None)? == Nacked::Parked {
                    println!("billing gives up on {place}: {e}");
                }
            }
        }
    }
    member.commit()?;
    Ok((billed, failed))
}

fn main() -> Result<(), Anything> {
    let store = Store::in_memory()?;
    let orders = store.create_topic("orders", TopicOptions::default())?;
    let invoices = store.create_topic("invoices", TopicOptions::default())?;
    for n in 0..ORDERS {
        let placed = match n {
            7 => json!({}),
            n => json!({ "cents": 100 * n }),
        };
        let placed = NewEvent::new("OrderPlaced").data(placed.to_string().into_bytes());
        orders.append(&Batch::to(format!("order-{n}")).event(placed)).wait()?;
    }
    // The mispriced order is paid, which may only be billed after it was placed.
    let paid = NewEvent::new("OrderPaid").data(br#"{"cents":0}"#.as_slice());
    orders.append(&Batch::to("order-7").event(paid)).wait()?;

    // Tried three times, at once; then it is parked, and what follows it in its stream is held behind it.
    let policy = GroupPolicy { tries_max: 3, backoff_first: Duration::ZERO, ..GroupPolicy::default() };
    let billing = orders.create_group("billing", &GroupOptions { policy, ..GroupOptions::default() })?;
    // Another group has a place of its own, and consumes only what it selects.
    let query = Query::types(["OrderPaid"]);
    let thanks = orders.create_group("thanks", &GroupOptions { query, ..GroupOptions::default() })?;

    // Two members share the work.
    let (billed, failed) = std::thread::scope(|scope| {
        let members = [(); 2].map(|()| scope.spawn(|| bill(&orders, &invoices, &billing)));
        members.into_iter().try_fold((0, 0), |(billed, failed), member| {
            let (b, f) = member.join().expect("it does not panic")?;
            Ok::<_, Anything>((billed + b, failed + f))
        })
    })?;
    let info = billing.info()?;
    println!(
        "billing: {} billed, {} tries failed, {} dead letter, {} held behind it, committed up to {}",
        billed, failed, info.dead_letters, info.held, info.committed
    );
    assert_eq!((billed, failed), (ORDERS - 1, 3));
    assert_eq!((info.dead_letters, info.held, info.committed.position(0)), (1, 1, Some(ORDERS + 1)));

    // A person looks at it, mends a copy, and sends that back. What was held goes on behind it.
    let letter = billing.dead_letters()?.remove(0);
    println!(
        "{} at {}: {} after {} tries",
        letter.stream, letter.place, letter.failure.message, letter.tries
    );
    billing.redrive(letter.place, Some(br#"{"cents":700}"#))?;
    let (billed, _) = bill(&orders, &invoices, &billing)?;
    assert_eq!((billed, billing.info()?.dead_letters), (2, 0));
    println!("an edited copy is billed, and what was held behind it: {billed} more");

    // From the start again: each invoice finds its id, and there is none twice.
    billing.reset(&annals::ResetTo::At(At::Position(8)))?;
    let (again, _) = bill(&orders, &invoices, &billing)?;
    let written = invoices.read(&Read::all())?.count() as u64;
    println!("{again} orders delivered again, and still {written} invoices");
    assert_eq!(written, ORDERS + 1);
    let first = invoices.read(&Read::all().limit(1))?.next().expect("there is one")?;
    let is_of = |n| produced_id(&orders, "billing", annals::RecordPlace { partition: 0, position: n }, 0);
    assert!((0..=ORDERS).any(|n| is_of(n) == first.id));

    let mut member = thanks.join()?;
    let mut thanked = 0;
    while let Some(delivery) = member.next(Duration::ZERO)? {
        let place = delivery.place();
        member.ack(place)?;
        thanked += 1;
    }
    member.commit()?;
    println!("thanks: {thanked} of {} events is one of its own; lag {}", ORDERS + 1, thanks.lag()?.events);
    assert_eq!((thanked, thanks.lag()?.events), (1, 0));
    store.close()?;
    Ok(())
}
