//! Aggregates on a store: O1, O2 and O3 as an application meets them.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals_model::{
    Appended, Batch, ErrorKind, EventId, EventStore, Events, ExpectedRevision, NewEvent, Pending, Place,
    Query, Read, RecordedEvent, Result, Revision, Subscribed,
};
use annals_projection::context::Context;
use annals_projection::{Aggregate, Event, ExecuteError, Executor, Moment, Scope, given};
use common::{Command, Order, OrderEvent, Refusal, place, placed, topic};
use serde::{Deserialize, Serialize};

fn all(store: &dyn EventStore) -> Vec<RecordedEvent> {
    let (mut events, mut found) = (store.read(&Read::all()).expect("read"), Vec::new());
    while let Some(view) = events.next_view().expect("whole") {
        found.push(view.to_owned());
    }
    found
}

#[test]
fn an_order_is_placed_paid_and_shipped() {
    let (_store, _, backend) = topic();
    let orders = Executor::<Order>::new(Arc::clone(&backend));
    let e = orders.execute("42", Command::Pay(5)).expect_err("there is no order");
    assert_eq!(e, ExecuteError::Refused(Refusal::NotPlaced));
    let done = orders.execute("42", place()).expect("placed");
    assert_eq!((done.events, done.repeated), (vec![placed()], false));
    assert_eq!(done.appended.map(|a| (a.positions, a.revisions)), Some((0..1, vec![0])));
    orders.execute("42", Command::Pay(1250)).expect("paid");
    let done = orders.execute("42", Command::Ship).expect("shipped");
    assert!(done.state.shipped && done.state.closed);
    assert_eq!(done.appended.map(|a| a.positions), Some(2..4));
    let done = orders.execute("42", Command::Close).expect("closed already");
    assert_eq!((done.events, done.appended), (vec![], None));
    let loaded = orders.load("42").expect("loaded");
    assert_eq!((loaded.revision, &loaded.state), (Some(3), &done.state));
    assert_eq!(orders.load("none").expect("loaded").revision, None);
    // As it was.
    let before = orders.at("42", Moment::Revision(0)).expect("loaded");
    assert_eq!((before.revision, before.state.paid), (Some(0), 0));

    let stored = all(&*backend);
    let of = |i: usize| (stored[i].event_type.as_str(), stored[i].stream.as_str(), stored[i].data.as_deref());
    assert_eq!(
        of(0),
        ("OrderPlaced", "order-42", Some(br#"{"customer":7,"items":["tea","cup"],"cents":1250}"#.as_slice()))
    );
    assert_eq!(stored[0].tags, ["customer:7", "item:tea", "item:cup"]);
    assert_eq!(of(1), ("OrderPaid", "order-42", Some(b"1250".as_slice())));
    assert_eq!(of(2), ("OrderShipped", "order-42", Some(br#"["post",3]"#.as_slice())));
    assert_eq!(stored[2].tags, ["depot:3"]);
    // Not absent: absent data would be the end of its key.
    assert_eq!(of(3), ("OrderClosed", "order-42", Some(b"{}".as_slice())));
}

#[test]
fn the_same_story_needs_no_store() {
    given::<Order>([]).when(Command::Ship).then_refused(Refusal::NotPlaced);
    given::<Order>([placed(), OrderEvent::Paid(1000)])
        .when(Command::Ship)
        .then_refused(Refusal::NotPaid { missing: 250 });
    given::<Order>([placed(), OrderEvent::Paid(1250)])
        .within(Context::correlated("checkout-9").traced("00-abc-def-01"))
        .command_id("ship-1")
        .when(Command::Ship)
        .then([OrderEvent::Shipped("post".to_owned(), 3), OrderEvent::Closed])
        .then_state(|order| assert!(order.closed))
        .then_correlated("checkout-9")
        .then_caused_by("ship-1")
        .then_traced("00-abc-def-01");
    given::<Order>([placed(), OrderEvent::Closed]).when(Command::Close).then_nothing();
}

#[test]
#[should_panic(expected = "other events happened")]
fn a_story_that_goes_otherwise_fails_its_test() {
    given::<Order>([placed()]).when(Command::Pay(1)).then([OrderEvent::Paid(2)]);
}

#[test]
fn what_a_command_causes_says_so_without_being_told() {
    let (_store, _, backend) = topic();
    let orders = Executor::<Order>::new(Arc::clone(&backend));
    orders.execute_once("cmd-1", "1", place()).expect("placed");
    let placed = all(&*backend).remove(0);
    assert_eq!(placed.metadata.view().causation_id(), Some("cmd-1"));
    assert_eq!(placed.metadata.view().correlation_id(), Some("cmd-1"));
    // Something is done because of it.
    Context::caused_by(&placed.view()).run(|| orders.execute("1", Command::Pay(1250))).expect("paid");
    let paid = all(&*backend).remove(1);
    assert_eq!(paid.metadata.view().correlation_id(), Some("cmd-1"));
    assert_eq!(paid.metadata.view().causation_id(), Some(placed.id.to_string().as_str()));
    // Without a context a business process begins, one for all events of the command.
    orders.execute("1", Command::Ship).expect("shipped");
    let stored = all(&*backend);
    let correlation = stored[2].metadata.view().correlation_id();
    assert!(correlation.is_some_and(|c| !c.is_empty() && c != "cmd-1"));
    assert_eq!(correlation, stored[3].metadata.view().correlation_id());
}

/// Another backend's view of a topic: appends fail, or others come first, as told.
struct Meddler {
    inner: Arc<dyn EventStore>,
    /// Before so many appends somebody else appends.
    others: AtomicU64,
    /// After so many appends the answer is lost.
    lost: AtomicU64,
}

impl Meddler {
    fn new(inner: Arc<dyn EventStore>, others: u64, lost: u64) -> Arc<Meddler> {
        Arc::new(Meddler { inner, others: AtomicU64::new(others), lost: AtomicU64::new(lost) })
    }
}

fn take_one(from: &AtomicU64) -> bool {
    from.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
}

impl EventStore for Meddler {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
        if take_one(&self.others) {
            let other = annals_projection::encode(&OrderEvent::Paid(1)).expect("written");
            let stream = batch.streams[0].0.clone();
            self.inner.append(&Batch::to(stream).event(other.tag("customer:7"))).wait().expect("appended");
        }
        let appended = self.inner.append(batch);
        if take_one(&self.lost) {
            appended.wait().expect("appended");
            return ready(Err(annals_model::Error::new(ErrorKind::OutcomeUnknown, "the answer is lost")));
        }
        appended
    }

    fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
        self.inner.read(read)
    }

    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
        self.inner.subscribe(read)
    }

    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        self.inner.stream_revision(stream)
    }

    fn start(&self) -> Place {
        self.inner.start()
    }

    fn store_id(&self) -> EventId {
        self.inner.store_id()
    }

    fn topic(&self) -> &str {
        self.inner.topic()
    }

    fn high_watermark(&self) -> Place {
        self.inner.high_watermark()
    }
}

fn ready(answer: Result<Appended>) -> Pending<Appended> {
    struct Ready(Option<Result<Appended>>);
    impl Future for Ready {
        type Output = Result<Appended>;
        fn poll(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Self::Output> {
            std::task::Poll::Ready(self.0.take().expect("polled once"))
        }
    }
    impl annals_model::PendingInner<Appended> for Ready {
        fn wait(self: Box<Self>) -> Result<Appended> {
            self.0.expect("not polled")
        }
    }
    Pending::new(Ready(Some(answer)))
}

#[test]
fn where_others_were_faster_it_decides_anew_on_what_they_did() {
    let (_store, _, backend) = topic();
    Executor::<Order>::new(Arc::clone(&backend)).execute("1", place()).expect("placed");
    let orders = Executor::<Order>::new(Meddler::new(Arc::clone(&backend), 3, 0));
    let done = orders.execute("1", Command::Pay(1247)).expect("paid");
    // Three others paid 1 each before.
    assert_eq!((done.state.paid, done.appended.map(|a| a.positions)), (1250, Some(4..5)));

    let busy = Meddler::new(Arc::clone(&backend), u64::MAX, 0);
    let e = Executor::<Order>::new(busy).tries(4).execute("1", Command::Pay(1)).expect_err("always too late");
    assert!(matches!(e.store(), Some(ErrorKind::Conflict { .. })), "{e:?}");
    assert_eq!(all(&*backend).len(), 5 + 4, "it tried four times");
}

#[test]
fn a_repeated_command_id_is_told_the_original_result_and_decides_nothing() {
    let (_store, _, backend) = topic();
    let orders = Executor::<Order>::new(Arc::clone(&backend));
    let first = orders.execute_once("c-1", "1", place()).expect("placed");
    orders.execute_once("c-2", "1", Command::Pay(1250)).expect("paid");
    let shipped = orders.execute_once("c-3", "1", Command::Ship).expect("shipped");
    // Decided again it would be refused: the order is placed.
    let again = orders.execute_once("c-1", "1", place()).expect("a repeat");
    assert!(again.repeated);
    assert_eq!((&again.state, &again.events), (&first.state, &first.events));
    assert_eq!(again.appended.as_ref().map(|a| (a.positions.clone(), &a.revisions)), Some((0..1, &vec![0])));
    // Even as another command.
    let again = orders.execute_once("c-3", "1", Command::Pay(3)).expect("a repeat");
    assert_eq!((again.state, again.events, again.repeated), (shipped.state, shipped.events, true));
    assert_eq!(again.appended.map(|a| a.positions), Some(2..4));
    // Of another order it is another command.
    assert!(!orders.execute_once("c-1", "2", place()).expect("placed").repeated);
    assert_eq!(all(&*backend).len(), 5);
    // A refusal leaves no trace.
    orders.execute_once("c-9", "3", Command::Ship).expect_err("not placed");
    orders.execute("3", place()).expect("placed");
    orders.execute_once("c-9", "3", Command::Ship).expect_err("not paid");
}

#[test]
fn a_command_whose_answer_was_lost_is_executed_once() {
    let (_store, _, backend) = topic();
    let orders = Executor::<Order>::new(Meddler::new(Arc::clone(&backend), 0, 1));
    let e = orders.execute_once("c-1", "1", place()).expect_err("the answer is lost");
    assert_eq!(e.store(), Some(&ErrorKind::OutcomeUnknown));
    let done = orders.execute_once("c-1", "1", place()).expect("it was executed");
    assert_eq!((done.repeated, done.appended.map(|a| a.positions)), (true, Some(0..1)));
    assert_eq!(all(&*backend).len(), 1);
}

#[test]
fn one_command_given_by_many_threads_at_once_is_executed_once() {
    let (_store, _, backend) = topic();
    let orders = Executor::<Order>::new(Arc::clone(&backend));
    orders.execute("1", place()).expect("placed");
    for round in 0..50 {
        let positions: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let orders = orders.clone();
                    scope.spawn(move || {
                        // Each decides otherwise: one of them is the original.
                        let id = format!("pay-{round}");
                        let done = orders.execute_once(&id, "1", Command::Pay(thread)).expect("paid");
                        (done.appended.expect("it happened").positions, done.events)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("it ends")).collect()
        });
        assert!(positions.iter().all(|p| *p == positions[0]), "{positions:?}");
    }
    assert_eq!(all(&*backend).len(), 51);
}

// ---- decisions over tags and over several streams

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "course")]
enum CourseEvent {
    Defined {
        #[event(tag)]
        course: String,
        seats: usize,
    },
    Subscribed {
        #[event(tag)]
        course: String,
        #[event(tag)]
        student: String,
    },
}

