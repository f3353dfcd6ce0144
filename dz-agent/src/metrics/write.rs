//! Writes one family with the metrics library.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The encoder that a scrape is written to.
pub(super) type Out<'a, 'b> = &'a mut DescriptorEncoder<'b>;

/// Writes a counter family. The library adds `_total` to its samples.
pub(super) fn counter<S: EncodeLabelSet>(
    out: Out<'_, '_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (S, u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        encode(&mut family, &labels, &ConstCounter::new(value))?;
    }
    Ok(())
}

/// Writes a gauge family.
pub(super) fn gauge<S: EncodeLabelSet, V: EncodeGaugeValue>(
    out: Out<'_, '_>,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (S, V)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        encode(&mut family, &labels, &ConstGauge::new(value))?;
    }
    Ok(())
}

/// Writes a family of one metric without labels.
pub(super) fn single(
    out: Out<'_, '_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(out.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn encode(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(family.encode_family(labels)?)
}
