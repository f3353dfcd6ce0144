//! A request to an agent, by hand: over a plain socket, so that the test decides what happens
//! between its bytes and the reply.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was carried out.
    Done,
    /// It was refused, with the agent's words.
    Refused(String),
    /// No whole reply: the agent may or may not have carried it out.
    Cut,
}

/// A request on its way.
#[derive(Debug)]
pub struct Asked(UnixStream);

impl Asked {
    /// Sends `method path` with a JSON body.
    ///
    /// # Errors
    /// Nobody listens on the socket.
    pub fn send(socket: &Path, method: &str, path: &str, body: &str) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket).context("the agent's socket")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // An agent that is killed meanwhile does not read it: that is a request cut off.
        let _ = stream.write_all((head + body).as_bytes());
        Ok(Self(stream))
    }

    /// Waits for the reply.
    ///
    /// # Errors
    /// There is none in time although the connection stands, or it is no HTTP.
    pub fn reply(mut self) -> anyhow::Result<Reply> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("no reply in {PATIENCE:?}");
            }
            // A killed agent resets the connection where it has not read everything.
            Err(_) => return Ok(Reply::Cut),
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return Ok(Reply::Cut);
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let named = name.eq_ignore_ascii_case("content-length");
            named.then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_none_or(|length| length != body.len()) {
            return Ok(Reply::Cut);
        }
        let status = head.split_whitespace().nth(1);
        let status: u16 = status.context("no status")?.parse()?;
        Ok(match status {
            200..300 => Reply::Done,
            _ => Reply::Refused(body.to_owned()),
        })
    }
}
