//! The state of an aggregate at any moment, by its own code; what differs between two moments; who changed a field.
//!
//!     cargo run --example time_travel

use annals::prelude::*;
use annals::{Moment, encode};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "account")]
enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
    LimitSet { cents: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Account {
    owner: String,
    cents: u64,
    limit: Option<u64>,
}

impl Aggregate for Account {
    type Event = AccountEvent;
    type Command = AccountEvent;
    type Error = &'static str;

    fn decide(&self, event: AccountEvent) -> Result<Vec<AccountEvent>, &'static str> {
        match event {
            AccountEvent::Withdrawn { cents } if cents > self.cents => Err("there is not so much"),
            event => Ok(vec![event]),
        }
    }

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner.clone_from(owner),
            AccountEvent::Deposited { cents } => self.cents += cents,
            AccountEvent::Withdrawn { cents } => self.cents -= cents,
            AccountEvent::LimitSet { cents } => self.limit = Some(*cents),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::in_memory()?;
    let topic = store.create_topic("bank", TopicOptions::default())?;
    let day = |n: i64| Timestamp::from_micros(n * 24 * 60 * 60 * 1_000_000);
    // The deposit of day 3 was heard of last.
    let life = [
        (AccountEvent::Opened { owner: "Ada".to_owned() }, 1),
        (AccountEvent::Deposited { cents: 500 }, 2),
        (AccountEvent::Withdrawn { cents: 120 }, 5),
        (AccountEvent::LimitSet { cents: 1000 }, 6),
        (AccountEvent::Deposited { cents: 30 }, 3),
    ];
    for (event, happened) in life {
        topic.append(&Batch::to("account-1").event(encode(&event)?.event_time(day(happened)))).wait()?;
    }

    let accounts = Executor::<Account, _>::new(topic);
    let cents = |moment| accounts.at("1", moment).map(|a| a.state.cents);
    assert_eq!(cents(Moment::Now)?, 410);
    assert_eq!(cents(Moment::Revision(2))?, 380);
    // What was true on day 4, as we know now.
    assert_eq!(cents(Moment::Happened(day(4)))?, 530);

    for change in accounts.changed("1", Moment::Revision(1), Moment::Now)? {
        println!("since revision 1: {change}");
    }
    let who = accounts.who_changed("1", "/cents")?;
    for change in &who {
        println!("{change}");
    }
    assert_eq!(who.iter().map(|c| c.revision).collect::<Vec<_>>(), [1, 2, 4]);
    Ok(())
}
