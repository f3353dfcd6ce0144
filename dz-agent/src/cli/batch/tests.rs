use std::io::Write;

use clap::Parser;
use tempfile::NamedTempFile;

use super::*;
use crate::cli::arguments::{Action, Cli};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn connect(arguments: &str, text: &str) -> Result<Batch, Failure> {
    let file = file(text);
    let path = file.path().to_str().unwrap();
    let words = ["dz-agent", "connect", "--file", path];
    let words = words.into_iter().chain(arguments.split_whitespace());
    match Cli::try_parse_from(words).unwrap().action {
        Action::Connect(options) => Batch::to_connect(&options),
        other => panic!("{other:?}"),
    }
}

fn disconnect(arguments: &str, text: &str) -> Result<Batch, Failure> {
    let file = file(text);
    let path = file.path().to_str().unwrap();
    let words = ["dz-agent", "disconnect", "--file", path];
    let words = words.into_iter().chain(arguments.split_whitespace());
    match Cli::try_parse_from(words).unwrap().action {
        Action::Disconnect(options) => Batch::to_disconnect(&options, file.path()),
        other => panic!("{other:?}"),
    }
}

/// The faults of a refusal, without the name of the file.
fn faults(result: Result<Batch, Failure>) -> Vec<String> {
    let failure = result.unwrap_err();
    assert_eq!(failure.code, ExitCode::Usage);
    let text = failure.to_string();
    let (_, faults) = text.split_once(": ").unwrap();
    faults.split("; ").map(str::to_owned).collect()
}

#[test]
fn text_and_json_say_the_same() {
    let text = "# peers\n\n  10.0.0.7 local 10.0.0.1 interface dz0 via 10.0.0.9 tx-interval 300ms \
                rx-interval 1s detect-mult 5 passive # ours\r\n\
                {\"peer\": \"10.0.0.7\", \"local\": \"10.0.0.1\", \"interface\": \"dz0\", \
                \"via\": \"10.0.0.9\", \"tx_interval_us\": 300000, \"rx_interval_us\": 1000000, \
                \"detect_mult\": 5, \"passive\": true}\n";
    let (lines, faults) = lines(text.as_bytes());
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), [3, 4]);
    let [first, second] = [&lines[0].1, &lines[1].1].map(|request| request.spec().unwrap());
    assert_eq!(first, second);
    assert_eq!(first.tx_interval_us, Some(300_000));
    assert_eq!(first.passive, Some(true));
}

#[test]
fn options_are_defaults_and_arguments_come_first() {
    let text = "10.0.0.7\n10.0.0.8 local 10.0.0.2 detect-mult 7\n\
                {\"peer\": \"10.0.0.9\", \"passive\": false}";
    let batch = connect("10.0.0.6 --local 10.0.0.1 --detect-mult 5 --passive", text).unwrap();
    let specs = batch
        .requests()
        .into_iter()
        .map(|request| request.spec().unwrap());
    let found: Vec<_> = specs
        .map(|spec| {
            (
                spec.peer.octets()[3],
                spec.local.map(|local| local.octets()[3]),
                spec.detect_mult,
                spec.passive,
            )
        })
        .collect();
    let expected = [
        (6, Some(1), Some(5), Some(true)),
        (7, Some(1), Some(5), Some(true)),
        (8, Some(2), Some(7), Some(true)),
        (9, Some(1), Some(5), Some(false)),
    ];
    assert_eq!(found, expected);
    let batch = connect("10.0.0.6", "10.0.0.7 local 10.0.0.1").unwrap();
    let locals = batch.requests().into_iter();
    let locals: Vec<_> = locals
        .map(|request| request.spec().unwrap().local)
        .collect();
    assert_eq!(
        locals,
        [None, Some(Ipv4Addr::new(10, 0, 0, 1))],
        "the agent's choice"
    );
}

