//! Connections to `/metrics` that ask and do not read, or do not even ask.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dz_tests::bed::{Bed, PATIENCE, connect};
use dz_tests::harness::Test;
use dz_tests::nobody::become_nobody;

use crate::needs::NEEDS;

const ADDRESS: &str = "127.0.0.1:44881";
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";
/// More than the agent serves at a time, and than wait in the kernel's queue.
const CROWD: usize = 200;

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
        let start = Instant::now();
        let text = bed.here.run(scrape)?;
        ensure!(text.contains("doublezero_liveness_"), "{text}");
        ensure!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }
    drop(crowd);
    Ok(())
}

fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
