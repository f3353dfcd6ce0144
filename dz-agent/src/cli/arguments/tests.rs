use super::*;
use crate::error::ExitCode;
use crate::settings::address::NO_IPV6;
use crate::settings::{MetricsListen, Switch};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn run(line: &str) -> RunOptions {
    match parse(line).unwrap().action {
        Action::Run(options) => *options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_the_protocols() {
    let options = run("dz-agent run");
    options.validate().unwrap();
    assert_eq!(options.timers(), dz_common::session::Timers::DEFAULT);
    assert_eq!(options.interfaces, ["doublezero0"]);
    assert_eq!(options.port, 44880);
    assert_eq!(options.route_protocol, 144);
    assert_eq!(options.metrics_listen.to_string(), "127.0.0.1:44881");
    assert_eq!(options.restart_grace, Duration::from_secs(30));
    assert!(!options.metrics_per_peer);
    assert_eq!(options.damping, Switch::On);
    assert_eq!(options.hold_up, Duration::ZERO);
}

#[test]
fn interfaces_add_up_and_replace_the_default() {
    assert_eq!(
        run("dz-agent run --interface a --interface b").interfaces,
        ["a", "b"]
    );
    let twice = run("dz-agent run --interface a --interface a")
        .validate()
        .unwrap_err();
    assert_eq!(twice.code, ExitCode::Usage);
}

#[test]
fn ranges_are_kept() {
    for refused in [
        "--max-sessions 0",
        "--max-sessions 131073",
        "--port 0",
        "--detect-mult 0",
        "--tx-interval 300",
        "--tx-interval 100us",
        "--tx-interval 1500ns",
        "--restart-grace 0s",
        "--hold-up 2",
        "--hold-up 61m",
        "--damping maybe",
        "--route-protocol 186",
        "--route-protocol 2",
        "--route-protocol 256",
        "--metrics-listen 44881",
        "--interface sixteen-bytes-xx",
        "--attach native",
    ] {
        let error = parse(&format!("dz-agent run {refused}")).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage as i32, "{refused}");
    }
    assert_eq!(
        run("dz-agent run --max-sessions 131072").max_sessions,
        131_072
    );
    assert_eq!(
        run("dz-agent run --metrics-listen off").metrics_listen,
        MetricsListen::Off
    );
}

#[test]
fn metrics_are_listened_for_where_exporters_do() {
    let listen = |text: &str| run(&format!("dz-agent run --metrics-listen {text}")).metrics_listen;
    let addresses = |text: &str| -> Vec<String> {
        let addresses = listen(text).addresses();
        addresses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(addresses("10.0.0.1:9100"), ["10.0.0.1:9100"]);
    assert_eq!(addresses("[2001:db8::1]:9100"), ["[2001:db8::1]:9100"]);
    assert_eq!(addresses("localhost:44881"), ["127.0.0.1:44881"]);
    assert_eq!(addresses(":44881"), ["[::]:44881", "0.0.0.0:44881"]);
    assert!(addresses("off").is_empty());
    assert!(addresses("unix:/run/m.sock").is_empty());
    for text in [
        "off",
        ":44881",
        "10.0.0.1:9100",
        "[::1]:9100",
        "unix:/run/m.sock",
    ] {
        assert_eq!(listen(text).to_string(), text);
    }
}

#[test]
fn what_is_no_place_to_listen_at_is_told_what_to_write() {
    for (text, said) in [
        (
            "44881",
            "write localhost:44881, or :44881 for all addresses",
        ),
        ("10.0.0.1", "write 10.0.0.1:44881: the port is missing"),
        ("localhost", "write localhost:44881: the port is missing"),
        ("::1:44881", "in brackets: [::1]:44881"),
        ("10.0.0.1:70000", "write 127.0.0.1:44881"),
        ("host.example:44881", "write 127.0.0.1:44881"),
        ("http://127.0.0.1:44881", "write 127.0.0.1:44881"),
        (":", ":44881 for all addresses, unix:/a/path, or off"),
        ("unix:m.sock", "write the socket's absolute path"),
    ] {
        let error = parse(&format!("dz-agent run --metrics-listen {text}")).unwrap_err();
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn what_clap_refuses_is_one_line() {
    for (arguments, line) in [
        (
            "run --attach foo",
            "invalid value 'foo' for '--attach <ATTACH>'; [possible values: auto, tc, xdp, xdp-generic]",
        ),
        (
            "run bogus",
            "unexpected argument 'bogus' found; Usage: dz-agent run [OPTIONS]",
        ),
        (
            "connect",
            "the following required arguments were not provided: <PEER>...; Usage: dz-agent connect <PEER>...",
        ),
        (
            "run --interface",
            "a value is required for '--interface <NAME>' but none was supplied",
        ),
    ] {
        let error = parse(&format!("dz-agent {arguments}")).unwrap_err();
        assert_eq!(one_line(&error.render().to_string()), line);
    }
}

#[test]
fn a_type_of_service_leaves_ecn_alone() {
    for (text, tos) in [
        ("cs6", 0xc0),
        ("EF", 0xb8),
        ("0xfc", 0xfc),
        ("184", 0xb8),
        ("0", 0),
    ] {
        assert_eq!(
            run(&format!("dz-agent run --tos {text}")).tos.0,
            tos,
            "{text}"
        );
    }
    for (text, said) in [
        ("0xb9", "0xb8 is the same without them"),
        ("194", "0xc0 is the same without them"),
        ("3", "0x00 is the same without them"),
        ("256", "a multiple of 4 below 256"),
        ("cs8", "must be cs0 to cs7"),
    ] {
        let error = parse(&format!("dz-agent run --tos {text}")).unwrap_err();
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}

#[test]
fn contradictions_are_named() {
    for (line, named) in [
        ("--tx-interval 10ms", "--interval-floor 50ms"),
        ("--rx-interval 4s", "--interval-ceiling 3s"),
        ("--interval-floor 5s", "is above --interval-ceiling 3s"),
        ("--backoff-cap 500ms", "is below --tx-interval 1s"),
    ] {
        let failure = run(&format!("dz-agent run {line}")).validate().unwrap_err();
        assert!(failure.to_string().contains(named), "{line}: {failure}");
    }
}

#[test]
fn connect_says_what_was_asked() {
    let line = "dz-agent connect 10.0.0.2 10.0.0.3 --local 10.0.0.1 --tx-interval 300ms --passive";
    let Action::Connect(options) = parse(line).unwrap().action else {
        panic!()
    };
    assert_eq!(options.peers.len(), 2);
    assert_eq!(options.peers[1], Ipv4Addr::new(10, 0, 0, 3));
    let defaults = options.defaults();
    assert_eq!(defaults.local.as_deref(), Some("10.0.0.1"));
    assert_eq!(defaults.tx_interval_us, Some(300_000));
    assert_eq!(defaults.rx_interval_us, None);
    assert_eq!(defaults.passive, Some(true));
}

#[test]
fn ipv6_is_refused_with_the_reason() {
    for line in [
        "dz-agent connect fe80::1 --local 10.0.0.1",
        "dz-agent connect 10.0.0.2 --local fe80::1",
        "dz-agent connect 10.0.0.2 --local 10.0.0.1 --via fe80::1",
        "dz-agent disconnect fe80::1",
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.to_string().contains(NO_IPV6), "{line}: {error}");
        assert_eq!(error.exit_code(), ExitCode::Usage as i32);
    }
}

#[test]
fn connect_wants_peers_or_a_file() {
    assert!(parse("dz-agent connect --local 10.0.0.1").is_err());
    assert!(parse("dz-agent connect 10.0.0.2").is_ok());
    assert!(parse("dz-agent connect --file -").is_ok());
    assert!(parse("dz-agent connect 10.0.0.2 --file - --local 10.0.0.1").is_ok());
}

#[test]
fn disconnect_wants_peers_or_all() {
    assert!(parse("dz-agent disconnect --file - --all").is_err());
    assert!(parse("dz-agent disconnect 10.0.0.2 --file -").is_ok());
    assert!(parse("dz-agent disconnect").is_err());
    assert!(parse("dz-agent disconnect 10.0.0.2 --all").is_err());
    let Action::Disconnect(options) = parse("dz-agent disconnect --all").unwrap().action else {
        panic!()
    };
    assert_eq!(options.selector(), Selector::All { interface: None });
}
