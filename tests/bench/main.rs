//! Measurements of the agent as its users run it, for `cargo xtask bench`: one JSON object per line
//! on standard output, what is going on on standard error.
//!
//! `dz-bench --list` names the benches; `dz-bench NAME [PART]` runs one, or a part of it if it has
//! parts. `DZ_AGENT` is the agent to measure.

mod answer_veth;
mod batches;
mod bed;
mod bird_bfd;
mod cpu;
mod crowd;
mod detect;
mod events;
mod flood;
mod flows;
mod forwarding;
mod freeze;
mod generator;
mod growth;
mod memory;
mod packets;
mod path;
mod plain;
mod row;
mod run_time;
mod scale;
mod speakers;
mod steady;
mod times;
mod transaction;
mod wakeups;

use std::process::ExitCode;

use anyhow::{Context, bail};

use row::Row;

/// A bench.
struct Bench {
    name: &'static str,
    /// One line, for people.
    about: &'static str,
    /// Gets the part, if one is asked for.
    run: fn(Option<&str>) -> anyhow::Result<Vec<Row>>,
}

/// Every bench.
const ALL: &[Bench] = &[
    Bench {
        name: "passthrough",
        about: "a packet that is not ours, at each hook, beside a program that does nothing",
        run: packets::passthrough,
    },
    Bench {
        name: "answer",
        about: "a liveness packet and its answer, beside a bare reflector",
        run: packets::answer,
    },
    Bench {
        name: "answer-veth",
        about: "answers per second over a veth pair, beside a UDP peer",
        run: answer_veth::run,
    },
    Bench {
        name: "steady",
        about: "keeping 1,000 and 10,000 sessions Up, beside a UDP peer and BIRD's BFD",
        run: steady::run,
    },
    Bench {
        name: "scale",
        about: "100,000 sessions for a minute: flaps and memory",
        run: scale::run,
    },
    Bench {
        name: "growth",
        about: "processor time, memory, scrapes and checks at 1,000, 10,000 and 100,000 sessions",
        run: growth::run,
    },
    Bench {
        name: "detect",
        about: "from a deadline to the verdict and the route's end, one peer and all of 10,000",
        run: detect::run,
    },
    Bench {
        name: "freeze",
        about: "an agent that stands still, dies, is restarted, or finds every processor taken",
        run: freeze::run,
    },
    Bench {
        name: "flood",
        about: "strangers, malformed and spoofed packets, beside 1,000 sessions",
        run: flood::run,
    },
    Bench {
        name: "transaction",
        about: "from a disconnect's commit to its route's end; whole batches; against bare netlink",
        run: transaction::run,
    },
    Bench {
        name: "forwarding",
        about: "bulk data through the tunnel, with a thousand sessions and without the agent",
        run: forwarding::run,
    },
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("which bench? see --list")?;
    if name == "--list" {
        for bench in ALL {
            println!("{}\t{}", bench.name, bench.about);
        }
        return Ok(());
    }
    let Some(bench) = ALL.iter().find(|bench| bench.name == name) else {
        bail!("there is no bench {name}: see --list");
    };
    for row in (bench.run)(std::env::args().nth(2).as_deref())? {
        println!("{}", row.json());
    }
    Ok(())
}