/// Who sits in one course, and how many courses one student sits in: the example of the Dynamic Consistency Boundary.
#[derive(Debug, Default)]
struct Enrolment {
    seats: usize,
    taken: BTreeSet<String>,
}

#[derive(Debug, PartialEq)]
enum NoSeat {
    Full,
    Already,
}

impl Aggregate for Enrolment {
    type Event = CourseEvent;
    type Command = (String, String);
    type Error = NoSeat;

    fn decide(&self, (course, student): (String, String)) -> Result<Vec<CourseEvent>, NoSeat> {
        if self.taken.contains(&student) {
            return Err(NoSeat::Already);
        }
        if self.taken.len() >= self.seats {
            return Err(NoSeat::Full);
        }
        Ok(vec![CourseEvent::Subscribed { course, student }])
    }

    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseEvent::Defined { seats, .. } => self.seats = *seats,
            CourseEvent::Subscribed { student, .. } => _ = self.taken.insert(student.clone()),
        }
    }
}

#[test]
fn what_a_decision_over_tags_has_read_is_what_it_conflicts_on() {
    let (_store, topic, backend) = topic();
    let define = CourseEvent::Defined { course: "math".to_owned(), seats: 10 };
    let define = annals_projection::encode(&define).expect("written");
    topic.append(&Batch::to("course-math").event(define)).wait().expect("appended");
    let courses = Executor::<Enrolment>::new(Arc::clone(&backend)).tries(1000);
    let scope = Scope::Query(Query::tags(["course:math"]));
    // Forty students on four threads want ten seats; each stands in a stream of its own, so that no revision conflicts.
    let seated: usize = std::thread::scope(|threads| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (courses, scope) = (&courses, &scope);
                threads.spawn(move || {
                    let wants = |n: usize| {
                        let student = format!("s{thread}-{n}");
                        let stream = format!("student-{student}");
                        courses.execute_over(scope, ("math".to_owned(), student), |_| stream.clone())
                    };
                    (0..10).map(wants).filter(Result::is_ok).count()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("it ends")).sum()
    });
    assert_eq!(seated, 10);
    assert_eq!(all(&*backend).len(), 11, "ten seats are taken");
    // An event that the query does not select is no conflict; a repeat is one command.
    let scope = Scope::Query(Query::tags(["course:art"]));
    let define = CourseEvent::Defined { course: "art".to_owned(), seats: 1 };
    topic
        .append(&Batch::to("course-art").event(annals_projection::encode(&define).expect("written")))
        .wait()
        .expect("appended");
    let command = ("art".to_owned(), "s".to_owned());
    let once = |command| courses.execute_over_once("c", &scope, command, |_| "student-s".to_owned());
    let first = once(command.clone()).expect("seated");
    let again = once(command).expect("a repeat");
    assert!(again.repeated);
    assert_eq!(first.appended.map(|a| a.positions), again.appended.map(|a| a.positions));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "account")]
