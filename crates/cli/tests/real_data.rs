//! Event logs that other people wrote, imported as they are, and what was counted in them without Annals.
//!
//! The files are no part of this repository. They are looked for in the directory that the environment variable
//! `ANNALS_DATA_DIR` names, or else in `shared/data` beside the workspace; where they are not there, the tests say so and
//! pass.

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use common::Place;

const ORDERS: &str = "order-management-ocel1.csv.gz";
const INVOICES: &str = "bpi-challenge-2019-variants.xes.gz";

/// The file of this name, or `None` after saying why not.
fn data(name: &str) -> Option<PathBuf> {
    let dir = match std::env::var_os("ANNALS_DATA_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
    };
    let path = dir.join(name);
    if !path.exists() {
        #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
        {
            eprintln!(
                "skipped: `{}` is not there; set ANNALS_DATA_DIR to the directory that has it",
                path.display()
            );
        }
        return None;
    }
    Some(path)
}

#[expect(clippy::disallowed_methods, reason = "the data is no part of a store")]
fn unpack(path: &Path) -> String {
    let file = std::fs::File::open(path).expect("it is there");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).expect("gzip of UTF-8");
    text
}

/// Rows of `-o tsv`, cut at the tabs.
#[track_caller]
fn table(place: &Place, args: &[&str]) -> Vec<Vec<String>> {
    let all: Vec<&str> = args.iter().chain(&["-o", "tsv"]).copied().collect();
    let ran = place.run(&all).exits(0);
    ran.lines().iter().map(|l| l.split('\t').map(str::to_owned).collect()).collect()
}

/// How many events there are of each type.
#[track_caller]
fn counts(place: &Place) -> BTreeMap<String, u64> {
    let rows = table(place, &["replay", "--state", "count", "--fields", "type,events"]);
    rows.into_iter().map(|r| (r[0].clone(), r[1].parse().expect("a number"))).collect()
}

