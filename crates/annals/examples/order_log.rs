//! A log of orders from elsewhere (CSV, OCEL columns, gzipped or not) as typed events, and a projection that joins orders,
//! items and packages: what was placed, paid and fulfilled, for how much, and what was out of stock, at the end or as of any
//! time of the events' own.
//!
//!     cargo run --release --example order_log -- FILE [--as-of 2019-08-01T00:00:00Z]

#![expect(clippy::disallowed_methods, reason = "the log is a file of the caller's")]

use std::io::Read as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use annals::prelude::*;
use annals::projection::{
    ApplyError, Key, KeyValue, KeyValueTx, Projection, Runner, RunnerOptions, state_topic,
};
use annals::{Recorded, encode};
use serde::{Deserialize, Serialize};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "shop")]
enum ShopEvent {
    OrderPlaced {
        #[event(tag)]
        order: String,
        #[event(tag = "item")]
        items: Vec<String>,
        cents: u64,
    },
    OrderPaid {
        #[event(tag)]
        order: String,
    },
    ItemOutOfStock {
        #[event(tag)]
        item: String,
    },
    PackageCreated {
        #[event(tag)]
        package: String,
        #[event(tag = "item")]
        items: Vec<String>,
    },
    PackageDelivered {
        #[event(tag)]
        package: String,
    },
}

