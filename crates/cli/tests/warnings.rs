//! What the library warns of reaches stderr, as much as was asked for, and never stdout.

mod common;

use common::{Place, Ran};

/// Runs it with these variables.
fn run(place: &Place, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let output = place.command(args).envs(env.iter().copied()).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A store that cannot be recovered, and whose index is gone.
fn damaged() -> Place {
    let place = Place::with_store();
    let lines: String = (0..2_000).map(|i| format!("s-{}\t{{\"n\":{i}}}\n", i % 7)).collect();
    place.run_with(&["append", "--stdin", "--input", "tsv", "-q"], &lines).exits(0);
    let partition = place.store().join("topics/00000001/00000000");
    std::fs::remove_dir_all(partition.join("index")).expect("it is there");
    let segment = partition.join("0000000000000001.seg");
    #[expect(clippy::disallowed_methods, reason = "damages a store on purpose")]
    let mut bytes = std::fs::read(&segment).expect("a file");
    bytes[60_000] ^= 0xff;
    #[expect(clippy::disallowed_methods, reason = "damages a store on purpose")]
    std::fs::write(&segment, bytes).expect("a file");
    place
}

#[test]
fn a_warning_is_a_line_on_stderr_and_output_is_as_without_it() {
    let place = damaged();
    let warning = "warning: reading without an index of the log's end, which is damaged (error ";
    let args = ["read", "-n", "3"];
    let said = run(&place, &args, &[]).exits(0);
    assert_eq!(said.stderr.lines().filter(|l| l.starts_with(warning)).count(), 1, "{}", said.stderr);
    for (more, env) in [
        (&["-q"][..], &[][..]),
        (&[], &[("ANNALS_LOG", "error")]),
        (&[], &[("ANNALS_LOG", "annals_log=warn"), ("RUST_LOG", "trace")]),
        (&[], &[("RUST_LOG", "off")]),
    ] {
        let ran = run(&place, &[&args[..], more].concat(), env).exits(0);
        assert!(!ran.stderr.contains("warning:"), "{more:?} {env:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, said.stdout);
    }
    let detailed = run(&place, &[&args[..], &["-vv"]].concat(), &[("ANNALS_LOG", "off")]).exits(0);
    assert!(detailed.stderr.contains("\ndebug: showing only what is proven durable"), "{}", detailed.stderr);
    assert_eq!(detailed.stdout, said.stdout);
    place.run(&["read", "-q", "-v"]).exits(2);
}

#[test]
fn what_the_store_does_is_said_where_it_is_asked_for() {
    for (more, env, said) in [
        (&[][..], &[][..], false),
        (&["-v"], &[], true),
        (&[], &[("ANNALS_LOG", "info")], true),
        (&[], &[("ANNALS_LOG", " "), ("RUST_LOG", "annals_log=info")], true),
        (&[], &[("RUST_LOG", "annals_store=info")], false),
    ] {
        let place = Place::with_store();
        let mut owner = place.start(&["append", "--stdin", "--input", "tsv"]);
        owner.write_line("s\t1");
        assert!(!owner.read_line().is_empty());
        owner.kill();
        let ran = run(&place, &[&["append", "s", "--type", "T"][..], more].concat(), env).exits(0);
        let recovered = ran.stderr.lines().any(|line| line.starts_with("info: recovered (kept "));
        assert_eq!(recovered, said, "{more:?} {env:?}: {}", ran.stderr);
        assert_eq!(ran.json().len(), 1);
    }
    let place = Place::with_store();
    let ran = run(&place, &["read"], &[("ANNALS_LOG", "annals=loud")]).exits(0);
    ran.says(&["`annals=loud`", "cannot be read"]);
}
