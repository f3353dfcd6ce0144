//! Connections to `/metrics` that ask and do not read, or do not even ask.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use dz_tests::bed::{Bed, PATIENCE, connect};
use dz_tests::harness::Test;
use dz_tests::nobody::become_nobody;

use crate::needs::NEEDS;

const ADDRESS: &str = "127.0.0.1:44881";
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";
/// More than the agent serves at a time, and fewer than wait in the kernel's queue besides.
const CROWD: usize = 160;
/// How many the agent serves at a time.
const MOST: usize = 16;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("scrapers::silent", &NEEDS, || crowd(b"")),
        Test::new("scrapers::half_asked", &NEEDS, || {
            crowd(b"GET /metrics HTTP/1.1\r\nX: ")
        }),
        Test::new("scrapers::never_read", &NEEDS, || crowd(REQUEST)),
    ]
}

/// A crowd of nobody's says so much and reads nothing, and somebody else is answered all the same, again and again.
fn crowd(says: &[u8]) -> Result<()> {
    let bed = Bed::new("scrapers", Duration::ZERO)?;
    let agent = bed.agent(100)?;
    connect(&agent)?;
    let crowd = bed.here.run(|| -> Result<Vec<TcpStream>> {
        become_nobody()?;
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            let mut stream = TcpStream::connect(ADDRESS)?;
            // It may have been closed by now, for the next.
            let _ = stream.write_all(says);
            crowd.push(stream);
        }
        Ok(crowd)
    })?;
    for _ in 0..5 {
        let text = bed.here.run(scrape)?;
        ensure!(text.contains("doublezero_liveness_"), "{text}");
        // All of them were there first: those that are still open are the latest, and nobody waited for the others.
        let open = crowd.iter().filter(|stream| is_open(stream)).count();
        ensure!(open <= MOST, "{open} of {CROWD} are open");
    }
    Ok(())
}

/// Says whether the agent has not closed it yet.
fn is_open(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 65_536];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
