//! Chooses between two text formats: OpenMetrics as the library writes it, and the older Prometheus
//! format 0.0.4, which every scraper reads and which is translated from it.
//!
//! The differences that matter for our families: 0.0.4 names a counter family with its `_total`, has no `info`
//! and `unknown` types, no `# UNIT` and no `# EOF`. No exemplars are written, so none are removed.

use std::fmt::{self, Write};

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Chooses the format by an HTTP `Accept` header: 0.0.4, unless OpenMetrics is asked for by name and
    /// not less than it.
    pub fn negotiate(accept: &str) -> Self {
        let mut open_metrics = 0.0_f32;
        let mut text = 0.0_f32;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts
                .find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok())
                .unwrap_or(1.0);
            match media.as_str() {
                "application/openmetrics-text" => open_metrics = open_metrics.max(quality),
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the value of the HTTP `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Translates OpenMetrics text to 0.0.4.
pub(super) fn to_prometheus(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    // The family's HELP comes first but takes its name from the TYPE.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.rsplit_once(' ').ok_or(fmt::Error)?;
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, text)) = help.take().filter(|(named, _)| *named == family) {
                writeln!(out, "# HELP {family}{suffix} {text}")?;
            }
            writeln!(out, "# TYPE {family}{suffix} {kind}")?;
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        use Format::{OpenMetrics, Prometheus};
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,\
            */*;q=0.1";
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/plain", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            (prometheus_3, OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.5", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
            (";;,q=,", Prometheus),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn families_are_renamed_and_samples_are_not() {
        let open_metrics = "# HELP a Some a: with # signs.\n# TYPE a counter\n\
            a_total{x=\"# EOF \\\" y\"} 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\n\
            b_seconds_sum 1.0\nb_seconds_count 1\nb_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP c C.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
            # HELP d D.\n# TYPE d unknown\nd 1\n# EOF\n";
        let expected = "# HELP a_total Some a: with # signs.\n# TYPE a_total counter\n\
            a_total{x=\"# EOF \\\" y\"} 1\n\
            # HELP b_seconds B.\n# TYPE b_seconds histogram\n\
            b_seconds_sum 1.0\nb_seconds_count 1\nb_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP c_info C.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
            # HELP d D.\n# TYPE d untyped\nd 1\n";
        assert_eq!(to_prometheus(open_metrics).unwrap(), expected);
    }
}