#[test]
fn the_order_management_log_imports_as_it_is() {
    let Some(path) = data(ORDERS) else { return };
    let place = Place::with_store();
    let file = path.to_str().expect("UTF-8");
    let import = [
        "import",
        file,
        "--stream",
        "order-{ocel:type:orders}",
        "--fallback-stream",
        "package-{ocel:type:packages}",
        "--fallback-stream",
        "item-{ocel:type:items}",
        "--type",
        "{ocel:activity}",
        "--time",
        "ocel:timestamp",
        "--tag",
        "order:{ocel:type:orders}",
        "--tag",
        "item:{ocel:type:items}",
        "--tag",
        "package:{ocel:type:packages}",
        "--number",
        "price",
        "-o",
        "jsonl",
    ];
    let first = place.run(&import).exits(0).json();
    assert_eq!((&first[0]["added"], &first[0]["rejected"]), (&22_367.into(), &0.into()));
    let again = place.run(&import).exits(0).json();
    assert_eq!((&again[0]["added"], &again[0]["repeated"]), (&0.into(), &22_367.into()));

    let stats = &place.run(&["stats"]).exits(0).json()[0];
    assert_eq!((&stats["events"], &stats["streams"]), (&22_367.into(), &11_484.into()));
    for (prefix, streams) in [("order-", 2_000), ("item-", 8_159), ("package-", 1_325)] {
        assert_eq!(place.run(&["streams", prefix]).exits(0).lines().len(), streams, "{prefix}");
    }
    let expected = [
        ("pick item", 8_159),
        ("place order", 2_000),
        ("confirm order", 2_000),
        ("pay order", 2_000),
        ("item out of stock", 1_664),
        ("reorder item", 1_664),
        ("create package", 1_325),
        ("send package", 1_325),
        ("package delivered", 1_325),
        ("payment reminder", 514),
        ("failed delivery", 391),
    ];
    assert_eq!(counts(&place), expected.iter().map(|(t, n)| (t.to_string(), *n)).collect());

    // What an order is worth stands where it is placed, and all are paid.
    let prices = table(&place, &["read", "--type", "place order", "--fields", "data.price"]);
    let cents: u64 =
        prices.iter().map(|p| (p[0].parse::<f64>().expect("a price") * 100.0).round() as u64).sum();
    assert_eq!(cents, 463_123_345);
    let out_of_stock = table(
        &place,
        &["replay", "--state", "count", "--type", "item out of stock", "--group-by", "tag:item:"],
    );
    assert_eq!(out_of_stock.len(), 1_664);
    let named: u64 = table(&place, &["replay", "--state", "count", "--group-by", "tag:order:"])
        .iter()
        .map(|r| r[2].parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(named, 6_514, "events that name an order, 3.257 of each");

    // Every row is there in the order of the file, with its own time, its tags and all that it said.
    let rows = table(&place, &["read", "--fields", "time,data.ocel:eid,type,tags"]);
    let text = unpack(&path);
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let header = csv.headers().expect("a header").clone();
    let column = |name: &str| header.iter().position(|h| h == name).expect(name);
    let mut count = 0;
    for (row, record) in rows.iter().zip(csv.records()) {
        let record = record.expect("a record");
        let cell = |name: &str| record[column(name)].to_owned();
        let time = cell("ocel:timestamp").replace(' ', "T").replace(".000Z", "Z");
        assert_eq!((&row[0], &row[1], &row[2]), (&time, &cell("ocel:eid"), &cell("ocel:activity")));
        let mut tags = Vec::new();
        for (kind, name) in [("order", "orders"), ("item", "items"), ("package", "packages")] {
            let list = cell(&format!("ocel:type:{name}"));
            let ids = list.trim().trim_matches(['[', ']']).split(',').map(|id| id.trim_matches('\''));
            tags.extend(ids.filter(|id| !id.is_empty()).map(|id| format!("{kind}:{id}")));
        }
        let found: Vec<String> = serde_json::from_str(&row[3]).expect("a list");
        assert_eq!(found, tags);
        count += 1;
    }
    assert_eq!((count, rows.len()), (22_367, 22_367));
}

#[test]
fn the_purchase_to_pay_log_imports_as_it_is() {
    let Some(path) = data(INVOICES) else { return };
    let place = Place::empty();
    place.run(&["init", "--durability", "buffered"]).exits(0);
    let file = path.to_str().expect("UTF-8");
    let first = place.run(&["import", file, "-o", "jsonl"]).exits(0).json();
    assert_eq!((&first[0]["added"], &first[0]["rejected"]), (&338_247.into(), &0.into()));

    let stats = &place.run(&["stats"]).exits(0).json()[0];
    assert_eq!((&stats["events"], &stats["streams"]), (&338_247.into(), &11_973.into()));
    assert_eq!(place.run(&["streams"]).exits(0).lines().len(), 11_973);
    let counts = counts(&place);
    assert_eq!(counts.len(), 42);
    for (activity, count) in [
        ("Record Service Entry Sheet", 158_159),
        ("Record Goods Receipt", 80_148),
        ("Record Invoice Receipt", 21_598),
    ] {
        assert_eq!(counts[activity], count);
    }
    let cases = table(&place, &["replay", "--state", "last", "--fields", "revision"]);
    let longest = cases.iter().map(|r| r[0].parse::<u64>().expect("a number") + 1).max();
    assert_eq!((cases.len(), longest), (11_973, Some(990)));

    // Times are those of the file, in the order of the file; they are in no order of their own.
    let rows = table(&place, &["read", "--fields", "time,type,stream"]);
    let days = rows.iter().map(|r| r[0][..10].to_owned());
    assert_eq!(days.clone().min().as_deref(), Some("1948-01-26"));
    assert_eq!(days.max().as_deref(), Some("2020-04-09"));
    let text = unpack(&path);
    let value = |line: &str| {
        line.split("value=\"").nth(1).and_then(|v| v.split('"').next()).expect("a value").to_owned()
    };
    let mut events = 0;
    let (mut case, mut name, mut time) = (String::new(), String::new(), String::new());
    let mut in_event = false;
    for line in text.lines().map(str::trim) {
        match line {
            "<event>" => in_event = true,
            "</event>" => {
                in_event = false;
                let row = &rows[events];
                assert_eq!((&row[0], &row[2]), (&time.replace("+00:00", "Z"), &case), "event {events}");
                assert_eq!(row[1], name.replace("&amp;", "&"), "event {events}");
                events += 1;
            }
            _ if line.contains("key=\"time:timestamp\"") => time = value(line),
            _ if line.contains("key=\"concept:name\"") && in_event => name = value(line),
            _ if line.contains("key=\"concept:name\"") => case = value(line),
            _ => {}
        }
    }
    assert_eq!(events, 338_247);
    let again = place.run(&["import", file, "-o", "jsonl"]).exits(0).json();
    assert_eq!((&again[0]["added"], &again[0]["repeated"]), (&0.into(), &338_247.into()));
}
