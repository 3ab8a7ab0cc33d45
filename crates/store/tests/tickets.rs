//! D1: what is appended gets to the disk whether or not anybody waits for it.

use std::time::Duration;

use annals_model::{Batch, NewEvent, Read};
use annals_store::{Env, Store, StoreOptions, TopicOptions};

fn store() -> Store {
    let options = StoreOptions { sync_interval: Duration::from_millis(1), ..StoreOptions::default() };
    Store::open_with(&Env::in_memory(), "/s", options).expect("opens")
}

#[test]
fn a_ticket_that_is_only_looked_at_is_answered() {
    let topic = store().create_topic("t", TopicOptions::default()).expect("made");
    for _ in 0..20 {
        let ticket = topic.append(&Batch::to("s").event(NewEvent::new("Happened")));
        while !ticket.is_done() {
            std::thread::yield_now();
        }
        assert!(ticket.wait().is_ok());
    }
}

#[test]
fn syncing_a_topic_answers_every_ticket() {
    let topic =
        store().create_topic("t", TopicOptions { partitions: 3, ..TopicOptions::default() }).expect("made");
    let append = |i: usize| topic.append(&Batch::to(format!("s-{i}")).event(NewEvent::new("Happened")));
    let tickets: Vec<_> = (0..30).map(append).collect();
    topic.sync().expect("synced");
    assert!(tickets.iter().all(annals_store::Ticket::is_done));
    assert_eq!(topic.read(&Read::all()).expect("reads").count(), 30);
}