impl ShopEvent {
    /// The stream that it is a fact of.
    fn stream_of(&self) -> String {
        match self {
            ShopEvent::OrderPlaced { order, .. } | ShopEvent::OrderPaid { order } => format!("order-{order}"),
            ShopEvent::ItemOutOfStock { item } => format!("item-{item}"),
            ShopEvent::PackageCreated { package, .. } | ShopEvent::PackageDelivered { package } => {
                format!("package-{package}")
            }
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Order {
    cents: u64,
    paid: bool,
    /// Items that have not been delivered yet.
    outstanding: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Item {
    order: Option<String>,
    delivered: bool,
    out_of_stock: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Totals {
    placed: u64,
    paid: u64,
    fulfilled: u64,
    revenue_cents: u64,
    items_out_of_stock: u64,
}

/// Joins what events say of orders, items and packages.
struct Shop {
    /// Events that happened later are passed over.
    as_of: Option<Timestamp>,
}

fn order_key(order: &str) -> Vec<u8> {
    Key::new().text("order").text(order).into_bytes()
}

fn item_key(item: &str) -> Vec<u8> {
    Key::new().text("item").text(item).into_bytes()
}

fn package_key(package: &str) -> Vec<u8> {
    Key::new().text("package").text(package).into_bytes()
}

fn totals_key() -> Vec<u8> {
    Key::new().text("totals").into_bytes()
}

impl Projection for Shop {
    type Event = ShopEvent;
    type State = KeyValue;

    fn name(&self) -> &str {
        "shop"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, event: &Recorded<'_, ShopEvent>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        if self.as_of.is_some_and(|as_of| event.time() > as_of) {
            return Ok(());
        }
        let Some(what) = event.known() else { return Ok(()) };
        let mut totals: Totals = tx.get_as(&totals_key())?.unwrap_or_default();
        match what {
            ShopEvent::OrderPlaced { order, items, cents } => {
                let placed = Order { cents: *cents, paid: false, outstanding: items.len() as u64 };
                tx.put_as(order_key(order), &placed)?;
                for item in items {
                    let mut known: Item = tx.get_as(&item_key(item))?.unwrap_or_default();
                    known.order = Some(order.clone());
                    tx.put_as(item_key(item), &known)?;
                }
                totals.placed += 1;
            }
            ShopEvent::OrderPaid { order } => {
                let mut known: Order = tx.get_as(&order_key(order))?.ok_or("paid, and never placed")?;
                if !known.paid {
                    known.paid = true;
                    totals.paid += 1;
                    totals.revenue_cents += known.cents;
                    tx.put_as(order_key(order), &known)?;
                }
            }
            ShopEvent::ItemOutOfStock { item } => {
                let mut known: Item = tx.get_as(&item_key(item))?.unwrap_or_default();
                if !known.out_of_stock {
                    known.out_of_stock = true;
                    totals.items_out_of_stock += 1;
                    tx.put_as(item_key(item), &known)?;
                }
            }
            ShopEvent::PackageCreated { package, items } => tx.put_as(package_key(package), items)?,
            ShopEvent::PackageDelivered { package } => {
                let items: Vec<String> =
                    tx.get_as(&package_key(package))?.ok_or("delivered, and never made")?;
                for item in items {
                    let mut known: Item = tx.get_as(&item_key(&item))?.unwrap_or_default();
                    let Some(order) = known.order.clone().filter(|_| !known.delivered) else { continue };
                    known.delivered = true;
                    tx.put_as(item_key(&item), &known)?;
                    let mut whole: Order = tx.get_as(&order_key(&order))?.unwrap_or_default();
                    whole.outstanding = whole.outstanding.saturating_sub(1);
                    totals.fulfilled += u64::from(whole.outstanding == 0);
                    tx.put_as(order_key(&order), &whole)?;
                }
            }
        }
        Ok(tx.put_as(totals_key(), &totals)?)
    }
}

/// The event of a row, and when it happened; `None` where the row is of no interest here.
fn event_of(row: &csv::StringRecord) -> Result<Option<(ShopEvent, Timestamp)>, AnyError> {
    let field = |at: usize| row.get(at).unwrap_or_default().trim();
    // A list as Python writes it: ['a','b'].
    let list = |at: usize| -> Vec<String> {
        let text = field(at).trim_start_matches('[').trim_end_matches(']');
        let items = text.split(',').map(|item| item.trim().trim_matches('\'').to_owned());
        items.filter(|item| !item.is_empty()).collect()
    };
    let one = |at: usize, what: &str| -> Result<String, AnyError> {
        list(at).into_iter().next().ok_or_else(|| format!("the row names no {what}").into())
    };
    let (activity, items, orders, packages, price) = (field(1), 4, 5, 6, field(9));
    let event = match activity {
        "place order" => {
            let (whole, part) = price.split_once('.').unwrap_or((price, "0"));
            let part = format!("{part:0<2}");
            let cents = whole.parse::<u64>()? * 100 + part.get(..2).unwrap_or("0").parse::<u64>()?;
            ShopEvent::OrderPlaced { order: one(orders, "order")?, items: list(items), cents }
        }
        "pay order" => ShopEvent::OrderPaid { order: one(orders, "order")? },
        "item out of stock" => ShopEvent::ItemOutOfStock { item: one(items, "item")? },
        "create package" => {
            ShopEvent::PackageCreated { package: one(packages, "package")?, items: list(items) }
        }
        "package delivered" => ShopEvent::PackageDelivered { package: one(packages, "package")? },
        _ => return Ok(None),
    };
    Ok(Some((event, field(2).replacen(' ', "T", 1).parse()?)))
}

fn run(file: &str, as_of: Option<Timestamp>) -> Result<Totals, AnyError> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.read_to_end(&mut bytes)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
        bytes = plain;
    }
    let store = Store::in_memory()?;
    let options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let topic = store.create_topic("shop", options)?;
    let mut batch = Batch::default();
    for (number, row) in csv::Reader::from_reader(bytes.as_slice()).records().enumerate() {
        let row = row?;
        let found = event_of(&row).map_err(|e| format!("row {}: {e}", number + 1))?;
        let Some((event, time)) = found else { continue };
        batch = batch.and_to(event.stream_of()).event(encode(&event)?.event_time(time));
        if batch.len() == 100 {
            topic.append(&std::mem::take(&mut batch)).wait()?;
        }
    }
    if !batch.is_empty() {
        topic.append(&batch).wait()?;
    }

    let state = KeyValue::open(Arc::new(store.internal_topic(&state_topic("shop", 1))?))?;
    let reader = state.reader();
    let end = topic.high_watermark();
    let runner = Runner::start(Arc::new(topic), Shop { as_of }, state, RunnerOptions::default())?;
    runner.wait_for(&end, Duration::MAX)?;
    runner.stop()?;
    Ok(reader.get_as(&totals_key())?.unwrap_or_default())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (file, as_of) = match args.as_slice() {
        [file] => (*file, None),
        [file, "--as-of", time] | ["--as-of", time, file] => match time.parse() {
            Ok(time) => (*file, Some(time)),
            Err(e) => {
                eprintln!("error: {e}");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: order_log FILE [--as-of TIME]");
            return ExitCode::from(2);
        }
    };
    match run(file, as_of) {
        Ok(totals) => {
            println!("orders_placed {}", totals.placed);
            println!("orders_paid {}", totals.paid);
            println!("orders_fulfilled {}", totals.fulfilled);
            println!("revenue {}.{:02}", totals.revenue_cents / 100, totals.revenue_cents % 100);
            println!("items_out_of_stock {}", totals.items_out_of_stock);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {file}: {e}");
            ExitCode::FAILURE
        }
    }
}