enum Money {
    In { account: String, cents: i64 },
    Out { account: String, cents: i64 },
}

/// The balances of some accounts.
#[derive(Debug, Default)]
struct Balances(std::collections::BTreeMap<String, i64>);

#[derive(Clone)]
struct Transfer {
    from: &'static str,
    to: &'static str,
    cents: i64,
}

impl Aggregate for Balances {
    type Event = Money;
    type Command = Transfer;
    type Error = &'static str;

    fn decide(&self, Transfer { from, to, cents }: Transfer) -> Result<Vec<Money>, &'static str> {
        if self.0.get(from).copied().unwrap_or_default() < cents {
            return Err("too poor");
        }
        let (from, to) = (from.to_owned(), to.to_owned());
        Ok(vec![Money::Out { account: from, cents }, Money::In { account: to, cents }])
    }

    fn apply(&mut self, event: &Money) {
        match event {
            Money::In { account, cents } => *self.0.entry(account.clone()).or_default() += cents,
            Money::Out { account, cents } => *self.0.entry(account.clone()).or_default() -= cents,
        }
    }
}

#[test]
fn a_decision_over_two_streams_appends_to_both_or_to_none_and_conflicts_on_both() {
    let (_store, topic, backend) = topic();
    let give = |account: &str, cents| {
        let event = Money::In { account: account.to_owned(), cents };
        let event = annals_projection::encode(&event).expect("written");
        topic.append(&Batch::to(format!("account-{account}")).event(event)).wait().expect("appended");
    };
    give("a", 100);
    let balances = Executor::<Balances>::new(Arc::clone(&backend)).tries(1000);
    let scope = Scope::Streams(vec!["account-a".to_owned(), "account-b".to_owned()]);
    let to = |event: &Money| match event {
        Money::In { account, .. } | Money::Out { account, .. } => format!("account-{account}"),
    };
    // Both ways at once, on two threads each: nobody's balance goes below zero.
    std::thread::scope(|scope_| {
        for (from, into) in [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")] {
            let (balances, scope) = (&balances, &scope);
            scope_.spawn(move || {
                for _ in 0..30 {
                    let transfer = Transfer { from, to: into, cents: 70 };
                    match balances.execute_over(scope, transfer, to) {
                        Ok(done) => {
                            assert!(done.state.0.values().all(|cents| *cents >= 0), "{:?}", done.state)
                        }
                        Err(e) => assert_eq!(e.refused(), Some("too poor")),
                    }
                }
            });
        }
    });
    let mut end = Balances::default();
    for event in all(&*backend) {
        annals_projection::fold_event(&mut end, &event.view()).expect("read");
        assert!(end.0.values().all(|cents| *cents >= 0) || event.event_type == "Out", "{end:?}");
    }
    assert_eq!(end.0.values().sum::<i64>(), 100);
}