#[test]
fn every_fault_has_its_line() {
    let text = "10.0.0.2 local 127.0.0.2\nfe80::1 local 10.0.0.1\n10.0.0.3 local 10.0.0.1 speed 9\n\
                10.0.0.4 local 10.0.0.1 tx-interval\n10.0.0.5 local 10.0.0.1 local 10.0.0.1\n\
                {\"peer\": \"10.0.0.6\", \"local\": \"10.0.0.1\", \"speed\": 9}\n\
                10.0.0.7 local 10.0.0.1 detect-mult 300\n10.0.0.8 local 10.0.0.8\n\
                10.0.0.9 local 10.0.0.1\n10.0.0.9 local 10.0.0.1\n\
                10.0.0.10 local 10.0.0.1 rx-interval 1us\n10.0.0.11 local 10.0.0.1 interface a/b\n\
                { \n10.0.0.12 local #1\n10.0.0.13 local 10.0.0.1 detect-mult 0";
    let mut found = faults(connect("", text));
    found.sort_by_key(|fault| {
        fault[5..]
            .split(':')
            .next()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    });
    let expected = [
        (1, "127.0.0.2 is a loopback address"),
        (2, "IPv4 only"),
        (3, "\"speed\" is not local, interface"),
        (4, "tx-interval lacks its value"),
        (5, "local is given twice"),
        (6, "unknown field `speed`"),
        (7, "must be 1 to 255"),
        (8, "local address itself"),
        (10, "named in line 9 already"),
        (11, "must be between 1ms"),
        (12, "interface name \"a/b\""),
        (13, "at column"),
        (14, "local lacks its value"),
        (15, "detect-mult 0: must be 1 to 255"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (fault, (line, words)) in found.iter().zip(expected) {
        assert!(fault.starts_with(&format!("line {line}: ")), "{fault}");
        assert!(fault.contains(words), "{fault}");
    }
}

#[test]
fn nothing_to_connect_and_nothing_to_read() {
    assert_eq!(faults(connect("", "# nobody\n\n")), ["no peer in it"]);
    let (peers, faults) = lines(b"10.0.0.1\n\xff\xfe\n");
    assert_eq!(peers.len(), 1);
    assert_eq!(faults, ["line 2: is not UTF-8 text"]);
    let missing = read(Path::new("/no/such/file")).unwrap_err();
    assert_eq!(missing.code, ExitCode::Usage);
}

#[test]
fn a_disconnect_reads_the_same_file() {
    let text = "10.0.0.7 local 10.0.0.1 interface dz0\n{\"peer\": \"10.0.0.8\"}\n";
    let selector = disconnect("10.0.0.6 --interface dz1", text)
        .unwrap()
        .selector();
    let named = |last, interface: &str| Named {
        interface: Some(interface.to_owned()),
        peer: Ipv4Addr::new(10, 0, 0, last),
    };
    let peers = vec![named(6, "dz1"), named(7, "dz0"), named(8, "dz1")];
    assert_eq!(selector, Selector::Peers(peers));
    let found = faults(disconnect("", &format!("{text}10.0.0.x\n")));
    assert!(
        found[0].starts_with("line 3: peer \"10.0.0.x\""),
        "{found:?}"
    );
}

#[test]
fn the_agents_faults_are_located() {
    let batch = connect(
        "10.0.0.6 --local 10.0.0.1",
        "10.0.0.7\n10.0.0.8\n10.0.0.7 local 10.0.0.2",
    );
    let said = [
        "peer 10.0.0.7: a",
        "peer 10.0.0.8: b",
        "peer 10.0.0.6: c",
        "no room",
    ];
    let located = batch.unwrap().locate(said.map(str::to_owned).to_vec());
    let expected = [
        "lines 1 and 3: peer 10.0.0.7: a",
        "line 2: peer 10.0.0.8: b",
        "peer 10.0.0.6: c",
        "no room",
    ];
    assert_eq!(located, expected);
}

#[test]
fn policy_is_for_the_file_of_the_agent() {
    let fault = faults(connect("", "exclude 10.0.0.1"));
    assert!(
        fault[0].contains("for the file of `run --peers`"),
        "{fault:?}"
    );
}
