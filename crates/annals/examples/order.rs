//! The story of an order: placed, paid, reserved and fulfilled; and of one whose item is out of stock.
//!
//! Two aggregates, `Order` and `Stock`, decide for themselves. What the one does because of the other carries where it
//! came from, without anybody passing ids along.
//!
//!     cargo run --example order

use annals::context::Context;
use annals::prelude::*;
use annals::{ExecuteError, given};
use serde::{Deserialize, Serialize};

// ---- orders

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "order", prefix = "Order")]
enum OrderEvent {
    Placed {
        #[event(tag)]
        customer: u64,
        item: String,
        cents: u64,
    },
    Paid {
        cents: u64,
    },
    Fulfilled,
    Postponed {
        #[event(tag)]
        item: String,
    },
}

#[derive(Debug, Default, PartialEq)]
enum Order {
    #[default]
    None,
    Placed {
        item: String,
        cents: u64,
    },
    Paid {
        item: String,
    },
    Postponed {
        item: String,
    },
    Fulfilled,
}

#[derive(Clone, Debug)]
enum OrderCommand {
    Place { customer: u64, item: String, cents: u64 },
    Pay(u64),
    Fulfil,
    Postpone,
}

#[derive(Debug, PartialEq)]
enum OrderError {
    NoSuchOrder,
    PlacedAlready,
    NotPaid,
    WrongAmount { missing: i64 },
}

impl Aggregate for Order {
    type Event = OrderEvent;
    type Command = OrderCommand;
    type Error = OrderError;

    fn decide(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, OrderError> {
        match (self, command) {
            (Order::None, OrderCommand::Place { customer, item, cents }) => {
                Ok(vec![OrderEvent::Placed { customer, item, cents }])
            }
            (_, OrderCommand::Place { .. }) => Err(OrderError::PlacedAlready),
            (Order::None, _) => Err(OrderError::NoSuchOrder),
            (Order::Placed { cents: due, .. }, OrderCommand::Pay(cents)) if cents == *due => {
                Ok(vec![OrderEvent::Paid { cents }])
            }
            (Order::Placed { cents: due, .. }, OrderCommand::Pay(cents)) => {
                Err(OrderError::WrongAmount { missing: *due as i64 - cents as i64 })
            }
            (Order::Paid { .. } | Order::Postponed { .. }, OrderCommand::Fulfil) => {
                Ok(vec![OrderEvent::Fulfilled])
            }
            (Order::Paid { item }, OrderCommand::Postpone) => {
                Ok(vec![OrderEvent::Postponed { item: item.clone() }])
            }
            (Order::Placed { .. }, _) => Err(OrderError::NotPaid),
            // It is so already.
            (Order::Fulfilled, _) | (_, OrderCommand::Pay(_) | OrderCommand::Postpone) => Ok(Vec::new()),
        }
    }

    fn apply(&mut self, event: &OrderEvent) {
        *self = match (std::mem::take(self), event) {
            (_, OrderEvent::Placed { item, cents, .. }) => {
                Order::Placed { item: item.clone(), cents: *cents }
            }
            (Order::Placed { item, .. }, OrderEvent::Paid { .. }) => Order::Paid { item },
            (_, OrderEvent::Fulfilled) => Order::Fulfilled,
            (_, OrderEvent::Postponed { item }) => Order::Postponed { item: item.clone() },
            (other, _) => other,
        };
    }
}

// ---- stock

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "stock")]
enum StockEvent {
    ItemsDelivered {
        count: u64,
    },
    ItemReserved {
        #[event(tag)]
        order: String,
    },
    ItemOutOfStock {
        #[event(tag)]
        order: String,
    },
}

#[derive(Debug, Default)]
struct Stock {
    left: u64,
}

#[derive(Clone)]
enum StockCommand {
    Deliver(u64),
    Reserve { order: String },
}

impl Aggregate for Stock {
    type Event = StockEvent;
    type Command = StockCommand;
    type Error = std::convert::Infallible;

    fn decide(&self, command: StockCommand) -> Result<Vec<StockEvent>, Self::Error> {
        Ok(vec![match command {
            StockCommand::Deliver(count) => StockEvent::ItemsDelivered { count },
            StockCommand::Reserve { order } if self.left == 0 => StockEvent::ItemOutOfStock { order },
            StockCommand::Reserve { order } => StockEvent::ItemReserved { order },
        }])
    }