#[test]
fn a_fold_stops_at_what_it_does_not_know_and_at_a_missing_beginning() {
    let (_store, topic, backend) = topic();
    let orders = Executor::<Order>::new(Arc::clone(&backend));
    orders.execute("1", place()).expect("placed");
    topic.append(&Batch::to("order-1").event(NewEvent::new("OrderBlessed"))).wait().expect("appended");
    let e = orders.execute("1", Command::Pay(1)).expect_err("a fold without it would be wrong");
    let Some(ErrorKind::Unreadable { place, event_type, .. }) = e.store() else { panic!("{e:?}") };
    assert_eq!((place.position, event_type.as_str()), (1, "OrderBlessed"));

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    #[event(crate = annals_projection, category = "order", ignore("OrderBlessed"))]
    enum Calm {
        OrderPlaced {},
    }
    #[derive(Debug, Default, PartialEq)]
    struct Seen(u32);
    impl Aggregate for Seen {
        type Event = Calm;
        type Command = ();
        type Error = ();
        fn decide(&self, (): ()) -> Result<Vec<Calm>, ()> {
            Ok(Vec::new())
        }
        fn apply(&mut self, _: &Calm) {
            self.0 += 1;
        }
    }
    let seen = Executor::<Seen>::new(Arc::clone(&backend)).load("1").expect("it says that it ignores it");
    assert_eq!((seen.state, seen.revision), (Seen(1), Some(1)));
    // What comes behind is appended at the right revision all the same.
    assert_eq!(topic.stream_revision("order-1").expect("known"), Some(1));
    let right = Batch::to("order-1").expect(ExpectedRevision::Exact(1)).event(NewEvent::new("OrderBlessed"));
    topic.append(&right).wait().expect("appended");
}
