//! Texts of metrics that were written a moment ago, for many to read.
//!
//! Who asks and does not read keeps a text in memory, and its connection is closed after ten seconds. Until then
//! another text is written only if fewer than two old ones are being read: so there are three of each format at most, however
//! many connections there are, and the newest may be that old.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::text::Format;

/// How long a text is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How many texts beside the newest may be kept by those who read them.
const OLD: usize = 2;

/// The newest text of each format, and who still reads others.
#[derive(Debug, Default)]
pub(super) struct Recent {
    open_metrics: Texts,
    prometheus: Texts,
}

#[derive(Debug, Default)]
struct Texts {
    newest: Option<(Instant, Arc<String>)>,
    old: Vec<Weak<String>>,
}

/// A text in the hands of a connection.
struct Shared(Arc<String>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn shared(text: &Arc<String>) -> Bytes {
    Bytes::from_owner(Shared(Arc::clone(text)))
}

impl Recent {
    const fn texts(&mut self, format: Format) -> &mut Texts {
        match format {
            Format::OpenMetrics => &mut self.open_metrics,
            Format::Prometheus => &mut self.prometheus,
        }
    }

    /// Returns the newest text, unless another one should be written.
    pub(super) fn get(&mut self, format: Format, now: Instant) -> Option<Bytes> {
        let texts = self.texts(format);
        texts.old.retain(|old| old.strong_count() > 0);
        let (written, text) = texts.newest.as_ref()?;
        let is_fresh = now.duration_since(*written) < FRESH;
        (is_fresh || texts.old.len() >= OLD).then(|| shared(text))
    }

    /// Keeps a text whose writing began at `asked_at`.
    pub(super) fn set(&mut self, format: Format, asked_at: Instant, text: String) -> Bytes {
        let texts = self.texts(format);
        let text = Arc::new(text);
        let bytes = shared(&text);
        if let Some((_, before)) = texts.newest.replace((asked_at, text)) {
            texts.old.push(Arc::downgrade(&before));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Format = Format::Prometheus;

    #[test]
    fn a_text_is_good_for_a_second() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        assert_eq!(recent.get(TEXT, start), None);
        assert_eq!(recent.set(TEXT, start, "a".to_owned()), "a");
        let fresh = recent.get(TEXT, start + FRESH - Duration::from_millis(1));
        assert_eq!(fresh.as_deref(), Some(b"a".as_slice()));
        assert_eq!(recent.get(Format::OpenMetrics, start), None);
        assert_eq!(recent.get(TEXT, start + FRESH), None);
    }

    #[test]
    fn those_who_do_not_read_cost_three_texts_at_most() {
        let (mut recent, mut now) = (Recent::default(), Instant::now());
        let mut kept = Vec::new();
        for text in ["a", "b", "c"] {
            assert_eq!(recent.get(TEXT, now), None);
            kept.push(recent.set(TEXT, now, text.to_owned()));
            now += FRESH;
        }
        let newest = recent.get(TEXT, now + FRESH * 5);
        assert_eq!(newest.as_deref(), Some(b"c".as_slice()));
        // One of them has been read, or its connection has been closed.
        kept.remove(0);
        assert_eq!(recent.get(TEXT, now), None);
    }

    #[test]
    fn a_text_that_nobody_reads_is_freed() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for second in 0..9 {
            let now = now + FRESH * second;
            assert_eq!(recent.get(TEXT, now), None);
            drop(recent.set(TEXT, now, "text".to_owned()));
        }
        assert!(recent.prometheus.old.len() <= 1);
    }
}