    fn apply(&mut self, event: &StockEvent) {
        match event {
            StockEvent::ItemsDelivered { count } => self.left += count,
            StockEvent::ItemReserved { .. } => self.left -= 1,
            StockEvent::ItemOutOfStock { .. } => {}
        }
    }
}

/// What follows from what happens: a paid order reserves its item, and the stock's answer decides about the order.
///
/// Each step is a command with an id made of the event that caused it, so that doing it twice does it once.
fn react(topic: &Topic, event: &EventView<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let command_id = format!("because of {}", event.id);
    let id_of = |stream: &str| stream.split_once('-').map_or("", |(_, id)| id).to_owned();
    Context::caused_by(event).run(|| {
        match event.event_type {
            "OrderPaid" => {
                let order = id_of(event.stream);
                if let Order::Paid { item } = topic.load::<Order>(&order)?.state {
                    topic.execute_once::<Stock>(&command_id, &item, StockCommand::Reserve { order })?;
                }
            }
            "ItemReserved" | "ItemOutOfStock" => {
                let Some(StockEvent::ItemReserved { order } | StockEvent::ItemOutOfStock { order }) =
                    annals::decode::<StockEvent>(event)?.known()
                else {
                    return Ok(());
                };
                let next = match event.event_type {
                    "ItemReserved" => OrderCommand::Fulfil,
                    _ => OrderCommand::Postpone,
                };
                topic.execute_once::<Order>(&command_id, &order, next).map_err(|e| format!("{e:?}"))?;
            }
            _ => {}
        }
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The rules need no store to be tested.
    let placed = || OrderEvent::Placed { customer: 7, item: "tea".to_owned(), cents: 300 };
    given::<Order>([placed()])
        .when(OrderCommand::Pay(250))
        .then_refused(OrderError::WrongAmount { missing: 50 });
    given::<Order>([placed(), OrderEvent::Paid { cents: 300 }])
        .when(OrderCommand::Fulfil)
        .then([OrderEvent::Fulfilled]);

    let store = Store::in_memory()?;
    let topic = store.create_topic("shop", TopicOptions::default())?;
    let mut feed = topic.subscribe(&Read::all())?;
    topic.execute::<Stock>("tea", StockCommand::Deliver(1))?;

    for (order, customer) in [("1", 7), ("2", 8)] {
        let place = OrderCommand::Place { customer, item: "tea".to_owned(), cents: 300 };
        topic
            .execute_once::<Order>(&format!("checkout-{order}"), order, place)
            .map_err(|e| format!("{e:?}"))?;
        let e = topic.execute::<Order>(order, OrderCommand::Fulfil).expect_err("it is not paid");
        assert_eq!(e, ExecuteError::Refused(OrderError::NotPaid));
        let pay = Context::correlated(format!("checkout-{order}"));
        pay.run(|| topic.execute::<Order>(order, OrderCommand::Pay(300))).map_err(|e| format!("{e:?}"))?;
        while let Some(event) = feed.next_ready()? {
            react(&topic, &event)?;
        }
    }

    // The first one got the last tea; the second waits.
    assert_eq!(topic.load::<Order>("1")?.state, Order::Fulfilled);
    assert_eq!(topic.load::<Order>("2")?.state, Order::Postponed { item: "tea".to_owned() });
    topic.execute::<Stock>("tea", StockCommand::Deliver(5))?;
    topic.execute::<Order>("2", OrderCommand::Fulfil).map_err(|e| format!("{e:?}"))?;
    assert_eq!(topic.load::<Order>("2")?.state, Order::Fulfilled);

    // Every event says what it belongs to and what it follows from.
    let mut all = topic.read(&Read::all())?;
    let mut positions = std::collections::HashMap::new();
    while let Some(event) = all.next_view()? {
        positions.insert(event.id.to_string(), event.position);
        let process = event.metadata.correlation_id().filter(|c| c.starts_with("checkout")).unwrap_or("-");
        let cause = event.metadata.causation_id().unwrap_or("-");
        let cause = positions.get(cause).map_or_else(|| cause.to_owned(), |at| format!("event {at}"));
        println!(
            "{:>2}  {:<9}  {:<14}  process {process:<10}  cause {cause}",
            event.position, event.stream, event.event_type
        );
    }
    Ok(())
}
